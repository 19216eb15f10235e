"""The measurements of a run: a file with a line of JSON for each, which only grows, or is cut back at its end."""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backflip.files import whole_file, writing

MARKED_BYTES = 200
MOST_POINTS = 2000
"""Of each name, so many are kept where a run of days is looked at as a whole: a curve has fewer pixels."""

Line = dict[str, Any]


def append(file: Path, step: int, seconds: float, values: Mapping[str, float]) -> None:
    """Add measurements.

    Raises:
        CannotWrite: the disk is full, or not ours to write on.
    """
    lines = [
        json.dumps({"step": step, "seconds": seconds, "name": name, "value": value}) for name, value in values.items()
    ]
    with writing(file), file.open("a+b") as opened:
        end = opened.seek(0, os.SEEK_END)
        opened.seek(max(0, end - 1))
        torn = opened.read(1) not in (b"", b"\n")  # by a writer that was killed, or found the disk full
        content = "".join(line + "\n" for line in ["", *lines][not torn :])
        opened.write(content.encode())  # one write: lines of parts do not mix


def read(file: Path, since: int = 0) -> tuple[list[Line], int]:
    """The measurements from a byte position on, and the position to ask from next.

    A line that is not whole yet is left for the next time. One that never became whole, because its writer was killed,
    is passed over.
    """
    try:
        with file.open("rb") as opened:
            opened.seek(since)
            content = opened.read()
    except FileNotFoundError:
        return [], 0
    whole = content[: content.rfind(b"\n") + 1]
    return [line for text in whole.splitlines() if (line := _parsed(text))], since + len(whole)


def read_thinned(file: Path, most: int = MOST_POINTS) -> tuple[list[Line], int]:
    """The measurements by name, and the position to ask from next; of a name that has many every second, or fourth, ...

    Args:
        most: of each name, at most so many and the newest, and at least half as many where there are.
    """
    kept: dict[bytes, list[bytes]] = {}
    newest: dict[bytes, bytes] = {}
    seen: dict[bytes, int] = {}
    strides: dict[bytes, int] = {}
    position = 0
    try:
        with file.open("rb") as opened:
            for text in opened:
                if not text.endswith(b"\n"):
                    break
                position += len(text)
                name = _name(text)
                newest[name] = text
                number = seen[name] = seen.get(name, 0) + 1
                stride = strides.setdefault(name, 1)
                if number % stride:
                    continue
                lines = kept.setdefault(name, [])
                lines.append(text)
                if len(lines) > most:
                    del lines[::2]  # of 1, 2, 3 stays 2: what is a whole number of the new strides
                    strides[name] = 2 * stride
    except FileNotFoundError:
        return [], 0
    for name, text in newest.items():
        if name not in kept or kept[name][-1] is not text:
            kept.setdefault(name, []).append(text)
    return [line for lines in kept.values() for text in lines if (line := _parsed(text))], position


def forget_after(file: Path, step: int) -> None:
    """Take out what was measured after a step.

    Raises:
        CannotWrite: the disk is full, or not ours to write on.
    """
    try:
        old = file.open("rb")
    except FileNotFoundError:
        return
    with old:
        if any(_step(text) > step for text in old):
            old.seek(0)
            with writing(file), whole_file(file) as new:
                new.writelines(text for text in old if _step(text) <= step)


def mark(file: Path, position: int) -> str:
    """What stands just before a position; something else there later means that they were cut back meanwhile."""
    begin = max(0, position - MARKED_BYTES)
    content = b""
    if file.exists():
        with file.open("rb") as opened:
            opened.seek(begin)
            content = opened.read(position - begin)
    return hashlib.sha256(content).hexdigest()[:16]


def _step(text: bytes) -> int:
    """The step of a line, which is its beginning; 0 of a torn one."""
    found = re.match(rb'{"step": (\d+),', text)
    return int(found[1]) if found else 0


def _name(text: bytes) -> bytes:
    """What is between `"name": ` and the next comma: reading a million lines as JSON takes 16 s, and this 1."""
    begin = text.find(b'"name": ')
    return text[begin : text.find(b",", begin)]


def _parsed(text: bytes) -> Line | None:
    try:
        line: Line = json.loads(text)
    except ValueError:
        return None
    return line
