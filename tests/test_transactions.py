"""Threads of one process that write to one store."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from backflip import transactions
from backflip.store import Store, StoreError


@pytest.fixture
def sqlite(tmp_path: Path) -> Any:
    store = Store(tmp_path / "run.db")
    yield store
    store.close()


def test_threads_take_turns_instead_of_polling_for_the_one_writer(sqlite: Store) -> None:
    begun: list[int] = []
    most: list[int] = []

    def began(c: sa.Connection) -> None:
        if c.get_execution_options().get("writes"):
            begun.append(1)
            most.append(len(begun))

    sa.event.listen(sqlite.engine, "begin", began, insert=True)  # before SQLite is asked for its lock
    sa.event.listen(sqlite.engine, "commit", lambda _c: begun.pop() if begun else None)
    together = threading.Barrier(8)

    def write(i: int) -> None:
        together.wait()
        for j in range(10):
            sqlite.note(f"{i}/{j}", "written")

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(write, range(8)))
    assert max(most) == 1
    assert all(sqlite.noted(f"{i}/{j}") == "written" for i in range(8) for j in range(10))


def test_a_thread_that_waits_too_long_is_told_so(sqlite: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transactions, "BUSY_SECONDS", 0.05)
    with sqlite.transaction(), ThreadPoolExecutor(1) as thread:
        refused = thread.submit(sqlite.note, "a", "b").exception()
    assert isinstance(refused, StoreError)
    assert "database is locked" in str(refused)
    assert refused.__cause__ is not None, "the server says 503, and pages try again"
    sqlite.note("a", "b")


def test_reading_waits_for_nobody(sqlite: Store) -> None:
    with sqlite.transaction(), ThreadPoolExecutor(1) as thread:
        sqlite.note("a", "b")
        assert thread.submit(sqlite.noted, "a").result(5) is None
    assert sqlite.noted("a") == "b"
