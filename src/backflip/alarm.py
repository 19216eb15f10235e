"""The alarm for reward hacking: the policy earns ever more r̂, and people agree with r̂ ever less.

A policy that has found something which r̂ pays for and nobody likes shows both at once. Each alone is harmless: in a
good run predicted return rises too, and agreement falls too when pairs become harder. Three things have to come
together, over the newest answers that chose a side (`WINDOW`) and those before them (up to `BEFORE`):

- agreement is lower than before, by a test of two shares;
- it has fallen further than r̂'s own confidence, so that it is not the pairs that became harder, by the same test;
- predicted return rises, by the test of Mann and Kendall, and is higher since agreement fell than it was before that.

Once on, it stays on until agreement, compared with what it was before, is back.

Both tests of agreement are made after every answer, so their threshold is far out: of healthy runs of 1,000 answers,
one of a hundred or less sees the alarm go on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import inf, log, sqrt
from statistics import fmean, median

from backflip.predictions import Outcome, decided

WINDOW = 75
"""Newest answers that chose a side: 50 would give the alarm sooner, and where agreement falls a little, less often."""
BEFORE, FEWEST_BEFORE = 200, 100
"""Answers before the window that it is compared with: at most and at least."""
Z_FALL, Z_BACK = 4.0, 2.0
"""How many standard errors agreement, and agreement less confidence, has to fall, and where it counts as back."""
Z_RISE = 1.64
"""The same for the rise of predicted return: 5 % on one side. Most healthy runs pass it."""
FEWEST_RETURNS = 6
"""Fewest measurements of predicted return to speak of a rise; at least 2 on either side of the fall."""
SHORTEST = 10
"""Answers on either side of the moment from which agreement is lower."""

ADVICE = (
    "Look at the clips that r̂ pays most and at the greatest surprises: do you like what the policy does there? Answer "
    "more pairs with its newest behaviour, which teaches r̂ better, and take back answers that were slips. The alarm "
    "goes off once r̂ foresees new answers as before; it stops nothing by itself."
)


@dataclass(frozen=True)
class Episode:
    """A time during which the alarm was on."""

    since: int
    """Environment steps of the policy since which agreement is lower."""
    noticed: int
    """Position of the answer after which the alarm went on, among those that chose a side and had a prediction."""
    returns: tuple[float, float]
    """Predicted return before agreement fell and after, as medians."""
    begin: int
    """Position of the first answer of those before; they end where the window began when the alarm went on."""
    until: int | None = None
    """Position of the answer after which it went off; None while it is on."""


@dataclass(frozen=True)
class Alarm:
    """Whether the policy seems to earn r̂ for what people do not like."""

    on: bool
    since: int | None
    """Environment steps of the policy since which agreement is lower; None while the alarm is off."""
    sentence: str
    """What was seen, in plain words."""
    advice: str
    """What to do; empty while the alarm is off."""
    agreement: float | None = None
    """Share of the newest answers that r̂ foresaw; None while there are too few, like all that follows."""
    agreement_before: float | None = None
    confidence: float | None = None
    """Share that it expected to foresee."""
    confidence_before: float | None = None
    answers: int = 0
    """Answers that chose a side and had a prediction."""


def reward_hacking(predicted_returns: Sequence[tuple[int, float]], found: Sequence[Outcome]) -> Alarm:
    """The state of the alarm after the newest answer.

    Args:
        predicted_returns: environment steps and `act/predicted_return`, oldest first.
        found: outcomes, oldest first (`predictions.outcomes`).
    """
    judged = decided(found)
    answers, needed = len(judged), WINDOW + FEWEST_BEFORE
    if answers < needed:
        early = f"Too early to tell: r̂ had predicted {answers} answers that chose a side, and it takes {needed}."
        return Alarm(False, None, early, "", answers=answers)
    on = next((episode for episode in episodes(predicted_returns, found) if episode.until is None), None)
    start = answers - WINDOW
    begin, end = (max(0, start - BEFORE), start) if on is None else (on.begin, on.noticed + 1 - WINDOW)
    now, before = (fmean(agreed for _, agreed in part) for part in (judged[start:], judged[begin:end]))
    sure, sure_before = (
        fmean(outcome.confidence for outcome, _ in part) for part in (judged[start:], judged[begin:end])
    )
    told = f"r̂ foresaw {now:.0%} of the last {WINDOW} answers, and {before:.0%} of the {end - begin} before"
    alarm = Alarm(False, None, f"No sign of reward hacking: {told}.", "", now, before, sure, sure_before, answers)
    if on is not None:
        sentence = (
            f"Since step {on.since:,} the policy earns more by r̂, and people agree with r̂ less: predicted return went "
            f"from {on.returns[0]:.3g} to {on.returns[1]:.3g}, but {told} that, though it expected to foresee "
            f"{sure:.0%} of them ({sure_before:.0%} before). The policy may have found something that r̂ pays for and "
            "people do not like."
        )
        return replace(alarm, on=True, since=on.since, sentence=sentence, advice=ADVICE)
    if _Fall([agreed for _, agreed in judged]).z(begin, start, answers) >= Z_FALL:
        harder = _Fall([agreed - outcome.confidence for outcome, agreed in judged]).z(begin, start, answers) < Z_FALL
        why = "it was less sure of them too; the pairs became harder" if harder else "predicted return does not rise"
        return replace(alarm, sentence=f"No sign of reward hacking: {told}, but {why}.")
    return alarm


def episodes(predicted_returns: Sequence[tuple[int, float]], found: Sequence[Outcome]) -> list[Episode]:
    """Every time that the alarm was on, oldest first, as it would have been seen after each answer."""
    judged = decided(found)
    agreed = [value for _, value in judged]
    steps = list(accumulate((outcome.policy_steps for outcome, _ in judged), max))
    falls = _Fall(agreed), _Fall([value - outcome.confidence for outcome, value in judged])
    seen: list[Episode] = []
    for end in range(WINDOW + FEWEST_BEFORE, len(judged) + 1):
        start, last = end - WINDOW, seen[-1] if seen else None
        if last is not None and last.until is None:
            reference = last.begin, last.noticed + 1 - WINDOW
            if min(fall.z(*reference, end) for fall in falls) < Z_BACK:
                seen[-1] = replace(last, until=end - 1)
            continue
        begin = max(0, start - BEFORE)
        if min(fall.z(begin, start, end) for fall in falls) < Z_FALL:
            continue
        since = steps[begin + _first_of_fall(agreed[begin:end])]
        returns = _rise([point for point in predicted_returns if steps[begin] <= point[0] <= steps[end - 1]], since)
        if returns is not None:
            seen.append(Episode(since, end - 1, returns, begin))
    return seen


class _Fall:
    """By how much the mean of some values is lower in a window than it was before."""

    def __init__(self, values: Sequence[float]) -> None:
        self.sums = list(accumulate(values, initial=0.0))
        self.squares = list(accumulate((value**2 for value in values), initial=0.0))

    def z(self, begin: int, middle: int, end: int) -> float:
        """In standard errors: how far the window that ends at `end` lies below the values from `begin` to `middle`.

        (m₀ - m₁) / √(v·(1/n₀ + 1/n₁)), v the variance of all of them, as if nothing had changed.
        """
        before, now = middle - begin, WINDOW
        sums = self.sums[middle] - self.sums[begin], self.sums[end] - self.sums[end - now]
        squares = self.squares[middle] - self.squares[begin] + self.squares[end] - self.squares[end - now]
        variance = squares / (before + now) - (sum(sums) / (before + now)) ** 2
        error = sqrt(max(variance, 1e-9) * (1 / before + 1 / now))
        return (sums[0] / before - sums[1] / now) / error


def _first_of_fall(agreed: Sequence[float]) -> int:
    """Position from which agreement is lower: the split into a higher and a lower share that is most likely."""
    total, left, best = sum(agreed), sum(agreed[: SHORTEST - 1]), (-inf, len(agreed) - WINDOW)
    for split in range(SHORTEST, len(agreed) - SHORTEST + 1):
        left += agreed[split - 1]
        shares = left / split, (total - left) / (len(agreed) - split)
        likelihood = split * _negative_entropy(shares[0]) + (len(agreed) - split) * _negative_entropy(shares[1])
        if shares[1] < shares[0]:
            best = max(best, (likelihood, split))
    return best[1]


def _negative_entropy(p: float) -> float:
    """p·log p + (1-p)·log(1-p): the mean log likelihood of answers of which a share p agrees."""
    return sum(x * log(x) for x in (p, 1 - p) if x > 0)


def _rise(points: Sequence[tuple[int, float]], since: int) -> tuple[float, float] | None:
    """Medians of predicted return before a step and from then on, where it rises; None where it does not.

    S counts the pairs of measurements that rise less those that fall; without a trend its variance is
    n·(n-1)·(2n+5)/18 (Mann 1945, Kendall 1975).
    """
    values = [value for _, value in points]
    n = len(values)
    before = [value for step, value in points if step < since]
    after = [value for step, value in points if step >= since]
    if n < FEWEST_RETURNS or min(len(before), len(after)) < 2:
        return None
    s = sum((values[j] > values[i]) - (values[j] < values[i]) for j in range(n) for i in range(j))
    z = s / sqrt(n * (n - 1) * (2 * n + 5) / 18)
    return (median(before), median(after)) if z >= Z_RISE and median(after) > median(before) else None
