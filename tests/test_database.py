"""Which databases a store opens, and with which sentence it refuses the others."""

import multiprocessing
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from backflip import database
from backflip.database import translated_errors
from backflip.schema import meta
from backflip.segments import Segments
from backflip.store import Store, StoreError


def refused(url: str | Path, match: str, check: bool = False) -> None:
    with pytest.raises(StoreError, match=match):
        Store(url, check=check)


def run(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def set_schema(url: str, version: str | None) -> None:
    with closing(Store(url)) as store, store.transaction() as c:
        c.execute(meta.delete().where(meta.c.key == "schema"))
        if version is not None:
            c.execute(meta.insert().values(key="schema", value=version))


# ---- what is opened


def test_a_store_that_is_opened_again_has_what_was_in_it(store_url: str) -> None:
    for value in ("first", "second"):
        with closing(Store(store_url, check=True)) as store:
            assert store.noted("key") == (None if value == "first" else "first")
            store.note("key", value)


def open_and_note(url: str, name: str) -> None:
    with closing(Store(url)) as store:
        store.note(name, name)


def test_four_processes_that_open_a_new_store_at_once_all_get_it(store_url: str) -> None:
    context = multiprocessing.get_context("forkserver")
    processes = [context.Process(target=open_and_note, args=(store_url, name)) for name in "abcd"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    with closing(Store(store_url)) as store:
        assert [store.noted(name) for name in "abcd"] == list("abcd")


def test_an_sqlite_store_writes_ahead_and_waits_for_the_disk(tmp_path: Path) -> None:
    with closing(Store(tmp_path / "run.db")) as store, store.transaction() as c:
        assert c.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert c.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert c.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


def test_an_empty_file_becomes_a_store(tmp_path: Path) -> None:
    (tmp_path / "run.db").touch()
    Store(tmp_path / "run.db").close()


@pytest.mark.parametrize("name", ["run 1?mode=ro.db", "ru#n%20.db", "naïve 🙂.db", ":memory:"])
def test_the_name_of_a_file_is_taken_as_it_is(tmp_path: Path, name: str) -> None:
    Store(tmp_path / name).close()
    assert (tmp_path / name).is_file()


def test_a_relative_path_is_taken_from_where_the_program_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with closing(Store("run.db")) as store:
        monkeypatch.chdir("/")
        store.note("a", "b")
    with closing(Store(f"sqlite:///{tmp_path / 'run.db'}")) as store:
        assert store.noted("a") == "b"


def test_opening_a_store_does_not_wait_for_somebody_who_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    with (
        closing(Store(tmp_path / "run.db")) as writer,
        writer.transaction(),
        closing(Store(tmp_path / "run.db")) as reader,
    ):
        assert reader.counts().asked == 0


# ---- what is refused


@pytest.mark.parametrize("version", [None, "3", "1000", "-1", "0", "x", "²", ""])
def test_a_store_of_a_schema_that_is_newer_or_nonsense_is_refused(store_url: str, version: str | None) -> None:
    set_schema(store_url, version)
    newer = version in ("3", "1000")
    refused(store_url, "newer backflip .* upgrade" if newer else "says that its schema is")


def test_a_store_that_lost_a_table_or_a_column_is_refused(store_url: str) -> None:
    with closing(Store(store_url)) as store, store.transaction() as c:
        c.exec_driver_sql("ALTER TABLE event DROP COLUMN details")
    refused(store_url, r"its table event lacks \['details'\]")
    engine = database.connect(store_url)
    with database.writing(engine) as c:
        c.exec_driver_sql("DROP TABLE event")
    engine.dispose()
    refused(store_url, "its table event lacks")


@pytest.mark.parametrize("table", ["users (name TEXT)", "meta (something TEXT)", "segment (id INTEGER)"])
def test_a_foreign_database_is_refused_and_not_given_our_tables(store_url: str, table: str) -> None:
    engine = database.connect(store_url)
    with database.writing(engine) as c:
        c.exec_driver_sql(f"CREATE TABLE {table}")
    refused(store_url, "something else")
    with engine.connect() as c:
        assert len(sa.inspect(c).get_table_names()) == 1
    engine.dispose()


def test_a_foreign_sqlite_file_stays_the_same_to_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    run(path, "CREATE TABLE users (name TEXT)", "INSERT INTO users VALUES ('x')")
    before = path.read_bytes()
    refused(path, "something else", check=True)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["other.db"]


def test_a_truncated_file_is_refused(tmp_path: Path, make_segments: Callable[..., Segments]) -> None:
    with closing(Store(tmp_path / "run.db")) as store:
        store.add(make_segments(100))
    whole = (tmp_path / "run.db").read_bytes()
    for part in (0.9, 0.5, 0.1, 0.01):
        (tmp_path / "run.db").write_bytes(whole[: int(len(whole) * part)])
        refused(tmp_path / "run.db", "damaged")


@pytest.mark.parametrize("size", [2, 100, 4096, 100_000])
def test_garbage_is_refused(tmp_path: Path, size: int) -> None:
    (tmp_path / "run.db").write_bytes(np.random.default_rng(size).bytes(size))
    refused(tmp_path / "run.db", "damaged or something else; restore a copy")


def test_a_damaged_page_is_found_by_the_check(tmp_path: Path, make_segments: Callable[..., Segments]) -> None:
    path = tmp_path / "run.db"
    with closing(Store(path)) as store:
        store.add(make_segments(200))
    content = bytearray(path.read_bytes())
    content[-4096:] = b"\xff" * 4096
    path.write_bytes(content)
    refused(path, "damaged", check=True)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, "is a folder; give the path of a file in it")
    refused(tmp_path / "no" / "run.db", "the folder .*/no of the database run.db does not exist")


def test_a_read_only_file_or_folder_is_refused(
    public_folder: Path, nobody: Callable[[], AbstractContextManager[None]]
) -> None:
    path = public_folder / "run.db"
    Store(path).close()
    path.chmod(0o444)
    public_folder.chmod(0o777)
    with nobody():
        refused(path, "run.db cannot be written by this user")
    path.chmod(0o666)
    public_folder.chmod(0o555)
    with nobody():
        refused(path, f"{public_folder} cannot be written by this user")


def test_a_database_in_memory_is_refused() -> None:
    for url in ("sqlite://", "sqlite:///:memory:"):
        refused(url, "in memory cannot be shared")


@pytest.mark.parametrize("url", ["mysql://u:hunter2@h/d", "postgresql://u:hunter2@h:port/d", "nonsense://hunter2"])
def test_another_address_is_refused_without_showing_its_password(url: str) -> None:
    with pytest.raises(StoreError, match="is not one of a store; write a path, or postgresql://") as caught:
        Store(url)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_postgres_that_does_not_answer_is_refused_without_showing_its_password(tmp_path: Path) -> None:
    pytest.importorskip("psycopg")
    for place in ("127.0.0.1:1/d", f"/d?host={tmp_path}"):
        with pytest.raises(StoreError, match="see that the server runs and the URL is right") as caught:
            Store(f"postgresql://u:hunter2@{place}")
        assert "hunter2" not in str(caught.value)


def test_a_postgres_database_that_does_not_exist_is_refused(postgres: str) -> None:
    refused(postgres.replace("/postgres?", "/nowhere?"), '"nowhere" does not exist')


def test_a_postgres_user_who_may_not_make_tables_gets_a_sentence(postgres: str) -> None:
    import psycopg

    with psycopg.connect(postgres, autocommit=True) as connection:
        connection.execute("CREATE ROLE guest LOGIN")
    refused(postgres.replace("postgres@", "guest@"), "permission denied .* give its user the right")


def test_postgres_without_its_driver_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from backflip.store import Store, StoreError\n"
        "try: Store('postgresql://h/d')\n"
        "except StoreError as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "pip install 'backflip[postgres]'" in said


def test_a_writer_who_waits_too_long_gets_a_sentence_and_can_go_on(
    store_url: str, monkeypatch: pytest.MonkeyPatch, make_segments: Callable[..., Segments]
) -> None:
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.1)
    with closing(Store(store_url)) as one, closing(Store(store_url)) as other:
        one.note("key", "old")
        assert other.noted("key") == "old"
        with one.transaction():
            one.note("key", "new")
            with pytest.raises(StoreError, match=r"lock.*another process has held it for 0.1 s; see which"):
                other.note("key", "other")
            assert other.noted("key") == "old"  # readers do not wait
        other.note("key", "other")
        assert one.noted("key") == "other"


def test_a_mistake_in_a_statement_is_not_dressed_up_as_a_damaged_database(store: Store) -> None:
    with (
        pytest.raises(sa.exc.IntegrityError),
        translated_errors(),
        store.engine.connect() as c,
        c.begin(),
    ):
        c.execute(meta.insert().values(key="schema", value="again"))
