"""The command line: parse, then one call each."""

import os
import shlex
import signal
import sys
import threading
import webbrowser
from collections.abc import Callable
from dataclasses import asdict, replace
from json import dumps as to_json
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from backflip import __version__
from backflip.envs import TASKS, MissingExtra, UnknownTask
from backflip.experiments import EXPERIMENTS, ORACLE_STEPS, PEOPLE_STEPS
from backflip.files import DamagedFile
from backflip.processes import PartDied
from backflip.progress import Progress
from backflip.rundir import RunDir, RunError
from backflip.settings import PEOPLE, Mode, Settings
from backflip.store import StoreError
from backflip.web.security import run_token
from backflip.web.server import ServerError, bind, link, serve

Teacher = Literal["people", "oracle", "stochastic", "mistake", "skip", "myopic", "equal"]
Path_ = Annotated[Path, tyro.conf.Positional]
MISTAKES = (ValueError, UnknownTask, MissingExtra, RunError, StoreError, ServerError, DamagedFile)
"""What a person can mend: one sentence and exit status 2."""

out = Console()


def demo(
    run: Path | None = None, port: int | None = None, steps: int | None = None, browser: bool = True, seed: int = 0
) -> None:
    """Teach a Hopper a backflip: opens the labelling page on a Hopper whose policy is training.

    Args:
        run: the run directory; by default a new one in runs/.
        port: the page's port; by default the first free one from 8642.
        steps: environment steps after which to end; by default you end it, with Ctrl-C.
        browser: open the page in a browser.
        seed: seed of everything random.
    """
    settings = EXPERIMENTS["demo"]
    _train(replace(settings, seed=seed, steps=steps or settings.steps), run, port, browser)


def train(
    task: Annotated[str | None, tyro.conf.Positional] = None,
    teacher: Teacher | None = None,
    labels: int | None = None,
    steps: int | None = None,
    seed: int | None = None,
    run: Path | None = None,
    mode: Mode | None = None,
    segment_steps: int | None = None,
    store: str | None = None,
    like: Path | None = None,
    port: int | None = None,
    browser: bool = True,
) -> None:
    """Train a policy on a task by somebody's choices between clips.

    Args:
        task: a name from `backflip tasks`, or any Gymnasium id.
        teacher: people (the default) answer on the page; the others are synthetic and read the true reward.
        labels: comparisons to ask for in all; by default 700.
        steps: environment steps; by default 2 million, and with people until you end it.
        seed: seed of everything random; by default 0.
        run: the run directory; by default a new one in runs/.
        mode: in_turn is reproducible; at_once lets nobody wait. By default in_turn for synthetic teachers.
        segment_steps: steps of a clip; by default 1.5 seconds of the task's time.
        store: URL of a PostgreSQL database, instead of SQLite in the run directory.
        like: repeat this run, less what is given here.
        port: the page's port; by default the first free one from 8642.
        browser: open the page in a browser.
    """
    given: dict[str, Any] = {
        "task": task,
        "teacher": teacher,
        "labels": labels,
        "steps": steps,
        "seed": seed,
        "mode": mode,
        "segment_steps": segment_steps,
        "store": store,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if like:
        _train(replace(Settings.from_dict(RunDir.open(like).settings), **given), run, port, browser)
        return
    if task is None:
        raise ValueError("which task? Say one of `backflip tasks`, or any Gymnasium id: backflip train hopper")
    people = given.get("teacher", PEOPLE) == PEOPLE
    usual: dict[str, Any] = {
        "steps": PEOPLE_STEPS if people else ORACLE_STEPS,
        "mode": "at_once" if people else "in_turn",
    }
    _train(Settings(**{**usual, **given}), run, port, browser)


def resume(run: Path_, port: int | None = None, browser: bool = False) -> None:
    """Go on with a run from where it stands: policy, r̂, schedule, open queries, answers.

    Args:
        run: the run directory.
        port: the page's port, for a run that people teach.
        browser: open the page in a browser.
    """
    _go_on(RunDir.open(run), port, browser)


def serve_run(run: Path_, host: str = "127.0.0.1", port: int | None = None, allow_remote: bool = False) -> None:
    """Serve a run's pages, without training.

    Args:
        run: the run directory.
        host: the address to listen on.
        port: the port; by default the first free one from 8642.
        allow_remote: let other machines connect; whoever has the link can answer.
    """
    directory = RunDir.open(run)
    directory.store(check=True).close()
    listening = bind(host, port, allow_remote)
    token = run_token(directory)
    out.print(f"label: {link(listening, token, '/label')}\nwatch: {link(listening, token, '/run')}", soft_wrap=True)
    serve(run, listening, token)


def evaluate_run(run: Path_, episodes: int = 10, video: Path | None = None, json: bool = False) -> None:
    """Let a run's newest policy act without exploration, and say what it achieves.

    Args:
        run: the run directory.
        episodes: whole episodes to play.
        video: also film the first ten seconds into this file (.webp, .gif or .png).
        json: print one JSON object instead of a table.
    """
    from backflip.evaluate import evaluate, film

    directory = RunDir.open(run)
    found = evaluate(directory, episodes)
    if video:
        film(directory, video)
    if json:
        print(to_json(asdict(found)))
        return
    table = Table("", "mean", "deviation", "lowest", "highest", title=f"{found.task}, {episodes} episodes")
    rows: dict[str, list[float] | None] = {
        "true return": found.true_returns,
        "r̂ return": found.predicted_returns,
        "steps": [float(steps) for steps in found.episode_steps],
    }
    for name, values in rows.items():
        figures = [np.mean(values), np.std(values), np.min(values), np.max(values)] if values else []
        table.add_row(name, *([f"{figure:.1f}" for figure in figures] or ["none"]))
    out.print(table)
    if video:
        out.print(f"filmed: {video}")


def show_run(run: Path_) -> None:
    """Write a run's measurements as pictures.

    Args:
        run: the run directory.
    """
    from backflip.show import show

    for path in show(RunDir.open(run)):
        out.print(str(path), soft_wrap=True)


def tasks() -> None:
    """List the tasks that have a question and settings of their own."""
    table = Table("task", "environment", "true reward", "what people are asked")
    for task in TASKS.values():
        table.add_row(task.name, task.environment, "yes" if task.has_true_reward else "no", task.question)
    out.print(table)
    out.print("Any Gymnasium id works too: backflip train Pendulum-v1")


def doctor(database: str | None = None) -> None:
    """Say what this machine can do: versions, cores, GPU, renderers with their speed, database.

    Args:
        database: also look whether this PostgreSQL URL can be used.
    """
    from backflip.doctor import examine

    sound = True
    for what, how, fine in examine(database):
        sound &= fine
        out.print(f"{'[green]✓[/]' if fine else '[red]✗[/]'} {what:<18} {how}", highlight=False, soft_wrap=True)
    if not sound:
        raise SystemExit(1)


def _train(settings: Settings, path: Path | None, port: int | None, browser: bool) -> None:
    from backflip.api import start

    run = start(settings, path, shlex.join(["backflip", *sys.argv[1:]]))
    _go_on(run, port, browser)


def _go_on(run: RunDir, port: int | None, browser: bool) -> None:
    """Train to the end or to Ctrl-C, with the page beside it where several processes run anyway."""
    from backflip.api import go_on

    settings = Settings.from_dict(run.settings)
    out.print(f"run: {run.path}", soft_wrap=True)
    beside = {}
    if settings.mode == "at_once":
        listening = bind(port=port)
        token = run_token(run)
        beside = {"page": (page_on, (run.path, listening, token))}
        first = "/label" if settings.asks_people else "/run"
        out.print(f"page: {link(listening, token, first)}\nCtrl-C ends the run; nothing is lost.", soft_wrap=True)
        if browser and settings.asks_people:
            _open_when_ready(link(listening, token, first))
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    finished = False
    try:
        with Progress(run, out) as progress:
            finished = go_on(run, progress, stopped.is_set, beside)
    except KeyboardInterrupt:
        pass
    if finished:
        out.print(f"finished; look at it with: backflip show {run.path}, backflip evaluate {run.path}", soft_wrap=True)
    else:
        out.print(f"stopped; go on with: backflip resume {run.path}", soft_wrap=True)


def page_on(path: Path, listening: Any, token: str, stop: Any) -> None:
    """The page's server as a part of a run."""
    serve(path, listening, token, stop.is_set)


def _open_when_ready(address: str) -> None:
    """Open the page in a browser, where there is a display to show one."""
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return
    threading.Timer(1.5, webbrowser.open, (address,)).start()


COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo,
    "train": train,
    "resume": resume,
    "serve": serve_run,
    "evaluate": evaluate_run,
    "show": show_run,
    "tasks": tasks,
    "doctor": doctor,
}


def main(arguments: list[str] | None = None) -> None:
    """Run a command; what a person can mend ends with one sentence and exit status 2."""
    given = sys.argv[1:] if arguments is None else arguments
    if given == ["--version"]:
        print(__version__)
        return
    try:
        tyro.extras.subcommand_cli_from_dict(
            COMMANDS, prog="backflip", description=__doc__ and "Teach an agent by choosing between clips.", args=given
        )
    except MISTAKES as error:
        print(f"backflip: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except PartDied as error:
        print(f"backflip: {error}", file=sys.stderr)
        raise SystemExit(1) from None
