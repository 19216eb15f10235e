"""Showings: a query in front of an annotator, with its sides in a random order, and with what purpose. §2.2.2

Most show a new query, for D. A few, which look the same, show one again that its annotator has answered before, with
the sides exchanged, or one whose right answer is known: they measure the annotator, and are no part of D.
"""

import zlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa

from backflip.answers import stands
from backflip.database import StoreError
from backflip.open_queries import LONGEST_LEASE, free
from backflip.preferences import Choice, Query
from backflip.schema import (
    CHOICES,
    FLAG,
    FLAGGED,
    GOLD,
    LABEL,
    LARGEST_NUMBER,
    OPEN,
    PRACTICE,
    REPEAT,
    SKIP,
    annotator,
    as_query,
    event,
    instruction,
    query,
    segment,
    showing,
)

REPEAT_AFTER = 10
"""Answers that lie between an answer and the question again, so that it is not remembered."""
MOST_HELD = 64
"""Showings that one annotator can hold: a page's own and those of answers on their way; more would starve others."""
MOST_CHOSEN_FROM = 200
"""Earlier queries that one to ask again is drawn from."""


@dataclass(frozen=True)
class Checks:
    """Which share of an annotator's showings measures the annotator."""

    repeats: float = 0.0
    """Own queries of before, with the sides exchanged."""
    gold: float = 0.0
    """Queries whose right answer is known."""

    def __post_init__(self) -> None:
        if not (self.repeats >= 0 and self.gold >= 0 and self.repeats + self.gold <= 1):
            raise ValueError(f"repeats is {self.repeats} and gold {self.gold}; both are shares, together at most 1")


@dataclass(frozen=True)
class Showing:
    """What an annotator had in front of them."""

    id: int
    query: int
    annotator: str
    purpose: str
    flipped: bool
    """Whether the query's left segment was on the right."""
    instruction: int | None

    def meant(self, seen: Choice) -> Choice:
        """What a choice between the sides as they were seen says of the query's own sides."""
        return exchanged(seen) if self.flipped else seen


def exchanged(choice: Choice) -> Choice:
    """The same choice when the sides are exchanged."""
    return {Choice.LEFT: Choice.RIGHT, Choice.RIGHT: Choice.LEFT}.get(choice, choice)


@dataclass(frozen=True)
class Claim:
    """A query lent to an annotator, with the drawings of its two segments on the sides where they are shown."""

    showing: int
    query: Query
    purpose: str
    flipped: bool
    left_clip: str
    right_clip: str


@dataclass(frozen=True)
class Lesson:
    """A query to practise on: whoever answers it is told which answer is right, and why; it is no part of D."""

    shown: Claim
    right: Choice
    """As its sides are shown."""
    why: str


def shown(c: sa.Connection, number: int, name: str) -> Showing:
    """A showing of an annotator.

    Raises:
        StoreError: they were never shown that.
    """
    row = None
    if 0 < number <= LARGEST_NUMBER:
        row = c.execute(sa.select(showing).where(showing.c.id == number, showing.c.annotator == name)).first()
    if row is None:
        raise StoreError(f"{name} was never shown a pair with the number {number}")
    return Showing(row.id, row.query, row.annotator, row.purpose, row.flipped, row.instruction)


def claim(
    c: sa.Connection,
    now: float,
    name: str,
    count: int,
    lease_seconds: float,
    checks: Checks,
    besides: Collection[int] = (),
) -> list[Claim]:
    """Renew the annotator's leases, best queries first, then lend the best free ones until there are `count`.

    Args:
        besides: showings that are renewed where the annotator holds them, and neither counted nor returned.
    """
    until = now + min(lease_seconds, LONGEST_LEASE)
    held: list[Any] = list(c.execute(_held(now, name).limit(MOST_HELD)))
    kept = [row for row in held if row.showing in besides]
    rows = [row for row in held if row.showing not in besides][:count]
    if kept or rows:
        renewed = [*kept, *rows]
        lent = [row.id for row in renewed if row.purpose == LABEL]
        c.execute(showing.update().where(showing.c.id.in_([row.showing for row in renewed])).values(until=until))
        c.execute(query.update().where(query.c.id.in_(lent)).values(lease_until=until))
    room = max(0, min(_quota_left(c, name), MOST_HELD) - len(kept))
    while len(rows) < min(count, room) and (row := _lend_one(c, now, name, until, checks)) is not None:
        rows.append(row)
    return _claims(c, rows[:room])


def _claims(c: sa.Connection, rows: list[Any]) -> list[Claim]:
    sides = sorted({i for row in rows for i in (row.left, row.right)})
    drawn = sa.select(segment.c.id, segment.c.clip).where(segment.c.id.in_(sides))
    clips = {row.id: row.clip for row in c.execute(drawn)}
    return [
        Claim(
            showing=row.showing,
            query=as_query(row),
            purpose=row.purpose,
            flipped=row.flipped,
            left_clip=clips[row.right if row.flipped else row.left],
            right_clip=clips[row.left if row.flipped else row.right],
        )
        for row in rows
    ]


def lessons(c: sa.Connection, now: float, name: str, count: int) -> list[Lesson]:
    """Queries whose right answer is known and explained, for an annotator to practise on; nobody is kept from them."""
    explained = (query.c.gold.isnot(None), query.c.gold_why != "", query.c.drawn, query.c.status != FLAGGED)
    numbers = c.execute(sa.select(query.c.id).where(*explained).order_by(query.c.id).limit(count)).scalars().all()
    mine = showing.c.query.in_(numbers) & (showing.c.annotator == name) & (showing.c.purpose == PRACTICE)
    shown_before = set(c.execute(sa.select(showing.c.query).where(mine)).scalars())
    for number in numbers:
        if number not in shown_before:
            flipped = bool(np.random.default_rng([zlib.crc32(name.encode()), number]).random() < 0.5)
            _show(c, number, name, PRACTICE, flipped, now, now)
    rows = list(c.execute(_as_shown().where(mine).order_by(query.c.id)))
    right = [exchanged(Choice(row.gold)) if row.flipped else Choice(row.gold) for row in rows]
    return [
        Lesson(claim, choice, row.gold_why) for claim, choice, row in zip(_claims(c, rows), right, rows, strict=True)
    ]


def lend_again(c: sa.Connection, number: int, name: str, purpose: str, until: float) -> int:
    """Put a query back in front of its annotator, as it was shown before; return the number of that showing."""
    before = sa.select(sa.func.max(showing.c.id)).where(
        showing.c.query == number, showing.c.annotator == name, showing.c.purpose == purpose
    )
    same: int | None = c.execute(before).scalar()
    if same is None:  # the answer came by another way than the page
        return _show(c, number, name, purpose, False, until - 1, until)
    c.execute(showing.update().where(showing.c.id == same).values(until=until, done=False))
    return same


def ended(c: sa.Connection, seen: Showing | None) -> None:
    """Note that a showing, if it was one, has been answered, skipped or flagged."""
    if seen is not None:
        c.execute(showing.update().where(showing.c.id == seen.id).values(done=True))


def _as_shown() -> "sa.Select[Any]":
    columns = (showing.c.id.label("showing"), showing.c.purpose, showing.c.flipped, query)
    return sa.select(*columns).join(query, query.c.id == showing.c.query)


def _held(now: float, name: str) -> "sa.Select[Any]":
    lent = (query.c.status == OPEN) & (query.c.lease_holder == name) & (query.c.lease_until > now)
    mine = (showing.c.annotator == name) & sa.not_(showing.c.done) & (showing.c.until > now) & query.c.drawn
    return (
        _as_shown()
        .where(mine, showing.c.purpose != PRACTICE, sa.or_(showing.c.purpose != LABEL, lent))
        .order_by(query.c.disagreement.desc(), query.c.id, showing.c.id)
        .with_for_update(key_share=True, of=query)
    )


def _quota_left(c: sa.Connection, name: str) -> int:
    """How many more queries an annotator may be shown; those they hold count as well."""
    quota: int | None = c.execute(sa.select(annotator.c.quota).where(annotator.c.name == name)).scalar()
    if quota is None:
        return LARGEST_NUMBER
    return max(0, quota - answers_given(c, name))


def answers_given(c: sa.Connection, name: str) -> int:
    """Answers of an annotator that they have not taken back, for whatever purpose they were shown but practice."""
    given = sa.select(sa.func.count()).where(
        event.c.teacher == name, event.c.kind.in_(CHOICES), event.c.purpose != PRACTICE, stands()
    )
    return c.execute(given).scalar() or 0


def _lend_one(c: sa.Connection, now: float, name: str, until: float, checks: Checks) -> Any:
    nth = c.execute(sa.select(sa.func.count()).where(showing.c.annotator == name)).scalar() or 0
    rng = np.random.default_rng([zlib.crc32(name.encode()), nth])
    lot = rng.random()
    flipped = bool(rng.random() < 0.5)
    number, purpose = None, LABEL
    if lot < checks.repeats:
        purpose = REPEAT
        number, flipped = _own_of_before(c, name, rng)
    elif lot < checks.repeats + checks.gold:
        purpose = GOLD
        number = c.execute(_known(name)).scalar()
    if number is None:
        purpose = LABEL
        number = _lend_free(c, now, name, until)
    if number is None:
        return None
    made = _show(c, number, name, purpose, flipped, now, until)
    return c.execute(_as_shown().where(showing.c.id == made)).one()


def _show(c: sa.Connection, number: int, name: str, purpose: str, flipped: bool, now: float, until: float) -> int:
    newest = sa.select(sa.func.max(instruction.c.id)).scalar_subquery()
    row = {"query": number, "annotator": name, "purpose": purpose, "flipped": flipped, "instruction": newest}
    made = showing.insert().values({**row, "lent_at": now, "until": until, "done": False}).returning(showing.c.id)
    return int(c.execute(made).scalar_one())


def _lend_free(c: sa.Connection, now: float, name: str, until: float) -> int | None:
    """The best free query that the annotator has neither answered nor left to others, now theirs for a while."""
    theirs = sa.exists().where(
        event.c.query == query.c.id,
        event.c.teacher == name,
        event.c.kind.in_([SKIP, FLAG, *CHOICES]),
        stands(),
    )
    best = (
        sa.select(query.c.id)
        .where(free(now), query.c.drawn, query.c.gold.is_(None), ~theirs)
        .order_by(query.c.disagreement.desc(), query.c.id)
        .limit(1)
        .with_for_update(skip_locked=True, key_share=True)  # PostgreSQL; SQLite has one writer at a time anyway
        .scalar_subquery()
    )
    statement = query.update().where(query.c.id == best).values(lease_holder=name, lease_until=until)
    found: int | None = c.execute(statement.returning(query.c.id)).scalar()
    return found


def _own_of_before(c: sa.Connection, name: str, rng: np.random.Generator) -> tuple[int | None, bool]:
    """A query that the annotator has answered a while ago and once, and its sides the other way round."""
    again = sa.exists().where(
        showing.c.query == event.c.query, showing.c.annotator == name, showing.c.purpose == REPEAT
    )
    rows = c.execute(
        sa.select(event.c.query, event.c.flipped)
        .where(event.c.teacher == name, event.c.kind.in_(CHOICES), event.c.purpose == LABEL, stands(), ~again)
        .where(sa.exists().where(query.c.id == event.c.query, query.c.drawn))
        .order_by(event.c.seq.desc())
        .offset(REPEAT_AFTER)
        .limit(MOST_CHOSEN_FROM)
    ).all()
    if not rows:
        return None, False
    row = rows[int(rng.integers(len(rows)))]
    return row.query, not row.flipped


def _known(name: str) -> "sa.Select[Any]":
    seen = sa.exists().where(showing.c.query == query.c.id, showing.c.annotator == name)
    answered = sa.exists().where(event.c.query == query.c.id, event.c.teacher == name)
    return (
        sa.select(query.c.id)
        .where(query.c.gold.isnot(None), query.c.drawn, query.c.status != FLAGGED, ~seen, ~answered)
        .order_by(query.c.id)
        .limit(1)
    )
