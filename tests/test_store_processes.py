"""One store, many threads and processes: nothing is lost, doubled or lent twice, even if they are killed."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from multiprocessing.connection import Connection
from multiprocessing.pool import Pool

import numpy as np
import pytest
import sqlalchemy as sa

from backflip.preferences import Choice, Comparisons, Preference, apply_changes
from backflip.schema import event
from backflip.segments import Segments
from backflip.store import Store, StoreError, new_uuid

AskMany = Callable[..., list[int]]
PROCESSES = 4
CONTEXT = multiprocessing.get_context("forkserver")


@pytest.fixture(scope="module")
def processes() -> Iterator[Pool]:
    """Four processes that wait for work."""
    with CONTEXT.Pool(PROCESSES) as pool:
        yield pool
        pool.close()
        pool.join()


def entries(data: Comparisons | None) -> list[tuple[int, int, int, float]]:
    """D as a sorted list, so that a doubled entry is seen."""
    if data is None:
        return []
    columns = (data.query_ids, data.left.ids, data.right.ids, data.mu)
    return sorted(zip(*(column.tolist() for column in columns), strict=True))


def events(store: Store) -> list[str]:
    with store.transaction() as c:
        return list(c.execute(sa.select(event.c.uuid).order_by(event.c.seq)).scalars())


# ---- the same answer from many


def post(url: str, given: Preference) -> bool:
    with closing(Store(url)) as store:
        return store.answer(given)


def test_one_answer_posted_by_many_at_once_is_one_row(
    store: Store, store_url: str, ask_many: AskMany, processes: Pool
) -> None:
    by_threads, by_processes = ask_many(store, 2)
    first = Preference(new_uuid(), by_threads, Choice.LEFT, "ana", 1.0)
    second = Preference(new_uuid(), by_processes, Choice.RIGHT, "ana", 1.0)
    with ThreadPoolExecutor(8) as threads:
        new = list(threads.map(store.answer, [first] * 16))
    assert sorted(new) == [False] * 15 + [True]
    assert sorted(processes.starmap(post, [(store_url, second)] * PROCESSES, chunksize=1)) == [False] * 3 + [True]
    assert events(store) == [first.uuid, second.uuid]


# ---- claims


def claim_all(store: Store, annotator: str) -> list[int]:
    found: list[int] = []
    while len(found) < 1000:
        claims = store.claim(annotator, count=len(found) + 3)
        numbers = [claim.query.id for claim in claims]
        assert set(found) <= set(numbers)
        if len(numbers) == len(found):
            return found
        found = numbers
    raise AssertionError("more was claimed than there is")


def open_and_claim_all(url: str, annotator: str) -> list[int]:
    with closing(Store(url)) as store:
        return claim_all(store, annotator)


def answer_all(url: str, annotator: str) -> list[int]:
    """Claim and answer one by one until there is nothing left."""
    done = []
    with closing(Store(url)) as store:
        while claims := store.claim(annotator):
            done.append(claims[0].query.id)
            store.answer(Preference(new_uuid(), claims[0].query.id, Choice.LEFT, annotator))
    return done


def test_threads_never_claim_the_same_query(store: Store, ask_many: AskMany) -> None:
    queries = ask_many(store, 200)
    with ThreadPoolExecutor(8) as threads:
        claimed = list(threads.map(claim_all, [store] * 8, [f"annotator {i}" for i in range(8)]))
    assert sorted(number for numbers in claimed for number in numbers) == queries


def test_processes_never_claim_the_same_query(store: Store, store_url: str, ask_many: AskMany, processes: Pool) -> None:
    queries = ask_many(store, 200)
    work = [(store_url, f"annotator {i}") for i in range(PROCESSES)]
    claimed = processes.starmap(open_and_claim_all, work, chunksize=1)
    assert sorted(number for numbers in claimed for number in numbers) == queries


def test_queries_claimed_and_answered_by_many_are_answered_once_each(
    store: Store, store_url: str, ask_many: AskMany, processes: Pool
) -> None:
    queries = ask_many(store, 100)
    work = [(store_url, f"annotator {i}") for i in range(PROCESSES)]
    done = processes.starmap(answer_all, work, chunksize=1)
    assert sorted(number for numbers in done for number in numbers) == queries
    assert sorted(entry[0] for entry in entries(store.comparisons())) == queries


# ---- increments while others write


def write_at_random(url: str, queries: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    teacher, given = f"teacher {seed}", list[str]()
    with closing(Store(url)) as store:
        for number in range(40):
            what, query = rng.random(), int(rng.choice(queries))
            if what < 0.7:
                given.append(f"answer {seed} {number}")
                choice = list(Choice)[int(rng.integers(4))]
                with store.transaction():
                    store.answer(Preference(given[-1], query, choice, teacher))
            elif what < 0.9 and given:
                store.undo(f"undo {seed} {number}", teacher, given[int(rng.integers(len(given)))])
            else:
                store.skip(f"skip {seed} {number}", query, teacher)


def test_increments_read_while_four_processes_write_miss_and_double_nothing(
    store: Store, store_url: str, ask_many: AskMany, processes: Pool
) -> None:
    queries = ask_many(store, 12)
    writing = processes.starmap_async(write_at_random, [(store_url, queries, i) for i in range(PROCESSES)], chunksize=1)
    data, last, seen, growing = None, 0, False, 0
    while not (finished := writing.ready()) or not seen:
        changes = store.changes(after=last)
        growing += changes.last > last
        data, last, seen = apply_changes(data, changes), changes.last, finished
        # One teacher has at most one entry for a query, so four teachers have at most four.
        assert data is None or np.unique(data.query_ids, return_counts=True)[1].max() <= PROCESSES
    writing.get()
    assert entries(data) == entries(store.comparisons())
    assert growing > 1, "everything was written before the reader looked; this tested nothing"


def test_an_event_is_never_seen_before_one_with_a_lower_number(store: Store, store_url: str, ask_many: AskMany) -> None:
    slow, quick = ask_many(store, 2)
    with closing(Store(store_url)) as other, ThreadPoolExecutor(1) as thread:
        with store.transaction():
            store.answer(Preference("slow", slow, Choice.LEFT, "ana"))
            posted = thread.submit(other.answer, Preference("quick", quick, Choice.LEFT, "ben"))
            time.sleep(0.1)
            assert other.changes().last == 0  # or a reader who asks for what is after "quick" would miss "slow"
        assert posted.result()
    assert events(store) == ["slow", "quick"]


# ---- pruning beside asking


def add_and_ask(url: str, segments: Segments, times: int, seed: int) -> list[int]:
    """Everything that act and ask do to a store, over and over; the numbers of the segments that were asked about."""
    rng = np.random.default_rng(seed)
    asked: list[int] = []
    with closing(Store(url)) as store:
        for _ in range(times):
            store.add(segments, keep=8)
            recent = store.recent(8)
            assert recent is not None
            pairs = rng.permutation(recent.ids)[:8].reshape(-1, 2)
            made = store.ask(pairs, rng.uniform(size=(3, len(pairs))).astype(np.float32))
            asked += [i for query in made for i in (query.left, query.right)]
            for number in store.undrawn(2):
                store.set_clip(number, f"clip {number}")
            store.mark_drawn()
            store.claim(f"annotator {seed}")
            waiting = store.open_queries(unclaimed_only=True)
            store.rerank(waiting[::-1], rng.uniform(size=(3, len(waiting))).astype(np.float32))
            store.expire([query.id for query in waiting[:-20]])
    return asked


def test_segments_that_are_pruned_while_others_ask_about_them_are_kept_or_not_asked(
    store: Store, store_url: str, make_segments: Callable[..., Segments], processes: Pool
) -> None:
    work = [(store_url, make_segments(4, seed=i), 8, i) for i in range(PROCESSES)]
    asked = sorted({i for numbers in processes.starmap(add_and_ask, work, chunksize=1) for i in numbers})
    assert len(store.segments(asked)) == len(asked) > 8
    store.add(make_segments(8), keep=8)
    assert store.counts().segments == len(asked) + 8


# ---- being killed


def answer_until_killed(url: str, queries: list[int], said: Connection) -> None:
    """Answer for ever; say each answer's UUID only after it was acknowledged."""
    with closing(Store(url)) as store:
        while True:
            for query in queries:
                uuid = new_uuid()
                with store.transaction():
                    store.answer(Preference(uuid, query, Choice.LEFT, uuid))
                    store.note("newest", uuid)
                said.send_bytes(uuid.encode())


def test_what_a_killed_writer_had_acknowledged_is_there_exactly_once(
    store: Store, store_url: str, ask_many: AskMany
) -> None:
    queries = ask_many(store, 3)
    rng = np.random.default_rng(0)
    acknowledged: list[str] = []
    for _ in range(10):
        hears, says = CONTEXT.Pipe(duplex=False)
        writer = CONTEXT.Process(target=answer_until_killed, args=(store_url, queries, says))
        writer.start()
        says.close()
        acknowledged.append(hears.recv_bytes().decode())
        time.sleep(rng.uniform(0, 0.03))
        os.kill(writer.pid or 0, signal.SIGKILL)
        writer.join()
        with hears:
            while True:
                try:
                    acknowledged.append(hears.recv_bytes().decode())
                except (EOFError, OSError):
                    break
    stored = events(store)
    assert len(stored) == len(set(stored))
    assert set(acknowledged) <= set(stored)
    assert len(acknowledged) <= len(stored) <= len(acknowledged) + 10  # an answer a kill may have been stored unheard
    assert store.noted("newest") == stored[-1]
    with closing(Store(store_url, check=True)) as again:
        assert len(entries(again.comparisons())) == len(stored)


def test_threads_do_not_join_each_others_transactions(store: Store, ask_many: AskMany) -> None:
    (query,) = ask_many(store, 1)
    seen: list[int] = []
    with store.transaction():
        store.answer(Preference("uuid", query, Choice.LEFT, "ana"))
        reader = threading.Thread(target=lambda: seen.append(store.counts().left))
        reader.start()
        reader.join()
    assert seen == [0]
    assert store.counts().left == 1


def test_forty_threads_that_wait_for_a_writer_are_all_served(store: Store, ask_many: AskMany) -> None:
    queries = ask_many(store, 40)
    with ThreadPoolExecutor(40) as threads:
        with store.transaction():
            posted = [
                threads.submit(store.answer, Preference(new_uuid(), query, Choice.LEFT, "ana")) for query in queries
            ]
            time.sleep(0.1)
            assert not any(done.done() for done in posted) or store.engine.dialect.name == "postgresql"
        assert all(done.result() for done in posted)
    with pytest.raises(StoreError, match="no query"):
        store.answer(Preference(new_uuid(), 1000, Choice.LEFT, "ana"))
    assert store.counts().left == 40
