"""How far a policy is from the original, and what steers that. (Ziegler et al. 2019; Schulman 2020)"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

SMALLEST_BETA, LARGEST_BETA = 1e-5, 1e3
CLIP = 0.2
"""Ziegler's rule looks at no larger relative error."""


def k1(log_p: Float[Tensor, "n t"], original: Float[Tensor, "n t"], mask: Float[Tensor, "n t"]) -> Float[Tensor, " n"]:
    """Σₜ (log π - log ρ) of each completion sampled from π: unbiased, of a large variance, at times below 0. [nats]"""
    return ((log_p - original) * mask).sum(1)


def k3(log_p: Float[Tensor, "n t"], original: Float[Tensor, "n t"], mask: Float[Tensor, "n t"]) -> Float[Tensor, " n"]:
    """Σₜ (ρ/π - 1 - log ρ/π) of each completion sampled from π: unbiased, never below 0. [nats] (Schulman 2020)"""
    difference = original - log_p
    return ((torch.expm1(difference) - difference) * mask).sum(1)


def exact(
    policy: Float[Tensor, "n t v"], original: Float[Tensor, "n t v"], mask: Float[Tensor, "n t"]
) -> Float[Tensor, " n"]:
    """Σₜ KL(π(·|x, y<t) ‖ ρ(·|x, y<t)) over the whole vocabulary, from log-probabilities. [nats]

    Exact for each step on the way of a completion; over completions its mean is the KL of completions, with the
    variance of the ways only. A token that π never draws adds nothing, though its log π is -∞.
    """
    p = policy.exp()
    return ((p * (policy - original)).masked_fill_(p == 0, 0).sum(-1) * mask).sum(1)


@runtime_checkable
class Controller(Protocol):
    """What moves β between batches."""

    beta: float

    def update(self, kl: float, completions: int) -> None:
        """Take note of the KL of a batch, in nats a completion."""

    def state(self) -> dict[str, float]:
        """What a checkpoint needs of it."""

    def go_on(self, state: dict[str, float]) -> None:
        """Go on from what `state` gave."""


@dataclass
class Fixed:
    """β stays what it is."""

    beta: float

    def update(self, kl: float, completions: int) -> None:
        """Nothing moves."""

    def state(self) -> dict[str, float]:
        """β."""
        return {"beta": self.beta}

    def go_on(self, state: dict[str, float]) -> None:
        """Take β over."""
        self.beta = state["beta"]


@dataclass
class Ziegler(Fixed):
    """β ← β·(1 + clip(KL/target - 1, ±0.2)·n/horizon) (Ziegler et al. 2019, §2.2)."""

    target: float = 6.0
    horizon: int = 10_000

    def update(self, kl: float, completions: int) -> None:
        """Move β a little towards the target."""
        error = min(max(_number(kl) / self.target - 1, -CLIP), CLIP)
        self.beta = _bounded(self.beta * (1 + error * completions / self.horizon))


@dataclass
class Budget(Fixed):
    """Holds a budget of KL: proportional-integral control of log β by log(KL/target).

    The integral part is dual ascent on the price of a nat; by itself it swings, because KL answers to β only after some
    updates. The proportional part sees where KL is now, and what it does from batch to batch, and damps that.
    """

    target: float = 6.0
    integral_gain: float = 0.1
    proportional_gain: float = 1.5
    smoothing: float = 0.7
    """Weight of the past in the KL that is looked at."""
    largest_error: float = 1.5
    largest_shortfall: float = 0.3
    """Below the budget errors count up to here only: at the start KL is 0, and a price near 0 would let it shoot up."""
    smooth: float = 0.0
    """log of the smoothed KL over the target; 0 before the first batch."""
    level: float | None = None
    """log β without the proportional part."""

    def __post_init__(self) -> None:
        if not 0 < self.beta < math.inf or not 0 < self.target < math.inf:
            raise ValueError(f"beta is {self.beta} and the target {self.target} nats; both are numbers above 0")

    def update(self, kl: float, completions: int) -> None:
        """Move β by where KL is and where it has been; far below the target it only falls slowly, KL has to grow."""
        del completions  # a batch is a step, whatever its size
        level = math.log(self.beta) if self.level is None else self.level
        error = math.log(max(_number(kl), 1e-3 * self.target) / self.target)
        error = min(max(error, -self.largest_shortfall), self.largest_error)
        self.smooth = self.smoothing * self.smooth + (1 - self.smoothing) * error
        self.level = math.log(_bounded(math.exp(level + self.integral_gain * self.smooth)))
        self.beta = _bounded(math.exp(self.level + self.proportional_gain * self.smooth))

    def state(self) -> dict[str, float]:
        """β, its level and the smoothed error."""
        level = math.log(self.beta) if self.level is None else self.level
        return {"beta": self.beta, "smooth": self.smooth, "level": level}

    def go_on(self, state: dict[str, float]) -> None:
        """Take all three over."""
        self.beta, self.smooth, self.level = state["beta"], state["smooth"], state["level"]


def controller(name: str, beta: float, target: float, horizon: int) -> Controller:
    """The controller of that name."""
    if name == "fixed":
        return Fixed(beta)
    if name == "ziegler":
        return Ziegler(beta, target, horizon)
    return Budget(beta, target)


def _number(kl: float) -> float:
    """A KL, if it is one.

    Raises:
        FloatingPointError: it is no number, and β would be none from then on.
    """
    if math.isnan(kl):
        raise FloatingPointError("KL is nan, so that nothing says how β should move: a model's numbers are not finite")
    return kl


def _bounded(beta: float) -> float:
    return min(max(beta, SMALLEST_BETA), LARGEST_BETA)
