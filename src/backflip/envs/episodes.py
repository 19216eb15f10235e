"""Lengths and true returns of episodes, while a policy acts or is put to the test; for people, never for the policy."""

import numpy as np

from backflip.envs.collect import Act, Collector
from backflip.envs.facts import facts
from backflip.envs.task import Task
from backflip.segments import Rollout

TOGETHER = 10
"""Episodes played at once at most."""
LONGEST_EPISODE = 5000
"""Steps after which an episode without a time limit is taken as it is."""


class Episodes:
    """Follows each environment's running episode over rollouts."""

    def __init__(self, environments: int) -> None:
        self._returns = np.zeros(environments)
        self._steps = np.zeros(environments, np.int64)
        self.finished: list[tuple[float, int]] = []
        """(true return, steps) of every episode that ended since somebody emptied this list."""

    def add(self, rollout: Rollout) -> None:
        """Go on with a rollout."""
        self._returns[rollout.starts] = 0
        self._steps[rollout.starts] = 0
        first = np.zeros(rollout.ends.shape[1], np.int64)
        for t, environment in zip(*np.nonzero(rollout.ends), strict=True):
            stretch = slice(first[environment], t + 1)
            true_return = self._returns[environment] + rollout.true_rewards[stretch, environment].sum()
            self.finished.append((float(true_return), int(self._steps[environment] + t + 1 - first[environment])))
            self._returns[environment] = self._steps[environment] = 0
            first[environment] = t + 1
        for environment, start in enumerate(first):
            self._returns[environment] += rollout.true_rewards[start:, environment].sum()
            self._steps[environment] += len(rollout.ends) - start


def whole_episodes(task: Task, choose: Act, episodes: int, steps: int, seed: int) -> list[Rollout]:
    """Whole episodes of fresh environments, several in each rollout, none cut before `steps`; `choose` acts.

    Where the task has a behaviour to measure, the simulator's states are recorded.

    Args:
        steps: length of an episode, or where to cut one that has no end.
    """
    played = []
    for first in range(0, episodes, TOGETHER):
        together = min(TOGETHER, episodes - first)
        collector = Collector(task, together, seed + first, filmed=together if task.behaviour else 0)
        played.append(collector.collect(choose, steps))
        collector.close()
    return played


def first_episode(rollout: Rollout, environment: int) -> int:
    """Steps of an environment's first episode in a rollout that began with it."""
    ends = np.flatnonzero(rollout.ends[:, environment])
    return int(ends[0]) + 1 if len(ends) else len(rollout.ends)


def first_returns(rollout: Rollout) -> list[float]:
    """The true return of each environment's first episode."""
    environments = range(rollout.ends.shape[1])
    return [float(rollout.true_rewards[: first_episode(rollout, e), e].sum()) for e in environments]


def first_behaviours(task: Task, rollout: Rollout) -> list[float]:
    """The task's behaviour in each environment's first episode, from the recorded states; nothing if it has none."""
    if task.behaviour is None:
        return []
    rate = facts(task).steps_per_second
    environments = range(rollout.states.shape[1])
    return [task.behaviour.measure(rollout.states[: first_episode(rollout, e), e], rate) for e in environments]
