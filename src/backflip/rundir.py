"""What lies where in a run directory, the only channel between acting, asking and fitting.

    run/
      run.json       the whole configuration, command, versions, machine, seed: written once, but for more steps, labels
      run.db         segments, queries, answers (or a PostgreSQL URL in run.json)
      reward/        r̂, numbered; published whole or not at all
      act/  fit/     checkpoints, numbered; the previous one is kept
      clips/         drawings of segments, named by their content
      clip_rewards   what the newest r̂ gives for them
      now/           what each part is doing at the moment, rewritten all the time
      metrics.jsonl  {step, seconds, name, value} a line, appended; cut back where a run goes back to a checkpoint

Needs neither torch nor gymnasium nor mujoco: the page runs wherever this directory is.
"""

import hashlib
import itertools
import json
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from backflip import measurements
from backflip.errors import Mendable
from backflip.files import DamagedFile, sync_directory, write_whole, writing
from backflip.store import Store, StoreError

FORMAT = 1
STEPS = "steps.json"  # in a checkpoint of the policy: the environment steps it had taken
KEPT = {"reward": 5}
"""How many are kept of each kind, where it is not 2: the newest, and one to fall back to."""
READ_ATTEMPTS = 3
"""How often to look for a checkpoint that is whole: the newest may be replaced meanwhile."""
PACKAGES = ("backflip", "numpy", "torch", "gymnasium", "mujoco", "sqlalchemy")


class RunError(Mendable):
    """A run directory that cannot be used; the message says which, why and what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """A finished checkpoint: its number and the directory with its files."""

    number: int
    path: Path


class RunDir:
    """A run directory that exists; make one with `create`, or open one with `open`."""

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self.path = path
        self.config = config
        # From here on by a clock that nobody sets.
        self._age = max(0.0, time.time() - float(config.get("created", 0.0)))
        self._opened = time.monotonic()

    @classmethod
    def create(cls, path: Path, settings: dict[str, Any], command: str = "") -> "RunDir":
        """Make a new run directory, with everything about the run that a reader later could ask.

        Raises:
            RunError: there is something at that path already.
        """
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise RunError(
                f"{path} exists and is not empty; choose another --run, or go on with: backflip resume {path}"
            )
        config = {
            "format": FORMAT,
            "settings": settings,
            "command": command,
            "created": time.time(),
            "machine": machine(),
            "versions": versions(),
            "commit": _commit(),
        }
        written = json.dumps(config, indent=1).encode()
        try:
            path.mkdir(parents=True, exist_ok=True)
            for part in ("reward", "act", "fit", "clips", "now"):
                (path / part).mkdir()
            write_whole(path / "run.json", written)
        except OSError as error:
            raise RunError(
                f"the run directory {path} cannot be written ({error}); choose another with --run"
            ) from error
        return cls(path, config)

    @classmethod
    def open(cls, path: Path) -> "RunDir":
        """Open a run directory that `create` made.

        Raises:
            RunError: it is not one, is damaged, or was made by a newer backflip.
        """
        file = path / "run.json"
        try:
            config = json.loads(file.read_text())
            newer = config["format"] > FORMAT
            config["settings"]["seed"]
        except (FileNotFoundError, NotADirectoryError) as error:
            raise RunError(f"{path} is not a run directory (it has no run.json)") from error
        except PermissionError as error:
            raise RunError(f"{file} cannot be read ({error.strerror}); see that you may read all of {path}") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{file} is damaged ({error!r}); restore it from a copy") from error
        if newer:
            made = config["format"]
            raise RunError(f"{path} was made by a newer backflip (format {made}, this one knows {FORMAT}); upgrade")
        for part in ("reward", "act", "fit", "clips", "now"):
            if not (path / part).is_dir():
                with writing(path / part):
                    (path / part).mkdir(exist_ok=True)
        return cls(path, config)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings the run was started with."""
        settings: dict[str, Any] = self.config["settings"]
        return settings

    def extend(self, **more: int) -> None:
        """Raise some settings; what they were before is kept beside them.

        Raises:
            CannotWrite: the disk is full, or not ours to write on.
        """
        before = {name: self.settings[name] for name in more} | {"until": time.time()}
        extended = [*self.config.get("extended", []), before]
        self.config = {**self.config, "settings": {**self.settings, **more}, "extended": extended}
        write_whole(self.path / "run.json", json.dumps(self.config, indent=1).encode())

    @property
    def public_settings(self) -> dict[str, Any]:
        """Those that others may see: the address of a database may hold a password."""
        return {name: value for name, value in self.settings.items() if name != "store"}

    @property
    def clips(self) -> Path:
        """Where drawings of segments lie."""
        return self.path / "clips"

    @property
    def wanted(self) -> Path:
        """Where notes lie that somebody needs a sheet."""
        return self.path / "wanted"

    @property
    def clip_rewards(self) -> Path:
        """The file with what the newest r̂ gives for the drawn segments."""
        return self.path / "clip_rewards.safetensors"

    def store(self, check: bool = False, **options: Any) -> Store:
        """The run's store.

        Raises:
            RunError: it cannot be used, or is gone.
        """
        file = self.path / "run.db"
        begun = any(self.newest_number(kind) is not None for kind in ("act", "fit", "reward"))
        if begun and not self.settings.get("store") and not (file.exists() and file.stat().st_size):
            state = "empty" if file.exists() else "missing"
            raise RunError(
                f"{file} is {state}, but the run has checkpoints, so there was one; restore it from a backup"
            )
        try:
            return Store(self.settings.get("store") or file, check=check, **options)
        except StoreError as error:
            raise RunError(str(error)) from error

    # ---- numbered, immutable: r̂ and checkpoints

    @contextmanager
    def publishing(self, kind: str, number: int, durable: bool = True) -> Iterator[Path]:
        """A directory to write files into, which becomes visible under its number when all is written, or never.

        Args:
            durable: also see that it survives a power cut; r̂ need not, since it can be made again from a checkpoint.

        Raises:
            CannotWrite: the disk is full, or not ours to write on; the one before is whole.
        """
        final = self.path / kind / f"{number:06d}"
        temporary = self.path / kind / f".{number:06d}.{os.getpid()}"
        for unfinished in final.parent.glob(".*"):  # of a process that was killed: nobody else publishes this kind
            shutil.rmtree(unfinished, ignore_errors=True)
        try:
            with writing(temporary):
                temporary.mkdir(parents=True)
            yield temporary
            sums = {file.name: _checksum(file) for file in sorted(temporary.iterdir())}
            write_whole(temporary / "checksums.json", json.dumps(sums).encode(), durable)
            with writing(final):
                if final.exists():  # a run that resumed goes over the same numbers again
                    shutil.rmtree(final)
                temporary.rename(final)
                if durable:
                    sync_directory(final.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        for old in sorted(_numbers(final.parent))[: -KEPT.get(kind, 2)]:
            shutil.rmtree(final.parent / f"{old:06d}", ignore_errors=True)

    def newest_number(self, kind: str) -> int | None:
        """The number of the newest one, without looking into it; None where there is none."""
        return max(_numbers(self.path / kind), default=None)

    def newest(self, kind: str, exactly: int | None = None) -> Checkpoint | None:
        """The newest one that is whole, or the one of a given number; None where there never was one.

        Raises:
            RunError: there are some, but none is whole, or that of the given number is not.
        """
        numbers: list[int] = []
        for _ in range(READ_ATTEMPTS):
            numbers = sorted(_numbers(self.path / kind), reverse=True)
            for number in numbers if exactly is None else [exactly]:
                path = self.path / kind / f"{number:06d}"
                if _whole(path):
                    return Checkpoint(number, path)
            if not numbers or exactly is not None:
                break  # else whoever publishes may have gone on while we looked
        if exactly is not None:
            raise RunError(f"checkpoint {exactly} in {self.path / kind} is not whole; restore that folder from a copy")
        if numbers:
            raise RunError(f"no checkpoint in {self.path / kind} is whole; restore that folder from a copy")
        return None

    def forget(self, kind: str) -> None:
        """Remove all of a kind."""
        for number in _numbers(self.path / kind):
            shutil.rmtree(self.path / kind / f"{number:06d}")

    def forget_torn(self, kind: str) -> None:
        """Remove those of a kind that are not whole: what a power cut left of r̂, which is not forced to the disk."""
        for number in _numbers(self.path / kind):
            if not _whole(self.path / kind / f"{number:06d}"):
                shutil.rmtree(self.path / kind / f"{number:06d}")

    # ---- what is happening

    def tell(self, part: str, **now: float | str | None) -> None:
        """Say what a part is doing; readers get the newest of these only."""
        write_whole(
            self.path / "now" / f"{part}.json", json.dumps({**now, "time": time.time()}).encode(), durable=False
        )

    def told(self, part: str) -> dict[str, Any]:
        """What a part said last; empty before it said anything, and where a power cut left a file without content."""
        try:
            told: dict[str, Any] = json.loads((self.path / "now" / f"{part}.json").read_text())
        except (FileNotFoundError, ValueError):
            return {}
        return told

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """Append measurements, named place/quantity, taken when the policy had made `step` steps.

        Raises:
            CannotWrite: the disk is full, or not ours to write on.
        """
        seconds = round(self._age + time.monotonic() - self._opened, 3)
        measurements.append(self._measured, step, seconds, values)

    def metrics(self, since: int = 0) -> tuple[list[measurements.Line], int]:
        """The measurements from a byte position on, and the position to ask from next (`measurements.read`)."""
        return measurements.read(self._measured, since)

    def metrics_thinned(self) -> tuple[list[measurements.Line], int]:
        """The same from the beginning, but only some of a name that has many (`measurements.read_thinned`)."""
        return measurements.read_thinned(self._measured)

    def metrics_position(self) -> int:
        """How long the measurements are, to cut them back to when going over the same steps again."""
        return self._measured.stat().st_size if self._measured.exists() else 0

    def metrics_mark(self, position: int) -> str:
        """What stands just before a position; something else there later means that they were cut back meanwhile."""
        return measurements.mark(self._measured, position)

    def forget_metrics(self, position: int) -> None:
        """Cut the measurements back to a position."""
        if self.metrics_position() > position:
            os.truncate(self._measured, position)

    def forget_metrics_after(self, step: int) -> None:
        """Take out the measurements after a step."""
        measurements.forget_after(self._measured, step)

    @property
    def _measured(self) -> Path:
        return self.path / "metrics.jsonl"

    # ---- one writer at a time

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Hold the run: two trainings of one run directory would destroy each other's checkpoints.

        Raises:
            RunError: another process holds it.
        """
        import fcntl

        with writing(self.path / "owner"):
            opened = (self.path / "owner").open("a+")
        with opened as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                raise RunError(
                    f"{self.path} is being trained by process {file.read().strip()}; stop that first"
                ) from error
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield


def new_path(task: str) -> Path:
    """A new and empty directory in `runs/`, named after task and time; runs of the same second get different ones.

    Raises:
        CannotWrite: there cannot be one here.
    """
    named = Path("runs") / f"{re.sub('[/:]', '-', task)}-{time.strftime('%Y%m%d-%H%M%S')}"
    others = (named.with_name(f"{named.name}-{number}") for number in itertools.count(2))
    with writing(named):
        named.parent.mkdir(exist_ok=True)
        for path in itertools.chain([named], others):
            with suppress(FileExistsError):
                path.mkdir()
                break
    return path


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "missing"
    return found


def machine() -> dict[str, Any]:
    """What the run ran on."""
    return {"system": platform.platform(), "processor": _processor(), "cores": os.cpu_count(), "python": sys.version}


def _processor() -> str:
    """The processor's name, as Linux tells it; elsewhere what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str:
    """The commit of the source tree this runs from; empty for an installed package."""
    head = Path(__file__).resolve().parents[2] / ".git" / "HEAD"
    try:
        reference = head.read_text().strip()
        return (head.parent / reference[5:]).read_text().strip() if reference.startswith("ref: ") else reference
    except OSError:
        return ""


def _numbers(directory: Path) -> list[int]:
    return [int(entry.name) for entry in directory.iterdir() if entry.name.isdigit()] if directory.is_dir() else []


def _checksum(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _whole(path: Path) -> bool:
    try:
        sums: dict[str, str] = json.loads((path / "checksums.json").read_text())
        return all(_checksum(path / name) == expected for name, expected in sums.items())
    except (OSError, ValueError, AttributeError):
        return False


__all__ = ["Checkpoint", "DamagedFile", "RunDir", "RunError", "machine", "new_path", "versions"]
