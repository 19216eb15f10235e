"""Hard times for a run: full and read-only disks, torn files, clocks that are set back; nothing is lost."""

import json
import os
import shutil
import sqlite3
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from starlette.exceptions import StarletteDeprecationWarning

from backflip.files import CannotWrite, write_whole
from backflip.preferences import Choice, Preference
from backflip.rundir import RunDir
from backflip.store import LEASE_SECONDS, Store, StoreError, new_uuid
from backflip.web.app import create_app
from backflip.web.security import run_token

with warnings.catch_warnings():
    warnings.simplefilter("ignore", StarletteDeprecationWarning)  # it would rather have httpx2 than httpx
    from starlette.testclient import TestClient

AskMany = Callable[..., list[int]]
SmallFiles = Callable[[int], AbstractContextManager[None]]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path / "run", {"seed": 0})


def visit(run: RunDir) -> tuple[TestClient, Store]:
    """Somebody with the link, and the store behind the page."""
    app = create_app(run, run_token(run))
    visitor = TestClient(app, base_url="http://127.0.0.1:8642", raise_server_exceptions=False)
    visitor.get("/run", params={"token": run_token(run)})
    return visitor, app.state.context.store


def draw(run: RunDir) -> str:
    meta = {"frame_width": 8, "frame_height": 8, "columns": 1, "frames": 1, "fps": 10, "mime": "image/png"}
    (run.clips / ("a" * 64 + ".json")).write_text(json.dumps(meta))
    (run.clips / ("a" * 64 + ".png")).touch()
    return "a" * 64


def answer_again_and_again(store: Store) -> None:
    for _ in range(100):
        store.answer(Preference(new_uuid(), 1, Choice.LEFT, "ben"))


# ---- a disk that is full


def test_answers_that_do_not_fit_are_refused_and_all_others_stay(tmp_path: Path, ask_many: AskMany) -> None:
    full = [False]

    def limit(connection: Any, _record: Any) -> None:
        connection.execute(f"PRAGMA max_page_count={1 if full[0] else 2**30}").close()

    with closing(Store(tmp_path / "run.db")) as store:
        queries = ask_many(store, 3)
        sa.event.listen(store.engine, "connect", limit)
        full[0] = True
        store.engine.dispose()
        given = [Preference(new_uuid(), queries[i % 3], Choice.LEFT, f"annotator {i}") for i in range(60)]
        saved, refused = [], []
        for one in given:
            try:
                store.answer(one)
                saved.append(one)
            except StoreError as error:
                assert "(database or disk is full); see that it is whole and that its disk has room" in str(error)  # noqa: PT017
                refused.append(one)
        assert refused
        assert [stored for stored, _ in store.preferences()] == saved
        full[0] = False
        store.engine.dispose()
        assert all(store.answer(one) for one in refused)
        assert not any(store.answer(one) for one in saved)
        assert {stored.uuid for stored, _ in store.preferences()} == {one.uuid for one in given}
    Store(tmp_path / "run.db", check=True).close()


def test_a_database_file_that_cannot_grow_keeps_what_it_has(
    tmp_path: Path, ask_many: AskMany, small_files: SmallFiles
) -> None:
    with closing(Store(tmp_path / "run.db")) as store:
        (query,) = ask_many(store, 1)
        store.answer(Preference(new_uuid(), query, Choice.LEFT, "ana"))
        most = (tmp_path / "run.db-wal").stat().st_size
        with small_files(most), pytest.raises(StoreError, match=r"cannot be used .* its disk has room"):
            ask_many(store, 20)
        assert (store.counts().labels, store.counts().asked) == (1, 1)
        ask_many(store, 20)
    with closing(Store(tmp_path / "run.db", check=True)) as again:
        assert (again.counts().labels, again.counts().asked) == (1, 21)


def test_measurements_that_do_not_fit_are_said_and_take_no_others_with_them(
    run: RunDir, small_files: SmallFiles
) -> None:
    run.record(10, {"act/kl": 1.0})
    with small_files(run.metrics_position() + 30), pytest.raises(CannotWrite, match=r"metrics.jsonl cannot be written"):
        run.record(20, {"act/kl": 2.0})
    assert run.metrics_position() > len((run.path / "metrics.jsonl").read_bytes().splitlines()[0]) + 1, "it is torn"
    run.record(30, {"act/kl": 3.0})
    assert [line["step"] for line in run.metrics()[0]] == [10, 30]


def test_a_checkpoint_that_does_not_fit_leaves_the_one_before(run: RunDir, small_files: SmallFiles) -> None:
    for number in (1, 2):
        with run.publishing("act", number) as directory:
            write_whole(directory / "policy", b"x" * 10_000)
    with small_files(9_000), pytest.raises(CannotWrite, match=r"policy cannot be written \(File too large\); see that"):  # noqa: SIM117
        with run.publishing("act", 3) as directory:
            write_whole(directory / "policy", b"x" * 10_000)
    newest = run.newest("act")
    assert newest is not None
    assert newest.number == 2
    assert sorted(entry.name for entry in (run.path / "act").iterdir()) == ["000001", "000002"]


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ("max_page_count=1", "database or disk is full"),
        ("query_only=1", "readonly database"),
        ("busy_timeout=20", "locked"),
    ],
)
def test_a_page_that_cannot_save_now_is_told_to_come_again_and_nothing_is_lost(
    run: RunDir, ask_many: AskMany, trouble: str, said: str
) -> None:
    visitor, store = visit(run)
    ask_many(store, 1)
    for segment in store.segments([1, 2]).ids.tolist():
        store.set_clip(segment, draw(run))
    (pair,) = visitor.get("/api/next?count=1").json()["pairs"]
    given = [{"uuid": new_uuid(), "showing": pair["showing"], "choice": "left"} for _ in range(3)]
    troubled = [True]

    def trouble_now(connection: sqlite3.Connection, _record: Any) -> None:
        if troubled:
            connection.execute(f"PRAGMA {trouble}").close()

    sa.event.listen(store.engine, "connect", trouble_now)
    store.engine.dispose()
    if said == "database or disk is full":  # the free space of SQLite's pages comes first
        with pytest.raises(StoreError, match="is full"):
            answer_again_and_again(store)
    before = {stored.uuid for stored, _ in store.preferences()}
    with closing(sqlite3.connect(run.path / "run.db", isolation_level=None)) as other:
        if said == "locked":
            other.execute("BEGIN IMMEDIATE")
        replies = [visitor.post("/api/answer", json=one) for one in given]
    assert {reply.status_code for reply in replies} == {503}
    assert replies[-1].headers["retry-after"] == "1"
    assert said in replies[-1].json()["detail"]
    troubled.clear()
    store.engine.dispose()
    assert not any(visitor.post("/api/answer", json=one).json()["duplicate"] for one in given)
    assert {stored.uuid for stored, _ in store.preferences()} == before | {given[-1]["uuid"]}
    store.close()


# ---- a disk that is not ours to write on


def test_what_cannot_be_written_is_named(
    public_folder: Path, nobody: Callable[[], AbstractContextManager[None]]
) -> None:
    run = RunDir.create(public_folder / "run", {"seed": 0})
    run.record(10, {"act/kl": 1.0})
    with nobody():
        for write in (
            lambda: run.record(20, {"act/kl": 1.0}),
            lambda: run.tell("act", steps=1),
            lambda: run.publishing("act", 1).__enter__(),
            lambda: run.owned().__enter__(),
        ):
            with pytest.raises(CannotWrite, match=rf"{run.path}/.* cannot be written \(Permission denied\); see"):
                write()
    assert [line["step"] for line in run.metrics()[0]] == [10]


# ---- a clock that is set back


def test_leases_given_before_the_clock_was_set_back_do_not_keep_queries_for_ever(
    store: Store, ask_many: AskMany
) -> None:
    now = [1_000_000.0]
    store.clock = lambda: now[0]
    first, second = ask_many(store, 2)
    assert [claim.query.id for claim in store.claim("ana")] == [first]
    now[0] -= 50_000
    assert [query.id for query in store.open_queries(unclaimed_only=True)] == [first, second]
    assert [claim.query.id for claim in store.claim("ben", 2)] == [first, second]
    now[0] += LEASE_SECONDS / 2
    assert store.claim("cleo") == []
    now[0] -= LEASE_SECONDS  # by less than a lease: whoever holds it keeps it, and at most so much longer
    assert store.claim("cleo") == []
    assert [claim.query.id for claim in store.claim("ben", 2)] == [first, second]


def test_answers_count_in_the_order_in_which_they_came_whatever_the_clock_says(store: Store, ask_many: AskMany) -> None:
    now = [1_000_000.0]
    store.clock = lambda: now[0]
    first, second = ask_many(store, 2)
    taken_back = Preference(new_uuid(), first, Choice.LEFT, "ana")
    store.answer(taken_back)
    before = store.changes().last
    now[0] -= 90_000
    store.answer(Preference(new_uuid(), second, Choice.LEFT, "ana"))
    store.answer(Preference(new_uuid(), second, Choice.RIGHT, "ana"))
    assert store.changes(after=before).touched.tolist() == [second]
    assert store.undo(new_uuid(), "ana", taken_back.uuid) == first
    assert [(given.query, given.choice.value) for given, _ in store.preferences()] == [(second, "right")]


def test_measurements_go_on_in_time_when_the_clock_is_set_back(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    run.record(10, {"act/kl": 1.0})
    back = run.config["created"] - 86_400
    monkeypatch.setattr("backflip.rundir.time.time", lambda: back)
    run.record(20, {"act/kl": 1.0})
    RunDir.open(run.path).record(30, {"act/kl": 1.0})  # made tomorrow, as it seems
    seconds = [line["seconds"] for line in run.metrics()[0]]
    assert 0 <= seconds[0] <= seconds[1] < 60
    assert 0 <= seconds[2] < 60


# ---- files that a power cut left torn


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run that has ended; tests work on copies."""
    from backflip.fit import FitConfig
    from backflip.loop import in_turn
    from backflip.policies.ppo import PPOConfig
    from backflip.settings import Settings

    settings = Settings(
        "Pendulum-v1",
        teacher="oracle",
        labels=12,
        steps=3_000,
        mode="in_turn",
        checkpoint_steps=1_500,
        ppo=PPOConfig(environments=8, rollout_steps=64, minibatch=128, epochs=1),
        fit=FitConfig(first_steps=20, steps=5),
    )
    run = RunDir.create(tmp_path_factory.mktemp("durability") / "run", settings.to_dict())
    in_turn(run)
    return run.path


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> RunDir:
    return RunDir.open(Path(shutil.copytree(trained, tmp_path / "copy")))


def tear(path: Path, whole: bool = True) -> None:
    """Leave nothing of a checkpoint's files, or half, as a power cut may."""
    for file in path.iterdir():
        os.truncate(file, 0 if whole else file.stat().st_size // 2)


@pytest.mark.parametrize("whole", [True, False], ids=["empty", "half"])
def test_r_hat_comes_back_from_its_checkpoint_if_all_that_was_published_is_torn(copy: RunDir, whole: bool) -> None:
    from backflip.fitting import Fit
    from backflip.published import Published
    from backflip.settings import Settings

    newest = copy.newest("reward")
    assert newest is not None
    saved = (newest.path / "reward.safetensors").read_bytes()
    for path in (copy.path / "reward").iterdir():
        tear(path, whole)
    copy.forget_torn("reward")
    published = Published(copy)
    assert not published.refresh()
    with closing(copy.store()) as store:
        fit = Fit(copy, store, Settings.from_dict(copy.settings))
        fit.load()
        fit.publish_again()
    assert published.refresh()
    assert published.version == newest.number
    assert (copy.path / "reward" / f"{newest.number:06d}" / "reward.safetensors").read_bytes() == saved


def test_what_is_whole_of_r_hat_is_not_forgotten(copy: RunDir) -> None:
    numbers = sorted((copy.path / "reward").iterdir())
    tear(numbers[-1])
    copy.forget_torn("reward")
    assert sorted((copy.path / "reward").iterdir()) == numbers[:-1]


@pytest.mark.slow
@pytest.mark.parametrize("whole", [True, False], ids=["empty", "half"])
def test_a_run_whose_newest_files_are_all_torn_goes_on_from_those_before(copy: RunDir, whole: bool) -> None:
    from backflip.api import go_on

    settings = {**copy.settings, "mode": "at_once", "steps": 20_000, "labels": 20}
    (copy.path / "run.json").write_text(json.dumps({**copy.config, "settings": settings}))
    for kind in ("act", "fit"):
        tear(max((copy.path / kind).iterdir()), whole)
    for path in (copy.path / "reward").iterdir():
        tear(path, whole)
    before = copy.newest_number("act")
    assert go_on(RunDir.open(copy.path))
    newest = copy.newest("act")
    assert newest is not None
    assert before is not None
    assert newest.number > before
    assert copy.newest("reward") is not None
    with closing(copy.store(check=True)) as store:
        assert store.counts().labels == 20
