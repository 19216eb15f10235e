"""The segments of a store: adding, pruning, reading, and which of them have been drawn."""

from collections.abc import Sequence

import numpy as np
import sqlalchemy as sa
from jaxtyping import Int64

from backflip.database import StoreError, insert, storable
from backflip.packing import Layout, pack, unpack
from backflip.schema import LARGEST_NUMBER, OPEN, chunks, meta, query, segment
from backflip.segments import Segments

LAYOUT_KEY = "layout"


def add(c: sa.Connection, segments: Segments, keep: int) -> Int64[np.ndarray, " n"]:
    """Store segments, prune the oldest beyond `keep` that were never asked about, return the numbers of the new ones.

    Raises:
        StoreError: their shapes differ from those already stored.
    """
    layout = _agreed_layout(c, Layout.of(segments))
    rows = [{**row, "asked": False} for row in pack(segments, layout)]
    numbered = segment.insert().returning(segment.c.id, sort_by_parameter_order=True)
    ids = [row.id for row in c.execute(numbered, rows)]
    newest_too_many = (
        sa.select(segment.c.id)
        .where(sa.not_(segment.c.asked))
        .order_by(segment.c.id.desc())
        .offset(keep)
        .limit(1)
        .scalar_subquery()
    )
    # On PostgreSQL somebody may be asking about one of them at this moment: it is passed over, not waited for.
    doomed = (
        sa.select(segment.c.id)
        .where(sa.not_(segment.c.asked), segment.c.id <= newest_too_many)
        .with_for_update(skip_locked=True)
    )
    c.execute(segment.delete().where(segment.c.id.in_(doomed)))
    return np.array(ids, np.int64)


def add_for_ever(c: sa.Connection, segments: Segments) -> list[int]:
    """Store segments that never make room for others, and for which none makes room; return their numbers.

    Raises:
        StoreError: their shapes differ from those already stored.
    """
    ids: list[int] = add(c, segments, keep=LARGEST_NUMBER).tolist()
    keep_for_ever(c, ids)
    return ids


def _agreed_layout(c: sa.Connection, layout: Layout) -> Layout:
    c.execute(insert(c, meta).values(key=LAYOUT_KEY, value=layout.to_json()).on_conflict_do_nothing())
    stored = layout_of(c)
    if stored != layout:
        raise StoreError(
            f"the new segments ({layout}) differ from those in the store ({stored}); "
            "use a new run directory for another task or segment length"
        )
    return layout


def layout_of(c: sa.Connection) -> Layout | None:
    """Type and shape of the segments' arrays; None before there are any."""
    text = c.execute(sa.select(meta.c.value).where(meta.c.key == LAYOUT_KEY)).scalar()
    return None if text is None else Layout.from_json(text)


def _columns(states: bool) -> list["sa.Column[object]"]:
    return [column for column in segment.c if column.name != "clip" and (states or column.name != "states")]


def recent(c: sa.Connection, count: int, states: bool = False) -> Segments | None:
    """The newest segments, oldest of them first; None while there are none."""
    newest = sa.select(*_columns(states)).order_by(segment.c.id.desc()).limit(count)
    rows = c.execute(newest).all()
    layout = layout_of(c)
    return unpack(rows[::-1], layout) if rows and layout else None


def sample(c: sa.Connection, rng: np.random.Generator, count: int, among: int) -> Segments | None:
    """`count` segments drawn uniformly from the newest `among` (or as many as there are), without states."""
    numbers = c.execute(sa.select(segment.c.id).order_by(segment.c.id.desc()).limit(among)).scalars().all()
    if not numbers:
        return None
    drawn = rng.choice(np.array(numbers, np.int64), min(count, len(numbers)), replace=False)
    return by_id(c, np.sort(drawn))


def by_id(c: sa.Connection, ids: Sequence[int] | Int64[np.ndarray, " n"], states: bool = False) -> Segments:
    """The segments of these numbers, in this order, repeats included.

    Raises:
        StoreError: one of them is not stored (any more).
    """
    wanted = [int(i) for i in ids]
    statement = sa.select(*_columns(states))
    rows = {
        row.id: row
        for chunk in chunks(sorted(set(wanted)))
        for row in c.execute(statement.where(segment.c.id.in_(chunk)))
    }
    missing = sorted(set(wanted) - set(rows))
    if missing:
        raise StoreError(f"segments {missing[:5]} are not in the store; were they pruned?")
    layout = layout_of(c)
    if layout is None:
        raise StoreError("there are no segments in the store yet")
    return unpack([rows[i] for i in wanted], layout)


def numbers(c: sa.Connection, after: int = 0) -> list[int]:
    """The numbers of all segments that follow one, oldest first."""
    return list(c.execute(sa.select(segment.c.id).where(segment.c.id > after).order_by(segment.c.id)).scalars())


def hold(c: sa.Connection, ids: list[int]) -> set[int]:
    """Those of the numbers that are stored; until the transaction ends, nobody prunes them."""
    locked = sa.select(segment.c.id).order_by(segment.c.id).with_for_update(key_share=True)
    return {i for chunk in chunks(sorted(ids)) for i in c.execute(locked.where(segment.c.id.in_(chunk))).scalars()}


def keep_for_ever(c: sa.Connection, ids: list[int]) -> None:
    """Never prune these."""
    for chunk in chunks(sorted(ids)):
        c.execute(segment.update().where(segment.c.id.in_(chunk), sa.not_(segment.c.asked)).values(asked=True))


def release(c: sa.Connection, ids: list[int]) -> None:
    """Let these be pruned like any other, but for those that some query still asks about."""
    asked = sa.exists().where(sa.or_(query.c.left == segment.c.id, query.c.right == segment.c.id))
    for chunk in chunks(ids):
        c.execute(segment.update().where(segment.c.id.in_(chunk), ~asked).values(asked=False, clip=None))


def drawn(c: sa.Connection) -> list[tuple[int, str, bool]]:
    """Number, clip, and whether somebody may be shown it soon, of all segments that have a clip; the oldest first."""
    soon = sa.exists().where(
        sa.or_(query.c.left == segment.c.id, query.c.right == segment.c.id),
        sa.or_(query.c.status == OPEN, query.c.gold.isnot(None)),
    )
    rows = c.execute(
        sa.select(segment.c.id, segment.c.clip, soon).where(segment.c.clip.isnot(None)).order_by(segment.c.id)
    )
    return [(row[0], row[1], bool(row[2])) for row in rows]


def forget_clips(c: sa.Connection, ids: list[int]) -> None:
    """Know nothing of the drawings of these; whoever needs one has it drawn again."""
    for chunk in chunks(sorted(ids)):
        c.execute(query.update().where(sa.or_(query.c.left.in_(chunk), query.c.right.in_(chunk))).values(drawn=False))
        c.execute(segment.update().where(segment.c.id.in_(chunk)).values(clip=None))


def set_clip(c: sa.Connection, segment_id: int, clip: str) -> None:
    """Say under which hash a segment's drawing lies."""
    c.execute(segment.update().where(segment.c.id == segment_id).values(clip=storable(clip)))


def has_clip(c: sa.Connection, clip: str) -> bool:
    """Whether some segment is drawn under this hash."""
    return c.execute(sa.select(segment.c.id).where(segment.c.clip == storable(clip)).limit(1)).first() is not None
