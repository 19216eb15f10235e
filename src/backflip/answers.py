"""Answers as events that are only ever added: giving one, taking it back, and leaving or flagging a query.

An undo or a change of mind is a further event that supersedes an earlier one; what counts is what none supersedes.
"""

import json
import math
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from backflip.database import StoreError, serialise_events, storable
from backflip.preferences import Preference
from backflip.schema import (
    ANSWERED,
    CHOICES,
    EXCLUDE,
    FLAG,
    FLAGGED,
    LABEL,
    LARGEST_NUMBER,
    OPEN,
    SKIP,
    UNDO,
    event,
    query,
)

_later = event.alias("later")  # made once: an alias copies all columns, which took a seventh of a server's time


def stands(upto: int | None = None) -> sa.ColumnElement[bool]:
    """Whether no later event (up to some number) supersedes an event."""
    superseding = sa.select(_later.c.seq).where(_later.c.supersedes == event.c.uuid)
    return ~sa.exists(superseding if upto is None else superseding.where(_later.c.seq <= upto))


@dataclass(frozen=True)
class Seen:
    """Under which circumstances an answer was given, where a page asked for it."""

    purpose: str = LABEL
    flipped: bool | None = None
    instruction: int | None = None


def answer(c: sa.Connection, now: float, given: Preference, details: dict[str, Any] | None, seen: Seen) -> bool:
    """Store a choice; False if this very answer was stored before.

    Raises:
        StoreError: no such query, or the UUID belongs to another answer.
    """
    kind = given.choice.value
    if _logged_before(c, given.uuid, given.query, given.teacher, kind):
        return False
    earlier = c.execute(
        sa.select(event.c.uuid).where(
            event.c.query == given.query,
            event.c.teacher == given.teacher,
            event.c.kind.in_(CHOICES),
            event.c.purpose == seen.purpose,
            stands(),
        )
    ).scalar()
    _log_choice(c, now, given, details, seen, earlier)
    if seen.purpose == LABEL:
        _close_if_enough(c, given.query, given.teacher)
    return True


def relabel(c: sa.Connection, now: float, given: Preference, instead_of: str) -> bool:
    """Put one's own choice in the place of somebody else's; False if this was stored before.

    Raises:
        StoreError: no such answer, or one that does not stand any more.
    """
    serialise_events(c)
    if _logged_before(c, given.uuid, given.query, given.teacher, given.choice.value, instead_of):
        return False
    _standing_choice(c, instead_of, given.query)
    _log_choice(c, now, given, None, Seen(), instead_of)
    return True


def exclude(c: sa.Connection, now: float, uuid: str, by: str, excluded: str) -> bool:
    """Take somebody's answer out of D, for good; False if this was stored before.

    Raises:
        StoreError: no such answer, or one that does not stand any more.
    """
    serialise_events(c)
    found = c.execute(sa.select(event.c.query).where(event.c.uuid == storable(excluded))).scalar()
    if found is not None and _logged_before(c, uuid, found, by, EXCLUDE, excluded):
        return False
    number = _standing_choice(c, excluded)
    _log(c, uuid=uuid, query=number, teacher=storable(by), kind=EXCLUDE, supersedes=excluded, received_at=now)
    return True


def skip(c: sa.Connection, now: float, uuid: str, query_id: int, annotator: str, seen: Seen) -> bool:
    """Put a query back for others, without a label; False if this was stored before.

    Raises:
        StoreError: no such query, or the UUID belongs to something else.
    """
    if _logged_before(c, uuid, query_id, annotator, SKIP):
        return False
    _log_seen(c, seen, uuid=uuid, query=query_id, teacher=annotator, kind=SKIP, received_at=now)
    _release(c, query_id, annotator)
    return True


def flag(c: sa.Connection, now: float, uuid: str, query_id: int, annotator: str, reason: str, seen: Seen) -> bool:
    """Say that a query cannot be shown as it is, so that nobody is shown it again; False if this was stored before.

    Raises:
        StoreError: no such query, or the UUID belongs to something else.
    """
    if _logged_before(c, uuid, query_id, annotator, FLAG):
        return False
    why = json.dumps({"reason": storable(reason)} if reason else {})
    _log_seen(c, seen, uuid=uuid, query=query_id, teacher=annotator, kind=FLAG, details=why, received_at=now)
    _release(c, query_id, annotator)
    c.execute(query.update().where(query.c.id == query_id, query.c.status == OPEN).values(status=FLAGGED))
    return True


def undo(
    c: sa.Connection, now: float, uuid: str, annotator: str, undone: str, lease_seconds: float
) -> tuple[int, str] | None:
    """Take back an answer, a skip or a flag; unless its query is done with or somebody's, it is the annotator's again.

    Returns:
        The query and the purpose with which it was shown; None if there is nothing to take back.

    Raises:
        StoreError: no such answer, skip or flag of this annotator, or the UUID belongs to something else.
    """
    serialise_events(c)
    found = c.execute(
        sa.select(event.c.query, event.c.purpose, stands().label("stands")).where(
            event.c.uuid == storable(undone),
            event.c.teacher == storable(annotator),
            event.c.kind.in_([*CHOICES, SKIP, FLAG]),
        )
    ).first()
    if found is None:
        raise StoreError(f"there is no answer {undone} of {annotator} to take back")
    number: int = found.query
    if _logged_before(c, uuid, number, annotator, UNDO, undone) or not found.stands:
        return None
    seen = Seen(purpose=found.purpose)
    _log_seen(c, seen, uuid=uuid, query=number, teacher=annotator, kind=UNDO, supersedes=undone, received_at=now)
    if found.purpose == LABEL and _labels_of(c, number) < _wanted(c, number) and not _flagged(c, number):
        again = {"status": OPEN, "lease_holder": annotator, "lease_until": now + lease_seconds}
        in_other_hands = (query.c.status == OPEN) & (query.c.lease_until > now) & (query.c.lease_holder != annotator)
        c.execute(query.update().where(query.c.id == number, ~in_other_hands).values(again))
    return number, found.purpose


def _close_if_enough(c: sa.Connection, number: int, teacher: str) -> None:
    """A query is done when as many have answered it as were wanted; until then the next one may have it."""
    if _labels_of(c, number) >= _wanted(c, number):
        c.execute(query.update().where(query.c.id == number).values(status=ANSWERED, lease_until=0.0))
    else:
        _release(c, number, teacher)


def _release(c: sa.Connection, number: int, holder: str) -> None:
    c.execute(query.update().where(query.c.id == number, query.c.lease_holder == holder).values(lease_until=0.0))


def _labels_of(c: sa.Connection, number: int) -> int:
    standing = sa.select(sa.func.count()).where(
        event.c.query == number, event.c.kind.in_(CHOICES), event.c.purpose == LABEL, stands()
    )
    return c.execute(standing).scalar() or 0


def _flagged(c: sa.Connection, number: int) -> bool:
    flags = sa.select(event.c.seq).where(event.c.query == number, event.c.kind == FLAG, stands())
    return c.execute(flags.limit(1)).first() is not None


def _wanted(c: sa.Connection, number: int) -> int:
    return c.execute(sa.select(query.c.wanted).where(query.c.id == number)).scalar() or 1


def _standing_choice(c: sa.Connection, uuid: str, number: int | None = None) -> int:
    """The query of an answer that stands.

    Raises:
        StoreError: there is none of that UUID (and query).
    """
    found: int | None = c.execute(
        sa.select(event.c.query).where(event.c.uuid == storable(uuid), event.c.kind.in_(CHOICES), stands())
    ).scalar()
    if found is None or number not in (None, found):
        raise StoreError(f"there is no answer {uuid} that stands; somebody may have changed it meanwhile, look again")
    return found


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
    if not same or supersedes not in (None, row.supersedes):
        raise StoreError(
            f"the UUID {uuid} already stands for '{row.kind}' on query {row.query}; an event cannot be rewritten, "
            "send the new one under a new UUID"
        )
    return True


def _log_choice(
    c: sa.Connection, now: float, given: Preference, details: dict[str, Any] | None, seen: Seen, supersedes: str | None
) -> None:
    _log_seen(
        c,
        seen,
        uuid=given.uuid,
        query=given.query,
        teacher=given.teacher,
        kind=given.choice.value,
        supersedes=supersedes,
        seconds=given.seconds if given.seconds is not None and math.isfinite(given.seconds) else None,
        details=json.dumps(details or {}, sort_keys=True),
        received_at=now,
    )


def _log_seen(c: sa.Connection, seen: Seen, **values: Any) -> None:
    _log(c, purpose=seen.purpose, flipped=seen.flipped, instruction=seen.instruction, **values)


def _log(c: sa.Connection, **values: Any) -> None:
    c.execute(event.insert().values({"details": "{}", **values}))
