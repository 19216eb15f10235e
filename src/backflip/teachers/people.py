"""People: they answer through the page, in their own time; the program's part is to keep drawn queries ready."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from backflip.errors import must_be_one_of, plain_numbers
from backflip.picks import SHOWN
from backflip.segments import Array
from backflip.store import Account, Checks, Store

Clips = Literal["poses", "sheets"]
DRAWN_AT_ONCE = 2
"""Queries drawn in one turn, the most informative first; few, so that new ones are not kept waiting behind old."""
SEVERAL = {"overlap": 0.05, "repeats": 0.03, "gold": 0.01}
"""What is usual where several people answer: few enough that hardly an answer is lost to it."""


@dataclass(frozen=True)
class PeopleConfig:
    """Who draws clips for people, and how much of what they do is to measure them; by default, of one alone nothing."""

    overlap: float | None = None
    """Share of the queries that two of them answer; by default 0.05 where there are several."""
    repeats: float | None = None
    """Share of showings that ask again what one has answered before, sides exchanged; by default 0.03 of several."""
    gold: float | None = None
    """Share of showings whose right answer is known; by default 0.01 where there are several."""
    clips: Clips = "poses"
    """Who draws a robot: the browser from its poses (and we, if that cannot), or we as a sheet of frames."""

    best_of: int = 2
    """What is shown together: two clips or texts; or 4 texts of one prompt, of which the best is picked."""

    def __post_init__(self) -> None:
        plain_numbers(self)
        if self.best_of not in (2, SHOWN):
            raise ValueError(f"best_of is {self.best_of}; people choose between 2, or pick the best of {SHOWN}")
        for name in SEVERAL:
            share = getattr(self, name)
            if share is not None and not 0 <= share <= 1:
                raise ValueError(f"{name} is {share}; it is a share, from 0 to 1")
        must_be_one_of(Clips, clips=self.clips)
        self.checks(several=True)

    def checks(self, several: bool) -> Checks:
        """What an annotator is measured by."""
        return Checks(repeats=self._share("repeats", several), gold=self._share("gold", several))

    def overlapping(self, several: bool) -> float:
        """Share of the queries that two annotators answer."""
        return self._share("overlap", several)

    def _share(self, name: str, several: bool) -> float:
        chosen: float | None = getattr(self, name)
        return chosen if chosen is not None else (SEVERAL[name] if several else 0.0)


def are_several(accounts: Iterable[Account]) -> bool:
    """Whether more than one of those who were invited can answer."""
    return sum(account.revoked_at is None and account.role != "view" for account in accounts) > 1


class People:
    """The teacher that is not in this process."""

    name = "people"

    def __init__(self, draw: Callable[[Array, int], str], config: PeopleConfig | None = None) -> None:
        """Let people answer.

        Args:
            draw: makes the clip of a segment from its states [k *s] and its length, and gives the clip's hash.
            config: how often two of them are to answer the same query.
        """
        self.draw, self.config = draw, config or PeopleConfig()

    def teach(self, store: Store) -> int:
        """Draw some queries for the page; the answers come from there, so that none is given here."""
        wanted = store.undrawn(DRAWN_AT_ONCE)
        for number in wanted:
            segment = store.segments([number], states=True)
            store.set_clip(number, self.draw(segment.states[0], int(segment.lengths[0])))
        overlap = self.config.overlapping(are_several(store.accounts()))
        store.mark_drawn(
            overlap
        )  # also where nothing was left to draw: both segments may have clips from other queries
        return 0
