"""Lengths and true returns of the episodes that end while a policy acts; for people to see, never for the policy."""

import numpy as np

from backflip.segments import Rollout


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
