"""Each annotator's ε: known rates are found again, from each kind of evidence and from all of it."""

import numpy as np
import pytest
from scipy import optimize

from backflip.error_rates import (
    PRIOR,
    ErrorRate,
    Evidence,
    _Problem,
    expected_difference,
    most_likely,
    with_intervals,
)

RATES = {"ana": 0.1, "ben": 0.25, "cem": 0.4}


def _evidence(rows: list[tuple[str, int, bool, float]]) -> Evidence:
    annotators, queries, left, expected = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Evidence(
        np.array(annotators, np.str_),
        np.array(queries, np.int64),
        np.array(left, np.bool_),
        np.array(expected, np.float64),
    )


def _gold(right: int, wrong: int, annotator: str = "ana") -> Evidence:
    """Gold pairs whose left is right."""
    return _evidence([(annotator, number, number < right, np.inf) for number in range(right + wrong)])


def _simulated(
    seed: int,
    labels: int,
    gold: int = 0,
    repeats: int = 0,
    overlap: float = 0.0,
    predicted: bool = True,
    spread: float = 6.0,
) -> Evidence:
    """Answers by our likelihood: for each annotator so many labels, of which some are repeated, and so many gold pairs.

    Pairs differ by Δ ~ N(0, spread²); r̂ sees Δ with an error half as large, and predicts its mean given what it sees.
    """
    rng = np.random.default_rng(seed)
    rows: list[tuple[str, int, bool, float]] = []

    def answer(name: str, query: int, difference: float, expected: float) -> None:
        p = (1 - RATES[name]) / (1 + np.exp(-difference)) + RATES[name] / 2
        rows.append((name, query, bool(rng.random() < p), expected))

    names, query = list(RATES), 0
    for name in names:
        for number in range(labels):
            difference = rng.normal() * spread
            seen = difference + rng.normal() * spread / 2
            expected = seen * 0.8 if predicted else np.nan  # 0.8 = spread² / (spread² + (spread/2)²)
            answer(name, query, difference, expected)
            if rng.random() < overlap:
                answer(names[(names.index(name) + 1 + rng.integers(2)) % 3], query, difference, expected)
            if number < repeats:
                answer(name, query, difference, expected)
            query += 1
        for _ in range(gold):
            side = rng.choice([-1, 1])
            answer(name, query, side * 60.0, side * np.inf)
            query += 1
    return _evidence(rows)


def _means(found: list[dict[str, ErrorRate]]) -> list[float]:
    return [float(np.mean([rates[name].value for rates in found])) for name in RATES]


# ---- what ε is


def test_an_eighth_of_wrong_gold_answers_is_an_error_rate_of_a_quarter() -> None:
    # Answers at random are right half the time: ε/2 = 1/8. With 16,000 answers the prior weighs nothing. An estimate
    # that leaves the half out is 0.125, one that takes it twice 0.5.
    found = most_likely(_gold(14_000, 2_000))["ana"]
    assert found.value == pytest.approx(0.25, abs=0.002)
    assert found.of == 16_000


def test_the_estimate_from_gold_is_the_mode_of_likelihood_times_prior() -> None:
    def minus(rate: float) -> float:
        prior = (PRIOR[0] - 1) * np.log(rate) + (PRIOR[1] - 1) * np.log(1 - rate)
        return -float(12 * np.log(1 - rate / 2) + 3 * np.log(rate / 2) + prior)

    best = optimize.minimize_scalar(minus, bounds=(1e-6, 1 - 1e-6), method="bounded", options={"xatol": 1e-9})
    found = with_intervals(_gold(12, 3))["ana"]
    assert found.value == pytest.approx(best.x, abs=2e-3)
    # The interval ends where that has fallen by 1.92, half of the 95 % quantile of χ²₁ (3.84).
    assert found.low is not None
    assert found.high is not None
    assert found.low < best.x < found.high
    for end in (found.low, found.high):
        assert minus(end) - best.fun == pytest.approx(1.92, abs=0.1)


def test_whoever_is_always_wrong_answers_at_random_as_far_as_the_likelihood_can_say() -> None:
    assert most_likely(_gold(0, 100))["ana"].value > 0.95
    assert most_likely(_gold(50, 50))["ana"].value == pytest.approx(1, abs=0.15)


def test_a_prediction_has_its_own_error_taken_out_once() -> None:
    for difference in (-3.0, 0.0, 2.0):
        p_left = 0.9 / (1 + np.exp(-difference)) + 0.05
        assert expected_difference(float(p_left), 0.1) == pytest.approx(difference, abs=1e-9)
    assert expected_difference(0.75, 0.0) == pytest.approx(np.log(3))
    assert expected_difference(0.95, 0.1) == pytest.approx(8)  # σ is 1, and Δ would be infinite
    assert expected_difference(0.01, 0.1) == pytest.approx(-8)  # what no such prediction can be


# ---- little evidence


def test_nothing_is_said_of_whoever_nothing_is_known_of() -> None:
    assert most_likely(_evidence([])) == {}
    assert with_intervals(_evidence([])) == {}
    assert most_likely(_evidence([("ana", 1, True, np.nan), ("ben", 2, False, np.nan)])) == {}
    assert list(most_likely(_evidence([("ana", 1, True, np.nan), ("ben", 2, False, np.inf)]))) == ["ben"]


def test_one_answer_hardly_moves_the_estimate_from_ten_percent() -> None:
    assert most_likely(_gold(1, 0))["ana"].value == pytest.approx(0.1, abs=0.03)
    assert most_likely(_evidence([("ana", 1, True, 0.0)]))["ana"].value == pytest.approx(0.1, abs=1e-3)
    wide = with_intervals(_gold(1, 0))["ana"]
    assert wide.high is not None
    assert wide.high > 0.6


def test_the_interval_narrows_as_evidence_grows() -> None:
    widths = []
    for times in (1, 4, 16):
        found = with_intervals(_gold(14 * times, 2 * times))["ana"]
        assert found.low is not None
        assert found.high is not None
        assert found.low < 0.25 < found.high
        widths.append(found.high - found.low)
    assert widths[0] > 1.5 * widths[1] > 1.5**2 * widths[2]


# ---- each kind of evidence, and all of it


@pytest.mark.parametrize(
    ("evidence", "tolerance"),
    [
        ({"labels": 400}, 0.09),
        ({"labels": 1000, "overlap": 1.0, "predicted": False}, 0.09),
        ({"labels": 0, "gold": 200}, 0.05),
        ({"labels": 200, "gold": 20, "repeats": 20, "overlap": 0.2}, 0.06),
    ],
    ids=["predictions", "overlap", "gold", "all"],
)
def test_rates_of_10_25_and_40_percent_are_found_again(evidence: dict[str, float], tolerance: float) -> None:
    # The mean of four estimates; one is off by 0.05 to 0.1. Who always said 10 %, or ε/2 for ε, would miss by more.
    found = [most_likely(_simulated(seed, **evidence)) for seed in range(4)]  # type: ignore[arg-type]  # counts are int
    assert _means(found) == pytest.approx(list(RATES.values()), abs=tolerance)


def test_repeats_alone_tell_who_is_steady() -> None:
    # Clear pairs, each answered twice: the same answer comes with 1 - ε + ε²/2 = 0.905, 0.78, 0.68.
    found = [most_likely(_simulated(seed, 150, repeats=150, predicted=False, spread=60)) for seed in range(4)]
    rates = _means(found)
    assert rates[0] < 0.1 < rates[1] < rates[2]
    assert rates[1:] == pytest.approx([0.25, 0.4], abs=0.12)


def test_close_pairs_are_not_taken_for_errors() -> None:
    """Two who differ on pairs that nobody could tell apart: r̂ says so, and only the clear ones count."""
    rng = np.random.default_rng(0)
    close = [("ana", number, bool(rng.random() < 0.5), 0.0) for number in range(200)]
    clear = [("ana", 1000 + number, number % 2 == 0, 6.0 if number % 2 == 0 else -6.0) for number in range(60)]
    assert most_likely(_evidence(close + clear))["ana"].value < 0.06


def test_an_r_hat_that_knows_nothing_does_not_make_annotators_look_bad() -> None:
    rng = np.random.default_rng(1)
    rows = [("ana", number, bool(rng.random() < 0.5), rng.normal() * 5) for number in range(200)]
    rows += [("ana", 1000 + number, True, np.inf) for number in range(40)]
    assert most_likely(_evidence(rows))["ana"].value < 0.15


@pytest.mark.slow
def test_nine_of_ten_intervals_or_more_hold_the_true_rate() -> None:
    held = []
    for seed in range(12):
        found = with_intervals(_simulated(100 + seed, 0, gold=60))
        held += [(r.low or 0) <= RATES[name] <= (r.high or 0) for name, r in found.items()]
    assert np.mean(held) >= 0.9


def test_the_intervals_from_all_evidence_hold_the_true_rates() -> None:
    found = with_intervals(_simulated(7, 120, gold=20, repeats=20, overlap=0.2))
    for name, rate in found.items():
        assert rate.low is not None
        assert rate.high is not None
        assert rate.low < rate.value < rate.high
        assert rate.low <= RATES[name] <= rate.high
        assert rate.high - rate.low < 0.5


# ---- mechanics


def test_mirroring_every_pair_changes_nothing() -> None:
    one = _simulated(0, 40, gold=10, overlap=0.3)
    other = Evidence(one.annotators, one.queries, ~one.left, -one.expected)
    before, after = most_likely(one), most_likely(other)
    assert [after[name].value for name in RATES] == pytest.approx([before[name].value for name in RATES], abs=2e-3)


def test_the_order_of_answers_changes_nothing() -> None:
    one = _simulated(0, 40, gold=10, overlap=0.3)
    order = np.random.default_rng(0).permutation(len(one))
    other = Evidence(one.annotators[order], one.queries[order] * 7 + 3, one.left[order], one.expected[order])
    before, after = most_likely(one), most_likely(other)
    assert [after[name].value for name in RATES] == pytest.approx([before[name].value for name in RATES], abs=2e-3)


def test_the_gradient_is_that_of_the_likelihood() -> None:
    problem = _Problem(_simulated(0, 30, gold=5, repeats=5, overlap=0.3))
    for shift in (-0.7, 0.4):
        point = problem.start() + shift
        step = 1e-5 * np.eye(len(point))
        numeric = [(problem(point + s)[0] - problem(point - s)[0]) / 2e-5 for s in step]
        np.testing.assert_allclose(problem(point)[1], numeric, rtol=1e-4, atol=1e-5)


def test_a_likelihood_by_hand() -> None:
    """Two answers to a gold pair, right and wrong, one to a pair that r̂ holds for a tie: (1-ε/2)·ε/2·½."""
    problem = _Problem(_evidence([("ana", 1, True, np.inf), ("ana", 1, False, np.inf), ("ana", 2, True, 0.0)]))
    point = np.array([np.log(0.3 / 0.7), *problem.start()[1:]])
    prior = (PRIOR[0] - 1) * np.log(0.3) + (PRIOR[1] - 1) * np.log(0.7)
    assert -problem(point)[0] == pytest.approx(np.log(0.85) + np.log(0.15) + np.log(0.5) + prior, abs=1e-6)
