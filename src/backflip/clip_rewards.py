"""What r̂ gives for the segments that were drawn, in a file: the page shows it, and has no r̂ itself."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64

from backflip.files import load_arrays, save_arrays


@dataclass(frozen=True)
class ClipRewards:
    """Every member's normalised reward for every step of n segments; 0 after a segment's own last step."""

    ids: Int64[np.ndarray, " n"]
    lengths: Int64[np.ndarray, " n"]
    rewards: Float32[np.ndarray, "m n k"]
    version: int
    """The number of the r̂."""
    policy_steps: int
    """Environment steps that the policy had taken by then."""

    @property
    def returns(self) -> Float32[np.ndarray, " n"]:
        """r̂ of each segment: the sum over its steps of the mean over members."""
        returns: Float32[np.ndarray, " n"] = self.rewards.sum(2).mean(0)
        return returns

    @property
    def disagreement(self) -> Float32[np.ndarray, " n"]:
        """The standard deviation over members of their sums over each segment."""
        deviation: Float32[np.ndarray, " n"] = self.rewards.sum(2).std(0)
        return deviation

    def save(self, path: Path) -> None:
        """Write everything into one file, in the place of what was there."""
        numbers = {"version": self.version, "policy_steps": self.policy_steps}
        save_arrays(path, {"ids": self.ids, "lengths": self.lengths, "rewards": self.rewards}, numbers, durable=False)

    @classmethod
    def load(cls, path: Path) -> "ClipRewards":
        """Read what `save` wrote.

        Raises:
            DamagedFile: it is missing or cannot be read.
        """
        arrays, numbers = load_arrays(path)
        return cls(arrays["ids"], arrays["lengths"], arrays["rewards"], numbers["version"], numbers["policy_steps"])
