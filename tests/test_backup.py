"""Backups: one moment of a run that goes on, whole or not there at all."""

import json
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from pathlib import Path

import pytest

from backflip import backup
from backflip.backup import BackupError, back_up
from backflip.files import write_whole
from backflip.preferences import Choice, Preference
from backflip.rundir import RunDir
from backflip.store import Store, new_uuid

AskMany = Callable[..., list[int]]


@pytest.fixture
def run(tmp_path: Path, ask_many: AskMany) -> RunDir:
    """A run with answers, checkpoints, r̂, clips and measurements."""
    run = RunDir.create(tmp_path / "run", {"seed": 0, "task": "hopper", "teacher": "people"})
    with closing(run.store()) as store:
        for query in ask_many(store, 4):
            store.answer(Preference(new_uuid(), query, Choice.LEFT, "ana"))
    for kind in ("act", "fit", "reward"):
        publish(run, kind, 1, "1")
    (run.clips / "aa.webp").write_bytes(b"clip")
    run.record(10, {"act/kl": 1.0})
    run.tell("act", steps=10)
    return run


def publish(run: RunDir, kind: str, number: int, text: str) -> None:
    with run.publishing(kind, number, durable=False) as directory:
        (directory / "state").write_text(text)


def everything(path: Path) -> list[str]:
    return sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())


def test_a_backup_has_all_that_a_run_is(run: RunDir, tmp_path: Path) -> None:
    (run.path / "token").write_text("t" * 43)
    (run.path / "token").chmod(0o600)
    (run.path / "tensorboard").mkdir()
    (run.path / "tensorboard" / "events.out.tfevents.1").write_bytes(b"can be made again")
    (run.path / "sent").mkdir()
    (run.path / "sent" / "wandb.json").write_text("{}")
    (run.path / "sent" / "wandb.lock").touch()
    (run.path / "later").mkdir()
    (run.path / "later" / "thing").write_text("of a newer version")
    (run.path / ".run.json.1.2.tmp").write_text("what a killed writer left")
    with run.owned():
        made = back_up(run, tmp_path / "copy")
    kept = {name for name in everything(run.path) if name.split("/")[0] not in ("owner", "tensorboard")}
    kept -= {".run.json.1.2.tmp", "sent/wandb.lock", "run.db-wal", "run.db-shm"}
    assert set(everything(made.path)) == kept
    assert (made.path / "token").stat().st_mode & 0o777 == 0o600
    assert made.bytes == sum((made.path / name).stat().st_size for name in kept)
    with closing(RunDir.open(made.path).store(check=True)) as store:
        assert store.counts().labels == 4
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []


def test_a_backup_lies_beside_its_run_if_nothing_else_is_said(run: RunDir) -> None:
    made = back_up(run)
    assert made.path.parent == run.path.parent
    assert made.path.name.startswith("run-backup-2")


def test_nothing_is_written_over_and_nothing_put_into_the_run(run: RunDir, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("mine")
    with pytest.raises(BackupError, match="exists; a backup does not write over anything"):
        back_up(run, tmp_path / "there")
    (tmp_path / "link").symlink_to(run.path)
    for inside in (run.path / "copy", tmp_path / "link" / "deep" / "copy"):
        with pytest.raises(BackupError, match="lies in the run itself"):
            back_up(run, inside)
    assert (tmp_path / "there").read_text() == "mine"


class Busy:
    """Everything that the processes of a run do to its directory, as fast as it goes."""

    def __init__(self, run: RunDir) -> None:
        self.run = run
        self.stopped = threading.Event()
        self.done = 0

    def work(self, ask_many: AskMany) -> None:
        number = 1
        with closing(self.run.store()) as store:
            while not self.stopped.is_set():
                number += 1
                (query,) = ask_many(store, 1)
                segments = [query for pair in store.queries([query]) for query in (pair.left, pair.right)]
                for i in segments:
                    write_whole(self.run.clips / f"clip-{i}.webp", b"x" * 1000, durable=False)
                store.answer(Preference(new_uuid(), query, Choice.LEFT, "ana"))
                for kind in ("reward", "fit", "act"):
                    publish(self.run, kind, number, str(store.changes(2**62).last))
                self.run.record(number, {f"act/{i}": 1.0 for i in range(20)})
                self.done = number


def test_a_backup_of_a_run_that_goes_on_is_one_moment_of_it(run: RunDir, tmp_path: Path, ask_many: AskMany) -> None:
    busy = Busy(run)
    worker = threading.Thread(target=busy.work, args=(ask_many,))
    worker.start()
    try:
        before = 0
        for number in range(6):
            while busy.done < before + 2 and worker.is_alive():
                time.sleep(0.002)
            before = busy.done
            copy = RunDir.open(back_up(run, tmp_path / f"copy{number}").path)
            fit = copy.newest("fit")
            assert fit is not None
            with closing(copy.store(check=True)) as store:
                assert store.counts().labels >= before - 1
                # r̂ must not have seen answers that the database does not have: new ones would get their numbers.
                assert int((fit.path / "state").read_text()) <= store.changes(2**62).last
                shown = {i for _, query in store.preferences()[4:] for i in (query.left, query.right)}
            assert {f"clip-{i}.webp" for i in shown} <= {clip.name for clip in copy.clips.iterdir()}
            assert (copy.path / "metrics.jsonl").read_bytes().endswith(b"}\n")
    finally:
        busy.stopped.set()
        worker.join()


@pytest.mark.parametrize("most", [2, 20_000], ids=["no clip fits", "the database does not fit"])
def test_a_full_disk_leaves_no_half_backup(
    run: RunDir, tmp_path: Path, most: int, small_files: Callable[[int], AbstractContextManager[None]]
) -> None:
    with small_files(most), pytest.raises(BackupError, match="could not be"):
        back_up(run, tmp_path / "copy")
    assert [entry.name for entry in tmp_path.iterdir()] == ["run"]
    back_up(run, tmp_path / "copy")


def test_a_damaged_run_is_not_taken_for_a_backup(run: RunDir, tmp_path: Path) -> None:
    content = bytearray((run.path / "run.db").read_bytes())
    content[-4096:] = b"\xff" * 4096
    (run.path / "run.db").write_bytes(content)
    with pytest.raises(BackupError, match=r"damaged|malformed"):
        back_up(run, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_checkpoints_that_are_all_torn_are_said(run: RunDir, tmp_path: Path) -> None:
    (run.path / "fit" / "000001" / "state").write_text("torn")
    with pytest.raises(BackupError, match=f"{run.path} is damaged: no checkpoint in {run.path}/fit is whole"):
        back_up(run, tmp_path / "copy")


def test_answers_in_postgresql_are_left_to_its_own_program(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run", {"seed": 0, "store": "postgresql+psycopg://me:hunter2@host:5433/answers"})
    made = back_up(run, tmp_path / "copy")
    assert made.dump == (
        f"pg_dump --format=custom --file={tmp_path / 'copy' / 'store.dump'} postgresql://me@host:5433/answers"
    )
    assert "run.db" not in everything(made.path)
    text = (made.path / "run.json").read_text()
    assert "hunter2" not in text
    assert json.loads(text)["settings"]["store"] == backup.RESTORE_FIRST


def test_a_run_that_has_not_begun_is_backed_up_too(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run", {"seed": 0})
    assert everything(back_up(run, tmp_path / "copy").path) == ["run.json"]


def test_a_backup_waits_for_no_writer_and_sees_nothing_of_what_is_not_done(run: RunDir, tmp_path: Path) -> None:
    with closing(run.store()) as store, store.transaction():
        store.note("half", "done")
        made = back_up(run, tmp_path / "copy")
    with closing(sqlite3.connect(made.path / "run.db")) as database:
        assert database.execute("SELECT count(*) FROM meta WHERE key = 'half'").fetchone() == (0,)
    with closing(Store(made.path / "run.db")) as store:
        assert store.noted("half") is None
