"""How often each annotator answers at random: the ε of the likelihood, for each instead of one for all. §2.2.3

One likelihood holds all the evidence there is. Of a pair q the annotator a chooses the left with probability
(1-ε_a)·σ(Δ_q) + ε_a/2, as in `fit.comparison_loss`, independently of what anybody else chose and of what they chose
themselves when they saw it before. Δ_q is not known, but something is known of it:

- gold: the right answer is, so that σ(Δ_q) is 1 or 0;
- r̂ fitted without the answer expects d_q, and Δ_q ~ N(κ·d_q, s²): how far r̂ can be trusted is estimated too;
- of any other pair, Δ_q ~ N(0, s²), which tells something as soon as a pair is answered twice: by two annotators
  (overlap; Dawid and Skene 1979, with pairs that are more or less clear in place of two kinds) or by one (a repeat).

ε is not the share of wrong answers: whoever answers at random is right half the time, so of clear pairs ε/2 are wrong.
What B-Pref calls a mistake of 0.1 is an ε of 0.2; the halving is done here and nowhere else.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64, Shaped

PRIOR = (1.2, 2.8)
"""Beta prior of every ε: its mode is the paper's 10 %, and it weighs as much as two answers of which one sees whether
they were random. With a weight of five, estimates of those who err more often stay too low (docs/log.md)."""
NODES = 31
"""Points at which the integral over Δ_q is taken, equally likely under the normal distribution."""
SPREAD = (5.0, 1.5)
"""Prior of s: its median, and the deviation of its logarithm. Clear pairs differ by a few of the units of eq. 1."""
TRUST = (1.0, 0.5)
"""Prior of κ: its median, 1, is an r̂ that is as sure as it should be; and the deviation of its logarithm."""
SUREST = 8.0
"""d_q is cut to ±8: beyond, σ is 1 for any purpose."""
CERTAIN = 60.0
"""Δ_q of a gold pair, where the derivative of σ is 0."""
LIMIT = 9.0
"""Bound of each parameter, a logit or a logarithm."""
DROP = 1.92
"""Half of the 95 % quantile of χ² with one degree of freedom: how far the log likelihood falls in an interval."""

Vector = np.ndarray[tuple[int], np.dtype[np.float64]]


@dataclass(frozen=True)
class Evidence:
    """n answers that chose a side; ties and "can't tell" say nothing about ε."""

    annotators: Shaped[np.ndarray, " n"]
    """Their names."""
    queries: Int64[np.ndarray, " n"]
    left: Bool[np.ndarray, " n"]
    """Whether the query's left segment was chosen, wherever it was shown."""
    expected: Float64[np.ndarray, " n"]
    """Δ of the query: as r̂ expected it without knowing the answer; ±inf where the right answer is known; NaN where
    nothing is. All answers to one query carry the same."""

    def __len__(self) -> int:
        return len(self.queries)


@dataclass(frozen=True)
class ErrorRate:
    """The estimate of one annotator's ε."""

    value: float
    """The most likely ε, the prior considered."""
    of: int
    """How many answers tell something about it."""
    low: float | None = None
    """Ends of the 95 % interval: what the profile of the likelihood does not rule out."""
    high: float | None = None


def expected_difference(p_left: float, error_rate: float) -> float:
    """The Δ behind a prediction P̂ = (1-ε)·σ(Δ) + ε/2: what has the error in it already must not get it twice."""
    sigma = (p_left - error_rate / 2) / (1 - error_rate)
    sigma = min(max(sigma, 1 / (1 + np.exp(SUREST))), 1 / (1 + np.exp(-SUREST)))
    return float(np.log(sigma) - np.log1p(-sigma))


def most_likely(evidence: Evidence) -> dict[str, ErrorRate]:
    """The ε, without interval, of every annotator of whom anything is known."""
    problem = _Problem(evidence)
    best, _ = problem.best(problem.start(), problem.all_free())
    return {name: ErrorRate(rate, of) for name, rate, of in problem.rates(best)}


def with_intervals(evidence: Evidence) -> dict[str, ErrorRate]:
    """The same with intervals, which takes some thirty times as long."""
    problem = _Problem(evidence)
    best, lowest = problem.best(problem.start(), problem.all_free())
    return {
        name: ErrorRate(rate, of, problem.end(best, lowest, i, -0.5), problem.end(best, lowest, i, 0.5))
        for i, (name, rate, of) in enumerate(problem.rates(best))
    }


class _Problem:
    """The logarithm of likelihood times priors, as a function of logit ε of each annotator, log s and log κ."""

    def __init__(self, evidence: Evidence) -> None:
        _, query, times = np.unique(evidence.queries, return_inverse=True, return_counts=True)
        # A pair of which nothing is known, answered once, has the likelihood ½ whatever the parameters.
        kept = np.flatnonzero((times[query] > 1) | ~np.isnan(evidence.expected))
        kept = kept[np.argsort(query[kept], kind="stable")]
        names, self.annotators, counts = np.unique(evidence.annotators[kept], return_inverse=True, return_counts=True)
        self.names: list[str] = names.tolist()
        self.counts: list[int] = counts.tolist()
        self.sign = np.where(evidence.left[kept], 1.0, -1.0)
        self.starts = np.flatnonzero(np.diff(query[kept], prepend=-1))
        self.query = np.cumsum(np.diff(query[kept], prepend=-1) != 0) - 1
        expected = evidence.expected[kept][self.starts]
        self.certain = np.isinf(expected)
        self.truth = np.where(self.certain, np.copysign(CERTAIN, expected), 0.0)
        self.expected = np.where(self.certain | np.isnan(expected), 0.0, np.clip(expected, -SUREST, SUREST))
        from scipy.special import ndtri  # it takes as long to load as all else that the page needs

        self.nodes = ndtri((np.arange(NODES) + 0.5) / NODES)

    def start(self) -> Float64[np.ndarray, " p"]:
        """The modes of the priors."""
        mode = (PRIOR[0] - 1) / (PRIOR[0] + PRIOR[1] - 2)
        rates = np.full(len(self.names), np.log(mode / (1 - mode)))
        return np.concatenate([rates, np.log([SPREAD[0], TRUST[0]])])

    def all_free(self) -> Bool[np.ndarray, " p"]:
        """All parameters may move."""
        return np.ones(len(self.names) + 2, np.bool_)

    def rates(self, parameters: Float64[np.ndarray, " p"]) -> list[tuple[str, float, int]]:
        """Of each annotator the name, ε, and how many answers tell about it."""
        rates: list[float] = (1 / (1 + np.exp(-parameters[: len(self.names)]))).tolist()
        return list(zip(self.names, rates, self.counts, strict=True))

    def __call__(self, parameters: Float64[np.ndarray, " p"]) -> tuple[float, Float64[np.ndarray, " p"]]:
        """Minus the logarithm, and its gradient."""
        a = len(self.names)
        rates, (spread, trust) = 1 / (1 + np.exp(-parameters[:a])), np.exp(parameters[a:])
        value, gradient = self._priors(parameters, rates)
        if len(self.sign) == 0:
            return -value, -gradient
        difference = (trust * self.expected)[:, None] + spread * self.nodes
        difference = np.where(self.certain[:, None], self.truth[:, None], difference)
        rate, sign = rates[self.annotators][:, None], self.sign[:, None]
        chosen = 0.5 * (1 + np.tanh(0.5 * sign * difference[self.query]))  # σ, of the side that was chosen
        p = (1 - rate) * chosen + rate / 2
        joint = np.add.reduceat(np.log(p), self.starts, axis=0)  # of all answers to a query, at each Δ
        highest = joint.max(1, keepdims=True)
        weight = np.exp(joint - highest)
        total = weight.sum(1, keepdims=True)
        weight /= total
        value += float((highest + np.log(total / NODES)).sum())
        by_rate = (weight[self.query] * (0.5 - chosen) / p).sum(1)
        gradient[:a] += np.bincount(self.annotators, by_rate, a) * rates * (1 - rates)
        by_difference = weight * np.add.reduceat(sign * (1 - rate) * chosen * (1 - chosen) / p, self.starts, axis=0)
        by_difference[self.certain] = 0
        gradient[a] += spread * float((by_difference * self.nodes).sum())
        gradient[a + 1] += trust * float((by_difference.sum(1) * self.expected).sum())
        return -value, -gradient

    def _priors(
        self, parameters: Float64[np.ndarray, " p"], rates: Float64[np.ndarray, " a"]
    ) -> tuple[float, Float64[np.ndarray, " p"]]:
        a = len(self.names)
        more, less = PRIOR[0] - 1, PRIOR[1] - 1
        medians, deviations = np.log([SPREAD[0], TRUST[0]]), np.array([SPREAD[1], TRUST[1]])
        off = (parameters[a:] - medians) / deviations
        value = float((more * np.log(rates) + less * np.log1p(-rates)).sum() - 0.5 * (off**2).sum())
        return value, np.concatenate([more * (1 - rates) - less * rates, -off / deviations])

    def best(
        self, start: Float64[np.ndarray, " p"], free: Bool[np.ndarray, " p"]
    ) -> tuple[Float64[np.ndarray, " p"], float]:
        """The parameters that are most likely, those that are not free held where they are; and minus the logarithm."""
        from scipy.optimize import minimize  # the page, which loads this file, has to start at once

        def objective(moved: Vector) -> tuple[float, Vector]:
            everything = start.copy()
            everything[free] = moved
            value, gradient = self(everything)
            return value, gradient[free]

        bounds = [(-LIMIT, LIMIT)] * int(free.sum())
        found = minimize(
            objective,
            start[free],
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            options={"ftol": 1e-7, "gtol": 0.01},
        )
        parameters = start.copy()
        parameters[free] = found.x
        return parameters, float(found.fun)

    def end(self, best: Float64[np.ndarray, " p"], lowest: float, annotator: int, step: float) -> float:
        """Where the profile of an annotator's ε has fallen by `DROP`, sought from the best in steps that grow."""
        from scipy.optimize import brentq

        free = np.arange(len(best)) != annotator
        last = best

        def fallen(logit: float) -> float:
            nonlocal last
            last, value = self.best(np.where(free, last, logit), free)
            return value - lowest - DROP

        inside, outside = best[annotator], best[annotator] + step
        while abs(outside) < LIMIT and fallen(outside) < 0:
            inside, outside = outside, outside + 2 * (outside - inside)
        if abs(outside) >= LIMIT:
            return float(step > 0)
        return float(1 / (1 + np.exp(-brentq(fallen, inside, outside, xtol=0.05))))
