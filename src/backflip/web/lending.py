"""Which four completions are in front of whom, so that no two people judge the same."""

import threading
from dataclasses import dataclass, field

LENT_SECONDS = 300.0
"""How long four that one person has in front of them are shown to nobody else."""


@dataclass
class Lent:
    """What is lent, for as long as this server runs."""

    until: dict[frozenset[int], tuple[str, float]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def lend(self, four: frozenset[int], annotator: str, now: float) -> bool:
        """Whether these can be shown to somebody now; then they are theirs for a while."""
        with self.lock:
            holder, end = self.until.get(four, (annotator, 0.0))
            if holder != annotator and end > now:
                return False
            self.until = {one: kept for one, kept in self.until.items() if kept[1] > now}
            self.until[four] = (annotator, now + LENT_SECONDS)
            return True
