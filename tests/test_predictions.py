"""Predictions made before the answers: agreement, reliability, by numbers worked out by hand."""

import math

import pytest

from backflip.predictions import Outcome, agreement, outcomes, reliability
from backflip.preferences import Choice, Preference, Query

LEFT, EQUAL, RIGHT, INCOMPARABLE = Choice.LEFT, Choice.EQUAL, Choice.RIGHT, Choice.INCOMPARABLE


def _outcome(choice: Choice, *p_left: float, query: int = 1, policy_steps: int = 0) -> Outcome:
    return Outcome(query, "ana", choice, p_left, policy_steps)


def test_outcomes_are_the_answers_with_a_mu_that_were_predicted() -> None:
    given = [
        (Preference("a", 1, LEFT, "ana"), Query(1, 10, 11, (0.6, 0.8), 500)),
        (Preference("b", 2, LEFT, "ana"), Query(2, 12, 13, (), 0)),  # before there was an r̂
        (Preference("c", 3, INCOMPARABLE, "ben"), Query(3, 14, 15, (0.5,), 700)),
        (Preference("d", 4, EQUAL, "ben"), Query(4, 16, 17, (0.5,), 800)),
    ]
    assert outcomes(given) == [Outcome(1, "ana", LEFT, (0.6, 0.8), 500), Outcome(4, "ben", EQUAL, (0.5,), 800)]


def test_an_outcome_by_hand() -> None:
    foreseen = _outcome(LEFT, 0.6, 0.8)
    assert foreseen.predicted == foreseen.confidence == pytest.approx(0.7)
    assert foreseen.agreed == 1
    assert foreseen.disagreement == pytest.approx(0.01)  # each 0.1 off the mean
    assert foreseen.surprise == pytest.approx(-math.log(0.7))
    missed = _outcome(RIGHT, 0.6, 0.8)
    assert missed.agreed == 0
    assert missed.surprise == pytest.approx(-math.log(0.3))
    tie = _outcome(EQUAL, 0.8)
    assert tie.agreed is None
    assert tie.surprise == pytest.approx(-(math.log(0.8) + math.log(0.2)) / 2)
    assert _outcome(RIGHT, 0.2).agreed == 1
    assert _outcome(RIGHT, 0.2).confidence == 0.8
    assert _outcome(LEFT, 0.4, 0.6).agreed == 0.5


def test_a_surprise_is_finite_even_where_r_hat_was_certain() -> None:
    assert _outcome(LEFT, 0.0).surprise == pytest.approx(-math.log(1e-6))


def test_agreement_is_taken_over_the_newest_answers_that_chose_a_side() -> None:
    choices = [LEFT, RIGHT, EQUAL, LEFT, RIGHT]
    found = [_outcome(choice, 0.7, 0.9, policy_steps=100 * i) for i, choice in enumerate(choices)]
    points = agreement(found, window=2)
    assert [point.answers for point in points] == [1, 2, 3, 4]
    assert [point.policy_steps for point in points] == [0, 100, 300, 400]
    assert [point.share.value for point in points] == [1, 0.5, 0.5, 0.5]
    assert [point.share.of for point in points] == [1, 2, 2, 2]
    assert points[-1].confidence == pytest.approx(0.8)
    assert points[-1].surprise == pytest.approx(-(math.log(0.8) + math.log(0.2)) / 2)
    assert points[-1].disagreement == pytest.approx(0.01)
    assert agreement([]) == []


def test_reliability_sorts_by_confidence_whatever_the_side() -> None:
    found = [_outcome(LEFT, 0.85), _outcome(LEFT, 0.15), _outcome(RIGHT, 0.15), _outcome(LEFT, 0.55)]
    found += [_outcome(EQUAL, 0.85), _outcome(RIGHT, 0.0), _outcome(LEFT, 1.0)]
    rows = reliability(found, bins=5)
    assert [(round(row.low, 1), round(row.high, 1)) for row in rows] == [(0.5, 0.6), (0.8, 0.9), (0.9, 1.0)]
    assert [row.share.value for row in rows] == pytest.approx([1, 2 / 3, 1])
    assert [row.share.of for row in rows] == [1, 3, 2]
    assert [row.predicted for row in rows] == pytest.approx([0.55, 0.85, 1])
    assert reliability([]) == []
