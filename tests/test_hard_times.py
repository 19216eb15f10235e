"""A run that people teach, while its database is locked or its disk fills up: it goes on, and no answer is lost."""

import errno
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from backflip.rundir import RunDir
from test_crashes import Labeller, as_stored, free_port, parts_of

LOCKED_SECONDS = 10.0
PATIENCE = 180.0
pytestmark = pytest.mark.slow


@contextmanager
def going_on(path: Path, labeller: Labeller, port: int, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """`backflip resume`, once a few more answers have come through."""
    with log.open("wb") as output:
        command = [sys.executable, "-m", "backflip", "resume", str(path), "--port", str(port)]
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            more_answers(labeller, process, log, 12)
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def until(true: Callable[[], bool], process: "subprocess.Popen[bytes]", log: Path) -> None:
    give_up = time.monotonic() + PATIENCE
    while not true():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < give_up, log.read_text()
        time.sleep(0.05)


def more_answers(labeller: Labeller, process: "subprocess.Popen[bytes]", log: Path, count: int) -> None:
    wanted = len(labeller.acknowledged) + count
    until(lambda: len(labeller.acknowledged) >= wanted, process, log)


def end(process: "subprocess.Popen[bytes]", labeller: Labeller, run: RunDir) -> None:
    """Ctrl-C; then every answer that the labeller heard was saved is there, once, and no other."""
    labeller.stopped.set()
    labeller.join(20)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    with closing(run.store(check=True)) as store:
        stored = Counter(given.uuid for given, _ in store.preferences())
        kept = {given.uuid: (given.query, given.choice) for given, _ in store.preferences()}
        meant = {name: as_stored(store, *given) for name, given in labeller.acknowledged.items()}
    assert not [name for name in meant if stored[name] != 1]
    assert all(kept[name] == meant[name] for name in meant)
    assert set(stored) <= set(labeller.sent)


def fill(ballast: Path) -> None:
    """Take all the room there is."""
    with ballast.open("wb") as file:
        try:
            while True:
                os.write(file.fileno(), bytes(4096))
        except OSError as error:
            assert error.errno == errno.ENOSPC  # noqa: PT017


def teach(path: Path) -> tuple[RunDir, Labeller, int]:
    from backflip.api import start
    from backflip.settings import Settings
    from backflip.web.security import run_token

    run = start(Settings("cheetah-one-leg", labels=100_000, steps=10**9, checkpoint_steps=20_000), path)
    port = free_port()
    labeller = Labeller(port, run_token(run))
    labeller.start()
    return run, labeller, port


def test_a_database_that_is_locked_for_ten_seconds_is_waited_for(tmp_path: Path) -> None:
    run, labeller, port = teach(tmp_path / "run")
    log = tmp_path / "log"
    with going_on(run.path, labeller, port, log) as process:
        parts = parts_of(process)
        with closing(sqlite3.connect(run.path / "run.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            time.sleep(0.5)  # what was under way may end
            steps, answers = run.told("act")["steps"], len(labeller.acknowledged)
            time.sleep(LOCKED_SECONDS)
            assert len(labeller.acknowledged) == answers, "an answer was acknowledged that could not be on the disk"
            other.execute("ROLLBACK")
        version = run.told("fit").get("version", 0)
        more_answers(labeller, process, log, 6)
        until(lambda: run.told("act")["steps"] > steps, process, log)
        until(lambda: run.told("fit").get("version", 0) > version, process, log)
        assert parts_of(process) == parts, "nobody died of it"
        end(process, labeller, run)


def test_a_run_whose_disk_is_full_ends_in_words_and_goes_on_once_there_is_room(
    tmp_path: Path, small_disk: Callable[[int], Path]
) -> None:
    disk = small_disk(200_000)
    run, labeller, port = teach(disk / "run")
    with going_on(run.path, labeller, port, tmp_path / "log") as process:
        fill(disk / "ballast")
        assert process.wait(PATIENCE) != 0
    said = (tmp_path / "log").read_text()
    last = said.strip().splitlines()[-1]
    assert (
        "cannot be written (No space left on device); see that its disk has room" in last or "disk is full" in last
    ), said
    (disk / "ballast").unlink()
    with going_on(run.path, labeller, port, tmp_path / "log again") as process:
        end(process, labeller, run)
