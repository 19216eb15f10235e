"""What goes from one run to another: segments, named by their content, and events about pairs of them."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from backflip import records, stored_segments
from backflip import standing as standing_now
from backflip.errors import Mendable
from backflip.files import whole_file
from backflip.packing import ARRAYS, Layout
from backflip.records import Record
from backflip.rundir import RunDir
from backflip.segments import Array, Segments
from backflip.store import Store

FORMAT = 1
CHUNK_BYTES = 2**26
"""Segments are read and written so many bytes at a time: those with frames do not fit into memory together."""
MOST_IN_CHUNK = 256


class ExchangeError(Mendable):
    """Something that cannot be exported or imported; the message says what, why and what to do."""


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write into, which takes the place of `path` when all is written, or never.

    Raises:
        ExchangeError: it cannot be written.
    """
    try:
        with whole_file(path) as file:
            yield file
    except OSError as error:
        raise ExchangeError(f"{path} cannot be written ({error.strerror or error}); choose another place") from error


@dataclass(frozen=True)
class About:
    """What a bundle is about."""

    task: str
    question: str
    """What the teachers were asked."""


@dataclass(frozen=True)
class Bundle:
    """Segments and events, from wherever they come."""

    source: str
    """What to call it in messages."""
    segments: Iterable[Segments]
    """Some at a time; can be gone through once."""
    events: list[tuple[str, Record]] = field(default_factory=list)
    """Each with the place where it stands; `left` and `right` of its query are names of segments."""
    about: About | None = None
    """None where nobody says what it is about."""


@dataclass(frozen=True)
class Outgoing:
    """What a run has to give: all events, and the segments that they are about."""

    about: About
    layout: Layout
    events: list[Record]
    standing: list[str]
    """UUIDs of the choices that stand, oldest first."""
    names: dict[int, str]
    """Number of each segment in the store -> its name."""
    store: Store

    def segments(self, states: bool = True) -> Iterator[Segments]:
        """The segments in the order of their numbers, some at a time."""
        yield from in_chunks(self.store, list(self.names), self.layout, states)

    def bundle(self, source: str) -> Bundle:
        """The same, to be brought into another run."""
        places = [(f"{source}, event {i}", record) for i, record in enumerate(self.events, 1)]
        return Bundle(source, self.segments(), places, self.about)


def outgoing(run: RunDir, store: Store, without_names: bool = False) -> Outgoing:
    """Everything that a run has to give.

    Args:
        without_names: people are called as `records.called` says.

    Raises:
        ExchangeError: there are no events yet.
    """
    with store.reading() as c:
        events, layout, standing = records.events(c), stored_segments.layout_of(c), standing_now.uuids(c)
        called = records.called(c) if without_names else {}
    if not events or layout is None:
        raise ExchangeError(f"{run.path} has no answers yet; there is nothing to export")
    numbers = sorted({record["query"][side] for record in events for side in ("left", "right")})
    names: dict[int, str] = {}
    for segments in in_chunks(store, numbers, layout):
        names |= dict(zip(segments.ids.tolist(), names_of(segments), strict=True))
    events = [records.nameless(_with_names(record, names), called) for record in events]
    settings = run.settings
    return Outgoing(About(settings["task"], settings.get("question", "")), layout, events, standing, names, store)


def _with_names(record: Record, names: dict[int, str]) -> Record:
    asked = record["query"]
    return {**record, "query": {**asked, "left": names[asked["left"]], "right": names[asked["right"]]}}


def in_chunks(store: Store, numbers: list[int], layout: Layout, states: bool = True) -> Iterator[Segments]:
    """Segments of these numbers, in order, as many at a time as memory is meant for."""
    size = chunk_size(layout)
    for start in range(0, len(numbers), size):
        yield store.segments(numbers[start : start + size], states)


def chunk_size(layout: Layout) -> int:
    """How many segments of a layout are read or written at a time."""
    return max(1, min(MOST_IN_CHUNK, CHUNK_BYTES // max(1, layout.segment_bytes)))


def names_of(segments: Segments, without_states: bool = False) -> list[str]:
    """The SHA-256 of all that a segment is: what it is called outside its store.

    Args:
        without_states: leave out what only drawing needs, and which may be large.
    """
    arrays = [name for name in ARRAYS if name != "states" or not without_states]
    columns: dict[str, Array] = {name: getattr(segments, name) for name in arrays}
    layout = json.dumps([[name, array.dtype.str, array.shape[1:]] for name, array in columns.items()])
    named = []
    for i in range(len(segments)):
        digest = hashlib.sha256(f"{layout} {segments.policy_steps[i]} {segments.lengths[i]}".encode())
        for array in columns.values():
            digest.update(array[i].tobytes())
        named.append(digest.hexdigest())
    return named


def about_as_json(about: About) -> dict[str, Any]:
    """What a bundle is about, for a file."""
    return {"format": FORMAT, "task": about.task, "question": about.question}


def about_from_json(source: Path, found: Any) -> About:
    """What a file says that it is about.

    Raises:
        ExchangeError: it says nothing of the kind, or is of a newer format.
    """
    if not isinstance(found, dict) or type(found.get("format")) is not int or not isinstance(found.get("task"), str):
        raise ExchangeError(
            f"{source} does not say what it is about, as files of `backflip export` do; export it again"
        )
    if found["format"] > FORMAT:
        raise ExchangeError(f"{source} has format {found['format']}, and this backflip knows {FORMAT}; upgrade")
    return About(found["task"], str(found.get("question", "")))
