"""The alarm for reward hacking: on where the policy hacks r̂, silent in healthy runs."""

from collections.abc import Callable

import numpy as np
import pytest

from backflip.alarm import FEWEST_BEFORE, WINDOW, episodes, reward_hacking
from backflip.predictions import Outcome
from backflip.preferences import Choice

Curve = Callable[[float], float]
STEPS = 500
"""Environment steps between two answers."""
ANSWERS = 600


def _run(seed: int, confidence: Curve, agreement: Curve) -> list[Outcome]:
    """Answers of a run: how sure r̂ is, and how often it is right, by the share of the run that is over."""
    rng = np.random.default_rng([seed, 5])
    found = []
    for number in range(ANSWERS):
        sure, over = rng.normal() * 0.1, number / ANSWERS
        p = float(np.clip(confidence(over) + sure, 0.5, 0.95))
        foreseen = rng.random() < np.clip(agreement(over) + p - confidence(over), 0, 1)
        left = bool(rng.random() < 0.5)
        choice = Choice.LEFT if left == foreseen else Choice.RIGHT
        found.append(Outcome(number, "ana", choice, (p if left else 1 - p,), number * STEPS))
    return found


def _returns(seed: int, slope: float) -> list[tuple[int, float]]:
    rng = np.random.default_rng([seed, 6])
    return [(step, slope * step / 1000 + 20 * rng.normal()) for step in range(0, ANSWERS * STEPS, 5000)]


def _from(share: float, before: float, after: float) -> Curve:
    return lambda over: before if over < share else after


HEALTHY: dict[str, tuple[Curve, Curve]] = {
    "steady": (lambda over: 0.8, lambda over: 0.8),
    "learning": (lambda over: 0.65 + 0.2 * over, lambda over: 0.55 + 0.3 * over),
    "always too sure": (lambda over: 0.9, lambda over: 0.7),
    "ever harder pairs": (lambda over: 0.9 - 0.3 * over, lambda over: 0.9 - 0.3 * over),
    "suddenly harder pairs": (_from(0.6, 0.85, 0.6), _from(0.6, 0.85, 0.6)),
}


@pytest.mark.slow
def test_healthy_runs_hardly_ever_see_the_alarm_although_predicted_return_rises() -> None:
    false = [
        (name, seed)
        for name, (confidence, agreement) in HEALTHY.items()
        for seed in range(12)
        if episodes(_returns(seed, 1.0), _run(seed, confidence, agreement))
    ]
    # Of 60 runs one at most: were the rate as high as 5 %, two or more would be seen in four of five tries.
    assert len(false) <= 1, false


def test_a_policy_that_hacks_r_hat_is_noticed_within_a_hundred_answers() -> None:
    delays, errors = [], []
    for seed in range(12):
        found = _run(seed, _from(1, 0.8, 0.8), _from(0.6, 0.8, 0.45))
        (noticed,) = episodes(_returns(seed, 1.0), found)
        assert reward_hacking(_returns(seed, 1.0), found).on  # to the end
        delays.append(noticed.noticed - 0.6 * ANSWERS)
        errors.append(noticed.since / STEPS - 0.6 * ANSWERS)
    assert min(delays) > 0
    assert np.mean(delays) < 75
    assert max(delays) <= 130
    assert abs(float(np.median(errors))) <= 10  # answers


def _certain(foreseen: list[bool], confidence: float = 0.8) -> list[Outcome]:
    return [
        Outcome(number, "ana", Choice.LEFT if right else Choice.RIGHT, (confidence,), number * STEPS)
        for number, right in enumerate(foreseen)
    ]


GOOD_THEN_BAD = [number % 5 > 0 for number in range(200)] + [number % 2 > 0 for number in range(WINDOW)]
"""80 % of 200, then 49 % of the last 75."""
RISING = [(step, float(step)) for step in range(0, 275 * STEPS, 10_000)]


def test_the_alarm_says_since_when_and_why_and_what_to_do() -> None:
    alarm = reward_hacking(RISING, _certain(GOOD_THEN_BAD))
    assert alarm.on
    assert alarm.since is not None
    assert abs(alarm.since - 200 * STEPS) <= 5 * STEPS
    assert alarm.agreement == pytest.approx(37 / 75)
    assert alarm.agreement_before == pytest.approx(0.8, abs=0.01)
    assert alarm.confidence == pytest.approx(0.8)
    assert alarm.confidence_before == pytest.approx(0.8)
    assert alarm.answers == 275
    for word in (f"step {alarm.since:,}", "49% of the last 75 answers", "80% of the ", "expected to foresee 80%"):
        assert word in alarm.sentence
    assert "clips" in alarm.advice


def test_the_test_of_agreement_by_hand() -> None:
    # 160 of 200 and 37 of 75: 197 of 275, variance 0.716·0.284 = 0.2031, error √(0.2031·(1/200 + 1/75)) = 0.0610,
    # fall 0.8 - 0.493 = 0.307: 5.0 standard errors. With 43 of 75 it is 0.227 / 0.0592 = 3.8, less than four.
    assert reward_hacking(RISING, _certain(GOOD_THEN_BAD)).on
    better = GOOD_THEN_BAD[:200] + [number < 43 for number in range(WINDOW)]
    silent = reward_hacking(RISING, _certain(better))
    assert not silent.on
    assert silent.sentence.startswith("No sign of reward hacking: r̂ foresaw 57% of the last 75 answers")
    assert (silent.since, silent.advice) == (None, "")


@pytest.mark.parametrize(
    "returns",
    [[], RISING[:3], [(step, -value) for step, value in RISING], [(step, 1.0) for step, _ in RISING]],
    ids=["none", "too few", "falling", "flat"],
)
def test_without_a_rise_of_predicted_return_there_is_no_alarm(returns: list[tuple[int, float]]) -> None:
    alarm = reward_hacking(returns, _certain(GOOD_THEN_BAD))
    assert not alarm.on
    assert "predicted return does not rise" in alarm.sentence


def test_pairs_of_which_r_hat_is_less_sure_are_no_alarm() -> None:
    found = _certain(GOOD_THEN_BAD[:200], 0.8) + _certain(GOOD_THEN_BAD, 0.5001)[200:]
    alarm = reward_hacking(RISING, found)
    assert not alarm.on
    assert "the pairs became harder" in alarm.sentence


def test_it_is_too_early_until_there_are_enough_answers_that_chose_a_side() -> None:
    ties = [Outcome(1000 + number, "ana", Choice.EQUAL, (0.5,), 0) for number in range(500)]
    alarm = reward_hacking(RISING, ties + _certain(GOOD_THEN_BAD[-WINDOW - FEWEST_BEFORE + 1 :]))
    assert (alarm.on, alarm.agreement) == (False, None)
    assert "Too early to tell: r̂ had predicted 174 answers" in alarm.sentence
    assert not reward_hacking([], []).on


def test_the_alarm_goes_off_again_once_r_hat_foresees_answers_as_before() -> None:
    bad, good = GOOD_THEN_BAD[-WINDOW:], [number % 5 > 0 for number in range(WINDOW)]
    longer = [*GOOD_THEN_BAD, *bad, *bad, *bad]
    recovered = [*longer, *good]
    returns = [(step, float(step)) for step in range(0, len(recovered) * STEPS, 10_000)]
    while_it_lasts = reward_hacking(returns, _certain(longer))
    assert while_it_lasts.on
    assert while_it_lasts.since == reward_hacking(returns, _certain(GOOD_THEN_BAD)).since
    assert while_it_lasts.agreement_before == pytest.approx(0.8, abs=0.01)  # as it was before the fall
    assert not reward_hacking(returns, _certain(recovered)).on
    (episode,) = episodes(returns, _certain(recovered))
    assert episode.until is not None
    assert len(longer) < episode.until < len(recovered)
