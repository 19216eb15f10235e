"""Several functions at once, a process each: one that dies ends them all, loudly; Ctrl-C ends them all, cleanly.

Companions are those whose death does not end the others: it is said, and the run goes on.
"""

import contextlib
import logging
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Mapping
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any, Protocol, runtime_checkable

from backflip.errors import Mendable

_log = logging.getLogger(__name__)

ORPHANED = 3
"""Exit status of a part whose parent has died."""
REQUESTS = (signal.SIGINT, signal.SIGTERM)
"""To end; often sent to all processes of a run, but the parent decides."""
LOOK_SECONDS = 0.05
"""How often a waiting process looks whether to stop."""
GRACE_SECONDS = 120.0
"""How long a process may take to save its state when it is asked to stop."""
FAREWELL_SECONDS = 30.0
"""How long a companion may take, whom nobody needs."""

FRUGAL = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**20),
}
"""Each process computes with one thread, since more of them on few cores are 10x slower. And glibc gives arrays above
a megabyte back when they go: else the process that fits grows three times as fast as its data do."""
LAST_WORDS = 10_000
"""Characters of a traceback that are passed on: more than a pipe holds would keep the dying process waiting."""


UNGUARDED = (
    "a script that begins a run with several processes is imported by each of them: put what it does under "
    'if __name__ == "__main__":'
)
FAILED = 1
"""Exit status of Python where an exception was not caught; a part that has begun sends its last words then."""


class PartDied(Exception):
    """A process ended by itself although it should not have; the message has its traceback."""


class PartRefused(PartDied, Mendable):
    """A process ended by itself because of something that a person can mend; the message is its sentence."""


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
        PartRefused: a part raised something that a person can mend.
        PartDied: a part raised something else, was killed, or returned too early; or it did not stop when the run was
            interrupted. One that does not stop after the leader's return is killed, and the run has finished.
    """
    group = _Group()
    finished = False
    try:
        group.start(parts)
        while not finished and not interrupted():
            for name, process in group.processes.items():
                if process.is_alive():
                    continue
                if name == leader and process.exitcode == 0:
                    finished = True
                else:
                    raise group.death(name)
            watch()
            time.sleep(0.2)
    except KeyboardInterrupt:
        finished = False
    finally:
        late = group.end(GRACE_SECONDS)
    for name, process in group.processes.items():
        if name in late:
            said = f"the part '{name}' had not come to an end {GRACE_SECONDS:g} s after it was asked to, and was killed"
            if not finished:
                raise PartDied(f"{said}; the run goes on from its last checkpoint")
            _log.warning("%s; the run has finished", said)
        elif process.exitcode not in (0, None):
            raise group.death(name)
    return finished


class Companions:
    """Parts beside a run that it does not need: one that fails is mourned once, and the run goes on."""

    def __init__(self, parts: Mapping[str, tuple[Part, tuple[Any, ...]]], mourn: Callable[[str, str], None]) -> None:
        """Start them when the context is entered, and ask them to stop when it is left.

        Args:
            mourn: told the name of a part that failed, and why, in one line.
        """
        self._parts = parts
        self._mourn = mourn
        self._mourned: set[str] = set()
        self._group = _Group()

    def __enter__(self) -> "Companions":
        if self._parts:
            self._group.start(self._parts)
        return self

    def __exit__(self, *_: object) -> None:
        for name in self._group.end(FAREWELL_SECONDS):
            self._mourned.add(name)
            self._mourn(name, f"it had not come to an end {FAREWELL_SECONDS:g} s after the run, and was killed")
        self.look()

    def look(self) -> None:
        """See whether one has failed."""
        for name, process in self._group.processes.items():
            if name not in self._mourned and process.exitcode not in (None, 0):
                self._mourned.add(name)
                self._mourn(name, str(self._group.death(name)).strip().splitlines()[-1])


class _Group:
    """Processes that stop together; each sends its last words if it fails."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")
        # Not an Event: setting one waits for ever for a waiter that was killed.
        self._stop = self._context.RawValue("b", 0)
        self.processes: dict[str, Any] = {}
        self._errors: dict[str, Connection] = {}

    def start(self, parts: Mapping[str, tuple[Part, tuple[Any, ...]]]) -> None:
        """Start a process for each part."""
        with _frugal(), _undisturbed():
            for name, (part, arguments) in parts.items():
                receiver, sender = self._context.Pipe(duplex=False)
                process = self._context.Process(
                    target=_guarded, args=(part, arguments, self._stop, sender, os.getpid()), name=name, daemon=True
                )
                process.start()
                sender.close()
                self.processes[name], self._errors[name] = process, receiver

    def end(self, grace_seconds: float) -> list[str]:
        """Ask all to stop, and stop those who have not after a while; return the names of these."""
        self._stop.value = 1
        deadline = time.monotonic() + grace_seconds
        for process in self.processes.values():
            process.join(max(0.1, deadline - time.monotonic()))
        late = [name for name, process in self.processes.items() if process.is_alive()]
        for name in late:
            self.processes[name].kill()
            self.processes[name].join()
        return late

    def death(self, name: str) -> PartDied:
        """Why a process ended: its sentence where a person can mend it, or its traceback where it left one."""
        exitcode = self.processes[name].exitcode
        with contextlib.suppress(EOFError, OSError):
            if self._errors[name].poll(0.5):
                mendable, words = self._errors[name].recv()
                return PartRefused(words) if mendable else PartDied(f"the part '{name}' failed:\n{words}")
        if exitcode is not None and exitcode < 0:
            why = " (the system does so when memory runs out)" if -exitcode == signal.SIGKILL else ""
            return PartDied(f"the part '{name}' was killed by {signal.Signals(-exitcode).name}{why}")
        if exitcode == FAILED:
            return PartDied(f"the part '{name}' failed before it began, as printed above; {UNGUARDED}")
        return PartDied(f"the part '{name}' ended too early (exit status {exitcode})")


def must_have_begun() -> None:
    """Refuse what a script does again where a process that is just starting imports it.

    Raises:
        PartRefused: it does.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # what multiprocessing itself looks at
        raise PartRefused(UNGUARDED)


@contextlib.contextmanager
def _frugal() -> Any:
    """Let the processes that start inside be frugal; see `FRUGAL`."""
    before = {name: os.environ.get(name) for name in FRUGAL}
    os.environ.update(FRUGAL)
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
    except BaseException as error:  # noqa: BLE001 (goes to the parent, who raises it)
        mendable = isinstance(error, Mendable)
        errors.send((mendable, str(error)[:LAST_WORDS] if mendable else traceback.format_exc()[-LAST_WORDS:]))
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
