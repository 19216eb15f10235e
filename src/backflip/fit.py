"""Fitting r̂ to comparisons: eq. 1 with the 10 % error, bagging, and ℓ2 that adapts itself. §2.2.3"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from backflip.adam import Adam
from backflip.error_rates import Evidence
from backflip.errors import must_be_one_of, plain_numbers
from backflip.files import load_arrays, save_arrays
from backflip.preferences import ERROR_RATE, Changes, Comparisons, apply_changes
from backflip.reward import RewardEnsemble, probability_left

SMALLEST_L2, LARGEST_L2 = 1e-7, 1e1
"""ℓ2 stays between these: at 1.001 a step it would else leave the range of numbers on easy or hopeless data."""
SMALLEST_ERROR_RATE = 1e-3
"""Nobody is taken to be surer than this: eq. 1 would have an infinite loss where they err."""
COMPARISONS_AT_ONCE = 64
"""So many are read at a time for the statistics of the inputs."""
ErrorRates = Literal["flat", "annotator"]
POISSON_CDF = np.cumsum(np.exp(-1.0) / np.cumprod([1, *range(1, 12)]))


@dataclass(frozen=True)
class FitConfig:
    """How r̂ is fitted."""

    error_rate: float = ERROR_RATE
    """Probability that the person answers at random (§2.2.3)."""
    error_rates: ErrorRates = "flat"
    """That one for everybody, or each annotator's own, estimated before each fit (`error_rates.most_likely`)."""
    learning_rate: float = 1e-3
    """Adam's step size (rl-teacher, imitation)."""
    batch: int = 16
    """Comparisons in a minibatch. Three members on 16 pairs of 30 steps fit a core's cache, which makes a pair
    1.7 times cheaper than in minibatches of 32 or 64, and ℓ2 moves once a minibatch (docs/log.md)."""
    batch_steps: int = 480
    """A minibatch of longer segments holds fewer: about so many steps a side, but at least 8 comparisons."""
    first_steps: int = 500
    """Minibatches of the first fit, on the labels from the untrained policy."""
    steps: int = 100
    """Minibatches of each later fit, which starts from the weights of the one before."""
    steps_per_comparison: int | None = None
    """At most so many in a later fit for each comparison that is new, if that is said: where there are few comparisons,
    more only make r̂ surer of those (docs/log.md)."""
    l2: float = 1e-4
    """ℓ2 coefficient at the start (Ibarz 2018, A.3)."""
    largest_l2: float = LARGEST_L2
    """ℓ2 never goes above it. With few comparisons the validation loss stays high whatever ℓ2 is, and an ℓ2 without a
    bound makes r̂ the same everywhere."""
    l2_rate: float = 1.001
    """Factor by which it moves in a minibatch (Ibarz 2018, A.3)."""
    band: tuple[float, float] = (1.1, 1.5)
    """Validation loss over training loss is held between these (§2.2.3)."""
    shortest_crop: float = 1.0
    """In each minibatch only a stretch of every segment counts, this share of it or more (Park et al. 2022, SURF)."""
    memory: float = 0.99
    """Weight of the past in the running losses that the band is compared with."""

    def __post_init__(self) -> None:
        plain_numbers(self)
        if not 0 <= self.error_rate < 1:
            raise ValueError(f"error_rate is {self.error_rate}; it is a probability, and below 1")
        must_be_one_of(ErrorRates, error_rates=self.error_rates)
        for name in ("first_steps", "steps", "steps_per_comparison"):
            if (minibatches := getattr(self, name)) is not None and minibatches < 1:
                raise ValueError(f"{name} is {minibatches}; a fit has at least 1 minibatch")
        if not 0 <= self.l2 <= self.largest_l2:
            raise ValueError(f"l2 is {self.l2}; it lies between 0 and largest_l2, {self.largest_l2}")
        if not 0 < self.shortest_crop <= 1:
            raise ValueError(
                f"shortest_crop is {self.shortest_crop}; it is a share of a segment, above 0 and at most 1"
            )
        if not 1 <= self.band[0] <= self.band[1]:
            raise ValueError(f"band is {self.band}; it is two numbers from 1 on, the lower first")


def comparison_loss(
    returns_left: Float[Tensor, "m n"],
    returns_right: Float[Tensor, "m n"],
    mu: Float[Tensor, " n"],
    error_rate: float | Float[Tensor, " n"],
) -> Float[Tensor, "m n"]:
    """Cross-entropy in nats of each comparison for each member (eq. 1 and the loss below it, §2.2.3).

    -µ·log P̂ - (1-µ)·log(1-P̂), with P̂ = (1-ε)·σ(left - right) + ε/2. One ε, or one above 0 for each comparison.
    """
    if not isinstance(error_rate, Tensor) and error_rate == 0:  # a plain log would be infinite where σ rounds to 0
        difference = returns_left - returns_right
        return -mu * torch.nn.functional.logsigmoid(difference) - (1 - mu) * torch.nn.functional.logsigmoid(-difference)
    left = probability_left(returns_left, returns_right, error_rate)
    right = probability_left(returns_right, returns_left, error_rate)
    return -mu * torch.log(left) - (1 - mu) * torch.log(right)


def bootstrap_counts(query_ids: Int64[np.ndarray, " n"], members: int, seed: int) -> Int64[np.ndarray, "m n"]:
    """How often each comparison is in each member's bootstrap: Poisson(1), drawn from a hash of seed, member and query.

    The paper draws |D| triples with replacement for each member and validates on the 1/e left out (§2.2.3). Exactly
    1/e of a Poisson(1) is 0, it needs no state, and a comparison never changes sides as D grows.
    """
    keys = (query_ids.astype(np.uint64)[None, :] << np.uint64(8)) + np.arange(members, dtype=np.uint64)[:, None]
    mixed = _scramble(keys ^ _scramble(np.array([[seed % 2**63 + 1]], np.uint64)))
    uniform = (mixed >> np.uint64(11)).astype(np.float64) / 2.0**53
    counts: Int64[np.ndarray, "m n"] = np.searchsorted(POISSON_CDF, uniform, side="right").astype(np.int64)
    return counts


def _scramble(x: Any) -> Any:
    """The finaliser of splitmix64: neighbours in, unrelated 64-bit numbers out."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def crop_masks(rng: np.random.Generator, comparisons: int, steps: int, shortest: float) -> Float32[np.ndarray, "b 2 k"]:
    """Stretches of segments: one length for both sides of a comparison, a start for each (Park et al. 2022, SURF)."""
    length = rng.integers(max(1, round(shortest * steps)), steps + 1, (comparisons, 1, 1))
    start = rng.integers(0, steps - length + 1, (comparisons, 2, 1))
    step = np.arange(steps)
    masks: Float32[np.ndarray, "b 2 k"] = ((step >= start) & (step < start + length)).astype(np.float32)
    return masks


def adjust_l2(
    l2: Float[Tensor, " m"],
    train_loss: Float[Tensor, " m"],
    validation_loss: Float[Tensor, " m"],
    band: tuple[float, float] = (1.1, 1.5),
    rate: float = 1.001,
    largest: float = LARGEST_L2,
) -> Float[Tensor, " m"]:
    """ℓ2 a little up where validation loss is above the band times training loss, a little down where below (§2.2.3).

    Both losses are mean nats per comparison. A member without validation data (NaN) keeps its ℓ2.
    """
    up = validation_loss > band[1] * train_loss
    down = validation_loss < band[0] * train_loss
    moved = torch.where(up, l2 * rate, torch.where(down, l2 / rate, l2))
    return moved.clamp(SMALLEST_L2, max(SMALLEST_L2, largest))


@dataclass(frozen=True)
class Table:
    """D, and what the fit makes of each comparison, as tensors."""

    data: Comparisons
    mask: Float[Tensor, "n 2 k"]
    mu: Float[Tensor, " n"]
    train: Float[Tensor, "m n"]
    """How much each comparison weighs in each member's bootstrap."""
    held_out: Float[Tensor, "m n"]
    """How much it weighs in its validation: one or the other is 0."""
    error_rate: float | Float[Tensor, " n"]
    """ε of all, or of whoever answered."""


class Fitter:
    """Fits an ensemble to D as D grows: weights, Adam's moments, ℓ2 and running losses go on from fit to fit."""

    def __init__(self, ensemble: RewardEnsemble, config: FitConfig | None = None, seed: int = 0) -> None:
        self.ensemble = ensemble
        self.config = config or FitConfig()
        self.seed = seed
        self.data: Comparisons | None = None
        self.last_event = 0
        self.fits = 0
        self.seconds = 0.0
        self._fitted_to = 0
        self._prepare()

    def _prepare(self) -> None:
        members = self.ensemble.members
        self.l2 = torch.full((members,), self.config.l2)
        # Rows: loss on the bootstrap, loss on what it leaves out, right orderings there; columns: sum and weight.
        self.running = torch.zeros(3, 2, members, dtype=torch.float64)
        for parameter in self.ensemble.parameters:
            parameter.requires_grad_(True)
        self.adam = Adam(self.ensemble.parameters, self.config.learning_rate)

    def absorb(self, changes: Changes) -> bool:
        """Take the newest answers into D; return whether D is different now."""
        self.last_event = changes.last
        if len(changes.touched) == 0:
            return False
        self.data = apply_changes(self.data, changes)
        return True

    def fit(self, error_rates: Mapping[str, float] | None = None) -> bool:
        """One fit: many minibatches the first time, a few from then on. False while there is nothing to learn from.

        Args:
            error_rates: ε by the teacher's name; whoever is not in it has the flat one.
        """
        if self.data is None or not (self.data.weight > 0).any():
            return False
        started = time.perf_counter()
        self._standardise(self.data)
        table = self._tabulated(self.data, error_rates)
        rng = np.random.default_rng([self.seed, self.fits])
        steps = self._steps(self.data)
        n, _, k = table.mask.shape
        size = min(n, self.config.batch, max(8, self.config.batch_steps // k))
        order = np.concatenate([rng.permutation(n) for _ in range(-(-steps * size // n))])
        for step in range(steps):
            chosen = torch.from_numpy(order[step * size : (step + 1) * size])
            mask = table.mask[chosen]
            if self.config.shortest_crop < 1:
                crops = torch.from_numpy(crop_masks(rng, size, k, self.config.shortest_crop))
                whole = mask.amin((1, 2), keepdim=True)  # an episode shorter than a segment counts as it is
                mask = torch.where(whole > 0, crops, mask)
            self._learn(table, chosen, mask)
        self.fits += 1
        self.seconds = time.perf_counter() - started
        return True

    def _steps(self, data: Comparisons) -> int:
        """Minibatches of this fit."""
        each, new, self._fitted_to = self.config.steps_per_comparison, len(data) - self._fitted_to, len(data)
        if self.fits == 0:
            return self.config.first_steps
        return self.config.steps if each is None else min(self.config.steps, each * max(1, new))

    def _standardise(self, data: Comparisons) -> None:
        """Inputs are standardised on all behaviour in D: what a policy does soon differs a lot from what it began with.

        Weights and Adam's moments change along, so that neither r̂ nor the next step notices.
        """
        counts = np.flatnonzero(data.weight > 0)
        counted = (
            side.observations[some][side.mask()[some] > 0]
            for side in (data.left, data.right)
            for some in np.array_split(counts, -(-len(counts) // COMPARISONS_AT_ONCE))
        )
        if self.fits == 0:
            self.ensemble.standardise_inputs(counted)
            return
        scale = self.ensemble.restandardise_inputs(counted)[:, None]
        seen = slice(0, len(scale))
        self.adam.means[0][:, seen] /= scale
        self.adam.squares[0][:, seen] /= scale**2

    def evidence(self) -> Evidence:
        """What D tells about error rates: of each decided comparison the difference that r̂ expects.

        It is the mean over the members whose bootstrap leaves the comparison out, and NaN before the first fit.
        """
        data = self.data
        decided = np.zeros(0, np.int64) if data is None else np.flatnonzero((data.mu != 0.5) & (data.weight > 0))
        if data is None or data.teachers is None or len(decided) == 0:
            nothing = np.zeros(0)
            return Evidence(nothing.astype(np.str_), nothing.astype(np.int64), nothing.astype(np.bool_), nothing)
        data = data[decided]
        assert data.teachers is not None
        expected: Float64[np.ndarray, " n"] = np.full(len(data), np.nan)
        if self.fits > 0:
            left, right = (
                self.ensemble.segment_returns(side.observations, side.actions, side.mask()).astype(np.float64)
                for side in (data.left, data.right)
            )
            held_out = bootstrap_counts(data.query_ids, self.ensemble.members, self.seed) == 0
            judges = held_out.sum(0)
            total = ((left - right) * held_out).sum(0)
            expected = np.where(judges > 0, total / np.maximum(judges, 1), np.nan)
        return Evidence(data.teachers, data.query_ids, data.mu > 0.5, expected)

    def _tabulated(self, data: Comparisons, error_rates: Mapping[str, float] | None = None) -> Table:
        """What stays as it is during a fit, made once: every bootstrap and every ε.

        Not what r̂ reads, which would be D a second time, and four times as large where observations are frames.
        """
        masks = [torch.from_numpy(side.mask()) for side in (data.left, data.right)]
        counts = torch.from_numpy(bootstrap_counts(data.query_ids, self.ensemble.members, self.seed))
        weight = torch.from_numpy(data.weight)
        return Table(
            data=data,
            mask=torch.stack(masks, 1),
            mu=torch.from_numpy(data.mu),
            train=counts * weight,
            held_out=(counts == 0) * weight,
            error_rate=self._error_rate(data, error_rates),
        )

    def _features(self, data: Comparisons, chosen: Int64[np.ndarray, " b"]) -> Float[Tensor, "b 2 k i"]:
        """What r̂ reads of some comparisons."""
        sides = [
            self.ensemble.features(side.observations[chosen], side.actions[chosen]).reshape(
                len(chosen), side.true_rewards.shape[1], -1
            )
            for side in (data.left, data.right)
        ]
        return torch.stack(sides, 1)

    def _error_rate(self, data: Comparisons, error_rates: Mapping[str, float] | None) -> float | Float[Tensor, " n"]:
        if data.teachers is None or not error_rates:
            return self.config.error_rate
        each = [error_rates.get(teacher, self.config.error_rate) for teacher in data.teachers.tolist()]
        return torch.tensor(each).clamp(SMALLEST_ERROR_RATE, 1)

    def _learn(self, table: Table, chosen: Int64[Tensor, " b"], mask: Float[Tensor, "b 2 k"]) -> None:
        """One minibatch for all members: each learns from its bootstrap and is validated on what that leaves out."""
        features, mu = self._features(table.data, chosen.numpy()), table.mu[chosen]
        train, held_out = table.train[:, chosen], table.held_out[:, chosen]
        outputs = self.ensemble.forward(features.flatten(0, 2)).reshape(-1, *features.shape[:3])
        left, right = (outputs * mask).sum(-1).unbind(-1)
        rate = table.error_rate
        losses = comparison_loss(left, right, mu, rate[chosen] if isinstance(rate, Tensor) else rate)
        loss = ((losses * train).sum(1) / train.sum(1).clamp_min(1e-9)).sum()
        gradients = torch.autograd.grad(loss, self.ensemble.parameters)
        self._add_l2(gradients)
        self.adam.step(gradients)
        with torch.no_grad():
            decided = held_out * (mu != 0.5)
            right_order = ((left > right) == (mu > 0.5)).float()
            sums = torch.stack([losses * train, losses * held_out, right_order * decided]).sum(-1)
            weights = torch.stack([train, held_out, decided]).sum(-1)
            self.running.mul_(self.config.memory).add_(torch.stack([sums, weights], 1))
            train_loss, validation_loss, _ = self._means()
            c = self.config
            self.l2 = adjust_l2(self.l2, train_loss, validation_loss, c.band, c.l2_rate, c.largest_l2)

    def _add_l2(self, gradients: Sequence[Tensor]) -> None:
        """The gradient of l2·|W|² of each member's weights; biases are free."""
        for weights, gradient in zip(self.ensemble.parameters[::2], gradients[::2], strict=True):
            gradient.add_(weights.detach() * (2 * self.l2[:, None, None]))

    def _means(self) -> list[Tensor]:
        """Running means; NaN where there was no weight."""
        sums, weights = self.running[:, 0], self.running[:, 1]
        return list(torch.where(weights > 1e-6, sums / weights, torch.nan).float())

    def report(self) -> dict[str, float]:
        """The measurements of the newest fit (docs/metrics.md)."""
        train, validation, accuracy = self._means()
        values = {
            "fit/comparisons": float(0 if self.data is None else len(self.data)),
            "fit/train_loss": train.nanmean().item(),
            "fit/validation_loss": validation.nanmean().item(),
            "fit/loss_ratio": (validation / train).nanmean().item(),
            "fit/accuracy": accuracy.nanmean().item(),
            "fit/l2": self.l2.mean().item(),
            "fit/seconds": self.seconds,
        }
        return {name: value for name, value in values.items() if not np.isnan(value)}

    def save(self, directory: Path) -> None:
        """Write everything that the next fit depends on, except D, which the store has."""
        self.ensemble.save(directory / "reward.safetensors")
        arrays = {"l2": self.l2.numpy(), "running": self.running.numpy()}
        arrays |= self.adam.arrays("adam_")
        meta = {"fits": self.fits, "last_event": self.last_event, "fitted_to": self._fitted_to}
        save_arrays(directory / "fitter.safetensors", arrays, meta)

    def load(self, directory: Path, data: Comparisons | None) -> None:
        """Go on from what `save` wrote, with D as it was at that event.

        Raises:
            DamagedFile: a file cannot be read.
        """
        self.ensemble = RewardEnsemble.load(directory / "reward.safetensors")
        arrays, meta = load_arrays(directory / "fitter.safetensors")
        self._prepare()
        self.l2, self.running = torch.from_numpy(arrays["l2"]), torch.from_numpy(arrays["running"])
        self.adam.restore(arrays, "adam_")
        self.fits, self.last_event, self.data = meta["fits"], meta["last_event"], data
        self._fitted_to = meta.get("fitted_to", 0 if data is None else len(data))
