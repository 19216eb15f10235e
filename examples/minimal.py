"""The whole method on one page: a point learns to go to a place that only its teacher knows.

    python examples/minimal.py

The teacher is an oracle: it sees pairs of short segments and says which came closer to the place. The policy never sees
that distance; it is paid by r̂, which learns from the answers. A real run does the same with a store between the parts.
"""

import gymnasium as gym
import numpy as np
import torch

from backflip.envs import Collector, Task
from backflip.fit import FitConfig, Fitter
from backflip.policies.ppo import PPO, PPOConfig
from backflip.preferences import Changes, Choice, Comparisons, Query
from backflip.queries import LabelSchedule, select_queries
from backflip.reward import Inputs, RewardEnsemble
from backflip.segments import Rollout, Segments, concatenate, cut_segments
from backflip.teachers.oracle import Oracle

GOAL = np.array([0.6, -0.4])
EPISODE_STEPS = 50
SEGMENT_STEPS = 10
RECENT = 300
"""Segments that queries are chosen from."""


class Point(gym.Env[np.ndarray, np.ndarray]):
    """A point in a square, which begins anywhere and moves as it is pushed."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: object = None) -> tuple[np.ndarray, dict[str, object]]:
        """Begin anywhere."""
        super().reset(seed=seed)
        self.place = self.np_random.uniform(-1, 1, 2)
        return self.place.astype(np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, object]]:
        """Move; the true reward is how near the goal is."""
        self.place = np.clip(self.place + 0.1 * action, -1, 1)
        return self.place.astype(np.float32), -float(np.linalg.norm(self.place - GOAL)), False, False, {}


gym.register("MinimalPoint-v0", lambda **_: Point(), max_episode_steps=EPISODE_STEPS)
TASK = Task("point", "MinimalPoint-v0", question="Which clip gets closer to the place?")


def main(seed: int = 0, labels: int = 100, steps: int = 32_000, answer: Oracle | None = None) -> float:
    """Train, and return the mean true return of an episode, which nothing here but the oracle has seen before."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(seed)
    teacher = answer or Oracle()
    ppo = PPOConfig(environments=8, rollout_steps=100, minibatch=200, learning_rate=1e-3, discount=0.95)
    policy = PPO(Collector(TASK, ppo.environments, seed), ppo, seed)
    fitter = Fitter(RewardEnsemble(Inputs((2,), 2, discrete=False), seed=seed), FitConfig(steps=40), seed)
    schedule = LabelSchedule(labels, steps, half_life=steps / 2)
    recent = cut_segments(policy.explore(), SEGMENT_STEPS, policy.steps, rng)
    asked = 0
    while policy.steps < steps:
        # Ask: what the schedule wants by now, about the pairs that the members of r̂ disagree on most (§2.2.4).
        due = schedule.labels(policy.steps) if asked else schedule.initial
        if due > asked:
            ensemble = fitter.ensemble if asked else None
            pairs, _, _ = select_queries(rng, ensemble, recent, due - asked)
            data = compare(teacher, recent, pairs, first=asked)
            asked += len(pairs)
            # Fit: r̂ learns from all answers so far, and is normalised on recent behaviour (§2.2.3).
            fitter.absorb(Changes(data.query_ids, data, last=asked))
            fitter.fit()
            fitter.ensemble.calibrate(recent.observations, recent.actions)
        # Act: one rollout, paid by r̂; its behaviour is what the next queries are about (§2.2.1).
        rollout = policy.train(lambda rollout: fitter.ensemble.reward(rollout.observations, rollout.actions))
        fresh = cut_segments(rollout, SEGMENT_STEPS, policy.steps, rng, most=40)
        recent = concatenate([recent, fresh])[-RECENT:]
        if policy.iteration % 5 == 0:
            loss = fitter.report()["fit/train_loss"]
            print(f"{policy.steps:6} steps  {asked:4} labels  loss {loss:.3f}  true return {true_return(rollout):7.2f}")
    policy.collector.close()
    evaluation = Collector(TASK, 20, seed=10_000)
    final = true_return(evaluation.collect(policy.choose, EPISODE_STEPS))
    evaluation.close()
    print(f"without exploration: {final:.2f}")
    return final


def compare(teacher: Oracle, segments: Segments, pairs: np.ndarray, first: int) -> Comparisons:
    """Put pairs of positions to the teacher; what it cannot compare is left out."""
    queries = [Query(first + i, int(left), int(right)) for i, (left, right) in enumerate(pairs)]
    left, right = segments[pairs[:, 0]], segments[pairs[:, 1]]
    choices = teacher.choices(queries, left, right, 0.0)
    kept = np.array([i for i, choice in enumerate(choices) if choice is not Choice.INCOMPARABLE])
    return Comparisons(
        query_ids=first + kept,
        left=left[kept],
        right=right[kept],
        mu=np.array([choices[i].mu for i in kept], np.float32),
        weight=np.ones(len(kept), np.float32),
    )


def true_return(rollout: Rollout) -> float:
    """The mean true return of an episode's worth of steps."""
    return float(rollout.true_rewards.mean()) * EPISODE_STEPS


if __name__ == "__main__":
    main()
