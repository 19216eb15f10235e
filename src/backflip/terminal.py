"""What all commands share: how arguments look, where they print and how they end, and what cannot be said to them."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tyro
from rich.console import Console
from tyro.constructors import PrimitiveConstructorSpec

from backflip.errors import Mendable

File = tyro.conf.arg(metavar="PATH", help_behavior_hint="")
Run = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]

out = Console()


def read_by(metavar: str, read: Callable[[list[str]], Any], nargs: Literal[1, "*"] = 1) -> Any:
    """How an option is read whose default is None: left to itself, tyro offers the word None as a value, too."""
    return PrimitiveConstructorSpec(nargs, metavar, read, lambda _: True, lambda value: [str(value)])


def one_of(kinds: Any) -> Any:
    """An option that is one of the words or numbers of a Literal."""
    return read_by("{" + ",".join(map(str, get_args(kinds))) + "}", lambda words: _chosen(words[0], kinds))


def some_of(kinds: Any) -> Any:
    """An option that is several of the words of a Literal, or none."""
    metavar = "[{" + ",".join(get_args(kinds)) + "} ...]"
    return read_by(metavar, lambda words: tuple(_chosen(word, kinds) for word in words), "*")


def _chosen(word: str, kinds: Any) -> Any:
    known = {str(kind): kind for kind in get_args(kinds)}
    if word not in known:
        raise ValueError(f"{word!r} is none of {', '.join(known)}")
    return known[word]


def _whole(words: list[str]) -> int:
    """A whole number, however it is written: 300000, 300_000, 3e5."""
    with suppress(ValueError):
        return int(words[0])
    with suppress(ValueError):
        number = float(words[0])
        if number.is_integer():
            return int(number)
    raise ValueError(f"{words[0]!r} is no whole number; write it as 300000, 300_000 or 3e5")


def _real(words: list[str]) -> float:
    try:
        return float(words[0])
    except ValueError:
        raise ValueError(f"{words[0]!r} is no number; write it as 0.05") from None


Plain = tyro.conf.arg(help_behavior_hint="")
"""An option whose help text says what happens without it."""
Number = Annotated[int | None, Plain, read_by("N", _whole)]
Share = Annotated[float | None, Plain, read_by("SHARE", _real)]
Nats = Annotated[float | None, Plain, read_by("NATS", _real)]


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
