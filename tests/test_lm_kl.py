"""KL to the original, and what steers it: known answers, bounds and directions."""

import math

import pytest
import torch

from backflip.lm.kl import LARGEST_BETA, SMALLEST_BETA, Budget, Fixed, Ziegler, controller, exact, k1, k3

MASK = torch.tensor([[1.0, 1.0, 0.0]])


def test_a_policy_that_is_its_original_has_a_kl_of_exactly_0() -> None:
    table = torch.log_softmax(torch.randn(3, 4, 7), -1)
    drawn, mask = table[..., 2], torch.ones(3, 4)
    assert (k1(drawn, drawn, mask) == 0).all()
    assert (k3(drawn, drawn, mask) == 0).all()
    assert (exact(table, table, mask) == 0).all()


def test_the_estimates_sum_over_the_tokens_that_count() -> None:
    # Probabilities .5 against .25 and .2 against .4: k1 = ln 2 - ln 2 = 0; k3 = (.5 - 1 + ln 2) + (2 - 1 - ln 2) = .5.
    log_p = torch.tensor([[0.5, 0.2, 0.9]]).log()
    original = torch.tensor([[0.25, 0.4, 0.1]]).log()
    assert float(k1(log_p, original, MASK)) == pytest.approx(0, abs=1e-6)
    assert float(k3(log_p, original, MASK)) == pytest.approx(0.5, abs=1e-6)


def test_the_exact_kl_is_that_of_the_distributions_on_the_way() -> None:
    # KL(½, ½ ‖ ¼, ¾) = ½·ln 2 + ½·ln ⅔; the same at both tokens that count.
    policy = torch.tensor([[[0.5, 0.5]] * 3]).log()
    original = torch.tensor([[[0.25, 0.75]] * 3]).log()
    one = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert float(exact(policy, original, MASK)) == pytest.approx(2 * one, rel=1e-5)


def test_a_token_that_the_policy_never_draws_adds_no_nats() -> None:
    policy = torch.tensor([[[0.5, 0.5, 0.0]]]).log()
    original = torch.tensor([[[0.25, 0.25, 0.5]]]).log()
    assert exact(policy, original, torch.ones(1, 1)).item() == pytest.approx(math.log(2))
    assert exact(policy, policy, torch.ones(1, 1)).item() == 0
    assert exact(original, policy, torch.ones(1, 1)).item() == math.inf


def test_a_fixed_price_never_moves() -> None:
    fixed = Fixed(0.3)
    fixed.update(100.0, 64)
    assert fixed.beta == 0.3


@pytest.mark.parametrize(("kl", "error"), [(6.6, 0.1), (5.4, -0.1), (600.0, 0.2), (0.0, -0.2), (-3.0, -0.2)])
def test_zieglers_rule_by_hand(kl: float, error: float) -> None:
    rule = Ziegler(0.5, 6.0, 1_000)
    rule.update(kl, 64)
    assert rule.beta == pytest.approx(0.5 * (1 + error * 64 / 1_000))


@pytest.mark.parametrize("name", ["ziegler", "budget"])
def test_the_price_rises_above_the_target_falls_below_it_and_keeps_its_bounds(name: str) -> None:
    for kl, bound in ((50.0, LARGEST_BETA), (0.01, SMALLEST_BETA)):
        rule = controller(name, 0.1, 6.0, 100)
        before = rule.beta
        rule.update(kl, 64)
        assert (rule.beta > before) == (kl > 6)
        for _ in range(1_000):
            rule.update(kl, 64)
        assert rule.beta == pytest.approx(bound)


def test_at_the_target_the_budget_keeps_its_price() -> None:
    rule = Budget(0.1, 6.0)
    for _ in range(50):
        rule.update(6.0, 64)
    assert rule.beta == pytest.approx(0.1)


def test_below_the_target_the_budget_lowers_its_price_more_slowly_than_it_raises_it_above() -> None:
    up, down = Budget(0.1, 6.0), Budget(0.1, 6.0)
    up.update(60.0, 64)
    down.update(0.6, 64)
    assert math.log(up.beta / 0.1) > 3 * -math.log(down.beta / 0.1) > 0


def test_the_budget_holds_a_kl_that_answers_to_its_price() -> None:
    """Where KL follows (1/β)^2 with some delay, it ends within 5 % of the target and never triples it."""
    rule, kl, seen = Budget(0.1, 6.0), 0.0, []
    for _ in range(400):
        kl += 0.1 * (0.5 / rule.beta**2 - kl)
        rule.update(kl, 64)
        seen.append(kl)
    assert seen[-1] == pytest.approx(6.0, rel=0.05)
    assert max(seen) < 18


@pytest.mark.parametrize("name", ["fixed", "ziegler", "budget"])
def test_a_rule_that_goes_on_from_its_state_goes_on_as_if_it_had_not_stopped(name: str) -> None:
    whole, begun = controller(name, 0.2, 3.0, 500), controller(name, 0.2, 3.0, 500)
    for kl in (1.0, 5.0, 9.0):
        whole.update(kl, 64)
        begun.update(kl, 64)
    resumed = controller(name, 7.0, 3.0, 500)
    resumed.go_on(begun.state())
    for kl in (2.0, 8.0):
        whole.update(kl, 64)
        resumed.update(kl, 64)
    assert resumed.beta == whole.beta
    assert resumed.state() == whole.state()


@pytest.mark.parametrize("name", ["ziegler", "budget"])
def test_a_kl_that_is_no_number_is_refused_and_leaves_the_price_as_it_was(name: str) -> None:
    rule = controller(name, 0.2, 3.0, 500)
    with pytest.raises(FloatingPointError, match="KL is nan"):
        rule.update(math.nan, 64)
    assert rule.beta == 0.2
    rule.update(math.inf, 64)
    assert 0.2 < rule.beta < math.inf


@pytest.mark.parametrize(("beta", "target"), [(math.nan, 6.0), (0.1, math.nan), (0.1, 0.0), (math.inf, 6.0)])
def test_a_budget_without_a_price_or_a_target_is_refused(beta: float, target: float) -> None:
    with pytest.raises(ValueError, match="both are numbers above 0"):
        Budget(beta, target)
