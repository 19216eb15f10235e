"""Commands that keep what a run has: its measurements elsewhere, and all of it once more."""

from functools import partial
from pathlib import Path
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


def backup(
    run: Run,
    to: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="TO", help_behavior_hint="")] = None,
) -> None:
    """Copy a run while it goes on; the copy is checked, and can be served and resumed.

    Args:
        run: the run directory.
        to: where to; by default beside the run. Nothing is written over.
    """
    from backflip.backup import back_up

    made = back_up(RunDir.open(run), to)
    say = partial(out.print, markup=False, highlight=False, soft_wrap=True)
    say(f"backup: {made.path} ({made.bytes / 1e6:.1f} MB, checked)")
    if made.dump:
        say(
            "The answers lie in PostgreSQL and are not in it. Copy them now, too:\n"
            f"  {made.dump}\n"
            "To go on from this backup, restore them into a database of its own (createdb, pg_restore), and write that "
            f"one's address into {made.path / 'run.json'}, as `store`."
        )
