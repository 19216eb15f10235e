"""What the whole loop costs the policy, and how soon an answer is in the reward.

    python benchmarks/loop_overhead.py [--quick]

`loop_over_plain`: environment steps a second of wall time of the whole method (`at_once`: acting, asking, fitting in a
process each, 3 members, 700 labels from an oracle) over those of the same PPO alone on the true reward, both in a
process of their own. Steps before the first r̂ do not count. `answer_to_reward_s`: with 700 labels given, wall time
from an answer's receipt by the store to the publication of the first r̂ that was fitted to it, while the policy goes on.
The last line is a JSON object of the figures.
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and torch are loaded

import numpy as np

from backflip.acting import make_policy
from backflip.api import start
from backflip.loop import at_once, one_thread
from backflip.preferences import Choice, Preference
from backflip.rundir import RunDir
from backflip.settings import Settings
from backflip.store import new_uuid

TASK = "cheetah"
LABELS, STEPS = 700, 2_000_000
"""The budget whose schedule decides how often labels come."""


def plain(steps: int, answer: Any) -> None:
    """Wall seconds a step of PPO alone, true reward."""
    one_thread()
    policy = make_policy(Settings(TASK, teacher="oracle", mode="at_once"), 1)
    policy.train(lambda rollout: rollout.true_rewards)
    begun, started = policy.steps, time.perf_counter()
    while policy.steps - begun < steps:
        policy.train(lambda rollout: rollout.true_rewards)
    answer.send((policy.steps - begun) / (time.perf_counter() - started))


def plain_speed(steps: int) -> float:
    """Steps a second of PPO alone, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=plain, args=(steps, sender))
    process.start()
    speed: float = receiver.recv()
    process.join()
    return speed


def whole_speed(steps: int, path: Path) -> float:
    """Steps a second of the whole loop, from its first r̂ on, over the first `steps` of a run of 700 labels."""
    run = start(Settings(TASK, teacher="oracle", labels=LABELS, steps=STEPS, mode="at_once"), path)
    seen: list[tuple[float, int]] = []

    def watch() -> None:
        now = run.told("act")
        if now.get("reward_version"):
            seen.append((float(now["time"]), int(now["steps"])))

    at_once(run, watch, lambda: bool(seen) and seen[-1][1] >= steps)
    (first, before), (last, after) = seen[0], seen[-1]
    return (after - before) / (last - first)


def answer_delays(answers: int, path: Path) -> list[float]:
    """Seconds from each of some answers beyond 700 to the r̂ that knows it, while the policy trains on."""
    run = start(Settings(TASK, teacher="oracle", labels=LABELS, steps=60_000, mode="at_once"), path)
    at_once(run)
    settings = Settings.from_dict(run.settings)
    delays: list[float] = []
    store = run.store()
    waiting: list[tuple[float, int]] = []
    version = [run.newest_number("reward") or 0]
    rng = np.random.default_rng(0)
    begun = time.time()

    def watch() -> None:
        known = run.told("fit")
        if waiting and known.get("last_event", 0) >= waiting[0][1]:
            delays.append(float(known["time"]) - waiting.pop()[0])
        ready = run.told("act").get("reward_version", 0) >= version[0] and time.time() - begun > 8
        if not waiting and ready and len(delays) < answers:
            recent = store.recent(100)
            assert recent is not None
            pair = rng.choice(recent.ids, 2, replace=False)[None]
            for query in store.ask(pair):
                store.answer(Preference(new_uuid(), query.id, Choice.LEFT, "benchmark"))
                waiting.append((time.time(), store.changes(2**62).last))

    with closing(store):
        more = RunDir(run.path, {**run.config, "settings": {**settings.to_dict(), "steps": 10**9}})
        (run.path / "run.json").write_text(json.dumps(more.config))
        at_once(more, watch, lambda: len(delays) >= answers or time.time() - begun > 90)
    return delays


def main() -> None:
    """The figures, then the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer steps and answers")
    options = parser.parse_args()
    repeats, steps, answers = (1, 120_000, 6) if options.quick else (3, 400_000, 30)
    ratios, speeds, delays = [], [], list[float]()
    with tempfile.TemporaryDirectory() as directory:
        for repeat in range(repeats):
            alone = plain_speed(steps // 4)
            whole = whole_speed(steps, Path(directory) / str(repeat))
            alone = (alone + plain_speed(steps // 4)) / 2
            ratios.append(whole / alone)
            speeds.append((round(alone), round(whole)))
            print(
                f"PPO alone {alone:.0f} steps/s, whole loop {whole:.0f} steps/s, ratio {whole / alone:.2f}", flush=True
            )
        delays = answer_delays(answers, Path(directory) / "answers")
    figures = {
        "loop_over_plain": round(float(np.median(ratios)), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "steps_per_second_plain_and_loop": speeds,
        "answer_to_reward_s": round(float(np.median(delays)), 2),
        "answer_to_reward_s_p95": round(float(np.percentile(delays, 95)), 2),
        "answers": len(delays),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
