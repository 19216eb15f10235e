"""What an off-policy policy remembers: transitions, always paid by the newest r̂. §2.2.1"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, Shaped
from torch import Tensor

from backflip.segments import Array, Rollout

PAID_AT_ONCE = 16_384
"""Transitions in one call of r̂: enough to be quick, few enough to fit a cache."""

Reward = Callable[[Shaped[np.ndarray, "n *obs"], Shaped[np.ndarray, "n a"]], Float32[np.ndarray, " n"]]
"""r̂ of single steps, from what was seen and done."""


class Batch(NamedTuple):
    """Transitions; `going_on` is 0 after a termination and else 1."""

    seen: Float32[Tensor, "b o"]
    seen_and_done: Float32[Tensor, "b _"]
    following: Float32[Tensor, "b o"]
    rewards: Float32[Tensor, "b 1"]
    going_on: Float32[Tensor, "b 1"]


class Replay:
    """The newest transitions, in one table: what was seen, what was done, what was seen next, reward, going on.

    A transition takes 4·(2o + a + 2) bytes: 168 MB for a million steps of HalfCheetah, on disk as in memory.
    """

    def __init__(self, capacity: int, observation_size: int, action_size: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity is {capacity}; a replay holds at least one transition")
        self.capacity = capacity
        self.widths = [observation_size, action_size, observation_size, 1, 1]
        # Written to at once: where there is not enough memory, it shows now, and not after an hour.
        self.table = torch.empty(capacity, sum(self.widths)).fill_(0)
        self.added = 0
        """Transitions so far, forgotten ones included."""

    def __len__(self) -> int:
        return min(self.added, self.capacity)

    def add(self, rollout: Rollout, actions: Float32[np.ndarray, "t e a"], rewards: Float32[np.ndarray, "t e"]) -> None:
        """Remember a rollout; the oldest transitions make room.

        Args:
            actions: the rollout's actions, in the units in which they are to be remembered.
        """
        steps, environments = rewards.shape
        size = self.widths[0]
        following = np.concatenate([rollout.observations[1:], rollout.last_observations[None]])
        following[rollout.ends] = rollout.end_observations
        going_on = np.ones((steps, environments), np.float32)
        going_on[rollout.ends] = ~rollout.terminated
        columns = [
            rollout.observations.reshape(-1, size),
            actions.reshape(steps * environments, -1),
            following.reshape(-1, size),
            rewards.reshape(-1, 1),
            going_on.reshape(-1, 1),
        ]
        rows = torch.from_numpy(np.concatenate(columns, 1, dtype=np.float32))
        self.added += len(rows)
        rows = rows[-self.capacity :]
        self.table[(torch.arange(-len(rows), 0) + self.added) % self.capacity] = rows

    def sample(self, places: Int64[np.ndarray, " b"]) -> Batch:
        """The transitions at some places."""
        rows = self.table[torch.from_numpy(places)]
        seen, _, following, rewards, going_on = torch.split_with_sizes(rows, self.widths, 1)
        return Batch(seen, rows[:, : self.widths[0] + self.widths[1]], following, rewards, going_on)

    def observations(self, places: Int64[np.ndarray, " b"]) -> Float[Tensor, "b o"]:
        """What was seen at some places."""
        return self.table[torch.from_numpy(places), : self.widths[0]]

    def repay(self, reward: Reward) -> None:
        """Pay every transition anew: ten times cheaper at each new r̂ than at each sample, with the same result."""
        o, a, *_ = self.widths
        for start in range(0, len(self), PAID_AT_ONCE):
            rows = self.table[: len(self)][start : start + PAID_AT_ONCE]
            paid = reward(rows[:, :o].numpy(), rows[:, o : o + a].numpy())
            if not np.isfinite(paid).all():
                raise FloatingPointError(
                    "the reward of a remembered step is not finite; the policy cannot learn from it"
                )
            rows[:, -2] = torch.from_numpy(paid)

    def mean_reward(self) -> float:
        """The mean of all rewards that are remembered; 0 where none is."""
        return self.table[: len(self), -2].mean().item() if len(self) else 0.0

    def arrays(self) -> dict[str, Array]:
        """Everything, to be saved."""
        return {"replay": self.table[: len(self)].numpy(), "replay_added": np.array([self.added])}

    def restore(self, arrays: dict[str, Array]) -> None:
        """Go on from what `arrays` gave."""
        self.added = int(arrays["replay_added"][0])
        self.table[: len(self)] = torch.from_numpy(arrays["replay"])
