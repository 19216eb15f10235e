"""Which minibatch, number of environments and learning rate PPO should have: time to a return, on the true reward.

    python benchmarks/ppo_sweep.py [--quick] [--seeds 5] [--steps 300000] [--out benchmarks/results/ppo_sweep.csv]

Each row is one run, stopped when the mean of the last 20 episodes reaches the task's bar or the steps are used up.
Time is processor time, so that other work on the machine does not count. Rows that are in the file already are not
run again. The last line is a JSON object: each setting's median processor seconds to the bar.
"""

import argparse
import csv
import json
import time
from pathlib import Path

import numpy as np

from backflip.envs import Collector, find_task
from backflip.envs.episodes import Episodes
from backflip.loop import one_thread
from backflip.policies.ppo import PPO, PPOConfig

BARS = {"cheetah": 1000.0, "hopper": 1500.0}
"""Returns to reach: far above an untrained policy's, within reach of most settings."""
SETTINGS = {
    "16 environments, 512, 3e-4": PPOConfig(environments=16, rollout_steps=128, minibatch=512, learning_rate=3e-4),
    "16 environments, 512, 1e-3": PPOConfig(environments=16, rollout_steps=128, minibatch=512, learning_rate=1e-3),
    "16 environments, 256, 3e-4": PPOConfig(environments=16, rollout_steps=128, minibatch=256, learning_rate=3e-4),
    "16 environments, 256, 1e-3": PPOConfig(environments=16, rollout_steps=128, minibatch=256, learning_rate=1e-3),
    "16 environments, 128, 3e-4": PPOConfig(environments=16, rollout_steps=128, minibatch=128, learning_rate=3e-4),
    "32 environments, 512, 1e-3": PPOConfig(environments=32, rollout_steps=64, minibatch=512, learning_rate=1e-3),
    "8 environments, 256, 1e-3": PPOConfig(environments=8, rollout_steps=256, minibatch=256, learning_rate=1e-3),
    "8 environments, 64, 3e-4": PPOConfig(environments=8, rollout_steps=256, minibatch=64, learning_rate=3e-4),
}
WINDOW = 20
"""Episodes in the mean that is compared with the bar."""


def run(task: str, config: PPOConfig, seed: int, steps: int) -> dict[str, float]:
    """Train until the bar or the budget; say what it took and how far it came."""
    collector = Collector(find_task(task), config.environments, seed)
    policy = PPO(collector, config, seed)
    episodes, returns = Episodes(config.environments), list[float]()
    started, reached = time.process_time(), False
    while policy.steps < steps and not reached:
        episodes.add(policy.train(lambda rollout: rollout.true_rewards))
        returns += [true_return for true_return, _ in episodes.finished]
        episodes.finished.clear()
        reached = len(returns) >= WINDOW and float(np.mean(returns[-WINDOW:])) >= BARS[task]
    collector.close()
    return {
        "reached": float(reached),
        "steps": policy.steps,
        "seconds": time.process_time() - started,
        "return": float(np.mean(returns[-WINDOW:])),
    }


def main() -> None:
    """Run what is missing in the table, then print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two settings, one seed, few steps: does it run?")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=300_000)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/ppo_sweep.csv"))
    options = parser.parse_args()
    one_thread()
    settings = dict(list(SETTINGS.items())[:2]) if options.quick else SETTINGS
    seeds, steps = (1, 40_000) if options.quick else (options.seeds, options.steps)
    columns = ["task", "setting", "seed", "reached", "steps", "seconds", "return"]
    rows: list[dict[str, str]] = []
    if not options.quick:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        if options.out.exists():
            with options.out.open() as file:
                rows = list(csv.DictReader(file))
    done = {(row["task"], row["setting"], row["seed"]) for row in rows}
    for seed in range(seeds):
        for task in BARS:
            for name, config in settings.items():
                if (task, name, str(seed)) in done:
                    continue
                figures = run(task, config, seed, steps)
                row = {"task": task, "setting": name, "seed": str(seed), **{k: f"{v:.1f}" for k, v in figures.items()}}
                rows.append(row)
                print(row, flush=True)
                if not options.quick:
                    fresh = not options.out.exists()
                    with options.out.open("a", newline="") as file:
                        writer = csv.DictWriter(file, columns)
                        if fresh:
                            writer.writeheader()
                        writer.writerow(row)
    summary = {}
    for name in settings:
        seconds = [
            float(row["seconds"]) if float(row["reached"]) else float("inf") for row in rows if row["setting"] == name
        ]
        median = float(np.median(seconds))
        summary[name] = {
            "median_seconds": None if np.isinf(median) else round(median, 1),
            "reached": f"{int(np.isfinite(seconds).sum())}/{len(seconds)}",
        }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
