"""Events and their queries as plain records, as they leave one store and enter another.

A record has a field for every column that means the same in any store, so that a new column goes along by itself. What
a record lacks takes the column's default; what is no column's name is passed over.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa

from backflip import stored_segments
from backflip.accounts import LONGEST_INSTRUCTION, OF_TEACHERS
from backflip.answers import stands
from backflip.database import StoreError, serialise_events, storable
from backflip.preferences import Choice
from backflip.schema import (
    ANSWERED,
    CHOICES,
    EXCLUDE,
    EXPIRED,
    FLAG,
    FLAGGED,
    GOLD,
    LABEL,
    LARGEST_NUMBER,
    OPEN,
    PRACTICE,
    REPEAT,
    SKIP,
    UNDO,
    chunks,
    event,
    instruction,
    query,
)

Record = dict[str, Any]
"""Of an event; under `query` lies the record of its query, whose `left` and `right` say which segments."""
Row = dict[str, Any]
"""The values of a table's columns."""

LOCAL = {"seq", "low", "high", "disagreement", "drawn", "lease_holder", "lease_until"}
"""Columns that mean something in their own store only, or follow from others."""
AS_JSON = {"details": dict, "p_left": list}
"""Columns whose text is JSON, and of which kind."""
WORDS = {
    "kind": {*CHOICES, SKIP, UNDO, FLAG, EXCLUDE},
    "status": {OPEN, ANSWERED, EXPIRED, FLAGGED},
    "purpose": {LABEL, REPEAT, GOLD, PRACTICE},
    "gold": {*CHOICES},
}
"""Columns that hold one of a few words."""
LONGEST_NAME = 200
LONGEST_TEXT = 20_000
NAMES = {"uuid", "teacher", "supersedes"}
"""Columns whose text is a name, and not long."""
NAMELESS = "annotator-"
"""How people are called, with a number, where their names were left out."""
OTHER_SIDE = {Choice.LEFT.value: Choice.RIGHT.value, Choice.RIGHT.value: Choice.LEFT.value}


@dataclass(frozen=True)
class Brought:
    """What was new in some records."""

    queries: int
    events: int
    known: int
    """Events that were there already."""


def events(c: sa.Connection) -> list[Record]:
    """Every event with its query, oldest first.

    `left` and `right` are the numbers of segments; `instruction` is the text that the annotator had.
    """
    return [record for _, record in numbered(c)]


def numbered(c: sa.Connection, after: int = 0, count: int | None = None) -> list[tuple[int, Record]]:
    """The events that follow number `after`, only so many if given, each with its number."""
    told = {row.id: row.text for row in c.execute(sa.select(instruction))}
    rows = c.execute(sa.select(event).where(event.c.seq > after).order_by(event.c.seq).limit(count)).all()
    asked: dict[int, Record] = {}
    for chunk in chunks(sorted({row.query for row in rows})):
        found = c.execute(sa.select(query).where(query.c.id.in_(chunk)))
        asked |= {row.id: _record(query, row) for row in found}
    return [
        (row.seq, {**_record(event, row), "query": asked[row.query], "instruction": told.get(row.instruction)})
        for row in rows
    ]


def _record(table: sa.Table, row: Any) -> Record:
    values = {column.name: getattr(row, column.name) for column in table.c if column.name not in LOCAL}
    return {name: json.loads(value) if name in AS_JSON else value for name, value in values.items()}


def called(c: sa.Connection) -> dict[str, str]:
    """What people are called where their names are left out: annotator-1, annotator-2 ... as they first answered."""
    first_answer = sa.func.min(sa.case((event.c.kind.in_(CHOICES), event.c.seq), else_=LARGEST_NUMBER))
    people = sa.select(event.c.teacher).where(event.c.teacher.not_in(OF_TEACHERS)).group_by(event.c.teacher)
    names = c.execute(people.order_by(first_answer, sa.func.min(event.c.seq))).scalars()
    return {name: f"{NAMELESS}{i}" for i, name in enumerate(names, 1)}


def nameless(record: Record, names: Mapping[str, str]) -> Record:
    """The same event, with its teacher called by these names."""
    return {**record, "teacher": names.get(record["teacher"], record["teacher"])}


def bring(c: sa.Connection, now: float, records: Iterable[tuple[str, Record]], numbers: Mapping[str, int]) -> Brought:
    """Add the events that are not there yet, and the queries that they are about.

    A pair of segments that was asked about here before, in either order, stays the query that it is, and the new
    answers to it are turned to its order.

    Args:
        records: each with the place where it stands, for messages.
        numbers: the number here of every segment that `left` and `right` name.

    Raises:
        StoreError: a record has something in it that cannot be; the message says where and what.
    """
    serialise_events(c)
    placed = list(records)
    asked: dict[int, tuple[str, Record]] = {}
    for where, record in placed:
        number = _number_of(where, record)
        first = asked.setdefault(number, (where, record["query"]))[1]
        if any(first.get(side) != record["query"].get(side) for side in ("left", "right")):
            raise StoreError(f"{where}: query {number} has other segments than before; one query has one pair")
    before = c.execute(sa.select(sa.func.count()).select_from(query)).scalar() or 0
    _keep(c, asked, numbers)
    found = _ask(c, now, asked, numbers)
    known = _known(c, [record for _, record in placed])
    texts = _instructions(c, now, placed)
    rows: list[Row] = []
    new = []
    for where, record in placed:
        row = _as_new(where, record, *found[record["query"]["id"]], known, texts)
        if row is not None:
            rows.append(row)
            new.append(record)
    _insert(c, event, rows)
    flagged = {found[record["query"]["id"]][0] for record in new if record["kind"] == FLAG}
    _settle(c, sorted({number for number, _ in found.values()}), sorted(flagged))
    after = c.execute(sa.select(sa.func.count()).select_from(query)).scalar() or 0
    return Brought(queries=after - before, events=len(new), known=len(placed) - len(new))


def _number_of(where: str, record: Record) -> int:
    asked = record.get("query")
    number = asked.get("id") if isinstance(asked, dict) else None
    if type(number) is not int or not 0 < number <= LARGEST_NUMBER:
        raise StoreError(f"{where}: it has no query with an id from 1 on; every event is about one")
    return number


def _keep(c: sa.Connection, asked: dict[int, tuple[str, Record]], numbers: Mapping[str, int]) -> None:
    """See that the segments of all queries are there, and stay."""
    sides: dict[int, str] = {}
    for where, about in asked.values():
        for side in ("left", "right"):
            name = about.get(side)
            if not isinstance(name, str) or name not in numbers:
                raise StoreError(
                    f"{where}: its {side} segment {_shown(name)} is not among the segments that came along"
                )
            sides[numbers[name]] = where
    lost = sides.keys() - stored_segments.hold(c, list(sides))
    if lost:
        raise StoreError(f"{sides[min(lost)]}: its segment {min(lost)} was pruned meanwhile; try again")
    stored_segments.keep_for_ever(c, list(sides))


def _ask(
    c: sa.Connection, now: float, asked: dict[int, tuple[str, Record]], numbers: Mapping[str, int]
) -> dict[int, tuple[int, bool]]:
    """For each query its number here, new or known, and whether its sides are the other way round here."""
    sides = {number: (numbers[about["left"]], numbers[about["right"]]) for number, (_, about) in asked.items()}
    here = _by_pair(c, sides.values())
    rows: dict[tuple[int, int], Row] = {}
    for number in sorted(asked):
        left, right = sides[number]
        pair = min(left, right), max(left, right)
        if pair in here or pair in rows:
            continue
        where, about = asked[number]
        row = {"asked_at": now, "status": OPEN, "policy_steps": 0, "p_left": "[]", **_row(where, query, about)}
        predicted = json.loads(row["p_left"])
        row |= {"disagreement": float(np.var(predicted)) if predicted else 0.0, "drawn": False, "lease_until": 0.0}
        rows[pair] = row | {"left": left, "right": right, "low": pair[0], "high": pair[1]}
    _insert(c, query, list(rows.values()))
    here |= _by_pair(c, rows)
    found = {number: here[min(pair), max(pair)] for number, pair in sides.items()}
    return {number: (query_id, left != sides[number][0]) for number, (query_id, left) in found.items()}


def _by_pair(c: sa.Connection, pairs: Iterable[tuple[int, int]]) -> dict[tuple[int, int], tuple[int, int]]:
    """The queries about pairs of segments: of each, by its lower and higher segment, its number and its left one."""
    wanted = {(min(pair), max(pair)) for pair in pairs}
    statement = sa.select(query.c.low, query.c.high, query.c.id, query.c.left)
    lows = chunks(sorted({low for low, _ in wanted}))
    rows = (row for some in lows for row in c.execute(statement.where(query.c.low.in_(some))))
    return {(row.low, row.high): (row.id, row.left) for row in rows if (row.low, row.high) in wanted}


def _insert(c: sa.Connection, table: sa.Table, rows: list[Row]) -> None:
    """Add rows in their order, many at a time: one by one, thousands would hold up everybody else for half a minute."""
    for _, alike in groupby(rows, key=lambda row: sorted(row)):
        c.execute(table.insert(), list(alike))


def _known(c: sa.Connection, records: list[Record]) -> dict[str, "_Event"]:
    """The events that are here already, of those that the records are or supersede."""
    named = [record.get(column) for record in records for column in ("uuid", "supersedes")]
    texts = list({storable(uuid) for uuid in named if isinstance(uuid, str)})
    statement = sa.select(*(event.c[name] for name in _Event._fields))
    rows = [row for chunk in chunks(texts) for row in c.execute(statement.where(event.c.uuid.in_(chunk)))]
    return {row.uuid: _Event(*row) for row in rows}


def _instructions(c: sa.Connection, now: float, placed: list[tuple[str, Record]]) -> dict[str, int]:
    """The numbers here of the texts that annotators had; this store's current instruction stays the newest."""
    known: dict[str, int] = {row.text: row.id for row in c.execute(sa.select(instruction).order_by(instruction.c.id))}
    current = max(known, key=lambda text: known[text], default=None)
    before = len(known)
    for where, record in placed:
        text = record.get("instruction")
        if text is None or (isinstance(text, str) and text in known):
            continue
        if not isinstance(text, str) or not 0 < len(text) <= LONGEST_INSTRUCTION:
            raise StoreError(f"{where}: its instruction is {_shown(text)}, not 1 to {LONGEST_INSTRUCTION} characters")
        known[storable(text)] = _instruct(c, now, text)
    if current is not None and len(known) > before:
        _instruct(c, now, current)
    return known


def _instruct(c: sa.Connection, now: float, text: str) -> int:
    made = instruction.insert().values(text=text, since=now).returning(instruction.c.id)
    return int(c.execute(made).scalar_one())


def _as_new(
    where: str,
    record: Record,
    number: int,
    turned: bool,
    known: dict[str, "_Event"],
    texts: dict[str, int],
) -> Row | None:
    """The row of an event that is not known yet, which is known from now on; None of one that is."""
    values = {"details": "{}", "supersedes": None, **_row(where, event, record), "query": number}
    values["instruction"] = texts.get(record.get("instruction") or "")
    if turned:
        values["kind"] = OTHER_SIDE.get(values["kind"], values["kind"])
        if values.get("flipped") is not None:
            values["flipped"] = not values["flipped"]
    given = _Event(*(values[name] for name in _Event._fields))
    here, earlier = known.get(given.uuid), known.get(given.supersedes or "")
    if earlier is not None and earlier.query != number:
        raise StoreError(f"{where}: it supersedes {earlier.uuid}, which is about another query")
    if here is None:
        known[given.uuid] = given
        return values
    same = (here.query, here.kind) == (given.query, given.kind) and may_be_one(here.teacher, given.teacher)
    if not same or (here.kind in (UNDO, EXCLUDE) and here.supersedes != given.supersedes):
        raise StoreError(
            f"{where}: the UUID {here.uuid} is that of '{here.kind}' by {here.teacher!r} on query {here.query}; "
            "an event cannot be rewritten"
        )
    return None


def may_be_one(one: str, other: str) -> bool:
    """Whether two names may be of one teacher: the same, or one was left out of an export."""
    return one == other or any(re.fullmatch(rf"{NAMELESS}\d+", name) for name in (one, other))


class _Event(NamedTuple):
    uuid: str
    query: int
    teacher: str
    kind: str
    supersedes: str | None


def _settle(c: sa.Connection, numbers: list[int], flagged: list[int]) -> None:
    """Close the queries that have as many answers now as were wanted, and those that somebody flagged."""
    for chunk in chunks(numbers):
        label = (event.c.query == query.c.id) & event.c.kind.in_(CHOICES) & (event.c.purpose == LABEL) & stands()
        given = sa.select(sa.func.count()).select_from(event).where(label).correlate(query).scalar_subquery()
        closing = query.update().where(query.c.id.in_(chunk), query.c.status != ANSWERED, given >= query.c.wanted)
        c.execute(closing.values(status=ANSWERED, lease_until=0.0))
    for chunk in chunks(flagged):
        c.execute(query.update().where(query.c.id.in_(chunk), query.c.status == OPEN).values(status=FLAGGED))


# ---- one record, one row


def _row(where: str, table: sa.Table, record: Record) -> dict[str, Any]:
    """What a record says about the columns of a table, but for those that point to other rows.

    Raises:
        StoreError: something is missing, or of another kind than its column.
    """
    values: dict[str, Any] = {}
    for column in table.c:
        if column.name in LOCAL or column.name == "instruction" or column.primary_key or column.foreign_keys:
            continue
        if column.name in record and not (column.nullable and record[column.name] is None):
            values[column.name] = _value(where, column, record[column.name])
        elif table is event and not (
            column.nullable or column.default or column.server_default or column.name in AS_JSON
        ):
            raise StoreError(f"{where}: it has no {column.name}")
    return values


def _value(where: str, column: "sa.Column[Any]", given: Any) -> Any:
    if column.name in AS_JSON:
        if not isinstance(given, AS_JSON[column.name]) or (column.name == "p_left" and not _are_probabilities(given)):
            wanted = "a list of numbers from 0 to 1" if column.name == "p_left" else "an object"
            raise StoreError(f"{where}: its {column.name} is {_shown(given)}, not {wanted}")
        given = json.dumps(given, sort_keys=True)
    kind = column.type.python_type
    fine = type(given) is kind or (kind is float and type(given) is int)
    if isinstance(given, str):
        longest = LONGEST_NAME if column.name in NAMES else LONGEST_TEXT
        fine = fine and len(given) <= longest and given in WORDS.get(column.name, {given})
        storable(given)
    elif isinstance(given, int | float):
        fine = fine and 0 <= given <= LARGEST_NUMBER
    if not fine:
        wanted = " or ".join(sorted(WORDS.get(column.name, {_NAMES.get(kind, kind.__name__)})))
        raise StoreError(f"{where}: its {column.name} is {_shown(given)}, not {wanted}")
    return kind(given)


_NAMES = {
    str: "a text that is not too long",
    float: "a number from 0 on",
    int: "a whole number from 0 on",
    bool: "true or false",
}


def _are_probabilities(given: list[Any]) -> bool:
    return all(type(p) in (int, float) and 0 <= p <= 1 for p in given)


def _shown(given: Any) -> str:
    text = repr(given)
    return text if len(text) <= 60 else f"{text[:60]}..."
