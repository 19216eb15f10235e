"""Which pairs of segments to ask about, and when. §2.2.4, A"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32, Int64

from backflip.reward import RewardEnsemble, probability_left
from backflip.segments import Segments

Selector = Literal["variance", "uniform"]


@dataclass(frozen=True)
class AskConfig:
    """How queries are chosen."""

    selector: Selector = "variance"
    """By the ensemble's variance of P̂(left) (§2.2.4), or uniformly at random (the paper's ablation)."""
    oversample: int = 10
    """Candidate pairs for each query that is asked (A)."""
    error_rate: float = 0.1
    """As in the likelihood: P̂ is what a person would answer, slips included."""
    initial_fraction: float = 0.25
    """Share of the labels asked before training, about the untrained policy (A.1)."""
    half_life: float = 2e6
    """Environment steps after which the label rate has fallen to a half (A.1)."""
    recent: int = 1000
    """Candidate segments are drawn from the newest so many."""
    open_queries: int = 12
    """With people: queries kept ready."""
    stale_steps: int = 1_000_000
    """With people: an unclaimed query about behaviour older than this is taken back once there is newer."""


@dataclass(frozen=True)
class LabelSchedule:
    """How many labels should have been asked for: a share first, then at a rate ∝ half_life/(T + half_life). A.1"""

    total: int
    """Labels in the whole run."""
    steps: int
    """Environment steps T in the whole run."""
    initial_fraction: float = 0.25
    half_life: float = 2e6

    def __post_init__(self) -> None:
        if self.total < 0 or self.steps < 1:
            raise ValueError(
                f"a schedule of {self.total} labels over {self.steps} steps is none; give both as positive"
            )

    @property
    def initial(self) -> int:
        """Labels before training begins."""
        return math.ceil(self.initial_fraction * self.total - 1e-9)  # 0.1 * 70 is 7.000000000000001

    def labels(self, policy_steps: int) -> int:
        """Labels due once the policy has taken T steps: N₀ + (N - N₀)·ln(1 + T/h) / ln(1 + T_end/h).

        The closed form of the integral of the rate h/(T + h) over training, scaled to reach N at the end; to the
        nearest whole label.
        """
        done = math.log1p(min(policy_steps, self.steps) / self.half_life) / math.log1p(self.steps / self.half_life)
        return self.initial + math.floor((self.total - self.initial) * done + 0.5)


def pair_probabilities(
    ensemble: RewardEnsemble, segments: Segments, pairs: Int64[np.ndarray, "q 2"], error_rate: float = 0.1
) -> Float32[np.ndarray, "m q"]:
    """Each member's P̂(left) for pairs of positions in `segments`; every segment is evaluated once."""
    returns = torch.from_numpy(ensemble.segment_returns(segments.observations, segments.actions, segments.mask()))
    chosen: Float32[np.ndarray, "m q"] = probability_left(
        returns[:, pairs[:, 0]], returns[:, pairs[:, 1]], error_rate
    ).numpy()
    return chosen


def random_pairs(rng: np.random.Generator, segments: int, count: int) -> Int64[np.ndarray, "q 2"]:
    """Pairs of two different positions, drawn uniformly; none is in two pairs before all were in one."""
    if segments < 2 or count < 1:
        return np.zeros((0, 2), np.int64)
    rounds = -(-count // (segments // 2))
    orders = [rng.permutation(segments)[: segments // 2 * 2].reshape(-1, 2) for _ in range(rounds)]
    return np.concatenate(orders)[:count]


def select_queries(
    rng: np.random.Generator,
    ensemble: RewardEnsemble | None,
    segments: Segments,
    count: int,
    config: AskConfig | None = None,
) -> tuple[Int64[np.ndarray, "q 2"], Float32[np.ndarray, "m q"] | None, float]:
    """Choose `count` pairs of positions out of `oversample` times as many: those the members disagree on most (§2.2.4).

    Disagreement is the variance over members of P̂(left) of the pair. A segment is used once as long as there are
    enough, a pair is never chosen twice. Without an ensemble, or with the selector "uniform", the first candidates
    are taken.

    Returns:
        The pairs (left, right), each member's P̂(left) for them, and the mean variance of all candidates.
    """
    config = config or AskConfig()
    pairs = random_pairs(rng, len(segments), count * config.oversample)
    if ensemble is None or len(pairs) == 0:
        return pairs[_distinct(pairs, count)], None, 0.0
    predicted = pair_probabilities(ensemble, segments, pairs, config.error_rate)
    variance = predicted.var(axis=0)
    order = np.argsort(-variance, kind="stable") if config.selector == "variance" else np.arange(len(pairs))
    chosen = order[_distinct(pairs[order], count)]
    return pairs[chosen], predicted[:, chosen], float(variance.mean())


def _distinct(pairs: Int64[np.ndarray, "q 2"], count: int) -> Int64[np.ndarray, " c"]:
    """Positions of the first `count` pairs, no pair twice, those that share no segment with a chosen one first."""
    seen: set[frozenset[int]] = set()
    used: set[int] = set()
    fresh: list[int] = []
    others: list[int] = []
    for position, (left, right) in enumerate(pairs.tolist()):
        pair = frozenset((left, right))
        if pair in seen:
            continue
        seen.add(pair)
        if used & pair:
            others.append(position)
            continue
        used |= pair
        fresh.append(position)
        if len(fresh) == count:
            break
    return np.array((fresh + others)[:count], np.int64)
