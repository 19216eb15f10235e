"""A run directory stays within its bound, and nothing goes that somebody may still be shown or answer."""

import hashlib
import logging
import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from backflip.preferences import Choice, Preference
from backflip.rundir import RunDir
from backflip.segments import Segments
from backflip.store import Store, StoreError, new_uuid
from backflip.tidying import LEFT_SECONDS, tidy
from backflip.wanted import want, wanted

MakeSegments = Callable[..., Segments]
PLENTY = 10**9


def name_of(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def ask(run: RunDir, store: Store, make_segments: MakeSegments, count: int, kilobytes: int = 100) -> list[int]:
    """So many drawn queries between new segments; their numbers."""
    ids = store.add(make_segments(2 * count))
    queries = store.ask(ids.reshape(count, 2))
    for number in ids.tolist():
        draw(run, name_of(number), kilobytes)
        store.set_clip(number, name_of(number))
    store.mark_drawn()
    return [query.id for query in queries]


def draw(run: RunDir, name: str, kilobytes: int, seconds_ago: float = 0.0) -> None:
    for file, size in ((run.clips / f"{name}.webp", 1000 * kilobytes), (run.clips / f"{name}.json", 10)):
        file.write_bytes(bytes(size))
        moment = file.stat().st_mtime - seconds_ago
        os.utime(file, (moment, moment))


def clips_of(store: Store, queries: list[int]) -> set[str]:
    return {name_of(i) for query in store.queries(queries) for i in (query.left, query.right)}


def clips_in(run: RunDir) -> set[str]:
    return {file.name.split(".")[0] for file in run.clips.glob("*.webp")}


def answer(store: Store, query: int) -> None:
    store.answer(Preference(new_uuid(), query, Choice.LEFT, "ana"))


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path / "run", {"seed": 0})


def test_queries_taken_back_unseen_go_with_their_segments_and_those_somebody_saw_stay(
    store: Store, make_segments: MakeSegments, run: RunDir
) -> None:
    queries = ask(run, store, make_segments, 5)
    claimed = store.claim("ana")[0].query.id
    waiting = [query for query in queries if query != claimed]
    answer(store, waiting[0])
    store.clock = lambda: 10**10  # whoever was shown one has gone
    assert store.expire([claimed, *waiting[1:3]]) == 3
    assert store.forget_unseen() == 2
    assert store.forget_unseen() == 0
    assert [query.id for query in store.queries(queries)] == sorted([claimed, waiting[0], waiting[3]])
    answer(store, claimed)  # a page that was offline all the while
    assert store.counts().labels == 2
    store.add(make_segments(3), keep=3)
    assert store.counts().segments == 2 * 3 + 3
    with pytest.raises(StoreError, match="there is no query"):
        answer(store, waiting[1])


def test_a_segment_of_two_queries_stays_as_long_as_one_of_them(store: Store, make_segments: MakeSegments) -> None:
    a, b, c = store.add(make_segments(3)).tolist()
    first, second = store.ask(np.array([[a, b], [b, c]]))
    store.expire([first.id])
    assert store.forget_unseen() == 1
    store.add(make_segments(1), keep=1)
    assert store.segments([b, c]).ids.tolist() == [b, c]
    with pytest.raises(StoreError, match="not in the store"):
        store.segments([a])
    assert [query.id for query in store.open_queries()] == [second.id]


def test_drawings_that_nobody_speaks_of_go_but_not_at_once(run: RunDir, make_segments: MakeSegments) -> None:
    with closing(run.store()) as store:
        kept = ask(run, store, make_segments, 1)
        draw(run, name_of(-1), 1, seconds_ago=LEFT_SECONDS + 1)
        draw(run, name_of(-2), 1)
        (run.clips / f"{name_of(-3)}.geometry.json").write_text("{}")
        for folder in (run.path, run.clips, run.path / "now"):
            for name, age in ((".old.1.2.tmp", LEFT_SECONDS + 1), (".new.1.2.tmp", 0)):
                (folder / name).touch()
                os.utime(folder / name, (folder.stat().st_mtime - age,) * 2)
        tidy(run, store, PLENTY)
        assert clips_in(run) == clips_of(store, kept) | {name_of(-2)}
        assert (run.clips / f"{name_of(-3)}.geometry.json").exists()
        assert [file.name for file in run.path.rglob(".*.tmp")] == [".new.1.2.tmp"] * 3


def test_poses_go_with_their_sheet_and_geometry_when_nothing_is_left_that_it_describes(
    run: RunDir, make_segments: MakeSegments
) -> None:
    def aged(*names: str) -> None:
        for name in names:
            (run.clips / name).write_text("{}")
            os.utime(run.clips / name, (0, 0))

    with closing(run.store()) as store:
        (query,) = ask(run, store, make_segments, 1)
        kept, gone = sorted(clips_of(store, [query]))[0], name_of(-1)
        aged(f"{kept}.poses", f"{kept}.sheet.json", f"{name_of(-3)}.geometry.json")
        aged(*(f"{gone}.{suffix}" for suffix in ("poses", "json", "webp", "sheet.json")))
        for seconds_ago, clip in ((0, kept), (LEFT_SECONDS + 1, gone)):
            want(run.wanted, clip)
            moment = (run.wanted / clip).stat().st_mtime - seconds_ago
            os.utime(run.wanted / clip, (moment, moment))
        tidy(run, store, PLENTY)
        assert not list(run.clips.glob(f"{gone}*"))
        assert len(list(run.clips.glob(f"{kept}*"))) == 4
        assert (run.clips / f"{name_of(-3)}.geometry.json").exists()
        assert wanted(run.wanted) == [kept]
        answer(store, query)
        tidy(run, store, 1)
        tidy(run, store, PLENTY)
        assert list(run.clips.iterdir()) == []


def test_drawings_of_queries_that_were_taken_back_unseen_go(run: RunDir, make_segments: MakeSegments) -> None:
    with closing(run.store()) as store:
        gone, kept = ask(run, store, make_segments, 2)
        store.expire([gone])
        for file in run.clips.iterdir():
            os.utime(file, (0, 0))
        tidy(run, store, PLENTY)
        assert clips_in(run) == clips_of(store, [kept])


def test_the_oldest_answered_make_room_until_the_bound_is_kept_and_what_is_open_stays(
    run: RunDir, make_segments: MakeSegments
) -> None:
    with closing(run.store()) as store:
        answered = ask(run, store, make_segments, 6)
        for query in answered[:-1]:
            answer(store, query)
        gold = answered[0]
        store.set_gold(gold, Choice.LEFT)
        still_open = [answered[-1], *ask(run, store, make_segments, 2)]
        size = tidy(run, store, PLENTY)
        assert len(clips_in(run)) == 16
        bound = size - 350_000  # a drawing and its JSON are 100,010 bytes: four of them
        assert tidy(run, store, bound) <= bound
        assert clips_in(run) == clips_of(store, [gold, *answered[3:], *still_open])
        assert not list(run.clips.glob(f"{name_of(3)}*"))
        assert tidy(run, store, bound) <= bound, "there is nothing more to do"
        assert len(clips_in(run)) == 12


def test_a_drawing_that_made_room_is_made_again_if_its_query_is_opened_again(
    run: RunDir, make_segments: MakeSegments
) -> None:
    with closing(run.store()) as store:
        (query,) = ask(run, store, make_segments, 1)
        given = Preference(new_uuid(), query, Choice.LEFT, "ana")
        store.answer(given)
        tidy(run, store, 1)
        assert clips_in(run) == set()
        store.undo(new_uuid(), "ana", given.uuid)
        assert store.claim("ana") == []
        for number in store.undrawn(9):
            store.set_clip(number, name_of(number))
        store.mark_drawn()
        assert [claim.query.id for claim in store.claim("ana")] == [query]


def test_a_bound_that_cannot_be_kept_is_said(
    run: RunDir, make_segments: MakeSegments, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(run.store()) as store, caplog.at_level(logging.WARNING):
        ask(run, store, make_segments, 2)
        assert tidy(run, store, 100_000) > 400_000
        assert len(clips_in(run)) == 4
    assert "more than its bound of 0 MB, without any drawing that could go; raise disk_megabytes" in caplog.text
