"""People: they answer through the page, in their own time; the program's part is to keep drawn queries ready."""

from collections.abc import Callable

from backflip.segments import Array
from backflip.store import Store

DRAWN_AT_ONCE = 2
"""Queries drawn in one turn, the most informative first; few, so that new ones are not kept waiting behind old."""


class People:
    """The teacher that is not in this process."""

    name = "people"

    def __init__(self, draw: Callable[[Array, int], str]) -> None:
        """Let people answer.

        Args:
            draw: makes the clip of a segment from its states [k *s] and its length, and gives the clip's hash.
        """
        self.draw = draw

    def teach(self, store: Store) -> int:
        """Draw some queries for the page; the answers come from there, so that none is given here."""
        wanted = store.undrawn(DRAWN_AT_ONCE)
        for number in wanted:
            segment = store.segments([number], states=True)
            store.set_clip(number, self.draw(segment.states[0], int(segment.lengths[0])))
        store.mark_drawn()  # also where nothing was left to draw: both segments may have clips from other queries
        return 0
