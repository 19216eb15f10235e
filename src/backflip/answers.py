"""Answers as events that are only ever added: giving one, skipping a query, taking an answer back.

An undo or a change of mind is a further event that supersedes an earlier one; what counts is what none supersedes.
"""

import json
import math
from typing import Any

import sqlalchemy as sa

from backflip.database import StoreError, serialise_events, storable
from backflip.preferences import Preference
from backflip.schema import ANSWERED, CHOICES, LARGEST_NUMBER, OPEN, SKIP, UNDO, event, query


def stands(upto: int | None = None) -> sa.ColumnElement[bool]:
    """Whether no later event (up to some number) supersedes an event."""
    later = event.alias("later")
    superseding = sa.select(later.c.seq).where(later.c.supersedes == event.c.uuid)
    return ~sa.exists(superseding if upto is None else superseding.where(later.c.seq <= upto))


def answer(c: sa.Connection, now: float, given: Preference, details: dict[str, Any] | None) -> bool:
    """Store a choice; False if this very answer was stored before.

    Raises:
        StoreError: no such query, or the UUID belongs to another answer.
    """
    kind = given.choice.value
    if _logged_before(c, given.uuid, given.query, given.teacher, kind):
        return False
    earlier = c.execute(
        sa.select(event.c.uuid).where(
            event.c.query == given.query, event.c.teacher == given.teacher, event.c.kind.in_(CHOICES), stands()
        )
    ).scalar()
    seconds = given.seconds if given.seconds is not None and math.isfinite(given.seconds) else None
    _log(
        c,
        uuid=given.uuid,
        query=given.query,
        teacher=given.teacher,
        kind=kind,
        supersedes=earlier,
        seconds=seconds,
        details=json.dumps(details or {}, sort_keys=True),
        received_at=now,
    )
    c.execute(query.update().where(query.c.id == given.query).values(status=ANSWERED, lease_until=0.0))
    return True


def skip(c: sa.Connection, now: float, uuid: str, query_id: int, annotator: str) -> bool:
    """Put a query back for others, without a label; False if this was stored before.

    Raises:
        StoreError: no such query, or the UUID belongs to something else.
    """
    if _logged_before(c, uuid, query_id, annotator, SKIP):
        return False
    _log(c, uuid=uuid, query=query_id, teacher=annotator, kind=SKIP, received_at=now)
    c.execute(query.update().where(query.c.id == query_id, query.c.lease_holder == annotator).values(lease_until=0.0))
    return True


def undo(c: sa.Connection, now: float, uuid: str, annotator: str, undone: str, lease_seconds: float) -> int | None:
    """Take back an answer; its query, unless others answered it too, is open again and the annotator's for a while.

    Raises:
        StoreError: no such answer of this annotator, or the UUID belongs to something else.
    """
    serialise_events(c)
    found = c.execute(
        sa.select(event.c.query, stands().label("stands")).where(
            event.c.uuid == storable(undone), event.c.teacher == storable(annotator), event.c.kind.in_(CHOICES)
        )
    ).first()
    if found is None:
        raise StoreError(f"there is no answer {undone} of {annotator} to take back")
    number: int = found.query
    if _logged_before(c, uuid, number, annotator, UNDO, undone) or not found.stands:
        return None
    _log(c, uuid=uuid, query=number, teacher=annotator, kind=UNDO, supersedes=undone, received_at=now)
    others = sa.select(event.c.seq).where(event.c.query == number, event.c.kind.in_(CHOICES), stands())
    if c.execute(others).first() is None:
        again = {"status": OPEN, "lease_holder": annotator, "lease_until": now + lease_seconds}
        c.execute(query.update().where(query.c.id == number).values(again))
    return number


def _logged_before(
    c: sa.Connection, uuid: str, query_id: int, teacher: str, kind: str, supersedes: str | None = None
) -> bool:
    """Whether this event is there; if not, whoever holds the connection is the only one who may add events now."""
    serialise_events(c)
    row = c.execute(sa.select(event).where(event.c.uuid == storable(uuid))).first()
    if row is None:
        known = sa.select(query.c.id).where(query.c.id == query_id)
        if not 0 < query_id <= LARGEST_NUMBER or c.execute(known).first() is None:
            raise StoreError(f"there is no query {query_id}")
        storable(teacher)
        return False
    same = (row.query, row.teacher, row.kind) == (query_id, teacher, kind)
    if not same or (kind == UNDO and row.supersedes != supersedes):
        raise StoreError(
            f"the UUID {uuid} already stands for '{row.kind}' on query {row.query}; an event cannot be rewritten, "
            "send the new one under a new UUID"
        )
    return True


def _log(c: sa.Connection, **values: Any) -> None:
    c.execute(event.insert().values({"details": "{}", **values}))
