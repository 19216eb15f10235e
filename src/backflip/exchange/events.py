"""Every event as a line of JSON, and the segments in an .npz beside it: all that a run's answers are."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from backflip.exchange.bundle import Bundle, ExchangeError, Outgoing, written_whole
from backflip.exchange.segment_file import companion, must_have_companion, read_about, read_segments, write_segments
from backflip.records import Record

MOST_LINE_BYTES = 100_000
MOST_EVENTS = 1_000_000


def write_events(path: Path, outgoing: Outgoing) -> list[Path]:
    """Write the events, and beside them their segments; return both paths."""
    write_segments(companion(path), outgoing)
    with written_whole(path) as file:
        file.writelines(line(record) for record in outgoing.events)
    return [path, companion(path)]


def line(record: Record) -> bytes:
    """An event as a line of JSON."""
    return json.dumps(record, sort_keys=True, ensure_ascii=False).encode() + b"\n"


def read_events(path: Path) -> Bundle:
    """The events of a file, and the segments of its companion.

    Raises:
        ExchangeError: one of the two is missing, damaged or not ours.
    """
    beside = must_have_companion(path)
    return Bundle(str(path), read_segments(beside), list(lines(path)), read_about(beside))


def lines(path: Path) -> Iterator[tuple[str, Record]]:
    """The events of a file, each with its place."""
    try:
        with path.open("rb") as file:
            for number in range(1, MOST_EVENTS + 2):
                text = file.readline(MOST_LINE_BYTES + 1)
                where = f"{path}, line {number}"
                if not text:
                    return
                if len(text) > MOST_LINE_BYTES or number > MOST_EVENTS:
                    raise ExchangeError(
                        f"{where}: the most are {MOST_LINE_BYTES:,} bytes a line, {MOST_EVENTS:,} lines"
                    )
                if text.strip():
                    yield where, _record(where, text)
    except OSError as error:
        raise ExchangeError(f"{path} cannot be read ({error.strerror})") from error


def _record(where: str, text: bytes) -> Record:
    try:
        record = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ExchangeError(f"{where}: this is not a line of JSON ({error})") from error
    if not isinstance(record, dict):
        raise ExchangeError(f"{where}: this is no event, but {type(record).__name__}; an event is an object")
    return record


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no number")
