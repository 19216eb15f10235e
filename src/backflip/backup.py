"""A copy of a run that is whole, made while the run goes on."""

import json
import os
import shlex
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from backflip.database import BUSY_SECONDS
from backflip.errors import Mendable
from backflip.files import write_whole
from backflip.rundir import RunDir, RunError

ATTEMPTS = 5
"""How often to begin again because the run published checkpoints faster than they could be copied."""
KINDS = ("reward", "act", "fit")
ELSEWHERE = ("owner", "wanted", "tensorboard", "wandb")
"""What belongs to processes that go on, or can be made again from the measurements."""
RESTORE_FIRST = "postgresql:///put-the-address-of-the-restored-database-into-run.json"


class BackupError(Mendable):
    """There is no backup; the message says why and what to do."""


@dataclass(frozen=True)
class Backup:
    """A backup that was looked at and is whole."""

    path: Path
    bytes: int
    dump: str
    """The command that copies the answers too, where they lie in PostgreSQL; else empty."""


def back_up(run: RunDir, to: Path | None = None) -> Backup:
    """Copy a run, whether it goes on or not, so that the copy can be served and resumed; return it once it was checked.

    What is copied when: first checkpoints and then the database, so that r̂ never knows of answers that the database
    does not have; clips before and after it, so that all it speaks of are there, whatever is tidied up meanwhile.

    Args:
        to: where to; by default beside the run, under its name and the time. Nothing there is written over.

    Raises:
        BackupError: there is something there already, no room, or the run itself is damaged.
    """
    to = to or run.path.with_name(f"{run.path.absolute().name}-backup-{time.strftime('%Y%m%d-%H%M%S')}")
    if to.exists() or to.is_symlink():
        raise BackupError(f"{to} exists; a backup does not write over anything, choose another place")
    if run.path.resolve() in to.resolve().parents:
        raise BackupError(
            f"{to} lies in the run itself, and would become part of the next backup; choose another place"
        )
    with _unfinished(to) as copy:
        _copy_clips(run.path, copy)
        for _ in range(ATTEMPTS):
            _copy_checkpoints(run.path, copy)
            if run.settings.get("store"):
                break
            _copy_database(run.path, copy)
            if _belongs_together(copy):
                break
        else:
            raise BackupError(f"{run.path} wrote checkpoints faster than they could be copied; try again")
        _copy_clips(run.path, copy)
        _copy_the_rest(run, copy)
        _see_that_it_is_whole(run, copy)
        os.sync()
        size = sum(file.stat().st_size for file in copy.rglob("*") if file.is_file())
    return Backup(to, size, _dump(run, to))


@contextmanager
def _unfinished(to: Path) -> Iterator[Path]:
    """A directory that gets its name when all is in it, or goes away."""
    copy = to.with_name(f".{to.name}.{os.getpid()}.unfinished")
    try:
        copy.mkdir(parents=True)
        yield copy
        copy.rename(to)
    except sqlite3.DatabaseError as error:
        raise BackupError(
            f"the database could not be copied ({error}); see that it is whole and there is room"
        ) from error
    except OSError as error:
        raise BackupError(
            f"{to} could not be written ({error}); nothing of it is left, the run is as it was"
        ) from error
    finally:
        shutil.rmtree(copy, ignore_errors=True)


def _copy_clips(path: Path, copy: Path) -> None:
    (copy / "clips").mkdir(exist_ok=True)
    for clip in path.glob("clips/[!.]*"):
        there = copy / "clips" / clip.name
        if not there.exists():
            _copy_if_still_there(clip, there)


def _copy_checkpoints(path: Path, copy: Path) -> None:
    """All that are published; one that is replaced or thinned out at this moment is left out."""
    for kind in KINDS:
        shutil.rmtree(copy / kind, ignore_errors=True)
        (copy / kind).mkdir()
        for number in path.glob(f"{kind}/[0-9]*"):
            (copy / kind / number.name).mkdir()
            for file in number.glob("*"):
                _copy_if_still_there(file, copy / kind / number.name / file.name)
            if not (copy / kind / number.name / "checksums.json").exists():
                shutil.rmtree(copy / kind / number.name)


def _copy_if_still_there(file: Path, there: Path) -> None:
    try:
        content = file.open("rb")
    except FileNotFoundError:
        return
    with content, there.open("wb") as written:
        shutil.copyfileobj(content, written)


def _copy_database(path: Path, copy: Path) -> None:
    """One moment of it, whoever writes meanwhile; nobody has to wait for this."""
    (copy / "run.db").unlink(missing_ok=True)
    if not (path / "run.db").exists():
        return
    with (
        closing(sqlite3.connect(path / "run.db", timeout=BUSY_SECONDS)) as source,
        closing(sqlite3.connect(copy / "run.db")) as target,
    ):
        source.backup(target)


def _belongs_together(copy: Path) -> bool:
    """Whether the checkpoint that the database of a run in turn names was copied with it."""
    if not (copy / "run.db").exists():
        return True
    with closing(sqlite3.connect(copy / "run.db")) as database:
        noted = database.execute("SELECT value FROM meta WHERE key = 'checkpoint'").fetchone()
    number = f"{int(noted[0].split()[0]):06d}" if noted else ""
    return not noted or all((copy / kind / number / "checksums.json").exists() for kind in ("act", "fit"))


def _copy_the_rest(run: RunDir, copy: Path) -> None:
    """The configuration, measurements, and whatever else lies there."""
    done = (*KINDS, *ELSEWHERE, "clips")
    for entry in run.path.iterdir():
        if entry.name in done or entry.name.startswith((".", "run.db")):
            continue
        if entry.is_dir():
            shutil.copytree(entry, copy / entry.name, ignore=shutil.ignore_patterns(".*", "*.lock"))
        else:
            shutil.copy2(entry, copy / entry.name)
    if run.settings.get("store"):  # a copy that is resumed must not write into the database of the original
        config = {**run.config, "settings": {**run.settings, "store": RESTORE_FIRST}}
        write_whole(copy / "run.json", json.dumps(config, indent=1).encode())
    measured = copy / "metrics.jsonl"
    if measured.exists():  # somebody may have been writing a line
        content = measured.read_bytes()
        write_whole(measured, content[: content.rfind(b"\n") + 1])


def _see_that_it_is_whole(run: RunDir, copy: Path) -> None:
    """Read all of it back.

    Raises:
        BackupError: a part is not what it should be.
    """
    if (copy / "run.db").exists():
        with closing(sqlite3.connect(copy / "run.db")) as database:
            verdict = database.execute("PRAGMA integrity_check(1)").fetchone()[0]
            astray = database.execute("PRAGMA foreign_key_check").fetchall()
        if verdict != "ok" or astray:
            raise BackupError(
                f"the database of {run.path} is damaged ({astray or verdict}), and a copy of it would be; "
                "go back to an earlier backup, or export what can still be read"
            )
    try:
        copied = RunDir.open(copy)
        for kind in KINDS:
            copied.newest(kind)
            if run.newest_number(kind) is not None and copied.newest_number(kind) is None:
                raise BackupError(f"no checkpoint in {run.path / kind} could be copied; try again")
    except RunError as error:
        raise BackupError(f"{run.path} is damaged: {str(error).replace(str(copy), str(run.path))}") from error


def _dump(run: RunDir, to: Path) -> str:
    """What PostgreSQL's own program has to be told; passwords it finds by itself, or asks for."""
    url = run.settings.get("store")
    if not url:
        return ""
    told = sa.make_url(url)
    address = sa.URL.create("postgresql", told.username, None, told.host, told.port, told.database, told.query)
    return shlex.join(["pg_dump", "--format=custom", f"--file={to / 'store.dump'}", address.render_as_string()])


__all__ = ["Backup", "BackupError", "back_up"]
