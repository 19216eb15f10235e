"""The method: acting, asking and fitting, in turn or at once. §2.2

    act ── segments ──▶ ask ── comparisons ──▶ fit
     ▲                                          │
     └───────────────── r̂ ◀────────────────────┘

The three meet only in the run directory, so the same three objects run in one process, one after the other and
reproducible (`in_turn`), or in a process each, where nobody waits for anybody (`at_once`).
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from backflip.acting import Act
from backflip.asking import Ask
from backflip.files import CannotWrite
from backflip.fitting import Fit
from backflip.processes import Part, Stop, run_together
from backflip.rundir import STEPS, RunDir
from backflip.settings import Settings, settings_of
from backflip.store import Store


@dataclass(frozen=True)
class Parts:
    """What acts, asks and fits in a run: robots by default; a language model's are in `backflip.lm.run`."""

    act: Callable[[RunDir, Store, Settings], Any] = Act
    ask: Callable[[RunDir, Store, Settings], Ask] = Ask
    fit: type[Fit] = Fit


ROBOTS = Parts()
IDLE_SECONDS = 0.05
"""How long a part that has nothing to do waits before it looks again."""
CHECKPOINT_SECONDS = 600.0
"""At once: a policy that takes longer for the steps between two checkpoints is saved this often."""


def in_turn(run: RunDir, watch: Callable[[], None] = lambda: None, parts: Parts = ROBOTS) -> None:
    """The method in one process, one part after the other, reproducible from its seed; goes on where the run stands.

    All that happens between two checkpoints is one transaction, which ends with the name of the checkpoint it belongs
    to: whenever the process dies, database and checkpoints agree.
    """
    settings = settings_of(run)
    with _one_thread_meanwhile(), run.owned(), _telling(run), closing(run.store()) as store:
        act = parts.act(run, store, settings)
        ask, fit = parts.ask(run, store, settings), parts.fit(run, store, settings)
        store.clock = lambda: float(act.policy.steps)
        number = _go_back(run, store, act, fit)
        run.tell("run", state="running", kept=act.policy.steps)
        while not act.done:
            with store.transaction():
                end = act.policy.steps + settings.checkpoint_steps
                while act.policy.steps < end and not act.done:
                    act.step()
                    ask.step()
                    fit.step()
                    watch()
                number += 1
                act.save(number)
                fit.save(number)
                store.note("checkpoint", f"{number} {run.metrics_position()}")
            run.tell("run", state="running", kept=act.policy.steps)
        run.tell("run", state="finished", kept=act.policy.steps)


def _go_back(run: RunDir, store: Store, act: Any, fit: Fit) -> int:
    """To the checkpoint that the database belongs to: what was written after it is forgotten."""
    number, position = (int(part) for part in (store.noted("checkpoint") or "0 0").split())
    run.forget_metrics(position)
    run.forget("reward")
    if number:
        act.load(exactly=number)
        fit.load(exactly=number)
        fit.publish_again()
    act.tell("resumed" if number else "starting")
    return number


def at_once(
    run: RunDir,
    watch: Callable[[], None] = lambda: None,
    interrupted: Callable[[], bool] = lambda: False,
    beside: Mapping[str, tuple[Part, tuple[Any, ...]]] = MappingProxyType({}),
    parts: Parts = ROBOTS,
) -> bool:
    """The method in a process each for acting, asking and fitting; nobody waits for anybody. §2.2

    Args:
        beside: further parts with a process of their own, such as the page.

    Returns:
        Whether the policy used up its steps; False if the run was interrupted before.

    Raises:
        PartDied: a part failed; its traceback is in the message, or one sentence where a person can mend it. The run
            can be resumed.
    """
    ours = {name: (part, (run.path, parts)) for name, part in {"act": act_on, "ask": ask_on, "fit": fit_on}.items()}
    with run.owned(), _telling(run):
        run.forget_torn("reward")
        _forget_lost_steps(run)
        finished = run_together({**beside, **ours}, leader="act", watch=watch, interrupted=interrupted)
        run.tell("run", state="finished" if finished else "stopped")
        return finished


def _forget_lost_steps(run: RunDir) -> None:
    """What was measured and told of steps after the checkpoint, which the policy takes again."""
    newest = run.newest("act")
    try:
        steps = json.loads((newest.path / STEPS).read_text())["steps"] if newest else 0
    except (FileNotFoundError, KeyError):  # a checkpoint of an older version
        return
    run.forget_metrics_after(steps)
    if told := run.told("act"):
        run.tell("act", **{**told, "steps": steps})


@contextmanager
def _telling(run: RunDir) -> Iterator[None]:
    """Let everybody know that the run goes on, and where it breaks off, how."""
    run.tell("run", state="running")
    try:
        yield
    except BaseException as error:
        now = {**run.told("run"), "state": "stopped"}
        if isinstance(error, Exception):  # else it was interrupted
            reason = f"{error}".strip().splitlines() or [type(error).__name__]
            now |= {"state": "failed", "message": reason[-1]}
        with suppress(CannotWrite):  # where it died of a full disk, that can be said on the terminal only
            run.tell("run", **now)
        raise


def act_on(path: Path, parts: Parts, stop: Stop) -> None:
    """Act until the steps are used up or it is time to stop, and save."""
    run, settings = _enter(path)
    with closing(run.store()) as store:
        act = parts.act(run, store, settings)
        act.load()
        number = run.newest_number("act") or 0
        saved, due = act.policy.steps, time.monotonic() + CHECKPOINT_SECONDS
        while not act.done and not stop.is_set():
            if not act.step(wait=True):
                stop.wait(IDLE_SECONDS)
            taken = act.policy.steps - saved
            if taken >= settings.checkpoint_steps or (taken and time.monotonic() >= due):
                number, saved, due = number + 1, act.policy.steps, time.monotonic() + CHECKPOINT_SECONDS
                act.save(number)
        act.save(number + 1)
        act.tell("finished" if act.done else "stopped")


def ask_on(path: Path, parts: Parts, stop: Stop) -> None:
    """Ask until it is time to stop."""
    run, settings = _enter(path)
    with closing(run.store()) as store:
        ask = parts.ask(run, store, settings)
        while not stop.is_set():
            if not ask.step():
                stop.wait(IDLE_SECONDS)


def fit_on(path: Path, parts: Parts, stop: Stop) -> None:
    """Fit until it is time to stop, and save."""
    run, settings = _enter(path)
    while not parts.fit.can_begin(run):
        if stop.wait(IDLE_SECONDS):
            return
    with closing(run.store()) as store:
        fit = parts.fit(run, store, settings)
        fit.load()
        fit.publish_again()
        number = run.newest_number("fit") or 0
        while not stop.is_set():
            if fit.step():
                number += 1
                fit.save(number)
            else:
                stop.wait(IDLE_SECONDS)


def _enter(path: Path) -> tuple[RunDir, Settings]:
    one_thread()
    run = RunDir.open(path)
    return run, settings_of(run)


@contextmanager
def _one_thread_meanwhile() -> Iterator[None]:
    """As `one_thread`; whoever called computes as before afterwards."""
    threads, flushes = torch.get_num_threads(), sys.float_info.min / 2 == 0  # PyTorch does not tell the latter
    one_thread()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(flushes)


def one_thread() -> None:
    """Compute with one thread, and treat vanishing numbers as 0, which slow every update else."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
