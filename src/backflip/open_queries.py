"""Open queries: asking them, having them drawn, ranking them anew and taking them back. §2.2.4

A query is in somebody's hands while its lease runs (showings.py lends it); what is done here leaves it to them.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa
from jaxtyping import Float32, Int64

from backflip import answers, database, stored_segments
from backflip.database import StoreError
from backflip.preferences import Choice, Query
from backflip.schema import (
    CHOICES,
    EXPIRED,
    LARGEST_NUMBER,
    OPEN,
    SKIP,
    as_query,
    chunks,
    event,
    query,
    segment,
    showing,
)

LONGEST_LEASE = 3600.0
"""Seconds."""

Predictions = Float32[np.ndarray, "m q"]
OVERLAP_KEY = 0x6F766572
"""Keeps the lots for the overlap apart from others that are keyed by a query's number."""


def ask(
    c: sa.Connection, now: float, pairs: Int64[np.ndarray, "q 2"], p_left: Predictions | None, policy_steps: int
) -> list[Query]:
    """Put pairs of stored segments to the teachers, but none that was asked before in either order."""
    predictions = _by_query(p_left, len(pairs))
    made: list[Query] = []
    stored = stored_segments.hold(c, np.unique(pairs).tolist())
    if_new = database.insert(c, query).on_conflict_do_nothing().returning(query.c.id)
    for (left, right), predicted in zip(pairs.tolist(), predictions, strict=True):
        if left == right or not {left, right} <= stored:
            continue
        row = {
            "left": left,
            "right": right,
            "low": min(left, right),
            "high": max(left, right),
            "policy_steps": policy_steps,
            "asked_at": now,
            "status": OPEN,
            "drawn": False,
            "lease_until": 0.0,
            **_rank(predicted),
        }
        number = c.execute(if_new.values(row)).scalar()
        if number is not None:
            made.append(Query(number, left, right, predicted, policy_steps))
    stored_segments.keep_for_ever(c, list({i for q in made for i in (q.left, q.right)}))
    return made


def asked_among(c: sa.Connection, ids: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, "q 2"]:
    """Positions in `ids` of the pairs of these segments that were asked before."""
    position = {number: i for i, number in enumerate(ids.tolist())}
    pairs = sa.select(query.c.low, query.c.high)
    rows = [row for chunk in chunks(sorted(position)) for row in c.execute(pairs.where(query.c.low.in_(chunk)))]
    found = [(position[low], position[high]) for low, high in rows if high in position]
    return np.array(found, np.int64).reshape(-1, 2)


def _by_query(p_left: Predictions | None, queries: int) -> list[tuple[float, ...]]:
    if p_left is None:
        return [()] * queries
    if not np.isfinite(p_left).all():
        raise ValueError("predictions are not finite; the reward ensemble that made them is broken")
    return [tuple(column) for column in p_left.T.tolist()]


def _rank(predicted: tuple[float, ...]) -> dict[str, Any]:
    return {"p_left": json.dumps(predicted), "disagreement": float(np.var(predicted)) if predicted else 0.0}


def free(now: float) -> sa.ColumnElement[bool]:
    """Whether a query is open and in nobody's hands.

    A lease that ends too late to have been given now was given before the clock was set back, and counts no more.
    """
    return (query.c.status == OPEN) & ((query.c.lease_until <= now) | (query.c.lease_until > now + LONGEST_LEASE))


def untouched(c: sa.Connection) -> int:
    """How many open queries nobody has answered or skipped: who did will not be shown them again."""
    touched = sa.exists().where(event.c.query == query.c.id, event.c.kind.in_([*CHOICES, SKIP]), answers.stands())
    return c.execute(sa.select(sa.func.count()).where(query.c.status == OPEN, ~touched)).scalar() or 0


def waiting(c: sa.Connection, condition: sa.ColumnElement[bool]) -> list[Query]:
    """The queries that fulfil a condition, in the order in which they were asked."""
    return [as_query(row) for row in c.execute(sa.select(query).where(condition).order_by(query.c.id))]


def _hold(c: sa.Connection, now: float, ids: Iterable[int]) -> list[int]:
    """Those of the queries that are free; they stay so until the transaction ends.

    Rows are always locked in the order of their numbers, so that two processes never wait for each other.
    """
    locked = sa.select(query.c.id).where(free(now)).order_by(query.c.id).with_for_update(key_share=True)
    return [i for chunk in chunks(sorted(ids)) for i in c.execute(locked.where(query.c.id.in_(chunk))).scalars()]


def rerank(c: sa.Connection, now: float, queries: Sequence[Query], p_left: Predictions) -> None:
    """Give free queries new predictions."""
    ranks = {asked.id: _rank(p) for asked, p in zip(queries, _by_query(p_left, len(queries)), strict=True)}
    rows = [{"number": number, **ranks[number]} for number in _hold(c, now, ranks)]
    if rows:
        c.execute(query.update().where(query.c.id == sa.bindparam("number")), rows)


def expire(c: sa.Connection, now: float, ids: Iterable[int]) -> int:
    """Take back free queries; return how many."""
    held = _hold(c, now, set(ids))
    for chunk in chunks(held):
        c.execute(query.update().where(query.c.id.in_(chunk)).values(status=EXPIRED))
    return len(held)


def forget_unseen(c: sa.Connection) -> int:
    """Forget queries that were taken back before anybody saw them, and let go of their segments; return how many."""
    known = sa.exists().where(showing.c.query == query.c.id) | sa.exists().where(event.c.query == query.c.id)
    unseen = (
        sa.select(query.c.id, query.c.left, query.c.right)
        .where(query.c.status == EXPIRED, query.c.lease_holder.is_(None), query.c.gold.is_(None), ~known)
        .order_by(query.c.id)
        .with_for_update(key_share=False, of=query)
    )
    rows = c.execute(unseen).all()
    for chunk in chunks([row.id for row in rows]):
        c.execute(query.delete().where(query.c.id.in_(chunk)))
    stored_segments.release(c, sorted({i for row in rows for i in (row.left, row.right)}))
    return len(rows)


def undrawn(c: sa.Connection, limit: int) -> list[int]:
    """Segments without a clip of the best open queries that are not drawn, at most `limit` queries."""
    left, right = segment.alias(), segment.alias()
    best = (
        sa.select(query.c.left, left.c.clip, query.c.right, right.c.clip)
        .join(left, left.c.id == query.c.left)
        .join(right, right.c.id == query.c.right)
        .where(query.c.status == OPEN, sa.not_(query.c.drawn))
        .order_by(query.c.disagreement.desc(), query.c.id)
        .limit(limit)
    )
    sides = [side for row in c.execute(best) for side in ((row[0], row[1]), (row[2], row[3]))]
    return list(dict.fromkeys(i for i, clip in sides if clip is None))


def mark_drawn(c: sa.Connection, overlap: float) -> int:
    """Let people claim those open queries whose two segments have clips now; return how many became so.

    Args:
        overlap: the share of them that two annotators are to answer; which, depends on their numbers alone.
    """
    left, right = segment.alias(), segment.alias()
    ready = (
        sa.select(query.c.id)
        .join(left, left.c.id == query.c.left)
        .join(right, right.c.id == query.c.right)
        .where(query.c.status == OPEN, sa.not_(query.c.drawn), left.c.clip.isnot(None), right.c.clip.isnot(None))
        .order_by(query.c.id)
        .with_for_update(key_share=True, of=query)
    )
    ids = list(c.execute(ready).scalars())
    for chunk in chunks(ids):
        c.execute(query.update().where(query.c.id.in_(chunk)).values(drawn=True))
    twice = [i for i in ids if np.random.default_rng([OVERLAP_KEY, i]).random() < overlap]
    for chunk in chunks(twice):
        c.execute(query.update().where(query.c.id.in_(chunk)).values(wanted=2))
    return len(ids)


def set_gold(c: sa.Connection, number: int, choice: Choice | None, why: str) -> None:
    """Say which answer to a query is right, and why; None takes that back.

    Raises:
        StoreError: there is no such query.
    """
    known = {"gold": None if choice is None else choice.value, "gold_why": database.storable(why) if choice else None}
    where = query.c.id == (number if 0 < number <= LARGEST_NUMBER else 0)
    if c.execute(query.update().where(where).values(known)).rowcount == 0:
        raise StoreError(f"there is no query {number}")
