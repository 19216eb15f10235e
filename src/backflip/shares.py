"""Shares of few things, each with how sure one can be of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

QUANTILE = 1.96
"""Of the normal distribution, for intervals of 95 %."""


@dataclass(frozen=True)
class Share:
    """A share, with its 95 % interval."""

    value: float
    low: float
    high: float
    of: int
    """How many it is a share of."""


def share(hits: float, of: int) -> Share | None:
    """A share with the interval of Wilson (1927), which stays within 0-1; None of nothing.

    (p + z²/2n ± z·√(p(1-p)/n + z²/4n²)) / (1 + z²/n), which for scores of ½ is a little too wide.
    """
    if of == 0:
        return None
    p, z2 = hits / of, QUANTILE**2
    middle = (p + z2 / (2 * of)) / (1 + z2 / of)
    half = QUANTILE * sqrt(p * (1 - p) / of + z2 / (4 * of**2)) / (1 + z2 / of)
    return Share(p, max(0.0, middle - half), min(1.0, middle + half), of)


def share_of(scores: Sequence[float]) -> Share | None:
    """The mean of scores between 0 and 1, as a share; None of nothing."""
    return share(sum(scores), len(scores))
