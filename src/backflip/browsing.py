"""What researchers look through: drawn segments, and answers with the pairs that they are about."""

import json
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa

from backflip import stored_segments, texts
from backflip.answers import stands
from backflip.preferences import Choice, Query
from backflip.schema import CHOICES, FLAG, FLAGGED, as_query, chunks, event, query, segment


@dataclass(frozen=True)
class Drawn:
    """A segment that has been drawn."""

    id: int
    clip: str
    policy_steps: int
    length: int


@dataclass(frozen=True)
class Given:
    """An answer that stands, and the pair that it is about."""

    seq: int
    uuid: str
    query: Query
    choice: Choice
    teacher: str
    seconds: float | None
    at: float
    """Seconds since the epoch."""
    purpose: str
    flipped: bool
    """Whether the query's left segment was shown on the right."""
    gold: Choice | None
    """The answer that is known to be right, if one is."""
    gold_why: str


def drawn(c: sa.Connection, newest: int | None = None) -> list[Drawn]:
    """Segments that have clips, newest first; only so many if given."""
    statement = sa.select(segment.c.id, segment.c.clip, segment.c.policy_steps, segment.c.length)
    rows = c.execute(statement.where(segment.c.clip.isnot(None)).order_by(segment.c.id.desc()).limit(newest))
    return [Drawn(*row) for row in rows]


def are_texts(c: sa.Connection) -> bool:
    """Whether what is stored is read rather than watched; False before there are any segments."""
    layout = stored_segments.layout_of(c)
    if layout is None:
        return False
    dtype, shape = next((dtype, shape) for name, dtype, shape in layout.columns if name == "states")
    return texts.are_texts(np.empty((0, *shape), dtype))


def segment_of(c: sa.Connection, clip: str) -> int | None:
    """The number of a segment that is drawn under this hash; None where there is none."""
    found = c.execute(sa.select(segment.c.id).where(segment.c.clip == clip).limit(1)).first()
    return None if found is None else int(found[0])


def clips(c: sa.Connection, segments: Iterable[int]) -> dict[int, str]:
    """The clips of those of the segments that have been drawn."""
    statement = sa.select(segment.c.id, segment.c.clip).where(segment.c.clip.isnot(None))
    return {
        row.id: row.clip
        for chunk in chunks(sorted(set(segments)))
        for row in c.execute(statement.where(segment.c.id.in_(chunk)))
    }


def flagged(c: sa.Connection) -> dict[int, str]:
    """Segments of the queries that were flagged, each with the newest reason that was given."""
    statement = (
        sa.select(query.c.left, query.c.right, event.c.details)
        .join(event, event.c.query == query.c.id)
        .where(query.c.status == FLAGGED, event.c.kind == FLAG)
        .order_by(event.c.seq)
    )
    found: dict[int, str] = {}
    for row in c.execute(statement):
        reason = json.loads(row.details).get("reason", "")
        found |= {row.left: reason, row.right: reason}
    return found


def newest_event(c: sa.Connection) -> int:
    """The number of the newest event: as long as it is the same, so is all that follows from answers."""
    return c.execute(sa.select(sa.func.max(event.c.seq))).scalar() or 0


def given(c: sa.Connection) -> list[Given]:
    """The answers that stand, for whatever purpose they were asked for, oldest first."""
    columns = [event.c[name] for name in ("seq", "uuid", "kind", "teacher", "seconds", "received_at", "purpose")]
    statement = (
        sa.select(*columns, event.c.flipped, query)
        .join(query, query.c.id == event.c.query)
        .where(event.c.kind.in_(CHOICES), stands())
        .order_by(event.c.seq)
    )
    return [
        Given(
            seq=row.seq,
            uuid=row.uuid,
            query=as_query(row),
            choice=Choice(row.kind),
            teacher=row.teacher,
            seconds=row.seconds,
            at=row.received_at,
            purpose=row.purpose,
            flipped=bool(row.flipped),
            gold=None if row.gold is None else Choice(row.gold),
            gold_why=row.gold_why or "",
        )
        for row in c.execute(statement)
    ]


def kinds(c: sa.Connection) -> dict[str, int]:
    """How many events of each kind were ever logged."""
    return {row[0]: row[1] for row in c.execute(sa.select(event.c.kind, sa.func.count()).group_by(event.c.kind))}
