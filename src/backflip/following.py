"""Measurements for other programs' curves: a process beside a run reads what is measured and passes it on.

No part of a run knows of it. What was passed on once is not passed on again, whenever the run is stopped, killed,
resumed, or goes back to a checkpoint and over the same steps again.
"""

import fcntl
import json
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from backflip.files import write_whole
from backflip.processes import Companions, Stop
from backflip.rundir import RunDir
from backflip.sinks import SINKS, WHOLE, Opened, Point, Sink, SinkError, must_be_installed

LOOK_SECONDS = 2.0
"""How often to look for new measurements."""
BUSY_SECONDS = 10.0
"""How long to wait for another process that passes on the same run's measurements: one whose run was killed."""


def followers(run: RunDir, names: Sequence[str], say: Callable[[str], None]) -> Companions:
    """A process for each sink, to be entered for as long as the run goes on; one that fails says so, and no more.

    Args:
        say: told in one sentence which sink failed and why.

    Raises:
        SinkError: a sink's package is not installed.
    """
    for name in names:
        must_be_installed(name)

    def mourn(name: str, why: str) -> None:
        reason = why.removeprefix(f"{SinkError.__module__}.{SinkError.__name__}: ")
        say(
            f"measurements no longer go to {name}: {reason}. The run does not need it, and keeps them all; to send the "
            f"rest later: backflip send-metrics {run.path} {name}"
        )

    return Companions({name: (follow, (run.path, name)) for name in dict.fromkeys(names)}, mourn)


def follow(path: Path, name: str, stop: Stop) -> None:
    """Pass a run's measurements on to a sink until it is time to stop."""
    with _translated(), _passing(RunDir.open(path), name) as passing:
        while not stop.is_set():
            passing.on()
            stop.wait(LOOK_SECONDS)
        passing.on()


def send(run: RunDir, name: str) -> int:
    """Pass on whatever a sink does not have yet; return how many points that were.

    Raises:
        SinkError: it cannot be.
    """
    must_be_installed(name)
    with _translated(), _passing(run, name) as passing:
        return passing.on()


class Passing:
    """How far a sink has been told a run's measurements, and the telling."""

    def __init__(self, run: RunDir, name: str) -> None:
        self._run, self._name = run, name
        self._file = run.path / "sent" / f"{name}.json"
        told: dict[str, Any] = json.loads(self._file.read_text()) if self._file.exists() else {}
        self._id: str = told.get("id") or uuid.uuid4().hex[:12]
        self._position: int = told.get("position", 0)
        self._mark: str = told.get("mark", run.metrics_mark(0))
        self._newest: dict[str, int] = told.get("newest", {})
        """The highest step of each name that was passed on."""
        self._again: bool = told.get("again", False)
        """Whether some of what is read next was passed on before."""
        self._sink: Sink | None = None
        if name in WHOLE:
            self._position, self._mark, self._newest, self._again = 0, run.metrics_mark(0), {}, False

    def on(self) -> int:
        """Pass on what is new; return how many points that were."""
        run = self._run
        if run.metrics_position() < self._position or run.metrics_mark(self._position) != self._mark:
            self._go_back()
        before, (lines, position) = self._position, run.metrics(self._position)
        if not lines:
            return 0
        moments = [moment for moment in map(self._new, _moments(lines)) if moment.values]
        sink = self._sink = self._sink or self._open()
        passed, newest = 0, dict(self._newest)
        for moment in moments:
            self._newest |= {name: max(moment.step, self._newest.get(name, -1)) for name in moment.values}
        # Noted before it is done: whoever is killed in between leaves a gap in a curve, and no point twice.
        self._note(position, again=False)
        try:
            for moment in moments:
                sink.add(moment)
                newest |= {name: max(moment.step, newest.get(name, -1)) for name in moment.values}
                passed += 1
            sink.flush()
        except BaseException:
            self._newest = newest
            self._note(before, again=True)
            raise
        return passed

    def close(self) -> None:
        """Take leave of the sink."""
        if self._sink is not None:
            self._sink.close()
            self._sink = None

    def _open(self) -> Sink:
        run = self._run
        settings = run.public_settings
        return SINKS[self._name](Opened(run.path, run.path.absolute().name, self._id, run.config["created"], settings))

    def _go_back(self) -> None:
        """The run went back to a checkpoint, and measures again what it had measured after it."""
        self._position, self._again = 0, True
        if self._name in WHOLE:
            self.close()
            self._newest, self._again = {}, False

    def _new(self, moment: Point) -> Point:
        """What of it was not passed on before."""
        if not self._again:
            return moment
        new = {name: value for name, value in moment.values.items() if moment.step > self._newest.get(name, -1)}
        return replace(moment, values=new)

    def _note(self, position: int, again: bool) -> None:
        self._position, self._mark = position, self._run.metrics_mark(position)
        self._again = again
        told = {"id": self._id, "position": position, "mark": self._mark, "newest": self._newest, "again": again}
        write_whole(self._file, json.dumps(told).encode())


def _moments(lines: list[dict[str, Any]]) -> Iterator[Point]:
    """What was measured together, together."""
    step, seconds, values = 0, 0.0, dict[str, float]()
    for line in lines:
        if (line["step"], line["seconds"]) != (step, seconds) or line["name"] in values:
            if values:
                yield Point(step, seconds, values)
            step, seconds, values = line["step"], line["seconds"], {}
        values[line["name"]] = line["value"]
    if values:
        yield Point(step, seconds, values)


@contextmanager
def _passing(run: RunDir, name: str) -> Iterator[Passing]:
    """The passing on of a run's measurements to a sink, by one process at a time."""
    (run.path / "sent").mkdir(exist_ok=True)
    with (run.path / "sent" / f"{name}.lock").open("w") as lock:
        give_up = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > give_up:
                    raise SinkError(f"another process passes those of {run.path} on already; let it") from error
            time.sleep(0.1)
        with closing(Passing(run, name)) as passing:
            yield passing


@contextmanager
def _translated() -> Iterator[None]:
    """Whatever goes wrong inside a sink's package is a sentence to us.

    Raises:
        SinkError: something did.
    """
    try:
        yield
    except SinkError:
        raise
    except Exception as error:
        raise SinkError(" ".join(f"{type(error).__name__}: {error}".split())) from error


__all__ = ["Passing", "SinkError", "follow", "followers", "send"]
