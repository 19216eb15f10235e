"""Synthetic teachers that read the true reward: the paper's oracle, and the fallible ones of B-Pref. §3.1"""

import hashlib
import uuid
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64

from backflip.errors import Mendable
from backflip.preferences import Choice, Preference, Query
from backflip.segments import Segments
from backflip.store import Store

NAMESPACE = uuid.UUID("6ba7b812-9dad-11d1-80b4-00c04fd430c8")
MARGIN_SEGMENTS = 200
"""The thresholds of skip and equal are shares of the mean true return of so many recent segments."""


class NoTrueReward(Mendable, ValueError):
    """The environment's reward is no number where an oracle has to answer from it."""


@dataclass(frozen=True)
class Fallibility:
    """How a synthetic teacher errs (Lee et al. 2021, B-Pref, arXiv 2111.03026, §4); the defaults never err."""

    rationality: float | None = None
    """β: P(left) = σ(β·Σₜ γᵏ⁻ᵗ(r¹ₜ - r²ₜ)); None is perfectly rational."""
    memory: float = 1.0
    """γ: weight of a step relative to the one after it; below 1 the teacher is myopic."""
    mistake: float = 0.0
    """ε: probability that a decided answer is flipped."""
    skip: float = 0.0
    """Incomparable where the larger true return is at most this share of the recent mean true return of a segment."""
    equal: float = 0.0
    """Equal where the true returns differ by less than this share of that mean."""

    def __post_init__(self) -> None:
        if not (0 <= self.mistake <= 1 and 0 < self.memory <= 1 and self.skip >= 0 and self.equal >= 0):
            raise ValueError(f"{self} is no teacher: mistake and memory are in 0-1, skip and equal not below 0")
        if self.rationality is not None and not self.rationality >= 0:
            raise ValueError(
                f"{self} is no teacher: rationality is 0 or more; leave it out for a perfectly rational one"
            )


FALLIBLE: dict[str, Fallibility] = {
    "oracle": Fallibility(),
    "stochastic": Fallibility(rationality=1.0),
    "mistake": Fallibility(mistake=0.1),
    "skip": Fallibility(skip=0.1),
    "myopic": Fallibility(memory=0.9),
    "equal": Fallibility(equal=0.1),
}
"""B-Pref's teachers with its values (its README)."""


class Oracle:
    """Answers every open query at once from the true rewards; two equal returns are a tie.

    Each answer is drawn from a generator keyed by the query, so that it does not depend on when it is given.
    """

    def __init__(self, fallibility: Fallibility | None = None, seed: int = 0, name: str = "oracle") -> None:
        self.fallibility = fallibility or Fallibility()
        self.seed = seed
        self.name = name

    def teach(self, store: Store) -> int:
        """Answer all open queries.

        Raises:
            ValueError: the task has no true reward to read.
        """
        queries = store.open_queries()
        if not queries:
            return 0
        left = store.segments([query.left for query in queries])
        right = store.segments([query.right for query in queries])
        margin = 0.0
        if self.fallibility.skip or self.fallibility.equal:
            recent = store.recent(MARGIN_SEGMENTS)
            margin = 0.0 if recent is None else float(recent.true_returns().mean())
        return answer(store, queries, self.choices(queries, left, right, margin), self.name, self.seed)

    def choices(self, queries: list[Query], left: Segments, right: Segments, margin: float) -> list[Choice]:
        """The choice on each query; `margin` is the recent mean true return of a segment."""
        returns = left.true_returns(), right.true_returns()
        if not (np.isfinite(returns[0]).all() and np.isfinite(returns[1]).all()):
            raise NoTrueReward(
                "the true reward of a segment is not finite; an oracle answers from it: mend the environment, or ask "
                "people: --teacher people"
            )
        remembered = (
            remembered_return(left.true_rewards, left.lengths, self.fallibility.memory),
            remembered_return(right.true_rewards, right.lengths, self.fallibility.memory),
        )
        chosen = []
        for i, query in enumerate(queries):
            rng = np.random.default_rng([self.seed, query.id])
            pair = float(returns[0][i]), float(returns[1][i])
            chosen.append(choose(pair, (remembered[0][i], remembered[1][i]), self.fallibility, margin, rng))
        return chosen


def answer(store: Store, queries: list[Query], choices: list[Choice], teacher: str, seed: int) -> int:
    """Store a synthetic teacher's choices, and return how many were new.

    Their names are made of teacher, seed, query and what was seen in it, so that a run that is repeated gives the same
    names, and two runs of one seed, which number their queries alike, can be put together.
    """
    seen = store.segments([number for query in queries for number in (query.left, query.right)]).observations
    given = 0
    for i, (query, choice) in enumerate(zip(queries, choices, strict=True)):
        content = hashlib.sha256(seen[2 * i : 2 * i + 2].tobytes()).hexdigest()
        name = uuid.uuid5(NAMESPACE, f"{teacher} {seed} {query.id} {content}")
        given += store.answer(Preference(str(name), query.id, choice, teacher))
    return given


def remembered_return(
    true_rewards: Float32[np.ndarray, "n k"], lengths: np.ndarray[tuple[int], np.dtype[np.int64]], memory: float
) -> Float64[np.ndarray, " n"]:
    """Σₜ γᵏ⁻ᵗ·rₜ over the steps that count: what a teacher with that memory makes of each segment."""
    step = np.arange(true_rewards.shape[1])
    age = lengths[:, None] - 1 - step
    weight = np.where(age >= 0, memory ** np.maximum(age, 0).astype(np.float64), 0.0)
    total: Float64[np.ndarray, " n"] = np.where(weight > 0, true_rewards * weight, 0.0).sum(1)
    return total


def choose(
    returns: tuple[float, float],
    remembered: tuple[float, float],
    teacher: Fallibility,
    margin: float,
    rng: np.random.Generator,
) -> Choice:
    """One choice: skip, else equal, else decide and perhaps flip; each threshold is its share of the margin, once.

    (B-Pref's own script multiplies by the share twice after its first session, which makes skip and equal vanish.)
    As in B-Pref, a margin below 0 gives neither skip nor equal; other than there, two equal returns are a tie.
    """
    if teacher.skip * margin > 0 and max(returns) <= teacher.skip * margin:
        return Choice.INCOMPARABLE
    if teacher.equal and abs(returns[0] - returns[1]) < teacher.equal * margin:
        return Choice.EQUAL
    difference = remembered[0] - remembered[1]
    if teacher.rationality is None:
        if difference == 0:
            return Choice.EQUAL
        left = difference > 0
    else:
        left = bool(rng.random() < probability(teacher.rationality * difference))
    if teacher.mistake and rng.random() < teacher.mistake:
        left = not left
    return Choice.LEFT if left else Choice.RIGHT


def probability(difference: float) -> float:
    """σ(x), without overflow."""
    return float(0.5 * (1 + np.tanh(0.5 * difference)))
