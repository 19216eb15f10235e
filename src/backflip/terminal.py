"""What all commands share: how arguments look, where they print and how they end, and what cannot be said to them."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

Number = tyro.conf.arg(metavar="N", help_behavior_hint="")
File = tyro.conf.arg(metavar="PATH", help_behavior_hint="")
Run = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]

out = Console()


class Unusable(Exception):
    """Something on the command line that cannot be; the message says what and what to do."""


@contextmanager
def ending(interrupt: bool = False) -> Iterator[threading.Event]:
    """Meanwhile a SIGTERM ends things as cleanly as Ctrl-C, and Ctrl-C does even where a script's `&` had it ignored.

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
