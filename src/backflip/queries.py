"""Which pairs of segments to ask about, and when. §2.2.4, A"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64

from backflip.errors import must_be_one_of, plain_numbers
from backflip.preferences import ERROR_RATE
from backflip.reward import RewardEnsemble, probability_left
from backflip.segments import Segments

Selector = Literal["variance", "entropy", "information", "diverse", "uniform"]

SHORTLIST = 3
"""The diverse selector spreads its choice over the best so many candidates for each query."""


@dataclass(frozen=True)
class AskConfig:
    """How queries are chosen."""

    selector: Selector = "variance"
    """By the ensemble's variance of P̂(left) (§2.2.4), by another score (see `score`), by variance and then spread over
    behaviours (`spread_out`), or uniformly at random (the paper's ablation)."""
    oversample: int = 10
    """Candidate pairs for each query that is asked (A)."""
    initial_fraction: float = 0.25
    """Share of the labels asked before training, about the untrained policy (A.1)."""
    half_life: float = 2e6
    """Environment steps after which the label rate has fallen to a half (A.1)."""
    until: float = 1.0
    """Share of the run's steps by whose end all labels are asked (A.1: all)."""
    session: int = 1
    """Labels are asked for in groups of so many."""
    recent: int = 1000
    """Candidate segments are drawn from the newest so many."""
    newest: float = 1.0
    """One side of every candidate pair is among this newest share of those candidates: what the policy does now is
    compared with anything that it did. 1: both sides from anywhere, as in the paper. Not for texts, whose pairs are
    always of one prompt."""
    open_queries: int = 32
    """With people: queries kept open: 20 drawn ones beside the three that a page holds and those just answered, so that
    a burst of answers or a moment without processor time makes nobody wait. Each new r̂ ranks them anew."""
    stale_steps: int = 1_000_000
    """With people: an unclaimed query about behaviour older than this is taken back once there is newer."""

    def __post_init__(self) -> None:
        plain_numbers(self)
        if not 0 < self.until <= 1 or not 0 <= self.initial_fraction <= 1:
            raise ValueError(
                f"until is {self.until} and initial_fraction {self.initial_fraction}; both are shares: above 0 (the "
                "second may be 0) and at most 1"
            )
        if not 0 < self.newest <= 1:
            raise ValueError(f"newest is {self.newest}; it is a share of the candidates: above 0 and at most 1")
        must_be_one_of(Selector, selector=self.selector)
        if min(self.session, self.oversample, self.recent, self.open_queries) < 1 or self.half_life <= 0:
            raise ValueError(f"{self} cannot be: session, oversample, recent and open_queries are at least 1")


@dataclass(frozen=True)
class LabelSchedule:
    """How many labels should have been asked for: a share first, then at a rate ∝ half_life/(T + half_life). A.1"""

    total: int
    """Labels in the whole run."""
    steps: int
    """Environment steps T in the whole run."""
    initial_fraction: float = 0.25
    half_life: float = 2e6
    session: int = 1
    """After the first share, labels are due in groups of so many."""
    begin: int = 0
    """Environment steps before training begins; T is counted from there."""

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
        nearest whole label, and down to whole sessions.
        """
        whole = max(1, self.steps - self.begin)
        taken = min(max(0, policy_steps - self.begin), whole)
        done = math.log1p(taken / self.half_life) / math.log1p(whole / self.half_life)
        more = math.floor((self.total - self.initial) * done + 0.5)
        return self.total if done >= 1 else self.initial + more - more % self.session


def pair_probabilities(
    ensemble: RewardEnsemble, segments: Segments, pairs: Int64[np.ndarray, "q 2"], error_rate: float = ERROR_RATE
) -> Float32[np.ndarray, "m q"]:
    """Each member's P̂(left) for pairs of positions in `segments`: what a person would answer, slips included.

    Every segment is evaluated once.
    """
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


def pairs_with_newest(rng: np.random.Generator, segments: int, count: int, newest: float) -> Int64[np.ndarray, "q 2"]:
    """Pairs of two different positions, one of them among the last share `newest`; which side that is, is random.

    Each of these is the first of a pair as often as the others, and each of all positions the second about as often.
    """
    if segments < 2 or count < 1:
        return np.zeros((0, 2), np.int64)
    new = max(1, math.ceil(newest * segments - 1e-9))  # 0.07 * 100 is 7.000000000000001
    one = segments - 1 - _in_turns(rng, new, count)
    other = _in_turns(rng, segments - 1, count)
    pairs = np.stack([one, other + (other >= one)], 1)  # never the same
    exchanged = rng.random(count) < 0.5
    pairs[exchanged] = pairs[exchanged][:, ::-1]
    return pairs


def _in_turns(rng: np.random.Generator, positions: int, count: int) -> Int64[np.ndarray, " q"]:
    """Positions in random order, each once before any twice."""
    rounds = -(-count // positions)
    return np.concatenate([rng.permutation(positions) for _ in range(rounds)])[:count]


def pairs_within(rng: np.random.Generator, groups: Int64[np.ndarray, " n"], count: int) -> Int64[np.ndarray, "q 2"]:
    """At most `count` different pairs of two positions of the same group, in random order and with random sides."""
    order = np.argsort(groups, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    found = [(a, b) for group in members for i, a in enumerate(group.tolist()) for b in group[i + 1 :].tolist()]
    pairs = np.array(found, np.int64).reshape(-1, 2)
    pairs = pairs[rng.permutation(len(pairs))[:count]]
    exchanged = rng.random(len(pairs)) < 0.5
    pairs[exchanged] = pairs[exchanged][:, ::-1]
    return pairs


def select_queries(
    rng: np.random.Generator,
    ensemble: RewardEnsemble | None,
    segments: Segments,
    count: int,
    config: AskConfig | None = None,
    groups: Int64[np.ndarray, " n"] | None = None,
    asked: Int64[np.ndarray, "p 2"] | None = None,
    error_rate: float = ERROR_RATE,
) -> tuple[Int64[np.ndarray, "q 2"], Float32[np.ndarray, "m q"] | None, float]:
    """Choose `count` pairs of positions out of `oversample` times as many: those most worth asking about (§2.2.4).

    A segment is used once as long as there are enough, a pair is never chosen twice, nor one that was asked before.
    Without an ensemble, or with the selector "uniform", the first candidates are taken.

    Args:
        segments: the newest last, if `newest` is not 1.
        groups: only segments of the same group are compared, and no two pairs are of one group as long as there are
            others: a prompt's completions tell less the more of them are asked about.
        asked: pairs of positions that were asked before, in either order.
        error_rate: as in the likelihood (`FitConfig.error_rate`).

    Returns:
        The pairs (left, right), each member's P̂(left) for them, and the mean variance of all candidates.
    """
    config = config or AskConfig()
    known = set() if asked is None else {frozenset(pair) for pair in asked.tolist()}
    if groups is None:
        if config.newest == 1:
            pairs = random_pairs(rng, len(segments), count * config.oversample)
        else:
            pairs = pairs_with_newest(rng, len(segments), count * config.oversample, config.newest)
        used = pairs
    else:
        pairs = pairs_within(rng, groups, count * config.oversample)
        used = np.repeat(groups[pairs[:, :1]], 2, axis=1)
    if ensemble is None or len(pairs) == 0:
        return pairs[_distinct(pairs, count, used, known)], None, 0.0
    predicted = pair_probabilities(ensemble, segments, pairs, error_rate)
    order = np.argsort(-score(predicted, config.selector), kind="stable")
    if config.selector == "diverse":
        order = order[: SHORTLIST * count]
        order = order[spread_out(pair_features(ensemble, segments, pairs[order]), len(order))]
    chosen = order[_distinct(pairs[order], count, used[order], known)]
    return pairs[chosen], predicted[:, chosen], float(predicted.var(axis=0).mean())


def score(predicted: Float32[np.ndarray, "m q"], selector: Selector) -> Float64[np.ndarray, " q"]:
    """How much each pair is worth asking about, from each member's P̂(left); H is the entropy of a choice in nats.

    variance (and diverse): Var P̂ over the members (§2.2.4). entropy: H(mean P̂). information: H(mean P̂) - mean H(P̂),
    what the answer would tell about which member is right (Houlsby et al. 2011, BALD). uniform: all the same.
    """
    p = predicted.astype(np.float64)
    if selector == "uniform":
        return np.zeros(p.shape[1])
    if selector in ("variance", "diverse"):
        variance: Float64[np.ndarray, " q"] = p.var(axis=0)
        return variance
    both = _entropy(p.mean(axis=0))
    if selector == "entropy":
        return both
    assert selector == "information"
    told: Float64[np.ndarray, " q"] = both - _entropy(p).mean(axis=0)
    return told


def _entropy(p: Float64[np.ndarray, "*n"]) -> Float64[np.ndarray, "*n"]:
    """-p·log p - (1-p)·log(1-p)."""
    q = 1 - p
    nats: Float64[np.ndarray, "*n"] = -p * np.log(np.maximum(p, 1e-12)) - q * np.log(np.maximum(q, 1e-12))
    return nats


def pair_features(
    ensemble: RewardEnsemble, segments: Segments, pairs: Int64[np.ndarray, "q 2"]
) -> Float32[np.ndarray, "q i"]:
    """What sets the two sides of a pair apart: the difference of their mean inputs to r̂."""
    inputs = ensemble.features(segments.observations, segments.actions).numpy()
    mask = segments.mask()
    means = (inputs.reshape(*mask.shape, -1) * mask[..., None]).sum(1) / segments.lengths[:, None]
    apart: Float32[np.ndarray, "q i"] = (means[pairs[:, 0]] - means[pairs[:, 1]]).astype(np.float32)
    return apart


def spread_out(features: Float32[np.ndarray, "q i"], count: int) -> Int64[np.ndarray, " c"]:
    """Greedy k-centre: the first, then always the one farthest from all chosen; a pair's sides have no order."""
    chosen = [0]
    distance = np.full(len(features), np.inf)
    while len(chosen) < min(count, len(features)):
        last = features[chosen[-1]]
        nearer = np.minimum(((features - last) ** 2).sum(1), ((features + last) ** 2).sum(1))
        distance = np.minimum(distance, nearer)
        distance[chosen] = -1
        chosen.append(int(distance.argmax()))
    return np.array(chosen, np.int64)


def _distinct(
    pairs: Int64[np.ndarray, "q 2"], count: int, uses: Int64[np.ndarray, "q 2"], known: set[frozenset[int]]
) -> Int64[np.ndarray, " c"]:
    """Positions of the first `count` pairs, none known, none twice; first those that use nothing a chosen one uses."""
    seen = set(known)
    used: set[int] = set()
    fresh: list[int] = []
    others: list[int] = []
    for position, ((left, right), uses_up) in enumerate(zip(pairs.tolist(), uses.tolist(), strict=True)):
        pair = frozenset((left, right))
        if pair in seen:
            continue
        seen.add(pair)
        if used & set(uses_up):
            others.append(position)
            continue
        used |= set(uses_up)
        fresh.append(position)
        if len(fresh) == count:
            break
    return np.array((fresh + others)[:count], np.int64)
