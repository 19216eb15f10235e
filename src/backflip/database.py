"""Connecting to SQLite or PostgreSQL so that no acknowledged answer can be lost, and refusing what is not ours."""

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from backflip.errors import Mendable
from backflip.migrations import migrate
from backflip.schema import SCHEMA_VERSION, meta, tables

BUSY_SECONDS = 30.0
"""How long a writer waits for another writer."""
CONNECT_SECONDS = 10
"""How long PostgreSQL may take to say hello, unless the URL has its own `connect_timeout`."""
EVENT_LOCK = 0x6261636B
"""Key of the lock that makes events become visible in the order of their numbers on PostgreSQL."""
_CONNECTIONS = 45
"""A web server answers on 40 threads at once; each has its connection."""


class StoreError(Mendable):
    """The store refused something; the message says what, and what to do."""


def connect(url: str | Path) -> sa.Engine:
    """An engine for a path to an SQLite file or an SQLAlchemy URL; nothing is opened yet.

    Raises:
        StoreError: there cannot be a database, or the driver of PostgreSQL is missing.
    """
    address = _address(str(url))
    if address.get_backend_name() == "sqlite":
        _see_that_it_can_be_written(Path(address.database or ""))
        engine = sa.create_engine(
            address, pool_size=_CONNECTIONS, max_overflow=0, connect_args={"timeout": BUSY_SECONDS}
        )
        sa.event.listen(engine, "connect", _prepare_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
        return engine
    options = {} if "connect_timeout" in address.query else {"connect_timeout": CONNECT_SECONDS}
    try:
        engine = sa.create_engine(
            address,
            max_overflow=_CONNECTIONS,
            pool_pre_ping=True,  # a server may have been restarted since
            isolation_level="READ COMMITTED",  # each statement sees what was there when it got its locks
            connect_args=options,
        )
    except ModuleNotFoundError as error:
        raise StoreError(f"PostgreSQL needs psycopg: pip install 'backflip[postgres]' ({error})") from error
    sa.event.listen(engine, "connect", _prepare_postgres)
    return engine


def must_be_postgresql(url: str) -> None:
    """See that an address is one of PostgreSQL: any other word would be taken for a file, relative to who reads it.

    Raises:
        ValueError: it is something else.
    """
    if url.partition("://")[0].split("+")[0] not in ("postgresql", "postgres") or "://" not in url:
        shown = f"...@{url.rpartition('@')[2]}" if "@" in url else url  # a password is not shown
        raise ValueError(
            f"store is {shown!r}; it is the address of a PostgreSQL database, postgresql://user@host/name: write that, "
            "or leave it out for SQLite in the run directory"
        )


def _address(text: str) -> sa.URL:
    if "://" not in text:
        return sa.URL.create("sqlite", database=str(Path(text).absolute()))
    scheme = text.split("://", 1)[0]
    kinds = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg", "postgres": "postgresql+psycopg"}
    try:
        address = sa.make_url(text).set(drivername=kinds[scheme.split("+")[0]])
    except (sa.exc.ArgumentError, ValueError, KeyError):
        # Neither the text nor the cause is shown: they would show a password.
        raise StoreError(
            f"this {scheme}:// address is not one of a store; write a path, or postgresql://user@host/database"
        ) from None
    if address.drivername != "sqlite":
        return address
    if not address.database or address.database == ":memory:":
        raise StoreError("a database in memory cannot be shared between processes; give the path of a file")
    return address.set(database=str(Path(address.database).absolute()))


def _see_that_it_can_be_written(path: Path) -> None:
    if not path.parent.is_dir():
        raise StoreError(f"the folder {path.parent} of the database {path.name} does not exist")
    if path.is_dir():
        raise StoreError(f"{path} is a folder; give the path of a file in it, such as {path / 'run.db'}")
    for place in (path, path.parent):  # SQLite keeps its log next to the file
        if place.exists() and not os.access(place, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
            raise StoreError(
                f"{place} cannot be written by this user; change who may, or copy the run to where you can"
            )


def _prepare_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None  # transactions are begun by _begin_sqlite, not guessed by the driver
    for pragma in ("synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: sa.Connection) -> None:
    """Take the writer's lock at once: a transaction that reads first and then writes could fail half-way."""
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _prepare_postgres(connection: Any, _record: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SET lock_timeout = {int(BUSY_SECONDS * 1000)}")
    connection.commit()


def serialise_events(c: sa.Connection) -> None:
    """Let one transaction at a time add events, so that they become visible in the order of their numbers.

    Without it, PostgreSQL could show event 6 before event 5, and a reader that asks for "after 6" would miss 5.
    """
    if c.dialect.name == "postgresql":
        c.execute(sa.select(sa.func.pg_advisory_xact_lock(EVENT_LOCK)))


def insert(c: sa.Connection, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
    """An INSERT that can be told what to do `on_conflict`."""
    return postgresql.insert(table) if c.dialect.name == "postgresql" else sqlite.insert(table)


def storable(text: str) -> str:
    """The same text.

    Raises:
        StoreError: it has a NUL or half of a surrogate pair, which databases cannot keep.
    """
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise StoreError(f"the text {text!r} has characters that cannot be stored; leave out NUL and lone surrogates")
    return text


def create_or_verify(engine: sa.Engine, check: bool) -> None:
    """Create the tables in an empty database; otherwise see that it is ours, and bring it to this version's tables.

    What is not ours, or newer than this program, is not changed in any way.

    Args:
        check: also read all of it once to see that it is sound (SQLite; PostgreSQL has its own tools).

    Raises:
        StoreError: it is something else.
    """
    with translated_errors():
        with engine.connect() as c:
            if check and c.dialect.name == "sqlite":
                verdict = c.exec_driver_sql("PRAGMA quick_check(1)").scalar()
                if verdict != "ok":
                    reason = " ".join(str(verdict).split())
                    raise StoreError(f"the database {engine.url.database} is damaged ({reason}); restore a copy")
            version = _version(c)
        if version != SCHEMA_VERSION:
            with writing(engine) as c:
                serialise_events(c)
                version = _version(c)  # another process may have been faster
                if version is None:
                    tables.create_all(c)
                    c.execute(meta.insert().values(key="schema", value=str(SCHEMA_VERSION)))
                elif version < SCHEMA_VERSION:
                    migrate(c, version)
        with engine.connect() as c:
            _see_that_it_is_whole(c)
        if engine.dialect.name == "sqlite":
            _use_write_ahead_log(engine)


@contextmanager
def writing(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A connection in a transaction that writes."""
    with engine.connect() as connection:
        c = connection.execution_options(writes=True)
        with c.begin():
            yield c


def _version(c: sa.Connection) -> int | None:
    """The version of the tables; None where there is nothing at all.

    Raises:
        StoreError: there is something, and it is not a store that we can use.
    """
    where = c.engine.url.render_as_string()
    found = _columns(c)
    if not found:
        return None
    if not set(meta.columns.keys()) <= found.get("meta", set()):
        raise StoreError(f"{where} holds something else, not a store of backflip; choose another place")
    version = c.execute(sa.select(meta.c.value).where(meta.c.key == "schema")).scalar()
    if version is None or not (version.isascii() and version.isdigit() and int(version) > 0):
        raise StoreError(f"{where} says that its schema is {version!r}; it is not a store of backflip, or damaged")
    if int(version) > SCHEMA_VERSION:
        raise StoreError(
            f"{where} was written by a newer backflip (schema {version}, this one knows {SCHEMA_VERSION}); "
            "upgrade backflip"
        )
    return int(version)


def _see_that_it_is_whole(c: sa.Connection) -> None:
    found = _columns(c)
    for name, table in tables.tables.items():
        missing = set(table.columns.keys()) - found.get(name, set())
        if missing:
            where = c.engine.url.render_as_string()
            raise StoreError(f"{where} is damaged (its table {name} lacks {sorted(missing)}); restore a copy")


def _columns(c: sa.Connection) -> dict[str, set[str]]:
    described = sa.inspect(c).get_multi_columns()
    return {name: {column["name"] for column in columns} for (_, name), columns in described.items()}


def _use_write_ahead_log(engine: sa.Engine) -> None:
    """Let readers read while somebody writes; SQLite remembers it in the file.

    Raises:
        StoreError: the file's place does not allow it.
    """
    give_up = time.monotonic() + BUSY_SECONDS
    raw = engine.raw_connection()
    try:
        while True:
            cursor = raw.cursor()
            try:
                cursor.execute("PRAGMA journal_mode=WAL")
                if cursor.fetchone() == ("wal",):
                    return
                raise StoreError(f"{engine.url.database} cannot have a write-ahead log here; use a local disk")
            except sqlite3.OperationalError as error:
                # Two that open a new database at once: SQLite does not wait by itself here.
                if "locked" not in str(error) or time.monotonic() > give_up:
                    raise sa.exc.OperationalError("PRAGMA journal_mode=WAL", None, error) from error
            finally:
                cursor.close()
            time.sleep(0.01)
    finally:
        raw.close()


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn a database that is locked, damaged, full or not there into a sentence.

    Raises:
        StoreError: it was one of these.
    """
    try:
        yield
    except sa.exc.DatabaseError as error:
        forbidden = getattr(error.orig, "sqlstate", None) == "42501"
        if isinstance(error, sa.exc.IntegrityError | sa.exc.ProgrammingError | sa.exc.DataError) and not forbidden:
            raise
        reason = " ".join(str(error.orig).split())
        advice = "see that it is whole and that its disk has room"
        if "lock" in reason:
            advice = f"another process has held it for {BUSY_SECONDS:g} s; see which, and try again"
        elif "readonly" in reason:
            advice = "see who may write to its file, its folder and its disk; nothing that was saved is lost"
        elif "not a database" in reason or "malformed" in reason:
            advice = "it is damaged or something else; restore a copy"
        elif forbidden:
            advice = "give its user the right to make tables there, or a database of its own"
        elif "connect" in reason or "refused" in reason:
            advice = "see that the server runs and the URL is right"
        raise StoreError(f"the database cannot be used ({reason}); {advice}") from error
