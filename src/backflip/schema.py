"""The tables of the store: notes, segments, queries, who is shown what, and events that are only ever added."""

import json
from collections.abc import Iterator
from typing import Any, TypeVar

import sqlalchemy as sa

from backflip.preferences import Choice, Query

T = TypeVar("T")

SCHEMA_VERSION = 2
"""Raised with every change of the tables; migrations.py brings older databases here."""
CHOICES = [choice.value for choice in Choice]
SKIP, UNDO, FLAG, EXCLUDE = "skip", "undo", "flag", "exclude"
OPEN, ANSWERED, EXPIRED, FLAGGED = "open", "answered", "expired", "flagged"
LABEL, REPEAT, GOLD, PRACTICE = "label", "repeat", "gold", "practice"
"""Why a query is shown: for D; again, to see whether somebody agrees with themselves; as one whose answer is known, to
measure by or to practise on."""
LARGEST_NUMBER = 2**63 - 1
"""No row has a higher number, and asking a database for one is an error of another kind."""

tables = sa.MetaData()
# BIGINT would keep SQLite from numbering rows by itself, and numbers must never be used twice.
_number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

meta = sa.Table(
    "meta",
    tables,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
# What is small stands first: SQLite reads a row from its beginning and has to walk past everything on the way.
segment = sa.Table(
    "segment",
    tables,
    sa.Column("id", _number, primary_key=True, autoincrement=True),
    sa.Column("asked", sa.Boolean, nullable=False),
    sa.Column("clip", sa.Text, index=True),
    sa.Column("policy_steps", sa.BigInteger, nullable=False),
    sa.Column("length", sa.Integer, nullable=False),
    sa.Column("observations", sa.LargeBinary, nullable=False),
    sa.Column("actions", sa.LargeBinary, nullable=False),
    sa.Column("true_rewards", sa.LargeBinary, nullable=False),
    sa.Column("states", sa.LargeBinary, nullable=False),
    sqlite_autoincrement=True,
)
query = sa.Table(
    "query",
    tables,
    sa.Column("id", _number, primary_key=True, autoincrement=True),
    sa.Column("left", sa.BigInteger, sa.ForeignKey("segment.id"), nullable=False),
    sa.Column("right", sa.BigInteger, sa.ForeignKey("segment.id"), nullable=False),
    sa.Column("low", sa.BigInteger, nullable=False),
    sa.Column("high", sa.BigInteger, nullable=False),
    sa.Column("p_left", sa.Text, nullable=False),
    sa.Column("disagreement", sa.Float, nullable=False),
    sa.Column("policy_steps", sa.BigInteger, nullable=False),
    sa.Column("asked_at", sa.Float, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("drawn", sa.Boolean, nullable=False),
    sa.Column("lease_holder", sa.Text),
    sa.Column("lease_until", sa.Float, nullable=False),
    # How many annotators are to answer it before it is done.
    sa.Column("wanted", sa.Integer, nullable=False, server_default="1"),
    # What is known to be right about it, and why; by researchers, to see how well others see it.
    sa.Column("gold", sa.Text),
    sa.Column("gold_why", sa.Text),
    sa.UniqueConstraint("low", "high", name="a_pair_is_asked_once"),
    sqlite_autoincrement=True,
)
instruction = sa.Table(
    "instruction",
    tables,
    sa.Column("id", _number, primary_key=True, autoincrement=True),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("since", sa.Float, nullable=False),
    sqlite_autoincrement=True,
)
annotator = sa.Table(
    "annotator",
    tables,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("token_hash", sa.Text, nullable=False, unique=True),
    sa.Column("quota", sa.Integer),
    sa.Column("invited_at", sa.Float, nullable=False),
    sa.Column("revoked_at", sa.Float),
)
# A query in front of an annotator, with its sides as they are seen: what an answer refers to.
showing = sa.Table(
    "showing",
    tables,
    sa.Column("id", _number, primary_key=True, autoincrement=True),
    sa.Column("query", sa.BigInteger, sa.ForeignKey("query.id"), nullable=False, index=True),
    sa.Column("annotator", sa.Text, nullable=False),
    sa.Column("purpose", sa.Text, nullable=False),
    sa.Column("flipped", sa.Boolean, nullable=False),
    sa.Column("instruction", sa.BigInteger, sa.ForeignKey("instruction.id")),
    sa.Column("lent_at", sa.Float, nullable=False),
    sa.Column("until", sa.Float, nullable=False),
    sa.Column("done", sa.Boolean, nullable=False),
    sqlite_autoincrement=True,
)
event = sa.Table(
    "event",
    tables,
    sa.Column("seq", _number, primary_key=True, autoincrement=True),
    sa.Column("uuid", sa.Text, nullable=False, unique=True),
    sa.Column("query", sa.BigInteger, sa.ForeignKey("query.id"), nullable=False, index=True),
    sa.Column("teacher", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("supersedes", sa.Text, index=True),
    sa.Column("seconds", sa.Float),
    sa.Column("details", sa.Text, nullable=False),
    sa.Column("received_at", sa.Float, nullable=False),
    sa.Column("purpose", sa.Text, nullable=False, server_default=LABEL),
    # Whether left and right were exchanged on the page; the choice is in terms of the query's own sides.
    sa.Column("flipped", sa.Boolean),
    sa.Column("instruction", sa.BigInteger),
    sqlite_autoincrement=True,
)
sa.Index("never_asked", segment.c.asked, segment.c.id)
sa.Index("best_first", query.c.status, query.c.disagreement.desc(), query.c.id)
sa.Index("lent_to", showing.c.annotator, showing.c.done, showing.c.until)
# PostgreSQL looks here, when a segment is pruned, for queries that would lose it; SQLite does the same.
sa.Index("shown_left", query.c.left)
sa.Index("shown_right", query.c.right)


def as_query(row: Any) -> Query:
    """The query in a row of its table."""
    return Query(row.id, row.left, row.right, tuple(json.loads(row.p_left)), row.policy_steps)


def chunks(ids: list[T], size: int = 500) -> Iterator[list[T]]:
    """Lists short enough for one statement (SQLite allows 999 parameters in old builds)."""
    return (ids[start : start + size] for start in range(0, len(ids), size))
