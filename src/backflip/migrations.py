"""Bringing the tables of an older release to those of this one, a version at a time, with everything that is in them.

Each step says what changed as it was then, not by way of schema.py, which goes on changing. A step runs in the
transaction of whoever opens the store first: it happens whole or not at all.
"""

from collections.abc import Callable

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

from backflip.schema import SCHEMA_VERSION, meta

_number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def migrate(c: sa.Connection, version: int) -> None:
    """Bring a database from an older version to this one's."""
    operations = Operations(MigrationContext.configure(c))
    for number in range(version + 1, SCHEMA_VERSION + 1):
        STEPS[number](operations)
    c.execute(meta.update().where(meta.c.key == "schema").values(value=str(SCHEMA_VERSION)))


def _to_2(op: Operations) -> None:
    """Several annotators: who they are, what they are shown and why; known answers; several answers to a query."""
    op.create_table(
        "instruction",
        sa.Column("id", _number, primary_key=True, autoincrement=True),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("since", sa.Float, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "annotator",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("token_hash", sa.Text, nullable=False, unique=True),
        sa.Column("quota", sa.Integer),
        sa.Column("invited_at", sa.Float, nullable=False),
        sa.Column("revoked_at", sa.Float),
    )
    op.create_table(
        "showing",
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
    op.create_index("lent_to", "showing", ["annotator", "done", "until"])
    op.add_column("query", sa.Column("wanted", sa.Integer, nullable=False, server_default="1"))
    op.add_column("query", sa.Column("gold", sa.Text))
    op.add_column("query", sa.Column("gold_why", sa.Text))
    op.add_column("event", sa.Column("purpose", sa.Text, nullable=False, server_default="label"))
    op.add_column("event", sa.Column("flipped", sa.Boolean))
    op.add_column("event", sa.Column("instruction", sa.BigInteger))


STEPS: dict[int, Callable[[Operations], None]] = {2: _to_2}
"""What leads to each version from the one before."""
