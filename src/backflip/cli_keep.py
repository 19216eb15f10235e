"""Commands that keep what a run has: its measurements elsewhere, and all of it once more."""

from typing import Annotated, Literal

import tyro

from backflip.rundir import RunDir
from backflip.terminal import Run, out

Sinks = Annotated[tuple[Literal["tensorboard", "wandb", "trackio"], ...], tyro.conf.Positional]


def send_metrics(run: Run, to: Sinks = ("tensorboard",)) -> None:
    """Send a run's measurements on to other programs; what they have already is not sent again.

    Args:
        run: the run directory.
        to: where to.
    """
    from backflip.following import send

    directory = RunDir.open(run)
    for name in to:
        points = send(directory, name)
        out.print(f"{name}: {points:,} points", highlight=False, soft_wrap=True)
