"""Answers as the tables of the run page: who gave them, how reliable r̂'s predictions were, how they came in."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import cast

from backflip.accounts import Account
from backflip.annotators import Answer, Purpose, Summary, summaries
from backflip.browsing import Given
from backflip.error_rates import ErrorRate
from backflip.predictions import Outcome, decided, outcomes, reliability
from backflip.preferences import Preference
from backflip.schema import GOLD, LABEL
from backflip.web import run_messages as r

SECONDS_BARS = 24
"""Bars of half a second for how long answers took; the last one holds all above."""
PACE_SECONDS = (60, 120, 300, 600, 1800, 3600, 10800, 43200, 86400)
"""Widths that the bars of the pace may have."""
PACE_STEPS = tuple(part * 10**power for power in range(1, 9) for part in (1, 2, 5))
"""The same where a run takes turns, in steps of its policy."""
PACE_BARS = 60
"""The width is the smallest that makes do with so many."""
HOUR = 3600.0
EARLIEST = 1e9
"""Seconds since the epoch (2001): what is below is no date, what is above no step. Files of texts say 0."""


def moment(at: float, in_turn: bool) -> float | None:
    """When an answer came: a date, or the policy's step, by which a run that takes turns counts; None if not known."""
    return at if in_turn == (at < EARLIEST) else None


def as_outcome(given: Given) -> Outcome | None:
    """What r̂ had predicted of an answer, if it had and the answer can be compared with it."""
    preference = Preference(given.uuid, given.query.id, given.choice, given.teacher, given.seconds)
    return next(iter(outcomes([(preference, given.query)])), None)


def as_answer(given: Given) -> Answer:
    """An answer as statistics about annotators take it; those of the practice round are none."""
    return Answer(
        annotator=given.teacher,
        query=given.query.id,
        choice=given.choice,
        purpose=cast(Purpose, given.purpose),
        flipped=given.flipped,
        seconds=given.seconds,
        at=given.at,
        gold=given.gold if given.purpose == GOLD else None,
        p_left=fmean(given.query.p_left) if given.query.p_left else None,
    )


def people(
    accounts: Sequence[Account], answers: Sequence[Answer], rates: Mapping[str, ErrorRate], in_turn: bool = False
) -> list[r.Person]:
    """Everybody who answered, those with most answers first, and then those who were invited and did not yet."""
    known = {account.name: r.Account.model_validate(account) for account in accounts}
    rows = [
        r.Person(name=row.annotator, account=known.pop(row.annotator, None), summary=_summary(row, in_turn))
        for row in summaries(answers, rates)
    ]
    return rows + [r.Person(name=name, account=account, summary=None) for name, account in known.items()]


def _summary(row: Summary, in_turn: bool) -> r.Summary:
    return r.Summary.model_validate(row).model_copy(update={"last_seen": moment(row.last_seen, in_turn)})


def reliable(given: Sequence[Given], newest: int) -> r.Reliability:
    """How often what r̂ predicted came true."""
    found = [outcome for answer in given if answer.purpose == LABEL and (outcome := as_outcome(answer))]
    rows = [r.Row.model_validate(row) for row in reliability(found)]
    return r.Reliability(rows=rows, of=len(decided(found)), newest=newest)


def labels(
    given: Sequence[Given], kinds: Mapping[str, int], now: float, newest: int, in_turn: bool = False
) -> r.Labels:
    """When answers came and how long they took."""
    took = [answer.seconds for answer in given if answer.seconds is not None]
    places = Counter(min(SECONDS_BARS - 1, int(2 * seconds)) for seconds in took)
    times = [at for answer in given if (at := moment(answer.at, in_turn)) is not None]
    width = _pace_width(times, PACE_STEPS if in_turn else PACE_SECONDS)
    begin = math.floor(min(times) / width) if times else 0
    end = math.floor(max(times) / width) if times else -1
    came = Counter(math.floor(at / width) for at in times)
    return r.Labels(
        seconds=[r.Bar(start=i / 2, count=places[i]) for i in range(SECONDS_BARS)] if took else [],
        median_seconds=median(took) if took else None,
        pace=[r.Bar(start=i * width, count=came[i]) for i in range(max(begin, end - 4 * PACE_BARS), end + 1)],
        pace_seconds=width,
        last_hour=None if in_turn else sum(at > now - HOUR for at in times),
        in_turn=in_turn,
        purposes=Counter(answer.purpose for answer in given),
        kinds=dict(kinds),
        newest=newest,
    )


def _pace_width(times: Sequence[float], widths: Sequence[int]) -> float:
    span = max(times) - min(times) if times else 0.0
    return next((width for width in widths if span <= width * PACE_BARS), widths[-1])
