"""Choices between two segments, and D: the comparisons that r̂ is fitted to. §2.2.2"""

from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64, Shaped

from backflip.segments import Segments, concatenate

ERROR_RATE = 0.1
"""Probability that a person answers at random (§2.2.3)."""


class Choice(StrEnum):
    """What a teacher said about a query."""

    LEFT = "left"
    EQUAL = "equal"
    RIGHT = "right"
    INCOMPARABLE = "incomparable"
    """ "Can't tell": kept in the log, never part of D."""

    @property
    def mu(self) -> float | None:
        """The mass µ on the left segment: all, half, none; no µ where the two cannot be compared (§2.2.2)."""
        return {"left": 1.0, "equal": 0.5, "right": 0.0}.get(self.value)

    @property
    def sign(self) -> int | None:
        """-1 for left, 0 for a tie, 1 for right, None where the two cannot be compared."""
        return {"left": -1, "equal": 0, "right": 1}.get(self.value)


@dataclass(frozen=True)
class Query:
    """Two segments, put to a teacher."""

    id: int
    left: int
    """Number of the left segment in the store."""
    right: int
    p_left: tuple[float, ...] = ()
    """P̂(left) of each member when the pair was chosen (or last ranked): honest predictions, made before the answer."""
    policy_steps: int = 0
    """Environment steps that the policy had taken when the pair was chosen."""

    @property
    def disagreement(self) -> float:
        """The variance over members of P̂(left) (§2.2.4); 0 where nobody predicted."""
        return float(np.var(self.p_left)) if self.p_left else 0.0


@dataclass(frozen=True)
class Preference:
    """One teacher's choice on one query."""

    uuid: str
    """Made by whoever answers; the same UUID sent twice is one answer."""
    query: int
    choice: Choice
    teacher: str
    seconds: float | None = None
    """From the first frame seen to the answer; None where it was not measured."""


@dataclass(frozen=True)
class Comparisons:
    """D: n triples (σ¹, σ², µ) as stacked arrays; no incomparables, undone answers gone."""

    query_ids: Int64[np.ndarray, " n"]
    left: Segments
    right: Segments
    mu: Float32[np.ndarray, " n"]
    weight: Float32[np.ndarray, " n"]
    teachers: Shaped[np.ndarray, " n"] | None = None
    """The names of those who answered; None where they are not told apart."""

    def __len__(self) -> int:
        return len(self.query_ids)

    def __getitem__(self, index: Int64[np.ndarray, " i"]) -> "Comparisons":
        """The comparisons at some positions."""
        parts: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        chosen: dict[str, Any] = {name: None if part is None else part[index] for name, part in parts.items()}
        return Comparisons(**chosen)

    def appended(self, other: "Comparisons") -> "Comparisons":
        """These comparisons and then the others; teachers are told apart only if they are in both."""
        both = None if self.teachers is None or other.teachers is None else [self.teachers, other.teachers]
        return Comparisons(
            query_ids=np.concatenate([self.query_ids, other.query_ids]),
            left=concatenate([self.left, other.left]),
            right=concatenate([self.right, other.right]),
            mu=np.concatenate([self.mu, other.mu]),
            weight=np.concatenate([self.weight, other.weight]),
            teachers=None if both is None else np.concatenate(both),
        )

    def without_states(self) -> "Comparisons":
        """The same comparisons, less what only drawing needs."""
        return replace(self, left=self.left.without_states(), right=self.right.without_states())


@dataclass(frozen=True)
class Changes:
    """What the answers since some moment did to D."""

    touched: Int64[np.ndarray, " q"]
    """Queries that were answered, answered anew or undone since; every entry of D about them is outdated."""
    comparisons: Comparisons | None
    """The entries that now stand for them; None where there are none."""
    last: int
    """The number of the newest event that this takes into account; ask for changes after it next time."""
    arrived: float | None = None
    """When that event arrived, by the store's clock; None where that is not known."""


def apply_changes(data: Comparisons | None, changes: Changes) -> Comparisons | None:
    """D after the changes: outdated entries dropped, new ones appended, the others where they were."""
    if data is not None and len(changes.touched):
        kept = np.flatnonzero(~np.isin(data.query_ids, changes.touched))
        data = data[kept] if len(kept) < len(data) else data
    if changes.comparisons is None or len(changes.comparisons) == 0:
        return data if data is None or len(data) else None
    if data is None or len(data) == 0:
        return changes.comparisons
    return data.appended(changes.comparisons)
