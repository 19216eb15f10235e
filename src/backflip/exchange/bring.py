"""Bringing a bundle into a run: all of it or nothing, and nothing twice."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import sqlalchemy as sa

from backflip import records, stored_segments
from backflip.exchange.bundle import Bundle, in_chunks, names_of
from backflip.exchange.suspicion import Wanted, must_be_about, must_be_sound, must_have_layout
from backflip.packing import Layout
from backflip.records import Brought
from backflip.segments import Segments
from backflip.store import Store


@dataclass(frozen=True)
class Imported:
    """What was new in a bundle."""

    segments: list[int]
    """Their numbers here."""
    brought: Brought
    passed_over: list[str] = field(default_factory=list)
    """What could not be read in files of texts, with the places."""


def bring(store: Store, bundle: Bundle, wanted: Wanted) -> Imported:
    """Add the segments and events of a bundle that are not in the store yet, in one transaction.

    Raises:
        ExchangeError: the bundle does not fit the run, or something in it cannot be.
        StoreError: the same, of an event.
    """
    must_be_about(bundle.source, bundle.about, wanted)
    return bring_checked(store, replace(bundle, segments=_checked(bundle, wanted)), wanted.layout)


def _checked(bundle: Bundle, wanted: Wanted) -> Iterator[Segments]:
    for segments in bundle.segments:
        must_have_layout(bundle.source, Layout.of(segments), wanted)
        must_be_sound(bundle.source, segments, wanted)
        yield segments


def bring_checked(store: Store, bundle: Bundle, layout: Layout) -> Imported:
    """The same for a bundle whose segments are known to fit.

    Raises:
        StoreError: something in an event cannot be.
    """
    with store.transaction() as c:
        numbers, new = _bring_segments(c, store, bundle, layout)
        return Imported(new, records.bring(c, store.clock(), bundle.events, numbers))


def _bring_segments(c: sa.Connection, store: Store, bundle: Bundle, layout: Layout) -> tuple[dict[str, int], list[int]]:
    """The number here of each segment, by its name, and the numbers of those that were new."""
    here = _Here(c, store, layout)
    numbers: dict[str, int] = {}
    new: list[int] = []
    for segments in bundle.segments:
        missing: dict[str, int] = {}
        for i, name in enumerate(names_of(segments)):
            if name in numbers or name in missing:
                continue
            number = here.number(segments[i : i + 1], name)
            if number is None:
                missing[name] = i
            else:
                numbers[name] = number
        if missing:
            added = stored_segments.add_for_ever(c, segments[np.array(list(missing.values()), np.int64)])
            numbers |= dict(zip(missing, added, strict=True))
            new += added
    return numbers, new


class _Here:
    """The segments that a store has already, found by their content.

    Looked up by all but the states first: those are frames where a task draws itself, and too many to read.
    """

    def __init__(self, c: sa.Connection, store: Store, layout: Layout) -> None:
        self.store = store
        self._alike: dict[str, list[int]] = {}
        for segments in in_chunks(store, stored_segments.numbers(c), layout, states=False):
            for number, name in zip(segments.ids.tolist(), names_of(segments, without_states=True), strict=True):
                self._alike.setdefault(name, []).append(number)

    def number(self, segment: Segments, name: str) -> int | None:
        """The number of a segment that is here; None of one that is not."""
        (alike,) = names_of(segment, without_states=True)
        for number in self._alike.get(alike, []):
            if names_of(self.store.segments([number], states=True)) == [name]:
                return number
        return None
