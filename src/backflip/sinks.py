"""Where measurements can go beside the run directory: TensorBoard, Weights & Biases, Trackio.

The only module that imports them, and only when one is opened.
"""

import importlib.util
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from backflip.errors import Mendable

PROJECT = "backflip"


class SinkError(Mendable):
    """Measurements cannot go there; the message says why and what to do."""


@dataclass(frozen=True)
class Point:
    """What was measured at one moment of a run."""

    step: int
    """Environment steps that the policy had taken."""
    seconds: float
    """Since the run was made."""
    values: Mapping[str, float]


@dataclass(frozen=True)
class Opened:
    """Which run it is that the points will be of."""

    path: Path
    name: str
    id: str
    """The same for all sittings of a run, and another for every other run."""
    created: float
    """Seconds since the epoch."""
    settings: Mapping[str, Any]


@runtime_checkable
class Sink(Protocol):
    """Somewhere that draws curves."""

    def add(self, point: Point) -> None:
        """Take a point."""

    def flush(self) -> None:
        """Let what was taken be seen."""

    def close(self) -> None:
        """Take no more."""


class TensorBoard:
    """Event files in the run directory, written anew from the first point whenever it is opened.

    Points that were measured again after a crash so never stand beside those that they replace, and a file that a
    crash left torn is gone. A TensorBoard that is looking is told to forget what it had read.
    """

    def __init__(self, run: Opened) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        self._created = run.created
        directory = run.path / "tensorboard"
        for file in directory.glob("events.out.tfevents.*"):
            file.unlink()
        self._writer = EventFileWriter(str(directory))
        begin = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._writer.add_event(self._event(step=0, session_log=begin))

    def add(self, point: Point) -> None:
        """Write a point."""
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in point.values.items()]
        moment = self._created + point.seconds
        self._writer.add_event(self._event(wall_time=moment, step=point.step, summary=self._summary(value=values)))

    def flush(self) -> None:
        """Write what waits in memory."""
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


class WeightsAndBiases:
    """A run of the project `backflip` at Weights & Biases, or, with WANDB_MODE=offline, in RUN/wandb."""

    def __init__(self, run: Opened) -> None:
        import wandb

        quiet = wandb.Settings(silent=True, console="off", x_disable_stats=True, x_disable_meta=True)
        self._run = wandb.init(
            project=PROJECT,
            id=run.id,
            name=run.name,
            dir=str(run.path),
            config=dict(run.settings),
            resume="allow",
            settings=quiet,
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def add(self, point: Point) -> None:
        """Log a point; the environment steps are a column of it, since wandb's own steps may never go back."""
        self._run.log({"step": point.step, "seconds": point.seconds, **point.values})

    def flush(self) -> None:
        """Nothing: wandb's own process sends what it has."""

    def close(self) -> None:
        """Wait until wandb has sent everything."""
        self._run.finish()


class Trackio:
    """A run of the project `backflip` in Trackio's folder on this machine, or wherever its own variables say."""

    def __init__(self, run: Opened) -> None:
        import trackio

        self._trackio = trackio
        # Its runs go by their names: another of that name would be taken for the same.
        name = f"{run.name}-{run.id}"
        with redirect_stdout(StringIO()):  # it greets
            trackio.init(project=PROJECT, name=name, config=dict(run.settings), resume="allow", embed=False)

    def add(self, point: Point) -> None:
        """Log a point."""
        self._trackio.log({"seconds": point.seconds, **point.values}, step=point.step)

    def flush(self) -> None:
        """Nothing: Trackio has a thread for it."""

    def close(self) -> None:
        """Wait until everything is written."""
        with redirect_stdout(StringIO()):
            self._trackio.finish()


SINKS: dict[str, Callable[[Opened], Sink]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "trackio": Trackio,
}
WHOLE = ("tensorboard",)
"""Those that begin anew whenever they are opened, and have to be given everything."""


def must_be_installed(name: str) -> None:
    """See that a sink's package is there, without importing it.

    Raises:
        SinkError: it is not, or nothing is known under that name.
    """
    if name not in SINKS:
        raise SinkError(f"measurements cannot go to {name!r}; they can go to: {', '.join(SINKS)}")
    # wandb leaves a folder of its own name where a program runs, which Python takes for a package without content.
    found = importlib.util.find_spec(name) if sys.modules.get(name, sys) is not None else None
    if found is None or found.origin is None:
        raise SinkError(f"the package {name} is not installed, so no measurements can go there; {_how_to_get(name)}")


def _how_to_get(name: str) -> str:
    get = f"to get it: pip install 'backflip[{name}]'"
    return get if name != "trackio" else f"{get} (without constraints.txt, whose Pillow is too new for it)"


__all__ = ["SINKS", "WHOLE", "Opened", "Point", "Sink", "SinkError", "must_be_installed"]
