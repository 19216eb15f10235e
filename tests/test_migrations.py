"""A database of every released version opens in this one with everything that was in it."""

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from backflip import migrations
from backflip.preferences import Choice, Preference
from backflip.schema import SCHEMA_VERSION, meta, tables
from backflip.store import Store, StoreError, new_uuid

DATA = Path(__file__).parent / "data"
"""schema-N.sql: a database as version N wrote it, with four queries, six events and a note."""


def released(path: Path, version: int) -> Path:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript((DATA / f"schema-{version}.sql").read_text())
    return path


VERSIONS = range(1, SCHEMA_VERSION)


def test_every_version_before_this_one_has_a_database_to_try() -> None:
    assert [path.name for path in sorted(DATA.glob("schema-*.sql"))] == [f"schema-{n}.sql" for n in VERSIONS]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_database_of_an_older_version_keeps_its_answers(tmp_path: Path, version: int) -> None:
    with closing(Store(released(tmp_path / "run.db", version), check=True)) as store:
        given = [(p.query, p.teacher, p.choice.value, p.seconds) for p, _ in store.preferences()]
        assert given == [(1, "you", "left", 2.5), (2, "you", "right", 1.0), (4, "ana", "incomparable", None)]
        data = store.comparisons()
        assert data is not None
        assert data.mu.tolist() == [1.0, 0.0]
        np.testing.assert_array_equal(data.left.observations[0], [[0, 1], [2, 3]])
        assert store.counts().open == 1
        assert store.noted("key") == "value"
        (query,) = store.queries([1])
        assert query.p_left == pytest.approx((0.2, 0.4))
        (claim,) = store.claim("ben")
        assert (claim.query.id, claim.purpose) == (3, "label")
        showing = store.shown(claim.showing, "ben")
        assert store.answer(Preference(new_uuid(), 3, Choice.EQUAL, "ben"), showing=showing)
        assert store.undo(new_uuid(), "you", "00000000-0000-4000-8000-000000000001") is not None


@pytest.mark.parametrize("version", VERSIONS)
def test_a_migrated_database_has_the_tables_of_a_new_one(tmp_path: Path, version: int) -> None:
    described = []
    for path in (released(tmp_path / "old.db", version), tmp_path / "new.db"):
        with closing(Store(path)) as store:
            inspector = sa.inspect(store.engine)
            described.append(
                {
                    name: (
                        {(c["name"], str(c["type"]), c["nullable"], c["default"]) for c in inspector.get_columns(name)},
                        {(tuple(i["column_names"]), bool(i["unique"])) for i in inspector.get_indexes(name)},
                        {
                            (tuple(k["constrained_columns"]), k["referred_table"])
                            for k in inspector.get_foreign_keys(name)
                        },
                    )
                    for name in tables.tables
                }
            )
    assert described[0] == described[1]


@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)  # SQLite has real databases of version 1
def test_postgresql_is_migrated_too(store_url: str) -> None:
    # The tables of version 1 are those of today less what step 2 adds: take that away, and let it be added again.
    added = {"event": ("purpose", "flipped", "instruction"), "query": ("wanted", "gold", "gold_why")}
    with closing(Store(store_url)) as store, store.transaction() as c:
        for table, columns in added.items():
            for column in columns:
                c.exec_driver_sql(f'ALTER TABLE "{table}" DROP COLUMN "{column}"')
        for table in ("showing", "annotator", "instruction"):
            c.exec_driver_sql(f'DROP TABLE "{table}"')
        c.execute(meta.update().where(meta.c.key == "schema").values(value="1"))
    with closing(Store(store_url)) as store:
        assert store.noted("schema") == str(SCHEMA_VERSION)
        assert store.invite("ana")


def test_a_migration_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = released(tmp_path / "run.db", 1)

    def fails(op: object) -> None:
        migrations._to_2(op)  # type: ignore[arg-type]  # what the real step is given
        raise StoreError("the disk is full")

    monkeypatch.setitem(migrations.STEPS, 2, fails)
    with pytest.raises(StoreError, match="disk is full"):
        Store(path)
    with closing(sqlite3.connect(path)) as connection:
        names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        assert "showing" not in names
        assert connection.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone() == ("1",)
