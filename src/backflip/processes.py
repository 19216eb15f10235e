"""Several functions at once, a process each: one that dies ends them all, loudly; Ctrl-C ends them all, cleanly."""

import contextlib
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Mapping
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any, Protocol, runtime_checkable

ORPHANED = 3
"""Exit status of a part whose parent has died."""
REQUESTS = (signal.SIGINT, signal.SIGTERM)
"""To end; often sent to all processes of a run, but the parent decides."""
LOOK_SECONDS = 0.05
"""How often a waiting process looks whether to stop."""
GRACE_SECONDS = 120.0
"""How long a process may take to save its state when it is asked to stop."""

LAST_WORDS = 10_000
"""Characters of a traceback that are passed on: more than a pipe holds would keep the dying process waiting."""


class PartDied(Exception):
    """A process ended by itself although it should not have; the message has its traceback."""


@runtime_checkable
class Stop(Protocol):
    """Says when to stop; the part of an event that a process needs."""

    def is_set(self) -> bool:
        """Whether to stop."""

    def wait(self, timeout: float | None = None) -> bool:
        """Sleep until it is time to stop, or for so many seconds."""


Part = Callable[..., None]
"""Called as part(*arguments, stop=...); returns when its work is done or `stop` is set."""


def run_together(
    parts: Mapping[str, tuple[Part, tuple[Any, ...]]],
    leader: str,
    watch: Callable[[], None] = lambda: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> bool:
    """Run each part in a process of its own until the leader returns; True if it did, False if interrupted.

    Args:
        leader: the part whose return ends the run; the others are then asked to stop.
        watch: called about five times a second meanwhile.
        interrupted: asked as often; True ends the run cleanly.

    Raises:
        PartDied: a part raised, was killed, or returned too early.
    """
    context = multiprocessing.get_context("spawn")
    # Not an Event: setting one waits for ever for a waiter that was killed.
    stop = context.RawValue("b", 0)
    processes: dict[str, Any] = {}
    errors: dict[str, Connection] = {}
    finished = False
    try:
        with _one_thread(), _undisturbed():
            for name, (part, arguments) in parts.items():
                receiver, sender = context.Pipe(duplex=False)
                process = context.Process(
                    target=_guarded, args=(part, arguments, stop, sender, os.getpid()), name=name, daemon=True
                )
                process.start()
                sender.close()
                processes[name], errors[name] = process, receiver
        while not finished and not interrupted():
            for name, process in processes.items():
                if process.is_alive():
                    continue
                if name == leader and process.exitcode == 0:
                    finished = True
                else:
                    raise PartDied(_obituary(name, process.exitcode, errors[name]))
            watch()
            time.sleep(0.2)
    except KeyboardInterrupt:
        finished = False
    finally:
        stop.value = 1
        _end(processes)
    for name, process in processes.items():
        if process.exitcode not in (0, None):
            raise PartDied(_obituary(name, process.exitcode, errors[name]))
    return finished


@contextlib.contextmanager
def _one_thread() -> Any:
    """Let the processes that start inside compute with one thread: more of them on few cores are 10x slower."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _undisturbed() -> Any:
    """Keep Ctrl-C from the processes that start inside: it would kill those that are still importing what they need.

    A process inherits what is blocked, until `_guarded` sees to it.
    """
    resource_tracker.ensure_running()  # it would unblock them, were it started with the first process
    before = signal.pthread_sigmask(signal.SIG_BLOCK, REQUESTS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _guarded(part: Part, arguments: tuple[Any, ...], stop: Any, errors: Connection, parent: int) -> None:
    """Run a part in its process; whatever it raises goes to the parent as text, and ends this process with 1."""
    for request in REQUESTS:
        signal.signal(request, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, REQUESTS)
    try:
        part(*arguments, stop=_OrphanStop(stop, parent))
    except BaseException:  # noqa: BLE001 (goes to the parent, who raises it)
        errors.send(traceback.format_exc()[-LAST_WORDS:])
        errors.close()
        raise SystemExit(1) from None


class _OrphanStop:
    """Whether the parent says stop. Once the parent is gone, the process ends: the run may be another's now."""

    def __init__(self, said: Any, parent: int) -> None:
        self._said = said
        self._parent = parent

    def is_set(self) -> bool:
        if os.getppid() != self._parent:
            os._exit(ORPHANED)
        return bool(self._said.value)

    def wait(self, timeout: float | None = None) -> bool:
        deadline = time.monotonic() + (float("inf") if timeout is None else timeout)
        while not self.is_set() and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, LOOK_SECONDS))
        return self.is_set()


def _obituary(name: str, exitcode: int | None, errors: Connection) -> str:
    with contextlib.suppress(EOFError, OSError):
        if errors.poll(0.5):
            return f"the part '{name}' failed:\n{errors.recv()}"
    if exitcode is not None and exitcode < 0:
        return f"the part '{name}' was killed by {signal.Signals(-exitcode).name}"
    return f"the part '{name}' ended too early (exit status {exitcode})"


def _end(processes: Mapping[str, Any]) -> None:
    deadline = time.monotonic() + GRACE_SECONDS
    for process in processes.values():
        process.join(max(0.1, deadline - time.monotonic()))
    for process in processes.values():
        if process.is_alive():
            process.kill()
            process.join()
