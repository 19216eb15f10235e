"""Which pairs are asked about, and when."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from backflip.queries import (
    SHORTLIST,
    AskConfig,
    LabelSchedule,
    Selector,
    pair_features,
    pair_probabilities,
    pairs_with_newest,
    random_pairs,
    score,
    select_queries,
    spread_out,
)
from backflip.reward import Inputs, RewardConfig, RewardEnsemble
from backflip.segments import Array, Segments

MakeSegments = Callable[..., Segments]
MILLION = 1_000_000


# ---- when


@pytest.mark.parametrize(("total", "due"), [(700, [175, 264, 449, 567, 700]), (1400, [350, 528, 899, 1135, 1400])])
def test_the_schedule_gives_the_papers_numbers(total: int, due: list[int]) -> None:
    # 175 + 525·ln(1 + T/2e6)/ln(11): at 1 M 175 + 525·0.4055/2.3979 = 263.8, at 5 M 449.3, at 10 M 567.3.
    schedule = LabelSchedule(total, 20 * MILLION)
    assert [schedule.labels(t * MILLION) for t in (0, 1, 5, 10, 20)] == due


@pytest.mark.parametrize("total", [0, 1, 2, 7, 70, 701])
@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.25, 1.0])
@pytest.mark.parametrize("steps", [1, 999, 10 * MILLION])
def test_the_schedule_never_falls_and_ends_exactly_at_the_total(total: int, fraction: float, steps: int) -> None:
    schedule = LabelSchedule(total, steps, fraction)
    due = [schedule.labels(int(t)) for t in np.linspace(0, steps, 500)]
    assert due[0] == schedule.initial
    assert due == sorted(due)
    assert due[-1] == schedule.labels(steps) == schedule.labels(5 * steps) == total


def test_the_first_share_is_rounded_up_but_not_by_an_error_of_floats() -> None:
    assert LabelSchedule(70, 10, 0.1).initial == 7  # 0.1·70 is 7.000000000000001
    assert LabelSchedule(701, 10, 0.25).initial == 176
    assert LabelSchedule(1, 10, 0.25).initial == 1


@pytest.mark.parametrize(("steps", "half_life"), [(20 * MILLION, 2e6), (50 * MILLION, 5e6), (300_000, 2e6)])
def test_the_closed_form_is_the_integral_of_the_rate(steps: int, half_life: float) -> None:
    total = 100_000  # so many that rounding to whole labels does not matter
    schedule = LabelSchedule(total, steps, half_life=half_life)
    t = np.linspace(0, steps, 200_001)
    rate = half_life / (t + half_life)
    integral = np.concatenate([[0.0], np.cumsum((rate[1:] + rate[:-1]) / 2)])
    expected = schedule.initial + (total - schedule.initial) * integral / integral[-1]
    for i in range(0, len(t), 20_000):
        assert schedule.labels(int(t[i])) == pytest.approx(expected[i], abs=1.01)


def test_the_rate_has_fallen_to_a_half_after_the_half_life() -> None:
    schedule = LabelSchedule(10 * MILLION, 20 * MILLION)
    early = schedule.labels(1000) - schedule.labels(0)
    late = schedule.labels(2 * MILLION + 1000) - schedule.labels(2 * MILLION)
    assert late / early == pytest.approx(0.5, rel=0.01)


@pytest.mark.parametrize(("total", "steps"), [(-1, 10), (10, 0)])
def test_a_schedule_of_nothing_is_refused(total: int, steps: int) -> None:
    with pytest.raises(ValueError, match="give both as positive"):
        LabelSchedule(total, steps)


def test_after_the_first_share_labels_are_due_in_whole_sessions() -> None:
    # Of 100, 20 come first and 80 at a rate that hardly falls in 1000 steps: one each 12.5 steps, ten each 125.
    schedule = LabelSchedule(100, 1000, 0.2, session=10)
    assert [schedule.labels(t) for t in (0, 100, 115, 130, 240, 255, 990)] == [20, 20, 20, 30, 30, 40, 90]
    assert {schedule.labels(t) for t in range(1001)} == set(range(20, 101, 10))


def test_a_last_session_that_is_not_whole_is_due_at_the_end() -> None:
    # 7 come first, then sessions of 10 up to 97 of 99; the last 2 with the last step.
    schedule = LabelSchedule(99, 1000, 0.07, session=10)
    assert [schedule.labels(t) for t in (0, 999, 1000)] == [7, 97, 99]
    assert LabelSchedule(20, 1000, 0.5, session=50).labels(999) == 10
    assert LabelSchedule(20, 1000, 0.5, session=50).labels(1000) == 20


def test_a_session_of_one_label_is_the_plain_schedule() -> None:
    plain, single = LabelSchedule(701, 10 * MILLION), LabelSchedule(701, 10 * MILLION, session=1)
    assert [plain.labels(t) for t in range(0, 10 * MILLION, 99_999)] == [
        single.labels(t) for t in range(0, 10 * MILLION, 99_999)
    ]


def test_the_rate_runs_from_where_training_begins() -> None:
    late, early = LabelSchedule(700, 5 * MILLION, begin=MILLION), LabelSchedule(700, 4 * MILLION)
    assert [late.labels(t) for t in (0, MILLION // 2, MILLION)] == [175, 175, 175]
    for t in range(0, 6 * MILLION, 123_456):
        assert late.labels(MILLION + t) == early.labels(t)
    assert late.labels(5 * MILLION) == 700


def test_a_run_that_ends_before_training_begins_asks_for_everything_after() -> None:
    schedule = LabelSchedule(40, 1000, begin=5000)
    assert [schedule.labels(t) for t in (0, 5000, 5001)] == [10, 10, 40]


# ---- which


def test_scores_by_hand() -> None:
    # Two members: of one mind and unsure, of one mind and nearly sure, of different minds.
    predicted = np.array([[0.5, 0.9, 0.9], [0.5, 0.9, 0.1]], np.float32)
    # H(0.5) = log 2 = 0.6931, H(0.9) = -0.9·log 0.9 - 0.1·log 0.1 = 0.3251.
    by_hand: dict[Selector, list[float]] = {
        "variance": [0, 0, 0.16],
        "diverse": [0, 0, 0.16],
        "entropy": [0.6931, 0.3251, 0.6931],
        "information": [0, 0, 0.6931 - 0.3251],
        "uniform": [0, 0, 0],
    }
    for selector, worth in by_hand.items():
        np.testing.assert_allclose(score(predicted, selector), worth, atol=1e-4)


def test_an_answer_tells_nothing_about_members_that_agree_and_something_about_any_others() -> None:
    rng = np.random.default_rng(0)
    alone = rng.uniform(0.05, 0.95, (1, 500)).astype(np.float32)
    np.testing.assert_allclose(score(np.repeat(alone, 3, 0), "information"), 0, atol=1e-6)
    apart = rng.uniform(0.05, 0.95, (3, 500)).astype(np.float32)
    apart[1] = np.where(np.abs(apart[0] - apart[1]) < 0.05, 1 - apart[0], apart[1])
    assert (score(apart, "information") > 1e-4).mean() > 0.99
    assert (score(apart, "information") >= -1e-9).all()


@pytest.mark.parametrize("selector", ["variance", "entropy", "information", "uniform", "diverse"])
def test_scores_of_certainty_are_numbers_and_no_side_is_favoured(selector: Selector) -> None:
    sure = np.array([[0, 1, 1, 0.3], [0, 1, 0, 0.2]], np.float32)
    assert np.isfinite(score(sure, selector)).all()
    np.testing.assert_allclose(score(1 - sure, selector), score(sure, selector), atol=1e-6)
    assert score(sure[:, :0], selector).shape == (0,)


@pytest.mark.parametrize(("selector", "best"), [("variance", {0, 1}), ("information", {0, 1}), ("entropy", {2, 3})])
def test_a_selector_asks_for_what_it_scores_highest(
    make_segments: MakeSegments, selector: Selector, best: set[int]
) -> None:
    # Members see 0 and 1 as 3 apart, in opposite directions but one a little more (P̂ = 0.907 and 0.073: a mean of
    # 0.49), and 2 and 3 as equal; all the others are 30 apart for everybody.
    values = np.array([[0, 1.5, 0], [0, -1.5, 0], [500, 0, 0], [500, 0, 0], *[[30.0 * i, 0, 0] for i in range(10, 16)]])
    ensemble = _linear([1, 1, 0], [1, -1.2, 0])
    segments, config = _showing(make_segments, values), AskConfig(selector=selector, oversample=400)
    pairs, _, _ = select_queries(np.random.default_rng(0), ensemble, segments, 1, config)
    assert set(pairs[0].tolist()) == best


def test_what_sets_a_pair_apart_is_the_difference_of_its_mean_steps(make_segments: MakeSegments) -> None:
    segments = make_segments(3, 4, lengths=[4, 2, 3])
    segments.observations[1, 2:] = 1e6  # padding
    segments.actions[1, 2:] = 1e6
    apart = pair_features(_linear([1, 0, 0]), segments, np.array([[0, 1], [2, 2]]))
    means = [
        np.concatenate([segments.observations[i, :k].mean(0), segments.actions[i, :k].mean(0)])
        for i, k in enumerate((4, 2))
    ]
    np.testing.assert_allclose(apart[0], means[0] - means[1], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(apart[1], np.zeros(5))


def _features(*rows: list[float]) -> Array:
    return np.array(rows, np.float32)


def test_spreading_out_takes_the_farthest_from_all_chosen() -> None:
    # After 1 comes 9, 8 away; then 4 (3 from 1, where 8 is 1 from 9 and 3 is 2 from 1); then 3 is 1 away from 4, as is
    # 8 from 9, and stands first.
    assert spread_out(_features([1], [4], [8], [9], [3]), 5).tolist()[:3] == [0, 3, 1]
    assert spread_out(_features([1, 0], [0, 1], [0, 7], [0, -6]), 2).tolist() == [0, 2]


def test_a_pair_and_its_mirror_image_are_the_same() -> None:
    # -1 is 1 seen from the other side: nothing new, however far apart the two are.
    assert spread_out(_features([100, 0], [-100, 0], [100, 3], [-100, 1]), 3).tolist() == [0, 2, 3]
    everything = spread_out(_features([2, 1], [-2, -1], [2, 1], [5, 5]), 4).tolist()
    assert everything[:2] == [0, 3]
    assert sorted(everything) == [0, 1, 2, 3]


@pytest.mark.parametrize("count", [1, 3, 5, 9])
def test_spreading_out_chooses_each_once_and_no_more_than_there_are(count: int) -> None:
    same = np.ones((5, 2), np.float32)
    assert sorted(spread_out(same, count).tolist()) == list(range(5))[:count] or count < 5
    assert len(set(spread_out(same, count).tolist())) == min(count, 5)


def test_the_diverse_selector_covers_two_clusters_where_the_variance_sees_one(make_segments: MakeSegments) -> None:
    # Members are of different minds about column 1, and for most segments a little more so than for the rest, which
    # differ in column 2: of the pairs most in dispute, the first ones are all of one kind.
    rng = np.random.default_rng(0)
    values = np.zeros((120, 3))
    values[:, 1] = np.where(np.arange(120) < 80, 1.5, 1.0) * rng.choice([-1, 1], 120)
    values[80:, 2] = rng.choice([-1, 1], 40) * 8
    ensemble, segments = _linear([0, 1, 0], [0, -1, 0]), _showing(make_segments, values)
    found: dict[str, float] = {}
    for selector in ("variance", "diverse"):
        config = replace(AskConfig(), selector=selector)
        kinds = []
        for seed in range(20):
            pairs, predicted, average = select_queries(np.random.default_rng(seed), ensemble, segments, 6, config)
            assert len(pairs) == 6
            assert predicted is not None
            assert predicted.var(0).min() > average  # still pairs that members disagree on
            kinds.append(float((pairs >= 80).any()))
        found[selector] = float(np.mean(kinds))
    assert found["variance"] < 0.2
    assert found["diverse"] > 0.8


def test_the_diverse_selector_spreads_over_the_best_few_alone(make_segments: MakeSegments) -> None:
    values = np.random.default_rng(0).normal(size=(500, 3))
    ensemble, segments = _linear([1, 3, 0], [1, -3, 0]), _showing(make_segments, values)
    _, predicted, _ = select_queries(np.random.default_rng(3), ensemble, segments, 7, AskConfig(selector="diverse"))
    candidates = pair_probabilities(ensemble, segments, random_pairs(np.random.default_rng(3), 500, 70))
    best = np.sort(candidates.var(0))[::-1]
    assert predicted is not None
    assert predicted.var(0).max() == pytest.approx(best[0])  # it begins with the best
    assert predicted.var(0).min() >= best[SHORTLIST * 7 - 1]
    assert predicted.var(0).sum() < best[:7].sum()  # and gives some variance up


def _linear(*coefficients: list[float]) -> RewardEnsemble:
    """Members that pay the sum of observation times coefficients, and nothing for actions."""
    ensemble = RewardEnsemble(Inputs((3,), 2, discrete=False), RewardConfig(members=len(coefficients), layers=0))
    for member, numbers in enumerate(coefficients):
        ensemble.parameters[0][member] = torch.tensor([*numbers, 0.0, 0.0])[:, None]
    ensemble.parameters[1].zero_()
    return ensemble


def _showing(make_segments: MakeSegments, values: Array) -> Segments:
    """Segments of one step that show these observations."""
    return replace(make_segments(len(values), 1), observations=values[:, None].astype(np.float32))


def test_probabilities_are_those_of_each_member(make_segments: MakeSegments) -> None:
    # Member 0 sees a difference of log 3, so σ = 3/4 and P̂ = 0.9·0.75 + 0.05 = 0.725; member 1 one of -log 3: 0.275.
    segments = _showing(make_segments, np.array([[np.log(3), 0, 0], [0, 0, 0]]))
    pairs = np.array([[0, 1], [1, 0]])
    predicted = pair_probabilities(_linear([1, 0, 0], [-1, 0, 0]), segments, pairs)
    np.testing.assert_allclose(predicted, [[0.725, 0.275], [0.275, 0.725]], rtol=1e-5)


def test_the_pair_that_members_disagree_on_is_chosen(make_segments: MakeSegments) -> None:
    # Everybody knows column 0 and likes it; about column 1 they are of different minds, and only 4 and 7 differ in it.
    values = np.zeros((12, 3))
    values[:, 0] = np.arange(12) * 10
    values[4], values[7] = [40, 5, 0], [40, -5, 0]
    ensemble = _linear([1, 1, 0], [1, 0, 0], [1, -1, 0])
    found = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        pairs, predicted, average = select_queries(
            rng, ensemble, _showing(make_segments, values), 1, AskConfig(oversample=300)
        )
        assert predicted is not None
        found += set(pairs[0].tolist()) == {4, 7}
        assert predicted.var(0)[0] > average
    assert found == 20


def test_disagreement_is_that_about_the_pair_and_not_about_its_segments(make_segments: MakeSegments) -> None:
    # 0 and 1: members put both at ±100, so that each alone is disputed, but between them all see the same difference.
    # 2 and 3: nobody disputes a segment by more than 1, but they do not agree on which is better.
    values = np.array([[100.0, 0, 0], [100, 0, 0], [0, 1, 0], [0, -1, 0]])
    segments = _showing(make_segments, values)
    ensemble = _linear([1, 1, 0], [-1, -1, 0])
    returns = ensemble.segment_returns(segments.observations, segments.actions, segments.mask())
    assert returns.var(0)[:2].min() > 1000 * returns.var(0)[2:].max()
    predicted = pair_probabilities(ensemble, segments, np.array([[0, 1], [2, 3]]))
    assert predicted.var(0)[0] < 1e-9
    assert predicted.var(0)[1] > 0.1


def test_disagreement_is_in_probability_and_not_in_returns(make_segments: MakeSegments) -> None:
    # Differences of 30 and 90 are a large variance of returns, but all members are as sure as they can be.
    segments = _showing(make_segments, np.array([[30.0, 0, 0], [0, 0, 0], [0, 1, 0], [0, -1, 0]]))
    predicted = pair_probabilities(_linear([1, 1, 0], [3, -1, 0]), segments, np.array([[0, 1], [2, 3]]))
    assert predicted.var(0)[0] < 1e-9 < 0.05 < predicted.var(0)[1]


def test_the_variance_selector_beats_the_uniform_one_on_a_case_made_for_it(make_segments: MakeSegments) -> None:
    values = np.random.default_rng(0).normal(size=(200, 3))
    values[:, 1] *= np.arange(200) < 20  # one segment in ten is disputed
    ensemble = _linear([1, 3, 0], [1, -3, 0], [1, 0, 0])
    chosen = {}
    for selector in ("variance", "uniform"):
        _, predicted, average = select_queries(
            np.random.default_rng(1),
            ensemble,
            _showing(make_segments, values),
            10,
            AskConfig(selector=selector),
        )
        assert predicted is not None
        chosen[selector] = float(predicted.var(0).mean()) / average
    assert chosen["variance"] > 3
    assert chosen["uniform"] < 2


def test_ten_times_as_many_candidates_are_looked_at(make_segments: MakeSegments) -> None:
    values = np.random.default_rng(0).normal(size=(500, 3))
    ensemble, segments = _linear([1, 3, 0], [1, -3, 0]), _showing(make_segments, values)
    for oversample in (1, 10):
        pairs, predicted, average = select_queries(
            np.random.default_rng(3), ensemble, segments, 7, AskConfig(oversample=oversample)
        )
        assert predicted is not None
        candidates = pair_probabilities(ensemble, segments, random_pairs(np.random.default_rng(3), 500, 7 * oversample))
        assert average == pytest.approx(float(candidates.var(0).mean()))
        best = np.sort(candidates.var(0))[::-1][:7]
        np.testing.assert_allclose(np.sort(predicted.var(0))[::-1], best, rtol=1e-5)  # no segment twice in 140 of 500
        assert len(pairs) == 7


@pytest.mark.parametrize("selector", ["variance", "information", "diverse", "uniform"])
@pytest.mark.parametrize("n", [0, 1])
def test_nothing_to_compare_gives_no_pairs(make_segments: MakeSegments, n: int, selector: Selector) -> None:
    config = AskConfig(selector=selector)
    for ensemble in (None, _linear([1, 0, 0], [0, 1, 0])):
        pairs, predicted, average = select_queries(np.random.default_rng(0), ensemble, make_segments(n), 5, config)
        assert (pairs.shape, predicted, average) == ((0, 2), None, 0.0)


def test_none_asked_for_gives_none(make_segments: MakeSegments) -> None:
    pairs, _, _ = select_queries(np.random.default_rng(0), _linear([1, 0, 0]), make_segments(9), 0)
    assert pairs.shape == (0, 2)


@pytest.mark.parametrize("selector", ["variance", "diverse"])
def test_two_segments_make_one_pair(make_segments: MakeSegments, selector: Selector) -> None:
    for ensemble in (None, _linear([1, 0, 0], [0, 1, 0])):
        config = AskConfig(selector=selector)
        pairs, _, _ = select_queries(np.random.default_rng(0), ensemble, make_segments(2), 5, config)
        assert pairs.tolist() in ([[0, 1]], [[1, 0]])


@pytest.mark.parametrize("selector", ["variance", "diverse", "uniform"])
def test_what_was_asked_before_gives_way_to_the_next_best(make_segments: MakeSegments, selector: Selector) -> None:
    config, segments = AskConfig(selector=selector), make_segments(12)
    for ensemble in (None, _linear([1, 0, 0], [0, 1, 0])):
        first, _, _ = select_queries(np.random.default_rng(0), ensemble, segments, 4, config)
        asked = first[:2, ::-1].copy()  # in the other order
        pairs, _, _ = select_queries(np.random.default_rng(0), ensemble, segments, 4, config, asked=asked)
        assert len(pairs) == 4
        assert not {frozenset(p) for p in asked.tolist()} & {frozenset(p) for p in pairs.tolist()}


def test_where_every_pair_was_asked_none_is_left(make_segments: MakeSegments) -> None:
    asked = np.array([[0, 1], [2, 0], [1, 2]], np.int64)
    for ensemble in (None, _linear([1, 0, 0], [0, 1, 0])):
        pairs, _, _ = select_queries(np.random.default_rng(0), ensemble, make_segments(3), 5, asked=asked)
        assert pairs.shape == (0, 2)


@pytest.mark.parametrize("selector", ["variance", "diverse"])
def test_no_pair_is_chosen_twice_however_few_segments_there_are(
    make_segments: MakeSegments, selector: Selector
) -> None:
    for seed in range(20):
        pairs, predicted, _ = select_queries(
            np.random.default_rng(seed),
            _linear([1, 0, 0], [0, 1, 0]),
            make_segments(4),
            6,
            AskConfig(selector=selector),
        )
        unordered = [frozenset(pair) for pair in pairs.tolist()]
        assert len(set(unordered)) == len(unordered)
        assert predicted is not None
        assert predicted.shape == (2, len(pairs))


@pytest.mark.parametrize(
    ("selector", "knows", "enough"),  # uniformly, every segment can be used; the best pairs overlap
    [("uniform", False, 40), ("uniform", True, 40), ("variance", True, 100), ("diverse", True, 400)],
)
def test_segments_are_used_once_while_there_are_enough(
    make_segments: MakeSegments, selector: Selector, knows: bool, enough: int
) -> None:
    ensemble = _linear([1, 0, 0], [0, 1, 0]) if knows else None
    config = AskConfig(selector=selector)
    for seed in range(10):
        pairs, _, _ = select_queries(np.random.default_rng(seed), ensemble, make_segments(enough), 20, config)
        assert len(pairs) == 20
        assert len(np.unique(pairs)) == 40


def test_a_pair_passed_over_does_not_block_the_segments_of_the_next(make_segments: MakeSegments) -> None:
    # Column 0 is what members differ in. Best are (0, 1), then (1, 2) and (0, 3), and then (2, 3): of two queries the
    # second is (2, 3), although both of its segments were in pairs that were passed over.
    segments = _showing(make_segments, np.array([[3.0, 0, 0], [-3, 0, 0], [1, 0, 0], [-1, 0, 0]]))
    pairs, _, _ = select_queries(
        np.random.default_rng(0), _linear([1, 0, 0], [-1, 0, 0]), segments, 2, AskConfig(oversample=50)
    )
    assert [sorted(pair) for pair in pairs.tolist()] == [[0, 1], [2, 3]]


def test_random_pairs_are_uniform_and_no_side_is_favoured() -> None:
    rng = np.random.default_rng(0)
    pairs = np.concatenate([random_pairs(rng, 5, 2) for _ in range(5000)])
    assert (pairs[:, 0] != pairs[:, 1]).all()
    counts = np.zeros((5, 5))
    np.add.at(counts, (pairs[:, 0], pairs[:, 1]), 1)
    # 20 ordered pairs, each with 10,000/20 = 500 ± 4·√(500·0.95) = ±87.
    assert np.abs(counts[~np.eye(5, dtype=bool)] - 500).max() < 87


def test_the_chosen_pairs_favour_no_side(make_segments: MakeSegments) -> None:
    values = np.random.default_rng(0).normal(size=(100, 3))
    ensemble, segments = _linear([1, 1, 0], [1, -1, 0]), _showing(make_segments, values)
    sides = []
    for seed in range(50):
        pairs, _, _ = select_queries(np.random.default_rng(seed), ensemble, segments, 20)
        sides += (values[pairs[:, 0], 0] > values[pairs[:, 1], 0]).tolist()
    assert np.mean(sides) == pytest.approx(0.5, abs=4 * 0.5 / 1000**0.5)


def test_the_same_generator_chooses_the_same(make_segments: MakeSegments) -> None:
    ensemble, segments = _linear([1, 1, 0], [1, -1, 0]), make_segments(50)
    one, two = (select_queries(np.random.default_rng(8), ensemble, segments, 9) for _ in range(2))
    np.testing.assert_array_equal(one[0], two[0])


@pytest.mark.parametrize(
    ("segments", "newest", "new"),
    [(5, 0.3, 2), (100, 0.3, 30), (100, 0.07, 7), (10, 0.11, 2), (100, 0.005, 1), (2, 0.5, 1)],
)
def test_one_side_of_each_pair_can_be_among_the_newest(segments: int, newest: float, new: int) -> None:
    rng = np.random.default_rng(0)
    pairs = np.concatenate([pairs_with_newest(rng, segments, 60, newest) for _ in range(100)])
    assert len(pairs) == 6000
    assert (pairs[:, 0] != pairs[:, 1]).all()
    assert pairs.max(1).min() == segments - new
    assert set(pairs.ravel().tolist()) == set(range(segments))
    assert np.mean(pairs[:, 0] > pairs[:, 1]) == pytest.approx(0.5, abs=0.03)  # no side is favoured


def test_the_newest_are_each_in_about_as_many_pairs_and_so_are_the_others_on_the_other_side() -> None:
    uses = np.bincount(pairs_with_newest(np.random.default_rng(0), 40, 39 * 10, 0.25).ravel(), minlength=40)
    # 390 sides among ten, 39 each; and 390 among all forty.
    assert (uses[:30] == 10).all()
    assert uses[30:].min() >= 39 + 5
    assert uses[30:].max() <= 39 + 15


@pytest.mark.parametrize(("segments", "count"), [(1, 5), (0, 5), (5, 0)])
def test_of_fewer_than_two_no_pair_can_be_made(segments: int, count: int) -> None:
    assert pairs_with_newest(np.random.default_rng(0), segments, count, 0.3).shape == (0, 2)


def test_what_is_asked_compares_the_newest_with_anything(make_segments: MakeSegments) -> None:
    segments, config = make_segments(40), AskConfig(newest=0.25)
    ensemble = RewardEnsemble(Inputs((3,), 2, False), seed=1)
    older = 0
    for seed in range(10):
        pairs, _, _ = select_queries(np.random.default_rng(seed), ensemble, segments, 4, config)
        assert len(pairs) == 4
        assert (pairs.max(1) >= 30).all()
        older += int((pairs.min(1) < 30).sum())
    assert older > 10


@pytest.mark.parametrize("newest", [0.0, -0.1, 1.1])
def test_a_newest_share_that_is_none_is_refused(newest: float) -> None:
    with pytest.raises(ValueError, match=f"newest is {newest}; it is a share"):
        AskConfig(newest=newest)
