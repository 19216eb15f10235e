"""Our PPO against Stable-Baselines3's on HalfCheetah-v5 and the true reward, one thread each, in one run.

    python benchmarks/ppo_speed.py [--quick] [--learning] [--out benchmarks/results/ppo_speed]

Speed: environment steps a second of processor time, everything included, at equal settings (8 environments with
minibatch 64, 16 with 512) and each with its own defaults; and the share of the steps that the bare simulator does.
The two take turns, and the best of the repeats counts, so that other work on the machine harms both alike.
--learning: also train both with 16 environments and minibatch 512 for a million steps over five seeds, and compare the
returns; theirs with VecNormalize for observations and rewards, since ours normalises too.
The last line is a JSON object of the figures.
"""

import argparse
import csv
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy and torch are loaded

import gymnasium as gym
import numpy as np
import stable_baselines3 as sb3
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from backflip.envs import Collector, find_task
from backflip.envs.episodes import Episodes
from backflip.loop import one_thread
from backflip.policies.ppo import PPO, PPOConfig

TASK = "HalfCheetah-v5"
PAIRS = {
    "n8_mb64": PPOConfig(environments=8, rollout_steps=256, minibatch=64, learning_rate=3e-4),
    "n16_mb512": PPOConfig(environments=16, rollout_steps=128, minibatch=512, learning_rate=3e-4),
}
THEIR_DEFAULTS = PPOConfig(environments=1, rollout_steps=2048, minibatch=64, learning_rate=3e-4)
BARE_STEPS = 20_000


def ours(config: PPOConfig, seed: int = 0) -> PPO:
    """Our PPO on the true reward."""
    return PPO(Collector(find_task(TASK), config.environments, seed), config, seed)


def theirs(config: PPOConfig, seed: int = 0, normalised: bool = False) -> Any:
    """Stable-Baselines3's PPO with the same settings: network, discount, λ, clip, entropy, epochs."""
    vector: Any = DummyVecEnv([lambda: Monitor(gym.make(TASK)) for _ in range(config.environments)])
    if normalised:
        vector = VecNormalize(vector, gamma=config.discount)
    return sb3.PPO(
        "MlpPolicy",
        vector,
        learning_rate=config.learning_rate,
        n_steps=config.rollout_steps,
        batch_size=config.minibatch,
        n_epochs=config.epochs,
        gamma=config.discount,
        gae_lambda=config.gae,
        ent_coef=config.entropy,
        clip_range=config.clip,
        vf_coef=config.value_weight,
        max_grad_norm=config.gradient_norm,
        seed=seed,
        device="cpu",
    )


def our_speed(config: PPOConfig, steps: int) -> float:
    """Environment steps a second."""
    policy = ours(config)
    policy.train(lambda rollout: rollout.true_rewards)
    begun, started = policy.steps, time.process_time()
    while policy.steps - begun < steps:
        policy.train(lambda rollout: rollout.true_rewards)
    return (policy.steps - begun) / (time.process_time() - started)


def their_speed(model: Any, config: PPOConfig, steps: int) -> float:
    """Environment steps a second."""
    rollout = config.environments * config.rollout_steps
    model.learn(rollout)
    steps = -(-steps // rollout) * rollout
    started = time.process_time()
    model.learn(steps)
    return steps / (time.process_time() - started)


def simulator_speed(environments: int = 16) -> float:
    """Steps a second of environments stepped by nobody: the limit."""
    envs = [gym.make(TASK) for _ in range(environments)]
    for index, env in enumerate(envs):
        env.reset(seed=index)
    actions = np.random.default_rng(0).uniform(-1, 1, (BARE_STEPS, 6)).astype(np.float32)
    started = time.process_time()
    for index, action in enumerate(actions):
        *_, over, cut, _ = envs[index % environments].step(action)
        if over or cut:
            envs[index % environments].reset()
    return BARE_STEPS / (time.process_time() - started)


def our_return(config: PPOConfig, seed: int, steps: int) -> float:
    """Mean of the last 20 training episodes."""
    policy, episodes = ours(config, seed), Episodes(config.environments)
    while policy.steps < steps:
        episodes.add(policy.train(lambda rollout: rollout.true_rewards))
    return float(np.mean([true_return for true_return, _ in episodes.finished[-20:]]))


def their_return(config: PPOConfig, seed: int, steps: int) -> float:
    """The same of theirs."""
    model = theirs(config, seed, normalised=True)
    model.learn(steps)
    return float(np.mean([episode["r"] for episode in list(model.ep_info_buffer or [])[-20:]]))


def learning(out: Path, seeds: list[int], steps: int) -> dict[str, Any]:
    """Returns of both after so many steps; runs that are in the file already are not run again."""
    file = out / "returns.csv"
    rows: list[dict[str, str]] = []
    if file.exists():
        with file.open() as lines:
            rows = list(csv.DictReader(lines))
    have = {(row["who"], int(row["seed"])) for row in rows}
    for seed in seeds:
        for who, train in (("backflip", our_return), ("sb3", their_return)):
            if (who, seed) in have:
                continue
            started = time.process_time()
            reached = train(PAIRS["n16_mb512"], seed, steps)
            row = {"who": who, "seed": str(seed), "return": f"{reached:.1f}"}
            rows.append({**row, "seconds": f"{time.process_time() - started:.1f}"})
            print(rows[-1], flush=True)
            with file.open("a", newline="") as lines:
                writer = csv.DictWriter(lines, list(rows[-1]))
                if file.stat().st_size == 0:
                    writer.writeheader()
                writer.writerow(rows[-1])
    found = {who: [float(row["return"]) for row in rows if row["who"] == who] for who in ("backflip", "sb3")}
    return {f"returns_{who}": values for who, values in found.items()} | {
        f"mean_return_{who}": round(float(np.mean(values)), 1) for who, values in found.items()
    }


def main() -> None:
    """The table, then the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer steps, one repeat")
    parser.add_argument("--learning", action="store_true", help="also the returns after a million steps")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/ppo_speed"))
    options = parser.parse_args()
    one_thread()
    repeats, scale = (1, 4) if options.quick else (3, 1)
    best: dict[str, float] = {}

    def note(name: str, speed: float) -> None:
        best[name] = max(best.get(name, 0.0), speed)

    for _ in range(repeats):
        for name, config in PAIRS.items():
            steps = (32_768 if config.environments == 8 else 65_536) // scale
            note(f"ours_{name}", our_speed(config, steps))
            note(f"sb3_{name}", their_speed(theirs(config), config, steps // 2))
        note("ours_defaults", our_speed(PPOConfig(), 65_536 // scale))
        plain = sb3.PPO("MlpPolicy", DummyVecEnv([lambda: Monitor(gym.make(TASK))]), seed=0, device="cpu")
        note("sb3_defaults", their_speed(plain, THEIR_DEFAULTS, 8_192 // scale))
        note("simulator", simulator_speed())
    figures: dict[str, Any] = {name: round(speed) for name, speed in best.items()}
    for name in ("n8_mb64", "n16_mb512", "defaults"):
        figures[f"ratio_{name}"] = round(best[f"ours_{name}"] / best[f"sb3_{name}"], 2)
        print(f"{name:<10} ours {best[f'ours_{name}']:>7.0f}  SB3 {best[f'sb3_{name}']:>7.0f} steps/s", end="  ")
        print(f"ratio {figures[f'ratio_{name}']}")
    figures["fraction_of_simulator"] = round(best["ours_defaults"] / best["simulator"], 3)
    print(f"simulator alone {best['simulator']:.0f} steps/s, ours {100 * figures['fraction_of_simulator']:.0f} % of it")
    if options.learning:
        options.out.mkdir(parents=True, exist_ok=True)
        figures |= learning(options.out, options.seeds, 1_000_000)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
