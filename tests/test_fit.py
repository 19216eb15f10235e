"""Fitting r̂: eq. 1 with the 10 % error, bagging, adaptive ℓ2, and that a fit finds the reward behind the answers."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from backflip.error_rates import most_likely
from backflip.fit import (
    LARGEST_L2,
    SMALLEST_ERROR_RATE,
    SMALLEST_L2,
    FitConfig,
    Fitter,
    adjust_l2,
    bootstrap_counts,
    comparison_loss,
    crop_masks,
)
from backflip.preferences import Changes, Comparisons, apply_changes
from backflip.reward import Inputs, RewardConfig, RewardEnsemble
from backflip.segments import Array, Segments

MakeSegments = Callable[..., Segments]

INPUTS = Inputs((3,), 2, discrete=False)
SMALL = RewardConfig(members=2, width=8)
BRIEF = FitConfig(first_steps=20, steps=10)
TRUTH = np.array([1.0, -2.0, 0.5, 1.5, -0.5])
"""What the linear oracle pays for each number of (o, a)."""


def _compared(make_segments: MakeSegments, n: int, seed: int = 0, first: int = 1, steps: int = 6) -> Comparisons:
    """n queries about fresh segments, numbered from `first`, answered by the linear oracle."""
    left, right = make_segments(n, steps, seed=2 * seed), make_segments(n, steps, seed=2 * seed + 1)
    return Comparisons(
        query_ids=np.arange(first, first + n),
        left=left,
        right=right,
        mu=(_truth(left) > _truth(right)).astype(np.float32),
        weight=np.ones(n, np.float32),
    )


def _truth(segments: Segments) -> Array:
    steps: Array = np.concatenate([segments.observations, segments.actions], -1) @ TRUTH
    returns: Array = (steps * segments.mask()).sum(1)
    return returns


def _predicted(fitter: Fitter, segments: Segments) -> Array:
    returns = fitter.ensemble.segment_returns(segments.observations, segments.actions, segments.mask())
    mean: Array = (returns / returns.std(1, keepdims=True)).mean(0)
    return mean


def _spearman(fitter: Fitter, segments: Segments) -> float:
    return float(stats.spearmanr(_predicted(fitter, segments), _truth(segments)).statistic)


def _fitter(
    data: Comparisons | None, config: FitConfig = BRIEF, ensemble: RewardConfig = SMALL, seed: int = 0
) -> Fitter:
    fitter = Fitter(RewardEnsemble(INPUTS, ensemble, seed), config, seed)
    fitter.data = data
    return fitter


def _weights(fitter: Fitter) -> list[Array]:
    return [leaf.detach().numpy().copy() for leaf in fitter.ensemble.parameters]


def _same(one: Fitter, other: Fitter) -> bool:
    return all(a.tobytes() == b.tobytes() for a, b in zip(_weights(one), _weights(other), strict=True))


def _loss(difference: float, mu: float, error_rate: float = 0.1) -> float:
    left, right = torch.tensor([[difference]]), torch.tensor([[0.0]])
    return comparison_loss(left, right, torch.tensor([mu]), error_rate).item()


# ---- the loss


def test_loss_of_a_sure_and_right_answer_is_minus_log_095() -> None:
    assert _loss(1e4, 1.0) == pytest.approx(-np.log(0.95), rel=1e-6)
    assert _loss(-1e4, 0.0) == pytest.approx(-np.log(0.95), rel=1e-6)


def test_loss_of_a_sure_and_wrong_answer_is_minus_log_005() -> None:
    assert _loss(-1e4, 1.0) == pytest.approx(-np.log(0.05), rel=1e-6)
    assert _loss(1e4, 0.0) == pytest.approx(-np.log(0.05), rel=1e-6)


@pytest.mark.parametrize("error_rate", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("mu", [0.0, 0.5, 1.0])
def test_loss_at_equal_returns_is_log_2_whatever_the_answer(mu: float, error_rate: float) -> None:
    assert _loss(0.0, mu, error_rate) == pytest.approx(np.log(2), rel=1e-6)


def test_loss_of_a_tie_between_unequal_returns_is_the_mean_of_both_answers() -> None:
    # P̂ = 0.9·σ(log 3) + 0.05 = 0.725, so that -½·log 0.725 - ½·log 0.275 = 0.80629.
    assert _loss(np.log(3), 0.5) == pytest.approx(0.80629, abs=1e-5)


@pytest.mark.parametrize("error_rate", [0.0, 0.1])
def test_loss_and_gradient_are_finite_at_huge_margins(error_rate: float) -> None:
    left = torch.tensor([[1e4, -1e4, 1e4, -1e4, 1e4, -1e4]], requires_grad=True)
    mu = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.5, 0.5])
    losses = comparison_loss(left, torch.zeros(1, 6), mu, error_rate)
    (gradient,) = torch.autograd.grad(losses.sum(), left)
    assert torch.isfinite(losses).all()
    assert torch.isfinite(gradient).all()
    if error_rate == 0:  # -log σ(Δ) is 0 where right and |Δ| where wrong; its slope is 0, or 1 towards the right side
        np.testing.assert_allclose(losses[0].detach(), [0, 1e4, 1e4, 0, 5e3, 5e3], rtol=1e-6)
        np.testing.assert_allclose(gradient[0], [0, -1, 1, 0, 0.5, -0.5], rtol=1e-6)
    else:  # somebody who answers at random sometimes can explain anything: no pull at all
        np.testing.assert_allclose(gradient[0], 0, atol=1e-7)


def test_loss_of_nothing_is_nothing() -> None:
    assert comparison_loss(torch.zeros(3, 0), torch.zeros(3, 0), torch.zeros(0), 0.1).shape == (3, 0)


def test_each_comparison_has_its_own_error_rate(make_segments: MakeSegments) -> None:
    left, right = torch.tensor([[2.0, -1.0, 1e4], [0.5, 3.0, -1e4]]), torch.zeros(2, 3)
    mu, rates = torch.tensor([1.0, 0.0, 0.0]), [0.1, 0.4, 1.0]
    together = comparison_loss(left, right, mu, torch.tensor(rates))
    for i, rate in enumerate(rates):
        each = slice(i, i + 1)
        torch.testing.assert_close(together[:, each], comparison_loss(left[:, each], right[:, each], mu[each], rate))
    # Sure and wrong with ε = 1: a coin, -log ½. Sure and wrong with ε = 0.4 would be -log 0.2.
    assert together[0, 2].item() == pytest.approx(np.log(2))
    assert comparison_loss(left[:, 2:], right[:, 2:], mu[2:], torch.tensor([0.4]))[0, 0].item() == pytest.approx(
        -np.log(0.2)
    )


# ---- bagging


def test_a_comparison_is_left_out_with_probability_1_over_e_and_counts_1_on_average() -> None:
    counts = bootstrap_counts(np.arange(1, 40_001), 5, seed=0)
    for member in counts:
        # Poisson(1): P(0) = P(1) = 1/e, P(2) = 1/(2e), mean 1, variance 1. Four standard errors at n = 40,000:
        # 4·√(0.368·0.632/n) = 0.0097 for shares, 4·√(1/n) = 0.02 for the mean, 4·√(3/n) = 0.035 for the variance.
        for count, share in enumerate([1 / np.e, 1 / np.e, 0.5 / np.e]):
            assert (member == count).mean() == pytest.approx(share, abs=0.0097)
        assert member.mean() == pytest.approx(1, abs=0.02)
        assert member.var() == pytest.approx(1, abs=0.035)


def test_a_comparison_keeps_its_side_however_d_is_ordered_and_grows() -> None:
    ids = np.random.default_rng(0).permutation(5000)[:300].astype(np.int64)
    all_at_once = bootstrap_counts(ids, 3, seed=4)
    order = np.random.default_rng(1).permutation(300)
    np.testing.assert_array_equal(bootstrap_counts(ids[order], 3, seed=4), all_at_once[:, order])
    np.testing.assert_array_equal(bootstrap_counts(ids[:10], 3, seed=4), all_at_once[:, :10])
    np.testing.assert_array_equal(bootstrap_counts(ids, 2, seed=4), all_at_once[:2])
    assert bootstrap_counts(ids[:0], 3, seed=4).shape == (3, 0)


def test_members_seeds_and_neighbours_have_unrelated_bootstraps() -> None:
    ids = np.arange(1, 10_001)
    rows = [
        *bootstrap_counts(ids, 3, seed=0),
        *bootstrap_counts(ids, 3, seed=1),
        bootstrap_counts(ids + 1, 1, seed=0)[0],
    ]
    for one, other in itertools.combinations(rows, 2):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.04  # four standard errors: 4/√10,000


def test_nothing_is_learned_from_and_validated_on_by_the_same_member(make_segments: MakeSegments) -> None:
    fitter = _fitter(_compared(make_segments, 200))
    assert fitter.data is not None
    table = fitter._tabulated(fitter.data)
    assert (table.train * table.held_out == 0).all()
    assert ((table.train > 0) | (table.held_out > 0)).all()
    assert table.held_out.mean() == pytest.approx(1 / np.e, abs=0.1)


# ---- ℓ2


def test_l2_goes_up_above_the_band_down_below_and_stays_within() -> None:
    train = torch.full((5,), 0.4)
    validation = torch.tensor([1.6, 1.49, 1.3, 1.11, 1.0]) * 0.4
    moved = adjust_l2(torch.full((5,), 1e-3), train, validation)
    np.testing.assert_allclose(moved, [1.001e-3, 1e-3, 1e-3, 1e-3, 1e-3 / 1.001], rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_l2_looks_at_the_ratio_of_the_losses_and_not_at_their_size(scale: float) -> None:
    moved = adjust_l2(torch.ones(2), torch.tensor([scale, scale]), torch.tensor([2 * scale, scale]), rate=2.0)
    np.testing.assert_allclose(moved, [2, 0.5])


def test_l2_without_validation_or_training_data_stays() -> None:
    nan = float("nan")
    moved = adjust_l2(torch.tensor([1e-3, 2e-3]), torch.tensor([0.5, nan]), torch.tensor([nan, 0.5]))
    np.testing.assert_allclose(moved, [1e-3, 2e-3])


def test_l2_stays_in_the_range_of_numbers() -> None:
    l2 = torch.tensor([SMALLEST_L2, LARGEST_L2])
    moved = adjust_l2(l2, torch.tensor([1.0, 1.0]), torch.tensor([1.0, 9.0]))
    np.testing.assert_allclose(moved, l2)
    further = adjust_l2(l2, torch.tensor([1.0, 1.0]), torch.tensor([1.0, 9.0]), rate=2.0, largest=15.0)
    np.testing.assert_allclose(further, [SMALLEST_L2, 15.0])


def test_l2_pulls_each_members_weights_by_its_own_coefficient_and_no_bias() -> None:
    fitter = _fitter(None)
    fitter.l2 = torch.tensor([0.5, 3.0])
    gradients = [torch.zeros_like(leaf) for leaf in fitter.ensemble.parameters]
    fitter._add_l2(gradients)
    for leaf, weights, biases in zip(fitter.ensemble.parameters[::2], gradients[::2], gradients[1::2], strict=True):
        # d/dW of l2·|W|² is 2·l2·W: 1·W for the first member, 6·W for the second.
        np.testing.assert_allclose(weights[0], leaf[0].detach(), rtol=1e-6)
        np.testing.assert_allclose(weights[1], 6 * leaf[1].detach(), rtol=1e-6)
        assert (biases == 0).all()


@pytest.mark.slow
def test_strong_l2_makes_weights_small(make_segments: MakeSegments) -> None:
    free, pulled = (
        _fitter(_compared(make_segments, 40), FitConfig(first_steps=400, l2=l2, l2_rate=1.0)) for l2 in (1e-6, 1.0)
    )
    assert free.fit()
    assert pulled.fit()
    norms = [sum(float((w**2).sum()) for w in _weights(fitter)[::2]) for fitter in (free, pulled)]
    assert norms[1] < 0.1 * norms[0]


def test_on_noisy_answers_l2_moves_the_ratio_towards_the_band(make_segments: MakeSegments) -> None:
    data = _compared(make_segments, 60)
    wrong = np.random.default_rng(0).random(60) < 0.4
    data = replace(data, mu=np.where(wrong, 1 - data.mu, data.mu))
    many = FitConfig(first_steps=300, l2_rate=1.0, learning_rate=6e-3)
    ensemble = RewardConfig(members=2, width=32)
    fixed, adaptive = _fitter(data, many, ensemble), _fitter(data, replace(many, l2_rate=1.03), ensemble)
    fixed.fit()
    adaptive.fit()
    before, after = fixed.report()["fit/loss_ratio"], adaptive.report()["fit/loss_ratio"]
    assert before > 2  # memorised
    assert after < 1 + 0.6 * (before - 1)
    assert (adaptive.l2 > 10 * fixed.l2).all()


# ---- cropping


def _stretches(masks: Array) -> tuple[Array, Array]:
    """First step and length of each stretch, after seeing that it is one."""
    edges = np.diff(masks, axis=-1, prepend=0, append=0)
    assert ((edges == 1).sum(-1) == 1).all()
    first, after = (edges == 1).argmax(-1), (edges == -1).argmax(-1)
    return first, after - first


def test_both_sides_of_a_comparison_are_cropped_to_one_length_from_starts_of_their_own() -> None:
    masks = crop_masks(np.random.default_rng(0), 2000, 10, 0.5)
    assert masks.shape == (2000, 2, 10)
    assert set(np.unique(masks)) == {0, 1}
    first, length = _stretches(masks)
    np.testing.assert_array_equal(length[:, 0], length[:, 1])
    assert (first + length).max() == 10
    # Lengths of 5 to 10, a sixth each: 333 ± 4·√(2000·1/6·5/6) = ±67.
    lengths, counts = np.unique(length[:, 0], return_counts=True)
    assert lengths.tolist() == [5, 6, 7, 8, 9, 10]
    assert np.abs(counts - 333).max() < 67
    # Stretches of 5 start at 0 to 5, independently: 36 pairs of starts among some 333.
    fives = first[length[:, 0] == 5]
    assert set(np.unique(fives)) == set(range(6))
    assert (fives[:, 0] == fives[:, 1]).mean() == pytest.approx(1 / 6, abs=4 * (5 / 36 / 333) ** 0.5)


def test_comparisons_are_cropped_independently() -> None:
    _, length = _stretches(crop_masks(np.random.default_rng(0), 500, 40, 0.1))
    assert len(np.unique(length)) > 30


@pytest.mark.parametrize(("shortest", "least"), [(0.7, 35), (0.01, 1), (0.0, 1), (0.99, 50)])
def test_no_stretch_is_shorter_than_that_share(shortest: float, least: int) -> None:
    _, length = _stretches(crop_masks(np.random.default_rng(0), 3000, 50, shortest))
    assert length.min() == least
    assert length.max() == 50


def test_a_share_of_1_leaves_everything() -> None:
    assert (crop_masks(np.random.default_rng(0), 30, 7, 1.0) == 1).all()
    assert (crop_masks(np.random.default_rng(0), 30, 1, 0.5) == 1).all()


@pytest.mark.slow
def test_r_hat_recovers_the_reward_from_cropped_segments(make_segments: MakeSegments) -> None:
    data = _compared(make_segments, 300, steps=10)
    cropped, plain = (_fitter(data, replace(BRIEF, shortest_crop=shortest)) for shortest in (0.7, 1.0))
    assert cropped.fit()
    assert plain.fit()
    assert not _same(cropped, plain)
    fitter = _fitter(data, FitConfig(shortest_crop=0.7), RewardConfig())
    assert fitter.fit()
    assert _spearman(fitter, make_segments(300, 10, seed=99)) >= 0.95


def test_a_step_that_is_cropped_away_is_not_learned_from(make_segments: MakeSegments) -> None:
    data = _compared(make_segments, 12)
    other = replace(data, left=replace(data.left, observations=data.left.observations.copy()))
    other.left.observations[:, 4:] += 9
    mask = torch.ones(12, 2, 6)
    mask[:, 0, 4:] = 0
    cropped, changed, whole = _fitter(data), _fitter(other), _fitter(other)
    for fitter, counts in ((cropped, mask), (changed, mask), (whole, torch.ones(12, 2, 6))):
        assert fitter.data is not None
        fitter._learn(fitter._tabulated(fitter.data), torch.arange(12), counts)
    assert _same(cropped, changed)
    assert not _same(cropped, whole)


# ---- what a fit finds


def test_r_hat_recovers_the_reward_behind_the_answers(make_segments: MakeSegments) -> None:
    fitter = _fitter(_compared(make_segments, 300), FitConfig(), RewardConfig())
    fresh = make_segments(300, 6, seed=99)
    assert abs(_spearman(fitter, fresh)) < 0.7  # not by luck of the draw
    assert fitter.fit()
    assert _spearman(fitter, fresh) >= 0.95
    assert fitter.report()["fit/accuracy"] > 0.85


@pytest.mark.slow
def test_r_hat_recovers_the_reward_where_30_percent_of_the_answers_are_flipped(make_segments: MakeSegments) -> None:
    data = _compared(make_segments, 1000)
    wrong = np.random.default_rng(1).random(1000) < 0.3
    fitter = _fitter(replace(data, mu=np.where(wrong, 1 - data.mu, data.mu)), FitConfig(), RewardConfig())
    fitter.fit()
    assert _spearman(fitter, make_segments(300, 6, seed=99)) >= 0.8


def test_all_ties_teach_that_segments_are_equal(make_segments: MakeSegments) -> None:
    data = _compared(make_segments, 100)
    decided, tied = (
        _fitter(replace(data, mu=mu), FitConfig(first_steps=300)) for mu in (data.mu, np.full(100, 0.5, np.float32))
    )
    decided.fit()
    tied.fit()
    fresh = make_segments(100, 6, seed=99)
    spread = [
        float(f.ensemble.segment_returns(fresh.observations, fresh.actions, fresh.mask()).std(1).mean())
        for f in (decided, tied)
    ]
    assert spread[1] < 0.1 * spread[0]
    assert tied.report()["fit/train_loss"] == pytest.approx(np.log(2), abs=0.01)
    assert "fit/accuracy" not in tied.report()  # nothing was decided


def test_discrete_actions_are_learned_from(make_segments: MakeSegments) -> None:
    left, right = make_segments(80, 4, action=(), seed=1), make_segments(80, 4, action=(), seed=2)
    count = [(side.actions == 2).sum(1) for side in (left, right)]
    mu = np.where(count[0] == count[1], 0.5, count[0] > count[1]).astype(np.float32)
    data = Comparisons(np.arange(80), left, right, mu, np.ones(80, np.float32))
    fitter = Fitter(RewardEnsemble(Inputs((3,), 4, discrete=True)))
    fitter.data = data
    fitter.fit()
    paid = fitter.ensemble.raw(np.zeros((4, 3), np.float32), np.arange(4)).mean(0)
    assert int(paid.argmax()) == 2


# ---- who answered


NAMES = {"ana": 0.2, "ben": 0.5, "cem": 0.8}
"""Annotators of 10, 25 and 40 % wrong answers: ε is twice that, since answers at random are right half the time."""


def _told_by_three(make_segments: MakeSegments, queries: int, seed: int) -> Comparisons:
    """Queries to one of three annotators each, a third of them to a second one too."""
    rng = np.random.default_rng(seed)
    who = [rng.permutation(3)[: 1 + (rng.random() < 1 / 3)] for _ in range(queries)]
    data = _compared(make_segments, queries, 1000 + seed)[np.repeat(np.arange(queries), [len(some) for some in who])]
    teachers = np.array(list(NAMES))[np.concatenate(who)]
    at_random = rng.random(len(data)) < np.array([NAMES[name] for name in teachers])
    mu = np.where(at_random, rng.random(len(data)) < 0.5, data.mu > 0.5).astype(np.float32)
    return replace(data, mu=mu, teachers=teachers)


def test_an_annotator_who_always_answers_at_random_is_not_learned_from(make_segments: MakeSegments) -> None:
    data = replace(_compared(make_segments, 20), teachers=np.array(["ana"] * 20))
    fitter = _fitter(data, replace(BRIEF, l2=0.0, l2_rate=1.0))
    before = _weights(fitter)
    table = fitter._tabulated(data, {"ana": 1.0})
    fitter._learn(table, torch.arange(20), table.mask)
    assert fitter.adam.taken[0] == 1
    for mean in fitter.adam.means:  # a tenth of the gradient
        np.testing.assert_allclose(mean, 0, atol=1e-8)
    assert not all(np.array_equal(a, b) for a, b in zip(before, _weights(_fit_flat(data)), strict=True))


def _fit_flat(data: Comparisons) -> Fitter:
    fitter = _fitter(data)
    fitter.fit()
    return fitter


def test_whoever_has_no_rate_of_their_own_has_the_flat_one(make_segments: MakeSegments) -> None:
    data = replace(_compared(make_segments, 4), teachers=np.array(["ana", "ben", "ana", "cem"]))
    fitter = _fitter(data, replace(BRIEF, error_rate=0.3))
    rate = fitter._tabulated(data, {"ana": 0.05, "cem": 0.0}).error_rate
    assert isinstance(rate, torch.Tensor)
    np.testing.assert_allclose(rate, [0.05, 0.3, 0.05, SMALLEST_ERROR_RATE])
    assert fitter._tabulated(data).error_rate == 0.3
    assert fitter._tabulated(replace(data, teachers=None), {"ana": 0.05}).error_rate == 0.3


def test_the_same_rate_for_each_is_the_flat_rate(make_segments: MakeSegments) -> None:
    data = replace(_compared(make_segments, 30), teachers=np.array(["ana", "ben"] * 15))
    flat, each = _fit_flat(data), _fitter(data)
    each.fit({"ana": 0.1, "ben": 0.1})
    for a, b in zip(_weights(flat)[:-1], _weights(each)[:-1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-4)


def test_evidence_is_what_the_members_expect_that_an_answer_was_left_out_for(make_segments: MakeSegments) -> None:
    data = replace(_compared(make_segments, 40), teachers=np.array(["ana", "ben"] * 20))
    data.mu[3], data.weight[5] = 0.5, 0
    fitter = _fitter(data)
    before = fitter.evidence()
    assert np.isnan(before.expected).all()  # nobody has learned anything yet
    fitter.fit()
    found = fitter.evidence()
    kept = np.setdiff1d(np.arange(40), [3, 5])
    np.testing.assert_array_equal(found.queries, data.query_ids[kept])
    np.testing.assert_array_equal(found.left, data.mu[kept] == 1)
    assert found.annotators.tolist() == np.array(["ana", "ben"] * 20)[kept].tolist()
    counts = bootstrap_counts(data.query_ids, 2, 0)[:, kept]
    left, right = (
        fitter.ensemble.segment_returns(side.observations, side.actions, side.mask())
        for side in (data.left, data.right)
    )
    for i, difference in enumerate((left - right)[:, kept].T):
        judges = difference[counts[:, i] == 0]
        assert found.expected[i] == pytest.approx(judges.mean() if len(judges) else np.nan, rel=1e-5, nan_ok=True)
    assert np.isnan(found.expected).any()
    assert not np.isnan(found.expected).all()


def test_without_names_or_data_there_is_no_evidence(make_segments: MakeSegments) -> None:
    assert len(_fitter(None).evidence()) == len(_fitter(_compared(make_segments, 5)).evidence()) == 0


@pytest.mark.slow
def test_r_hat_gets_better_when_each_annotator_has_an_error_rate_of_their_own(make_segments: MakeSegments) -> None:
    """10, 25 and 40 % wrong answers, 600 of them: estimated rates order fresh segments better than the flat 10 %."""
    fresh = make_segments(400, 6, seed=99)
    config = FitConfig(first_steps=300, steps=200, l2=3e-3, largest_l2=3e-2, l2_rate=1.01)
    found: dict[str, list[float]] = {"flat": [], "estimated": [], "known": []}
    for seed in range(4):
        data = _told_by_three(make_segments, 450, seed)
        for arm, spearmans in found.items():
            fitter = _fitter(None, config, RewardConfig(), seed)
            rates = NAMES if arm == "known" else {}
            for part in range(1, 4):
                fitter.data = data[np.arange(len(data) * part // 3)]
                if arm == "estimated":
                    rates = {name: rate.value for name, rate in most_likely(fitter.evidence()).items()}
                fitter.fit(rates)
            spearmans.append(_spearman(fitter, fresh))
    gains = np.array(found["estimated"]) - found["flat"]
    print(found)
    assert gains.mean() > 0.02, found
    assert (gains > 0).sum() >= 3, found
    assert np.mean(found["known"]) > np.mean(found["flat"]) + 0.03, found


# ---- mechanics


def _assert_equal_gradients(*fitters: Fitter) -> None:
    """Two fitters that learn once from all of their data are moved alike."""
    for fitter in fitters:
        assert fitter.data is not None
        table = fitter._tabulated(fitter.data)
        fitter._learn(table, torch.arange(len(fitter.data)), table.mask)
    one, other = (fitter.adam.means for fitter in fitters)  # each is a tenth of the gradient
    for a, b in zip(one, other, strict=True):
        assert not (a == 0).all()
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)


def test_one_minibatch_is_a_step_on_the_mean_and_not_on_the_sum(make_segments: MakeSegments) -> None:
    # Doubling every comparison leaves the mean as it is, and so the gradient; a sum's gradient would double.
    one = _compared(make_segments, 4)
    config = FitConfig(l2=SMALLEST_L2)
    _assert_equal_gradients(_fitter(one, config), _fitter(one.appended(one), config))


def test_a_member_learns_the_same_in_any_ensemble(make_segments: MakeSegments) -> None:
    few, many = (_fitter(_compared(make_segments, 30), ensemble=replace(SMALL, members=members)) for members in (1, 3))
    few.fit()
    many.fit()
    # All but the last bias, which cancels between segments of one length: its gradient is rounding only.
    for a, b in zip(_weights(few)[:-1], _weights(many)[:-1], strict=True):
        np.testing.assert_allclose(a[0], b[0], rtol=1e-2, atol=1e-4)


def test_a_fit_on_nothing_does_nothing(make_segments: MakeSegments) -> None:
    for data in (None, _compared(make_segments, 3)[np.zeros(0, np.int64)]):
        fitter = _fitter(data)
        before = _weights(fitter)
        assert not fitter.fit()
        assert fitter.fits == 0
        for a, b in zip(before, _weights(fitter), strict=True):
            np.testing.assert_array_equal(a, b)
        assert fitter.report()["fit/comparisons"] == 0


@pytest.mark.parametrize("query_id", range(1, 6))  # in some of the bootstraps, and left out of others
def test_a_fit_on_one_comparison_is_finite(make_segments: MakeSegments, query_id: int) -> None:
    fitter = _fitter(_compared(make_segments, 1, first=query_id))
    for _ in range(3):
        assert fitter.fit()
    assert all(np.isfinite(leaf).all() for leaf in _weights(fitter))
    assert all(np.isfinite(value) for value in fitter.report().values())


def test_a_comparison_of_weight_0_has_no_influence(make_segments: MakeSegments) -> None:
    data = _compared(make_segments, 12)
    weight = np.ones(12, np.float32)
    weight[3] = 0
    other = _compared(make_segments, 12, seed=5)
    index = np.arange(12)
    index[3] = 15
    one, two = _fitter(replace(data, weight=weight)), _fitter(None)
    mixed = data.appended(other)[index]
    two.data = replace(mixed, query_ids=data.query_ids, mu=np.where(index == 15, 1 - data.mu, data.mu), weight=weight)
    assert not np.array_equal(two.data.left.observations, data.left.observations)
    one.fit()
    two.fit()
    assert _same(one, two)
    assert not _fitter(replace(data, weight=np.zeros(12, np.float32))).fit()


def test_weight_2_is_that_comparison_twice(make_segments: MakeSegments) -> None:
    data = _compared(make_segments, 6)
    heavy = replace(data, weight=np.array([2, 1, 1, 1, 1, 1], np.float32))
    twice = data[np.array([0, 0, 1, 2, 3, 4, 5])]
    _assert_equal_gradients(_fitter(heavy), _fitter(twice))


def test_padding_of_short_segments_does_not_count(make_segments: MakeSegments) -> None:
    data = _compared(make_segments, 16)
    lengths = np.array([6, 2, 3, 6] * 4)
    fitters = []
    for filling in (0.0, 50.0):
        sides = []
        for side in (replace(data.left, lengths=lengths), replace(data.right, lengths=lengths[::-1].copy())):
            padding = side.mask()[..., None] == 0
            sides.append(
                replace(
                    side,
                    observations=np.where(padding, np.float32(filling), side.observations),
                    actions=np.where(padding, np.float32(filling), side.actions),
                )
            )
        fitters.append(_fitter(replace(data, left=sides[0], right=sides[1])))
        fitters[-1].fit()
    assert _same(*fitters)


def test_inputs_are_standardised_on_all_that_was_compared(make_segments: MakeSegments) -> None:
    fitter = _fitter(_compared(make_segments, 20))
    fitter.fit()
    moved = _compared(make_segments, 20, seed=3, first=21)
    moved = replace(moved, left=replace(moved.left, observations=moved.left.observations + 100))
    assert fitter.absorb(Changes(moved.query_ids, moved, 40))
    fitter.fit()
    assert fitter.data is not None
    seen = np.concatenate([side.observations.reshape(-1, 3) for side in (fitter.data.left, fitter.data.right)])
    np.testing.assert_allclose(fitter.ensemble.input_mean, seen.mean(0), rtol=1e-4)
    np.testing.assert_allclose(fitter.ensemble.input_deviation, seen.std(0), rtol=1e-4)


def test_standardising_anew_changes_neither_the_reward_nor_the_way_of_the_next_step(
    make_segments: MakeSegments,
) -> None:
    fitter = _fitter(_compared(make_segments, 20))
    fitter.fit()
    assert fitter.data is not None
    before = fitter.ensemble.raw(fitter.data.left.observations, fitter.data.left.actions)
    mean, square = fitter.adam.means[0].clone(), fitter.adam.squares[0].clone()
    wider = replace(fitter.data, left=replace(fitter.data.left, observations=3 * fitter.data.left.observations + 1))
    old = fitter.ensemble.input_deviation.clone()
    fitter._standardise(wider)
    scale = (fitter.ensemble.input_deviation / old)[:, None]
    assert (scale > 1.5).all()
    after = fitter.ensemble.raw(fitter.data.left.observations, fitter.data.left.actions)
    np.testing.assert_allclose(after, before, atol=1e-4)
    # An input that is divided by `scale` has gradients that are, too.
    np.testing.assert_allclose(fitter.adam.means[0][:, :3] * scale, mean[:, :3], rtol=1e-4)
    np.testing.assert_allclose(fitter.adam.squares[0][:, :3] * scale**2, square[:, :3], rtol=1e-4)
    np.testing.assert_array_equal(fitter.adam.means[0][:, 3:], mean[:, 3:])


def test_answers_are_taken_in_as_they_come_and_undone_ones_leave(make_segments: MakeSegments) -> None:
    data = _compared(make_segments, 20)
    fitter = _fitter(None)
    first, second = data[np.arange(12)], data[np.arange(12, 20)]
    assert fitter.absorb(Changes(first.query_ids, first, 12))
    assert fitter.fit()
    assert not fitter.absorb(Changes(np.zeros(0, np.int64), None, 13))
    assert fitter.last_event == 13
    assert fitter.absorb(Changes(second.query_ids, second, 21))
    assert fitter.fit()
    assert fitter.data is not None
    assert fitter.data.query_ids.tolist() == list(range(1, 21))
    assert fitter.absorb(Changes(np.array([3, 15]), None, 23))
    assert 3 not in fitter.data.query_ids
    assert len(fitter.data) == 18
    assert fitter.report()["fit/comparisons"] == 18
    assert fitter.absorb(Changes(data.query_ids, None, 50))
    assert not fitter.fit()


def test_a_later_fit_learns_the_answers_that_were_appended(make_segments: MakeSegments) -> None:
    data = _compared(make_segments, 320)
    fitter = _fitter(data[np.arange(20)], FitConfig(), RewardConfig())
    fresh = make_segments(300, 6, seed=99)
    fitter.fit()
    early = _spearman(fitter, fresh)
    for start in range(20, 320, 150):
        rest = data[np.arange(start, start + 150)]
        fitter.absorb(Changes(rest.query_ids, rest, start))
        fitter.fit()
    assert _spearman(fitter, fresh) > max(0.9, early)


def test_later_fits_have_so_many_minibatches_for_each_new_answer(make_segments: MakeSegments, tmp_path: Path) -> None:
    data = _compared(make_segments, 30)
    fitter = _fitter(None, replace(BRIEF, steps_per_comparison=2))

    def minibatches(*changed: int, undone: bool = False) -> float:
        before, places = float(fitter.adam.taken[0]), np.array(changed)
        fitter.absorb(Changes(data.query_ids[places], None if undone else data[places], 0))
        assert fitter.fit()
        return float(fitter.adam.taken[0]) - before

    assert minibatches(*range(15)) == BRIEF.first_steps
    assert minibatches(15, 16, 17) == 6
    assert minibatches(*range(18, 28)) == BRIEF.steps
    assert minibatches(15, undone=True) == 2
    fitter.absorb(Changes(data.query_ids[28:29], data[np.array([28])], 0))
    fitter.save(tmp_path)
    fitter.load(tmp_path, fitter.data)
    assert minibatches(29) == 4  # one came in while nothing was fitted


def test_a_fit_repeats_itself_and_another_seed_does_not(make_segments: MakeSegments) -> None:
    data = _compared(make_segments, 30)
    fitters = [_fitter(data, seed=seed) for seed in (1, 1, 2)]
    for fitter in fitters:
        fitter.fit()
    assert _same(fitters[0], fitters[1])
    assert not _same(fitters[0], fitters[2])


@pytest.mark.parametrize("fits", [0, 1, 3])
def test_saved_and_loaded_a_fitter_goes_on_as_if_uninterrupted(
    make_segments: MakeSegments, tmp_path: Path, fits: int
) -> None:
    data = _compared(make_segments, 30)
    through = _fitter(data)
    for _ in range(fits):
        through.fit()
    through.last_event = 77
    through.save(tmp_path)
    resumed = _fitter(None, seed=0)
    resumed.load(tmp_path, data)
    assert (resumed.fits, resumed.last_event) == (fits, 77)
    for fitter in (through, resumed):
        fitter.fit()
        fitter.fit()
    assert _same(through, resumed)
    assert through.l2.numpy().tobytes() == resumed.l2.numpy().tobytes()
    one, other = through.report(), resumed.report()
    assert {k: v for k, v in one.items() if k != "fit/seconds"} == {
        k: v for k, v in other.items() if k != "fit/seconds"
    }


def test_changes_before_the_first_answer_leave_d_empty() -> None:
    assert apply_changes(None, Changes(np.array([1]), None, 1)) is None


def test_l2_has_a_bound_that_keeps_r_hat_alive_where_answers_say_nothing(make_segments: MakeSegments) -> None:
    # Coin flips: what is learned from them never holds for those left out, so ℓ2 rises for as long as it may.
    coins = np.random.default_rng(0).integers(0, 2, 24).astype(np.float32)
    data = replace(_compared(make_segments, 24), mu=coins)

    def taught(largest: float) -> Fitter:
        config = FitConfig(l2=1e-3, l2_rate=1.04, largest_l2=largest, learning_rate=1e-2, first_steps=300)
        fitter = _fitter(data, config, RewardConfig(members=2, width=64))
        fitter.fit()
        return fitter

    def spread(fitter: Fitter) -> float:
        some = make_segments(50, 6, seed=9)
        return float(fitter.ensemble.raw(some.observations, some.actions).std())

    bound, free = taught(1e-2), taught(10.0)
    assert bool((bound.l2 <= 1e-2).all())
    assert float(free.l2.max()) > 0.1
    assert spread(bound) > 3 * spread(free)


def test_a_fit_without_minibatches_is_refused() -> None:
    with pytest.raises(ValueError, match="first_steps is 0; a fit has at least 1 minibatch"):
        FitConfig(first_steps=0)
    with pytest.raises(ValueError, match="steps is 0; a fit has at least 1 minibatch"):
        FitConfig(steps=0)
    with pytest.raises(ValueError, match="steps_per_comparison is 0; a fit has at least 1 minibatch"):
        FitConfig(steps_per_comparison=0)


def test_an_l2_above_its_bound_is_refused() -> None:
    with pytest.raises(ValueError, match=r"l2 is 0\.1; it lies between 0 and largest_l2, 0\.01"):
        FitConfig(l2=0.1, largest_l2=0.01)


def test_an_episode_shorter_than_a_segment_is_not_cropped(make_segments: MakeSegments) -> None:
    # Every segment is padded: crops may change nothing, and else a short episode could lose all of its steps.
    lengths = np.full(12, 2)
    left, right = (make_segments(12, 6, lengths=lengths, seed=seed) for seed in (1, 2))
    data = replace(_compared(make_segments, 12), left=left, right=right)
    plain, cropped = _fitter(data), _fitter(data, replace(BRIEF, shortest_crop=0.2))
    assert plain.fit()
    assert cropped.fit()
    assert _same(plain, cropped)
