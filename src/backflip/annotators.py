"""Who answered, how, and how reliably: a table of annotators from plain records of their answers.

Nothing here judges anybody: what was not measured is None, and every share comes with its interval.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Literal

import numpy as np

from backflip.error_rates import ErrorRate, Evidence, expected_difference, with_intervals
from backflip.preferences import ERROR_RATE, Choice
from backflip.shares import Share, share, share_of

Purpose = Literal["label", "repeat", "gold"]
"""Why a pair was shown: to learn from the answer; a second time to the same annotator; with its right answer known."""


@dataclass(frozen=True)
class Answer:
    """One answer of one annotator, taken back by nobody."""

    annotator: str
    query: int
    """Number of the query; a repeat carries that of the query which it repeats."""
    choice: Choice
    """Between the query's left and right segment, whatever side they were shown on."""
    purpose: Purpose = "label"
    flipped: bool = False
    """Whether the query's left segment was shown on the right."""
    seconds: float | None = None
    """From the first frame seen to the answer; None where it was not measured."""
    at: float = 0.0
    """Seconds since the epoch."""
    gold: Choice | None = None
    """The right answer, where it is known."""
    p_left: float | None = None
    """Mean over members of P̂(left), predicted before anybody had answered; None where nobody predicted."""

    @property
    def shown(self) -> Choice:
        """The choice by the side on which the chosen clip was shown."""
        mirrored = {Choice.LEFT: Choice.RIGHT, Choice.RIGHT: Choice.LEFT}
        return mirrored.get(self.choice, self.choice) if self.flipped else self.choice


@dataclass(frozen=True)
class Summary:
    """What is known of one annotator; None is not measured."""

    annotator: str
    answers: int
    left: float
    """Share of the answers that chose the clip shown on the left."""
    right: float
    equal: float
    incomparable: float
    seconds: float | None
    """Median of the seconds that an answer took."""
    side_bias: Share | None
    """Of the answers that chose a side, those that chose the clip shown on the left; ½ where sides are drawn."""
    consistency: Share | None
    """Agreement of repeats with the answer that they repeat."""
    overlap: Share | None
    """Agreement with what others answered to the same queries."""
    gold: Share | None
    """Gold pairs that were answered rightly."""
    reward: Share | None
    """Answers that chose a side, and the one that r̂ had predicted."""
    error_rate: ErrorRate | None
    """ε, the probability of an answer at random."""
    last_seen: float
    """When the newest answer came."""


def summaries(answers: Sequence[Answer], rates: Mapping[str, ErrorRate] | None = None) -> list[Summary]:
    """A row for each annotator, those with most answers first.

    Args:
        answers: oldest first.
        rates: of those annotators whose error rate has been estimated (`estimated`); of nobody if not given.
    """
    mine: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        mine[answer.annotator].append(answer)
    overlaps = _overlaps(answers)
    rows = [_summary(own, overlaps.get(name, []), rates or {}) for name, own in mine.items()]
    return sorted(rows, key=lambda row: (-row.answers, row.annotator))


def estimated(answers: Sequence[Answer], predicted_with: float = ERROR_RATE) -> dict[str, ErrorRate]:
    """Every annotator's error rate with its interval; this takes seconds where there are thousands of answers.

    Args:
        predicted_with: the error rate in `p_left` (`fit.FitConfig.error_rate`).
    """
    return with_intervals(evidence(answers, predicted_with))


def _summary(own: Sequence[Answer], overlaps: Sequence[float], rates: Mapping[str, ErrorRate]) -> Summary:
    shown = Counter(answer.shown for answer in own)
    seconds = [answer.seconds for answer in own if answer.seconds is not None]
    gold = [answer.choice == answer.gold for answer in own if answer.gold is not None]
    predicted = [
        0.5 if answer.p_left == 0.5 else float((answer.p_left > 0.5) == (answer.choice == Choice.LEFT))
        for answer in own
        if answer.p_left is not None and answer.purpose == "label" and answer.choice in (Choice.LEFT, Choice.RIGHT)
    ]
    return Summary(
        annotator=own[0].annotator,
        answers=len(own),
        left=shown[Choice.LEFT] / len(own),
        right=shown[Choice.RIGHT] / len(own),
        equal=shown[Choice.EQUAL] / len(own),
        incomparable=shown[Choice.INCOMPARABLE] / len(own),
        seconds=median(seconds) if seconds else None,
        side_bias=share(shown[Choice.LEFT], shown[Choice.LEFT] + shown[Choice.RIGHT]),
        consistency=share_of(_repeated(own)),
        overlap=share_of(overlaps),
        gold=share_of(gold),
        reward=share_of(predicted),
        error_rate=rates.get(own[0].annotator),
        last_seen=max(answer.at for answer in own),
    )


def agreement(one: Choice, other: Choice) -> float | None:
    """1 for the same choice, ½ for a tie against a side, 0 for opposite sides; None where either could not tell."""
    if one.sign is None or other.sign is None:
        return None
    return 1 - abs(one.sign - other.sign) / 2


def _repeated(own: Sequence[Answer]) -> list[float]:
    """How each repeat agrees with the first answer to that query."""
    first: dict[int, Choice] = {}
    for answer in own:
        if answer.purpose != "repeat":
            first.setdefault(answer.query, answer.choice)
    repeats = [a for a in own if a.purpose == "repeat" and a.query in first]
    return [agreed for a in repeats if (agreed := agreement(a.choice, first[a.query])) is not None]


def _overlaps(answers: Sequence[Answer]) -> dict[str, list[float]]:
    """For each annotator, of each answer that others gave too: the mean agreement with theirs."""
    found: dict[str, list[float]] = defaultdict(list)
    for given in _shared(answers).values():
        for name, choice in given.items():
            others = [agreement(choice, other) for who, other in given.items() if who != name]
            compared = [agreed for agreed in others if agreed is not None]
            if compared:
                found[name].append(fmean(compared))
    return found


def _shared(answers: Iterable[Answer]) -> dict[int, dict[str, Choice]]:
    """The first answer of each annotator to each query that more than one of them was asked to learn from."""
    given: dict[int, dict[str, Choice]] = defaultdict(dict)
    for answer in answers:
        if answer.purpose == "label":
            given[answer.query].setdefault(answer.annotator, answer.choice)
    return {query: choices for query, choices in given.items() if len(choices) > 1}


def alpha(answers: Sequence[Answer]) -> float | None:
    """Krippendorff's α of all annotators, with left, equal and right as steps of one scale (ordinal).

    1 is perfect agreement, 0 what chance would give, below 0 is worse. "Can't tell" is a missing value. None where no
    query was answered twice, or everybody always answered the same.
    """
    signs = [[c.sign for c in given.values() if c.sign is not None] for given in _shared(answers).values()]
    counts = np.array([[s.count(-1), s.count(0), s.count(1)] for s in signs if len(s) > 1], np.int64).reshape(-1, 3)
    if np.count_nonzero(counts.sum(0)) < 2:
        return None
    import krippendorff

    return float(krippendorff.alpha(value_counts=counts, value_domain=[-1, 0, 1], level_of_measurement="ordinal"))


def evidence(answers: Sequence[Answer], predicted_with: float = ERROR_RATE) -> Evidence:
    """What the answers that chose a side tell about error rates: gold, repeats, overlap, and what r̂ had predicted."""
    expected: dict[int, float] = {}
    for answer in answers:
        if answer.gold in (Choice.LEFT, Choice.RIGHT):
            expected[answer.query] = np.inf if answer.gold == Choice.LEFT else -np.inf
        elif answer.p_left is not None:
            expected.setdefault(answer.query, expected_difference(answer.p_left, predicted_with))
    decided = [a for a in answers if a.choice in (Choice.LEFT, Choice.RIGHT) and a.gold is not Choice.EQUAL]
    return Evidence(
        annotators=np.array([answer.annotator for answer in decided], np.str_),
        queries=np.array([answer.query for answer in decided], np.int64),
        left=np.array([answer.choice == Choice.LEFT for answer in decided], np.bool_),
        expected=np.array([expected.get(answer.query, np.nan) for answer in decided], np.float64),
    )
