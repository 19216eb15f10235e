"""The command line: parse, then one call each.

What a command needs is imported when it runs: neither a list of tasks nor the page should have to wait for PyTorch.
"""

import os
import shlex
import sys
import threading
import webbrowser
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from backflip import __version__
from backflip.cli_data import export_run, import_into
from backflip.cli_keep import backup, send_metrics
from backflip.cli_look import doctor, evaluate_run, fetch, make_ready, tasks
from backflip.cli_page import annotators, invite, revoke, score_run, serve_run
from backflip.errors import Mendable
from backflip.files import CannotWrite
from backflip.processes import PartDied
from backflip.rundir import RunDir
from backflip.terminal import File, Nats, Number, Plain, Run, Share, Unusable, ending, one_of, out, some_of

if TYPE_CHECKING:
    import socket

    from backflip.settings import Settings

Teacher = Literal["people", "judge", "scripted", "oracle", "stochastic", "mistake", "skip", "myopic", "equal"]
Mode = Literal["in_turn", "at_once"]
Preset = Literal["fast", "paper"]
Clips = Literal["poses", "sheets"]
Log = Literal["tensorboard", "wandb", "trackio"]
BestOf = Literal[2, 4]
Logs = Annotated[tuple[Log, ...] | None, Plain, some_of(Log)]


def demo(
    run: Annotated[Path | None, File] = None,
    port: Number = None,
    steps: Number = None,
    browser: bool = True,
    seed: int = 0,
) -> None:
    """Teach a Hopper a backflip: opens the labelling page on a Hopper whose policy is training.

    Args:
        run: the run directory; by default a new one in runs/.
        port: the page's port; by default the first free one from 8642.
        steps: environment steps after which to end; by default you end it, with Ctrl-C.
        browser: open the page in a browser.
        seed: seed of everything random.
    """
    from backflip.experiments import EXPERIMENTS

    with _usable():
        settings = replace(EXPERIMENTS["demo"], seed=seed)
        if steps is not None:
            settings = replace(settings, steps=steps)
    _train(settings, run, port, browser)


def train(
    task: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="TASK", help_behavior_hint="")] = None,
    teacher: Annotated[Teacher | None, Plain, one_of(Teacher)] = None,
    preset: Annotated[Preset | None, Plain, one_of(Preset)] = None,
    labels: Number = None,
    steps: Number = None,
    seed: Number = None,
    run: Annotated[Path | None, File] = None,
    mode: Annotated[Mode | None, Plain, one_of(Mode)] = None,
    question: Annotated[str | None, tyro.conf.arg(metavar="TEXT", help_behavior_hint="")] = None,
    segment_steps: Number = None,
    store: Annotated[str | None, tyro.conf.arg(metavar="URL", help_behavior_hint="")] = None,
    overlap: Share = None,
    repeats: Share = None,
    gold: Share = None,
    clips: Annotated[Clips | None, Plain, one_of(Clips)] = None,
    best_of: Annotated[BestOf | None, Plain, one_of(BestOf)] = None,
    like: Annotated[Path | None, tyro.conf.arg(metavar="RUN", help_behavior_hint="")] = None,
    log: Logs = None,
    model: Annotated[str | None, tyro.conf.arg(metavar="MODEL", help_behavior_hint="")] = None,
    prompts: Annotated[Path | None, File] = None,
    prompt_tokens: Number = None,
    chat: tyro.conf.FlagCreatePairsOff[bool] = False,
    response_tokens: Number = None,
    kl_target: Nats = None,
    sampler: Annotated[str | None, tyro.conf.arg(metavar="URL", help_behavior_hint="")] = None,
    port: Number = None,
    browser: bool = True,
) -> None:
    """Train a policy, or tune a language model, on a task by somebody's choices between clips or texts.

    Args:
        task: a name from `backflip tasks`, or any Gymnasium id; module:id for what a module of your own registers.
        teacher: people (the default) answer on the page; judge is a language model (see docs/judge.md);
            scripted judges a new behaviour in their place; the others are synthetic and read the true reward.
        preset: fast (SAC, few labels) or paper (as the paper has it); by default fast wherever it can act.
        labels: comparisons to ask for in all; by default 200, in the paper's preset 700.
        steps: environment steps, or completions of text tasks; by default 300,000, in the paper's preset 2 million, for
            text 50,000, and with people until you end it.
        seed: seed of everything random; by default 0.
        run: the run directory; by default a new one in runs/.
        mode: in_turn is reproducible, at_once has a page and lets nobody wait; by default what suits the teacher.
        question: what people, or a judge, are asked, instead of the task's own question.
        segment_steps: steps of a clip; by default 1.5 seconds of the task's time, or where an oracle teaches fast 50
            (swimmer 100), a third of an episode at most.
        store: a database of this run's own, postgresql://user@host/name; by default SQLite in the run directory.
        overlap: share of queries that two people answer; by default 0.05 once several are invited, before that none.
        repeats: share of pairs that somebody is shown again, sides exchanged; by default 0.03, as above.
        gold: share of pairs whose right answer is known; by default 0.01, as above.
        clips: poses (the default) are drawn by the browser and can be turned round; sheets are drawn here.
        best_of: text tasks: 4 lets people pick the best of four completions of a prompt; by default they compare two.
        like: repeat this run with all its settings, but for those given here.
        log: where measurements go, beside the run directory.
        model: text tasks: a model's folder, a GGUF file, a hub's id, or tiny, reviews (the default), smollm2.
        prompts: text tasks: a file with a prompt a line, instead of the task's own.
        prompt_tokens: text tasks: tokens of a prompt that are read, from its end; by default 32.
        chat: text tasks: put prompts as a user's turn into the model's chat template.
        response_tokens: text tasks: tokens of a completion at most; by default 24.
        kl_target: text tasks: nats of KL to the original that a completion may cost; by default 6.
        sampler: text tasks: a vLLM server that samples (docs/language_models_scale.md); by default this machine does.
        port: the page's port; by default the first free one from 8642.
        browser: open the page in a browser, where people teach.
    """
    from backflip.experiments import settings_for, with_text, without_question
    from backflip.settings import settings_of

    given: dict[str, Any] = {
        "task": task,
        "teacher": teacher,
        "labels": labels,
        "steps": steps,
        "seed": seed,
        "mode": mode,
        "question": question,
        "segment_steps": segment_steps,
        "store": store,
        "log": log,
    }
    given = {name: value for name, value in given.items() if value is not None}
    of_people = {"overlap": overlap, "repeats": repeats, "gold": gold, "clips": clips, "best_of": best_of}
    of_text = {
        "model": model,
        "prompts": None if prompts is None else str(prompts.absolute()),
        "prompt_tokens": prompt_tokens,
        "chat": chat or None,
        "response_tokens": response_tokens,
        "kl_target": kl_target,
        "sampler": sampler,
    }
    if like:
        if preset:
            raise Unusable(f"--like repeats the settings of {like}; leave --preset out")
        before = settings_of(RunDir.open(like))
        if before.store and store is None:
            raise Unusable(
                f"{like} keeps its answers in PostgreSQL; give the new run a database of its own: --store URL"
            )
        if prompts is None and before.tune is not None:
            from backflip.lm.tasks import prompts_of

            of_text["prompts"] = prompts_of(RunDir.open(like))
        with _usable():
            if task not in (None, before.task):
                before = without_question(before)
            settings = with_text(_with_people(replace(before, **given), of_people), of_text)
        _train(settings, run, port, browser)
        return
    if task is None:
        raise Unusable("which task? Say one of `backflip tasks`, or any Gymnasium id: backflip train hopper")
    with _usable():
        plain = settings_for(**{**given, "task": task, "preset": preset})
        settings = with_text(_with_people(plain, of_people), of_text)
    _train(settings, run, port, browser)


def resume(
    run: Run,
    steps: Number = None,
    labels: Number = None,
    port: Number = None,
    browser: bool = False,
    log: Logs = None,
) -> None:
    """Go on with a run from where it stands: policy, r̂, schedule, open queries, answers.

    Args:
        run: the run directory.
        steps: steps in all from now on, more than the run had; it goes on with them, even where it had finished.
        labels: comparisons to ask for in all from now on, more than before.
        port: the page's port, for a run that people teach.
        browser: open the page in a browser, where people teach.
        log: where measurements go this time, beside the run directory; by default where they went before.
    """
    from backflip.api import extend
    from backflip.settings import settings_of

    directory = RunDir.open(run)
    settings = settings_of(directory)
    with suppress(CannotWrite), directory.owned():
        pass  # a run that is being trained is refused before a link to a page is printed that will not be
    if log is not None:
        settings = replace(settings, log=log)
    with _listening(settings, port) as listening:
        with _usable():
            extend(directory, steps, labels)
        _go_on(directory, settings, listening, browser)


def show_run(run: Run) -> None:
    """Write a run's measurements as pictures.

    Args:
        run: the run directory.
    """
    from backflip.show import show

    for path in show(RunDir.open(run)):
        out.print(str(path), highlight=False, soft_wrap=True)


def _with_people(settings: "Settings", of_people: dict[str, Any]) -> "Settings":
    """With what was said of what people see and how they are measured; what was not said stays as it is."""
    said = {name: value for name, value in of_people.items() if value is not None}
    return replace(settings, people=replace(settings.people, **said))


def _train(settings: "Settings", path: Path | None, port: int | None, browser: bool) -> None:
    from backflip.api import start

    with _listening(settings, port) as listening:  # first: where the port is taken, nothing should have been written
        with _usable():
            run = start(settings, path, shlex.join(["backflip", *sys.argv[1:]]))
        _go_on(run, settings, listening, browser)


def _listening(settings: "Settings", port: int | None) -> "AbstractContextManager[socket.socket | None]":
    """Where the page of a run will be; a run in turn has none."""
    from backflip.web.server import bind

    if settings.mode == "at_once":
        return bind(port=port)
    if port is not None:
        raise Unusable("--port is for runs with a page; this one goes in turn and has none: add --mode at_once")
    return nullcontext()


def _go_on(run: RunDir, settings: "Settings", listening: "socket.socket | None", browser: bool) -> None:
    """Train to the end or to Ctrl-C, with the page beside it where several processes run anyway."""
    from backflip.api import go_on
    from backflip.progress import Progress
    from backflip.web.security import run_token
    from backflip.web.server import link

    def complain(sentence: str) -> None:
        out.print(sentence, style="yellow", highlight=False, markup=False, soft_wrap=True)

    if settings.tune:
        make_ready(settings.tune)
    beside: dict[str, Any] = {}
    finished = False
    with ending(interrupt=listening is None) as ended, suppress(KeyboardInterrupt):
        out.print(f"run: {run.path}", highlight=False, soft_wrap=True)
        if listening:
            token = run_token(run)
            beside = {"page": (page_on, (run.path, listening, token))}
            address = link(listening, token, "/label" if settings.asks_people else "/run")
            out.print(f"page: {address}", soft_wrap=True)
            if browser and settings.asks_people:
                _open_when_ready(address)
        back = f"it can go on from its last checkpoint, some {settings.checkpoint_steps:,} steps back at most"
        keeps = "nothing is lost" if listening else back
        out.print(f"Ctrl-C ends it; {keeps}.", highlight=False)
        with Progress(run, out) as progress:
            finished = go_on(run, progress, ended.is_set, beside, settings.log, complain)
    if finished:
        out.print(
            f"finished; look at it with: backflip show {run.path}, backflip evaluate {run.path}; "
            f"give it more with: backflip resume {run.path} --steps N",
            soft_wrap=True,
        )
        return
    if not listening:
        _say_what_is_kept(run)
    out.print(f"stopped; go on with: backflip resume {run.path}", soft_wrap=True)
    if not (listening or ended.is_set()):
        raise SystemExit(130)  # of Ctrl-C, which a run in turn does not end by saving


def _say_what_is_kept(run: RunDir) -> None:
    """A run in turn that is interrupted goes on from its last checkpoint; what it did since is lost."""
    kept = run.told("run").get("kept", 0)
    nothing = "nothing is kept: there was no checkpoint yet"
    out.print(f"kept up to step {kept:,}, its last checkpoint" if kept else nothing, highlight=False)


def page_on(path: Path, listening: Any, token: str, stop: Any) -> None:
    """The page's server as a part of a run; not in the main thread, where uvicorn would end on signals by itself."""
    from backflip.web.server import serve

    with ThreadPoolExecutor(1) as thread:
        thread.submit(serve, path, listening, token, stop.is_set).result()


def _open_when_ready(address: str) -> None:
    """Open the page in a browser, where there is a display to show one."""
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return
    threading.Timer(1.5, webbrowser.open, (address,)).start()


@contextmanager
def _usable() -> Iterator[None]:
    """Inside, a ValueError speaks of what was given on the command line; elsewhere it is a defect of ours."""
    try:
        yield
    except ValueError as error:
        raise Unusable(str(error)) from error


COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo,
    "train": train,
    "resume": resume,
    "serve": serve_run,
    "score": score_run,
    "invite": invite,
    "revoke": revoke,
    "annotators": annotators,
    "evaluate": evaluate_run,
    "show": show_run,
    "export": export_run,
    "import": import_into,
    "send-metrics": send_metrics,
    "backup": backup,
    "tasks": tasks,
    "fetch": fetch,
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
            COMMANDS, prog="backflip", description="Teach an agent by choosing between clips.", args=given
        )
    except KeyboardInterrupt:
        raise SystemExit(130) from None  # as shells count a program that Ctrl-C ended
    except Mendable as error:
        print(f"backflip: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except PartDied as error:
        print(f"backflip: {error}", file=sys.stderr)
        raise SystemExit(1) from None
