"""Our whole method with SAC against the bare SAC of Stable-Baselines3 and of SBX, its JAX port: one core, one run.

    python benchmarks/sac_speed.py [--quick] [--sbx-python ENV/bin/python] [--out benchmarks/results/sac_speed]

HalfCheetah-v5, two layers of 256, batch 256, one update of critics and actor for each environment step. Ours does what
a run with an oracle does: asking, fitting r̂ (3 members of 2 x 64), paying each rollout and the whole memory anew by
it, the checkpoint included; theirs learn from the true reward alone. Theirs are measured as by default, one
environment and an update after each step, and stepped as ours is, 8 environments and 64 updates at a time; the faster
of the two counts. Also ours in float32, our SAC alone on the true reward, and the preset `fast` as it is (batch 128,
an update for every second step, of the actor for every fourth).

Environment steps a second of wall time, without random steps and compilation; all are held to the same core and take
turns, and the best of the repeats counts, so that other work on the machine harms all alike. Of processor time, which
other work harms less, there is a second set of figures. A hundred labels in 20,000 steps are denser than any bar of
benchmarks/labels.py, so in a longer run r̂ costs less, and with --quick, where the first fit is a large part, more.

SBX is measured where this Python has it, or in that of an environment of its own:
    python -m venv ENV; ENV/bin/pip install torch sbx-rl 'gymnasium[mujoco]'
The last line is a JSON object of the figures.
"""

import argparse
import csv
import importlib.util
import inspect
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and torch are loaded

from backflip.api import start
from backflip.envs import Collector, find_task
from backflip.experiments import FAST
from backflip.loop import in_turn, one_thread
from backflip.policies.sac import SAC, SACConfig

TASK = "HalfCheetah-v5"
EQUAL = SACConfig(batch=256, updates_per_step=1.0, actor_every=1)
"""What Stable-Baselines3 and SBX do by default."""
STEPS, LABELS = 20_000, 100
"""Of our run, the random steps included."""

Speed = tuple[float, float]
"""Environment steps a second of wall time, and of processor time."""


def our_speed(config: SACConfig, steps: int, labels: int) -> Speed:
    """Of a whole run with an oracle, from the last random step on.

    The clock starts one rollout before the random steps are used up, so that the first fit, which comes right after
    them, is paid for; the steps of that rollout do not count.
    """
    settings = replace(FAST, task=TASK, teacher="oracle", labels=labels, steps=steps, mode="in_turn", sac=config)
    marks: list[tuple[int, float, float]] = []

    with tempfile.TemporaryDirectory() as directory:
        run = start(settings, Path(directory) / "run")

        def watch() -> None:
            marks.append((int(run.told("act")["steps"]), time.perf_counter(), time.process_time()))

        in_turn(run, watch)
    wall, processor = time.perf_counter(), time.process_time()
    first = next(index for index, (taken, *_) in enumerate(marks) if taken >= config.random_steps)
    counted = marks[-1][0] - marks[first][0]
    _, wall_before, processor_before = marks[first - 1]
    return counted / (wall - wall_before), counted / (processor - processor_before)


def speed_alone(config: SACConfig, steps: int) -> Speed:
    """Of our SAC without r̂, paid by the true reward."""
    policy = SAC(Collector(find_task(TASK), config.environments, 0), config)
    while policy.steps <= config.random_steps:
        policy.train(lambda rollout: rollout.true_rewards)
    before, wall, processor = policy.steps, time.perf_counter(), time.process_time()
    while policy.steps - before < steps:
        policy.train(lambda rollout: rollout.true_rewards)
    taken = policy.steps - before
    return taken / (time.perf_counter() - wall), taken / (time.process_time() - processor)


def their_speed(library: str, environments: int, burst: int, task: str, steps: int) -> Speed:
    """Of a bare SAC on the true reward, from where it learns and is compiled; its source runs in another Python too.

    Args:
        library: stable_baselines3 or sbx.
        burst: steps of each environment between two bursts of updates, an update for each step.
    """
    import importlib
    import time

    import gymnasium as gym
    import torch
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.vec_env import DummyVecEnv

    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    model = importlib.import_module(library).SAC(
        "MlpPolicy",
        DummyVecEnv([lambda: Monitor(gym.make(task)) for _ in range(environments)]),
        batch_size=256,
        train_freq=burst,
        gradient_steps=-1,  # as many as environment steps
        policy_kwargs={"net_arch": [256, 256]},
        seed=0,
        device="cpu",
    )
    together = environments * burst
    model.learn(model.learning_starts + 2 * together + 32)  # the random steps, and some of those that learn
    before, wall, processor = model.num_timesteps, time.perf_counter(), time.process_time()
    model.learn(-(-steps // together) * together, reset_num_timesteps=False)
    taken = model.num_timesteps - before
    return taken / (time.perf_counter() - wall), taken / (time.process_time() - processor)


def elsewhere(python: str, *arguments: Any) -> Speed:
    """What `their_speed` returns in a process of some Python."""
    code = f"import json\nfrom typing import Any\nSpeed = Any\n{inspect.getsource(their_speed)}"
    code += f"print(json.dumps(their_speed(*json.loads({json.dumps(json.dumps(arguments))}))))"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{arguments[0]} could not be measured with {python}:\n{done.stderr[-2000:]}")
    wall, processor = json.loads(done.stdout.splitlines()[-1])
    return wall, processor


def pin() -> int | None:
    """Hold this process, and those it starts, to one core; None where the system cannot."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    core = max(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})
    return core


def main() -> None:
    """Turns, then the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer steps, one repeat")
    parser.add_argument("--sbx-python", help="the Python of an environment with sbx-rl and gymnasium[mujoco]")
    parser.add_argument("--out", type=Path, help="where the turns are kept; by default benchmarks/results/sac_speed")
    options = parser.parse_args()
    repeats, steps, labels, their_steps = (1, 5_000, 10, 320) if options.quick else (3, STEPS, LABELS, 4_096)
    sbx: str | None = options.sbx_python or (sys.executable if importlib.util.find_spec("sbx") else None)
    if sbx is None:
        print("SBX is left out: this Python cannot import sbx; name one that can with --sbx-python")
    core = pin()
    print("this system cannot hold a process to a core" if core is None else f"everything runs on core {core}")
    one_thread()
    parties: dict[str, Callable[[], Speed]] = {
        "ours": lambda: our_speed(EQUAL, steps, labels),
        "ours_float32": lambda: our_speed(replace(EQUAL, bfloat16=False), steps, labels),
        "ours_alone": lambda: speed_alone(EQUAL, their_steps),
        "fast": lambda: our_speed(SACConfig(), steps, labels),
        "sb3_default": lambda: elsewhere(sys.executable, "stable_baselines3", 1, 1, TASK, their_steps),
        "sb3_as_ours": lambda: elsewhere(sys.executable, "stable_baselines3", 8, 8, TASK, their_steps),
    }
    if sbx is not None:
        python = sbx
        parties["sbx_default"] = lambda: elsewhere(python, "sbx", 1, 1, TASK, their_steps)
        parties["sbx_as_ours"] = lambda: elsewhere(python, "sbx", 8, 8, TASK, their_steps)
    turns: list[dict[str, Any]] = []
    for repeat in range(repeats):
        for name, measure in parties.items():
            wall, processor = measure()
            print(f"{name:<13} {wall:>6.0f} steps/s of wall time, {processor:>6.0f} of processor time", flush=True)
            turns.append({"who": name, "repeat": repeat, "wall": round(wall, 1), "processor": round(processor, 1)})
    out = options.out or (None if options.quick else Path("benchmarks/results/sac_speed"))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        with (out / "turns.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(turns[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(turns)
    print(json.dumps(figures(turns)))


def figures(turns: list[dict[str, Any]]) -> dict[str, Any]:
    """The best turn of each, and ours over the faster of theirs."""
    found: dict[str, Any] = {}
    for clock, ending in (("wall", ""), ("processor", "_processor_time")):
        best: dict[str, float] = {}
        for turn in turns:
            best[turn["who"]] = max(best.get(turn["who"], 0.0), turn[clock])
        for library in ("sb3", "sbx"):
            theirs = max(best.get(f"{library}_default", 0.0), best.get(f"{library}_as_ours", 0.0))
            found[f"ratio_{library}{ending}"] = round(best["ours"] / theirs, 2) if theirs else None
            found[f"ratio_{library}_float32{ending}"] = round(best["ours_float32"] / theirs, 2) if theirs else None
        found |= {f"{'steps_per_second_fast' if who == 'fast' else who}{ending}": speed for who, speed in best.items()}
    return found


if __name__ == "__main__":
    main()
