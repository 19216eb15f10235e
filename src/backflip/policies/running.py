"""Running mean and deviation of what a policy sees."""

import numpy as np
from jaxtyping import Float32, Shaped

from backflip.segments import Array

CLIP = 10.0
"""Normalised observations are cut to ±10 (OpenAI Baselines)."""


def bounded(x: Array, low: Array | float, high: Array | float) -> Array:
    """x cut to [low, high], in place: numpy.clip takes three times as long for the few numbers of one step."""
    return np.minimum(np.maximum(x, low, out=x), high, out=x)


class RunningMoments:
    """Mean and variance per coordinate over everything seen so far (Chan et al. 1979)."""

    def __init__(self, size: int) -> None:
        self.count = 0.0
        self.mean = np.zeros(size)
        self.variance = np.ones(size)
        self._refresh()

    def _refresh(self) -> None:
        self._shift = self.mean.astype(np.float32)
        self._scale = (1 / np.sqrt(self.variance + 1e-8)).astype(np.float32)

    def update(self, observations: Shaped[np.ndarray, "*n"]) -> None:
        """Take in a batch of any leading shape."""
        flat = observations.reshape(-1, self.mean.size).astype(np.float64)
        mean, variance, count = flat.mean(0), flat.var(0), len(flat)
        total = self.count + count
        shift = mean - self.mean
        if self.count == 0:
            self.variance = variance
        else:
            spread = self.variance * self.count + variance * count + shift**2 * (self.count * count / total)
            self.variance = spread / total
        self.mean = self.mean + shift * (count / total)
        self.count = total
        self._refresh()

    def normal(self, observations: Shaped[np.ndarray, "b o"]) -> Float32[np.ndarray, "b o"]:
        """Observations with mean 0 and deviation 1, cut to ±CLIP."""
        scaled: Float32[np.ndarray, "b o"] = (observations - self._shift) * self._scale
        return bounded(scaled, -CLIP, CLIP)

    def arrays(self) -> dict[str, Array]:
        """Everything, to be saved."""
        return {"seen_count": np.array([self.count]), "seen_mean": self.mean, "seen_variance": self.variance}

    def restore(self, arrays: dict[str, Array]) -> None:
        """Go on from what `arrays` gave."""
        self.count = float(arrays["seen_count"][0])
        self.mean, self.variance = arrays["seen_mean"].copy(), arrays["seen_variance"].copy()
        self._refresh()
