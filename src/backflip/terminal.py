"""What all commands share: how arguments look, where they print and how they end, and what cannot be said to them."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from backflip.errors import Mendable

Number = tyro.conf.arg(metavar="N", help_behavior_hint="")
File = tyro.conf.arg(metavar="PATH", help_behavior_hint="")
Run = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]

out = Console()


def visible(text: str) -> str:
    """A text that a model wrote, with marks in place of characters that a terminal would obey."""

    def mark(c: str) -> str:
        if c.isprintable() or c in "\n\t":
            return c
        return chr(0x2400 + ord(c)) if ord(c) < 32 else "\ufffd"  # Unicode has a picture for each of the first 32

    return "".join(map(mark, text))


class Unusable(Mendable):
    """Something on the command line that cannot be; the message says what and what to do."""


@contextmanager
def ending(interrupt: bool = False) -> Iterator[threading.Event]:
    """Inside, SIGTERM ends things as cleanly as Ctrl-C, and Ctrl-C works even in a script's background job.

    Args:
        interrupt: by interrupting what runs, rather than by setting the event.
    """
    ended = threading.Event()

    def end(signal_number: int, frame: Any) -> None:
        ended.set()
        if interrupt:
            signal.default_int_handler(signal_number, frame)

    before = {
        signal.SIGTERM: signal.signal(signal.SIGTERM, end),
        signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
    }
    try:
        yield ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
