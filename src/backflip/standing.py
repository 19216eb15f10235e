"""What stands now: D and what changed in it, the preferences that nobody took back, and how many there are of each."""

from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa

from backflip import stored_segments
from backflip.answers import stands
from backflip.preferences import Changes, Choice, Comparisons, Preference, Query
from backflip.schema import CHOICES, EXPIRED, FLAG, FLAGGED, LABEL, OPEN, SKIP, as_query, event, query, segment

_label = event.c.kind.in_(CHOICES) & (event.c.purpose == LABEL)
_changes_d = event.c.kind.not_in([SKIP, FLAG]) & (event.c.purpose == LABEL)


@dataclass(frozen=True)
class Counts:
    """How many queries and answers there are."""

    segments: int
    asked: int
    open: int
    expired: int
    flagged: int
    left: int
    equal: int
    right: int
    incomparable: int

    @property
    def labels(self) -> int:
        """Answers that stand now, "can't tell" included: what the person's time went into."""
        return self.left + self.equal + self.right + self.incomparable


def changes(c: sa.Connection, after: int) -> Changes:
    """What the events after number `after` did to D.

    Events become visible in the order of their numbers, so everything up to the newest one seen here is one moment of
    the store, whatever is added meanwhile.
    """
    newest = c.execute(sa.select(event.c.seq, event.c.received_at).order_by(event.c.seq.desc()).limit(1)).first()
    last, arrived = (0, None) if newest is None else (int(newest.seq), float(newest.received_at) or None)
    newer = sa.select(event.c.query).where(event.c.seq > after, event.c.seq <= last, _changes_d).distinct()
    touched = sorted(c.execute(newer).scalars())
    rows = c.execute(
        sa.select(event.c.query, event.c.kind, event.c.teacher, query.c.left, query.c.right)
        .join(query, query.c.id == event.c.query)
        .where(event.c.query.in_(newer), event.c.seq <= last, _label, stands(last))
        .order_by(event.c.seq)
    ).all()
    told = [(row, mu) for row in rows if (mu := Choice(row.kind).mu) is not None]
    comparisons = None
    if told:
        comparisons = Comparisons(
            query_ids=np.array([row.query for row, _ in told], np.int64),
            left=stored_segments.by_id(c, [row.left for row, _ in told]),
            right=stored_segments.by_id(c, [row.right for row, _ in told]),
            mu=np.array([mu for _, mu in told], np.float32),
            weight=np.ones(len(told), np.float32),
            teachers=np.array([row.teacher for row, _ in told], np.str_),
        )
    return Changes(np.array(touched, np.int64), comparisons, last, arrived)


def preferences(c: sa.Connection, newest: int | None) -> list[tuple[Preference, Query]]:
    """The choices that stand, oldest first, each with its query; only the `newest` so many if given."""
    statement = (
        sa.select(event.c.uuid, event.c.kind, event.c.teacher, event.c.seconds, query)
        .join(query, query.c.id == event.c.query)
        .where(_label, stands())
        .order_by(event.c.seq.desc())
        .limit(newest)
    )
    rows = c.execute(statement).all()[::-1]
    return [(Preference(row.uuid, row.id, Choice(row.kind), row.teacher, row.seconds), as_query(row)) for row in rows]


def uuids(c: sa.Connection) -> list[str]:
    """The UUIDs of these choices, oldest first."""
    return list(c.execute(sa.select(event.c.uuid).where(_label, stands()).order_by(event.c.seq)).scalars())


def counts(c: sa.Connection) -> Counts:
    """How many segments, queries and answers there are now."""
    segments = c.execute(sa.select(sa.func.count()).select_from(segment)).scalar() or 0
    by_status = sa.select(query.c.status, sa.func.count()).group_by(query.c.status)
    states: dict[str, int] = {row[0]: row[1] for row in c.execute(by_status)}
    standing = sa.select(event.c.kind, sa.func.count()).where(_label, stands())
    kinds: dict[str, int] = {row[0]: row[1] for row in c.execute(standing.group_by(event.c.kind))}
    return Counts(
        segments=segments,
        asked=sum(states.values()),
        open=states.get(OPEN, 0),
        expired=states.get(EXPIRED, 0),
        flagged=states.get(FLAGGED, 0),
        **{kind: kinds.get(kind, 0) for kind in CHOICES},
    )
