"""Transactions of a store: one connection for all that a thread does inside, and turns for SQLite's writers."""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from backflip.database import BUSY_SECONDS, translated_errors, writing


class Transactions:
    """Gives threads their connections to a database.

    Where the database has one writer at a time, the threads of a process take turns here. Left to themselves, SQLite's
    writers look again after up to 0.1 s each, and in no order: at 80 answers a second some waited for 28 s.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self._local = threading.local()
        self._turn = threading.Lock() if engine.dialect.name == "sqlite" else None

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """A connection whose changes become visible together, or not at all; that of this thread, if it has one."""
        current = self._current()
        with translated_errors():
            if current is not None:
                yield current
                return
            with self._one_turn(), writing(self.engine) as c:
                self._local.connection = c
                try:
                    yield c
                finally:
                    self._local.connection = None

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """A connection that sees one moment of the database; that of this thread, if it is writing."""
        current = self._current()
        with translated_errors():
            if current is not None:
                yield current
                return
            with self.engine.connect() as c:
                yield c

    def _current(self) -> sa.Connection | None:
        current: sa.Connection | None = getattr(self._local, "connection", None)
        return current

    @contextmanager
    def _one_turn(self) -> Iterator[None]:
        """Waits as long as one waits for another process."""
        if self._turn is None:
            yield
            return
        if not self._turn.acquire(timeout=BUSY_SECONDS):
            raise sa.exc.OperationalError("BEGIN IMMEDIATE", None, sqlite3.OperationalError("database is locked"))
        try:
            yield
        finally:
            self._turn.release()
