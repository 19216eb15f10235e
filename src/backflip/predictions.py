"""What r̂ predicted before people answered, and what they answered then.

Every query carries what each member predicted when it was asked. No member had seen the answer, so agreement and
reliability that are computed from these predictions are honest without holding anything back (Dawid 1984: prequential).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, pvariance

from backflip.preferences import Choice, Preference, Query
from backflip.shares import Share, share_of

WINDOW = 50
"""Newest answers over which agreement is taken."""
BINS = 5
"""Rows of the table of reliability, between ½ and 1."""
SMALLEST_P = 1e-6
"""What a prediction is raised to before its logarithm is taken; with the 10 % error none is below 0.05."""


@dataclass(frozen=True)
class Outcome:
    """An answer with a µ, and what r̂ had predicted before it."""

    query: int
    annotator: str
    choice: Choice
    p_left: tuple[float, ...]
    """P̂(left) of each member, errors of whoever answers included."""
    policy_steps: int
    """Environment steps that the policy had taken when the pair was chosen."""

    @cached_property
    def predicted(self) -> float:
        """P̂(left), the mean over members."""
        return fmean(self.p_left)

    @property
    def disagreement(self) -> float:
        """The variance over members of P̂(left) (§2.2.4)."""
        return pvariance(self.p_left)

    @property
    def confidence(self) -> float:
        """P̂ of the side that r̂ holds for the better one: ½ to 1."""
        return max(self.predicted, 1 - self.predicted)

    @property
    def agreed(self) -> float | None:
        """1 where r̂ foresaw the side that was chosen, 0 where the other one, ½ where neither; None for a tie."""
        if self.choice not in (Choice.LEFT, Choice.RIGHT):
            return None
        if self.predicted == 0.5:
            return 0.5
        return float((self.predicted > 0.5) == (self.choice == Choice.LEFT))

    @property
    def surprise(self) -> float:
        """Cross-entropy of the answer in nats: -µ·log P̂ - (1-µ)·log(1-P̂)."""
        mu = self.choice.mu
        assert mu is not None
        p = min(max(self.predicted, SMALLEST_P), 1 - SMALLEST_P)
        return -mu * math.log(p) - (1 - mu) * math.log(1 - p)


@dataclass(frozen=True)
class Agreement:
    """How well r̂ foresaw the newest answers, at some answer."""

    answers: int
    """Answers that chose a side by then, this one included."""
    policy_steps: int
    share: Share
    """Of the answers in the window, those that r̂ foresaw."""
    confidence: float
    """Share that r̂ itself expected to foresee: the mean of its P̂ for the side that it held for the better one."""
    surprise: float
    """Mean over the window, in nats; log 2 = 0.69 is a coin's."""
    disagreement: float
    """Mean variance over members of P̂(left) of the pairs in the window."""


@dataclass(frozen=True)
class Bin:
    """A row of the table of reliability: predictions that were about equally sure."""

    low: float
    high: float
    predicted: float
    """The mean of what was predicted for the side that r̂ held for the better one."""
    share: Share
    """How often that side was chosen; of a reliable r̂, as often as predicted."""


def outcomes(given: Iterable[tuple[Preference, Query]]) -> list[Outcome]:
    """The answers that count and that r̂ had predicted, in the order given (`Store.preferences`: oldest first)."""
    return [
        Outcome(query.id, preference.teacher, preference.choice, query.p_left, query.policy_steps)
        for preference, query in given
        if query.p_left and preference.choice.mu is not None
    ]


def decided(found: Iterable[Outcome]) -> list[tuple[Outcome, float]]:
    """The outcomes that chose a side, each with whether r̂ foresaw it."""
    return [(outcome, agreed) for outcome in found if (agreed := outcome.agreed) is not None]


def agreement(found: Sequence[Outcome], window: int = WINDOW) -> list[Agreement]:
    """Agreement over the last so many answers that chose a side, at each of them; the first windows are shorter."""
    judged = decided(found)
    points = []
    for end in range(1, len(judged) + 1):
        part = judged[max(0, end - window) : end]
        foreseen = share_of([agreed for _, agreed in part])
        assert foreseen is not None
        points.append(
            Agreement(
                answers=end,
                policy_steps=part[-1][0].policy_steps,
                share=foreseen,
                confidence=fmean(outcome.confidence for outcome, _ in part),
                surprise=fmean(outcome.surprise for outcome, _ in part),
                disagreement=fmean(outcome.disagreement for outcome, _ in part),
            )
        )
    return points


def reliability(found: Sequence[Outcome], bins: int = BINS) -> list[Bin]:
    """How often what was predicted with some confidence came true, by equal ranges of confidence; no empty rows."""
    judged = decided(found)
    rows = []
    for number in range(bins):
        low, high = 0.5 + 0.5 * number / bins, 0.5 + 0.5 * (number + 1) / bins
        part = [
            (outcome, agreed)
            for outcome, agreed in judged
            if low <= outcome.confidence < high or (number == bins - 1 and outcome.confidence >= high)
        ]
        came_true = share_of([agreed for _, agreed in part])
        if came_true is not None:
            rows.append(Bin(low, high, fmean(outcome.confidence for outcome, _ in part), came_true))
    return rows
