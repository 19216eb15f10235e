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


def bring(store: Store, bundle: Bundle, wanted: Wanted, here: "Here | None" = None) -> Imported:
    """Add the segments and events of a bundle that are not in the store yet, in one transaction.

    Args:
        here: what is there, where it was read before: while a transaction lasts, everybody else waits.

    Raises:
        ExchangeError: the bundle does not fit the run, or something in it cannot be.
        StoreError: the same, of an event.
    """
    must_be_about(bundle.source, bundle.about, wanted)
    return bring_checked(store, replace(bundle, segments=_checked(bundle, wanted)), here or Here(store, wanted.layout))


def _checked(bundle: Bundle, wanted: Wanted) -> Iterator[Segments]:
    for segments in bundle.segments:
        must_have_layout(bundle.source, Layout.of(segments), wanted)
        must_be_sound(bundle.source, segments, wanted)
        yield segments


def bring_checked(store: Store, bundle: Bundle, here: "Here") -> Imported:
    """The same for a bundle whose segments are known to fit.

    Raises:
        StoreError: something in an event cannot be.
    """
    with store.transaction() as c:
        numbers, new = _bring_segments(c, here, bundle)
        return Imported(new, records.bring(c, store.clock(), bundle.events, numbers))


def _bring_segments(c: sa.Connection, here: "Here", bundle: Bundle) -> tuple[dict[str, int], list[int]]:
    """The number here of each segment, by its name, and the numbers of those that were new."""
    here.look(c)
    numbers: dict[str, int] = {}
    new: list[int] = []
    for segments in bundle.segments:
        names = names_of(segments)
        numbers |= here.numbers(c, segments, names)
        missing = {name: i for i, name in enumerate(names) if name not in numbers}
        if missing:
            added = stored_segments.add_for_ever(c, segments[np.array(list(missing.values()), np.int64)])
            numbers |= dict(zip(missing, added, strict=True))
            new += added
    return numbers, new


class Here:
    """The segments that a store has already, found by their content.

    Looked up by all but the states first: those are frames where a task draws itself, and too many to read. Most of it
    is read before anything is written, which holds nobody up.
    """

    def __init__(self, store: Store, layout: Layout) -> None:
        self.store, self.layout = store, layout
        self._upto = 0
        self._alike: dict[str, list[int]] = {}
        with store.reading() as c:
            self.look(c)

    def look(self, c: sa.Connection) -> None:
        """Take in what is new since the last look."""
        newer = stored_segments.numbers(c, self._upto)
        for segments in in_chunks(self.store, newer, self.layout, states=False):
            for number, name in zip(segments.ids.tolist(), names_of(segments, without_states=True), strict=True):
                self._alike.setdefault(name, []).append(number)
        self._upto = max(newer, default=self._upto)

    def numbers(self, c: sa.Connection, segments: Segments, names: list[str]) -> dict[str, int]:
        """The numbers of those of some segments that are here, by their names."""
        alike = names_of(segments, without_states=True)
        perhaps = [number for one in dict.fromkeys(alike) for number in self._alike.get(one, [])]
        still = sorted(stored_segments.hold(c, perhaps))  # others may have made room meanwhile
        found: dict[str, int] = {}
        for part in in_chunks(self.store, still, self.layout):
            found |= dict(zip(names_of(part), part.ids.tolist(), strict=True))
        return {name: found[name] for name in names if name in found}
