"""Policies: what acts, and learns from whatever reward it is paid. §2.2.1"""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

from backflip.envs import Collector
from backflip.policies.replay import Reward
from backflip.segments import Array, Rollout

Pay = Callable[[Rollout], Float32[np.ndarray, "t e"]]
"""The reward of every step of a rollout, or of a burst of one, all in one call: r̂, or in a baseline the true reward."""


@runtime_checkable
class Policy(Protocol):
    """What the loop needs of a policy: PPO, SAC, others by adapters."""

    collector: Collector
    iteration: int
    """Rollouts so far; randomness is keyed by it."""

    @property
    def steps(self) -> int:
        """Environment steps so far, counted at the environments."""

    def explore(self) -> Rollout:
        """Act for one rollout before there is a reward to learn from."""

    def train(self, pay: Pay) -> Rollout:
        """Act for one rollout, learn from what `pay` gives for it, and return it."""

    def repay(self, reward: Reward) -> None:
        """Pay anew, by a new reward, whatever the policy remembers."""

    def choose(self, observations: Array) -> Array:
        """The actions without exploration."""

    def report(self) -> dict[str, float]:
        """Measurements of the last update (docs/metrics.md)."""

    def save(self, directory: Path) -> None:
        """Write everything that learning depends on."""

    def load(self, directory: Path) -> None:
        """Go on from what `save` wrote."""
