"""SAC: its parts by numbers worked out by hand, and that it learns whatever its memory is paid."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from backflip.envs import Collector, Task
from backflip.files import DamagedFile
from backflip.policies import Policy
from backflip.policies.replay import Batch
from backflip.policies.sac import HIGHEST, LOWEST, SAC, SACConfig
from backflip.policies.stack import Stack
from backflip.segments import Array, Rollout

FOLLOW = Task("follow", "toys:Follow-v0", "Which follows the number better?")
POINT = Task("point", "toys:DictPoint-v0", "Which goes farther to the right?")
SMALL = SACConfig(
    environments=4,
    burst_steps=4,
    updates_per_step=0.25,
    batch=16,
    width=16,
    capacity=500,
    random_steps=0,
    bfloat16=False,
)
QUICK = SACConfig(
    batch=64, learning_rate=3e-3, discount=0.5, width=32, capacity=5_000, random_steps=200, bfloat16=False
)
"""Learns to follow within 12 rollouts of 64 steps."""


def _true(rollout: Rollout) -> Array:
    return rollout.true_rewards


def _nothing(rollout: Rollout) -> Array:
    return np.zeros_like(rollout.true_rewards)


def _policy(task: Task = FOLLOW, config: SACConfig = SMALL, seed: int = 0, steps: int = 16) -> SAC:
    return SAC(Collector(task, config.environments, seed), config, seed, steps)


def _weights(policy: SAC) -> bytes:
    parts = (policy.actor.vector, policy.critics.flat, policy.slow.flat)
    return b"".join(part.numpy().tobytes() for part in parts)


def _memory(policy: SAC) -> list[Array]:
    """What was seen and done, what was seen next, rewards, going on."""
    known = policy.replay.sample(np.arange(len(policy.replay)))
    return [part.numpy() for part in (known.seen_and_done, known.following, known.rewards, known.going_on)]


def _set_actor(policy: SAC, means: list[float], log_deviations: list[float]) -> None:
    """Let it want the same everywhere, before the tanh."""
    policy.actor.flat.zero_()
    policy.actor.weights[5].copy_(torch.tensor([[means + log_deviations]]))


def _follow_error(policy: SAC, sign: float = 1) -> float:
    seen = np.random.default_rng(9).uniform(-1, 1, (200, 2)).astype(np.float32)
    return float(np.abs(policy.choose(seen) - sign * 0.5 * seen).mean())


# ---- formulas


def _noise(rows: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(rows, 2, generator=torch.Generator().manual_seed(seed))


def test_log_probabilities_are_those_of_a_normal_distribution_behind_a_tanh() -> None:
    policy = _policy(steps=1)
    seen = torch.randn(300, 2, generator=torch.Generator().manual_seed(0))
    policy.actor.flat.mul_(2)  # away from 0
    drawn = policy._draw(seen, _noise(300))
    mean, log_deviation = policy.actor.alone(seen).double().chunk(2, 1)
    distribution: Any = torch.distributions.TransformedDistribution(
        torch.distributions.Normal(mean, log_deviation.exp()), torch.distributions.transforms.TanhTransform()
    )
    assert drawn.log_probability.shape == (300, 1)
    assert drawn.action.abs().max() < 1
    wanted: Any = distribution.log_prob(drawn.action.double()).sum(1)
    np.testing.assert_allclose(drawn.log_probability[:, 0], wanted, rtol=1e-3, atol=2e-3)
    assert wanted.std() > 0.3


def _by_pytorch(stack: Stack, flat: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """A stack's outputs with some weights, by operations that PyTorch can differentiate."""
    w1, b1, w2, b2, w3, b3 = stack.views(flat)
    outputs: torch.Tensor = torch.relu(torch.relu(x @ w1 + b1) @ w2 + b2) @ w3 + b3
    return outputs


def _drawn_by_pytorch(
    policy: SAC, flat: torch.Tensor, seen: torch.Tensor, noise: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Actions, and their log probabilities."""
    mean, log_deviation = _by_pytorch(policy.actor, flat, seen)[0].chunk(2, 1)
    log_deviation = log_deviation.clamp(LOWEST, HIGHEST)
    before = mean + log_deviation.exp() * noise
    normal: Any = torch.distributions.Normal(mean, log_deviation.exp())
    squash = 2 * (np.log(2) - before - torch.nn.functional.softplus(-2 * before))
    return torch.tanh(before), (normal.log_prob(before) - squash).sum(1, keepdim=True)


def _differing() -> SAC:
    """Some of its log σ are past a bound, α is 0.3, and each critic is the smaller one somewhere."""
    policy = _policy()
    policy.critics.flat.mul_(3)
    policy.slow.flat.mul_(2)
    policy.actor.weights[5][0, 0, 2:] = torch.tensor([HIGHEST, LOWEST])
    policy.actor.vector[-1] = np.log(0.3)
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(5))
    for critics in (policy.critics, policy.slow):
        critics.weights[5].sub_(critics(x).outputs.mean(1, keepdim=True))
        values = critics(x).outputs
        assert 0.2 < (values[0] < values[1]).float().mean() < 0.8
    return policy


def test_the_actors_gradient_is_that_of_its_loss_by_pytorch() -> None:
    policy, seen, noise = _differing(), _noise(64, 0), _noise(64)
    log_deviation = policy.actor(seen).outputs[0][:, 2:]
    assert 0.2 < ((log_deviation > LOWEST) & (log_deviation < HIGHEST)).float().mean() < 0.8
    flat = policy.actor.flat.clone().requires_grad_()
    action, log_probability = _drawn_by_pytorch(policy, flat, seen, noise)
    values = _by_pytorch(policy.critics, policy.critics.flat.clone(), torch.cat([seen, action], 1))
    loss = (0.3 * log_probability - values.amin(0)).mean()
    (wanted,) = torch.autograd.grad(loss, flat)
    policy._learn_actor(seen, noise)
    torch.testing.assert_close(policy.actor.gradient[:-1], wanted, rtol=1e-3, atol=1e-5)
    assert policy.report()["act/policy_loss"] == pytest.approx(loss.item(), rel=1e-4)
    entropy = -log_probability.mean().item()
    assert policy.report()["act/entropy"] == pytest.approx(entropy, rel=1e-4)
    assert float(policy.actor.gradient[-1]) == pytest.approx(entropy + 2, rel=1e-4)


def test_the_critics_gradient_is_that_of_their_loss_by_pytorch() -> None:
    policy, seen, following, noise = _differing(), _noise(64, 0), _noise(64, 2), _noise(64)
    both = torch.cat([seen, torch.tanh(_noise(64, 3))], 1)
    going_on = (_noise(64, 4)[:, :1] > -0.5).float()
    batch = Batch(seen, both, following, _noise(64, 5)[:, :1], going_on)
    assert 0 < going_on.mean() < 1
    action, log_probability = _drawn_by_pytorch(policy, policy.actor.flat, following, noise)
    slow = _by_pytorch(policy.slow, policy.slow.flat, torch.cat([following, action], 1)).amin(0)
    target = batch.rewards + policy.config.discount * going_on * (slow - 0.3 * log_probability)
    flat = policy.critics.flat.clone().requires_grad_()
    loss = 0.5 * (_by_pytorch(policy.critics, flat, both) - target).square().mean(1).sum()
    (wanted,) = torch.autograd.grad(loss, flat)
    policy._learn_critics(batch, noise)
    torch.testing.assert_close(policy.critics.gradient, wanted, rtol=1e-3, atol=1e-5)
    assert policy.report()["act/value_loss"] == pytest.approx(loss.item(), rel=1e-4)


def test_the_actor_learns_where_it_was_and_the_critics_from_where_they_came(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = _policy(config=replace(SMALL, actor_every=1, updates_per_step=1 / 16), steps=1)
    given: dict[str, Any] = {}
    monkeypatch.setattr(policy, "_learn_critics", lambda batch, noise: given.update(batch=batch, then=noise))
    monkeypatch.setattr(policy, "_learn_actor", lambda seen, noise: given.update(seen=seen, now=noise))
    policy.train(_true)
    assert torch.equal(given["seen"], given["batch"].seen)
    assert not torch.equal(given["seen"], given["batch"].following)
    assert not torch.equal(given["then"], given["now"])  # a noise of its own for each


def test_log_probabilities_are_finite_however_sure_or_far_out_an_action_is() -> None:
    policy = _policy()
    _set_actor(policy, [30.0, -30.0], [9.0, -99.0])  # deviations of e² and e⁻⁵, their bounds
    seen = torch.zeros(50, 2)
    assert policy._draw(seen, _noise(50)).log_probability.isfinite().all()
    policy._learn_actor(seen, _noise(50))
    assert policy.actor.gradient.isfinite().all()
    assert policy.actor.gradient[:-1].any()
    _set_actor(policy, [30.0, -30.0], [9.0, -99.0])
    _, deviations = policy._outputs(seen.numpy())
    np.testing.assert_allclose(deviations[0], np.exp([HIGHEST, LOWEST]), rtol=1e-5)


@pytest.mark.parametrize(("surer", "rises"), [(0.0, True), (-3.0, False)])
def test_the_temperature_rises_while_the_entropy_is_below_its_aim_and_falls_while_it_is_above(
    surer: float, rises: bool
) -> None:
    # With a deviation of 0.1, a normal distribution has the entropy log(0.1·√(2πe)) = -0.88 for each number.
    config = replace(SMALL, updates_per_step=1.0, actor_every=1, entropy_per_action=surer - 0.5)
    policy = _policy(config=config)
    _set_actor(policy, [0.0, 0.0], [-2.3, -2.3])
    before = float(policy.actor.vector[-1])
    policy.train(_true)
    moved = float(policy.actor.vector[-1]) - before
    assert (moved > 0) == rises
    assert abs(moved) > 0.001
    assert policy.report()["act/entropy"] == pytest.approx(2 * -0.88, abs=0.25)


@pytest.mark.parametrize("falls", [None, 1])
@pytest.mark.parametrize("sees_ends", [False, True])
def test_only_a_termination_that_may_be_seen_is_worth_nothing_afterwards(sees_ends: bool, falls: int | None) -> None:
    # Every episode lasts one step: ended by itself (a fall), or by its time limit.
    task = replace(FOLLOW, sees_ends=sees_ends, options={"max_episode_steps": 1, "falls": falls})
    policy = _policy(task, replace(SMALL, discount=0.9, updates_per_step=1 / 16), steps=1)
    policy.critics.flat.zero_()
    policy.slow.flat.zero_()
    policy.slow.weights[5].fill_(10.0)  # the slow critics say 10 everywhere, the critics 0
    policy.actor.vector[-1] = -50.0  # entropy is worth nothing
    policy.train(_nothing)
    assert policy.updates == 1
    # The target is 0 + 0.9·10, or 0 where an end counts; the loss, ½·(81 + 81) of two critics.
    assert policy.report()["act/value_loss"] == pytest.approx(0 if sees_ends and falls else 81, abs=1e-4)


def test_the_target_is_the_reward_and_the_smaller_critics_value_and_the_entropy() -> None:
    policy = _policy(config=replace(SMALL, discount=0.5, updates_per_step=1 / 16), steps=1)
    policy.critics.flat.zero_()
    policy.slow.flat.zero_()
    policy.slow.weights[5][:, 0, 0] = torch.tensor([4.0, 8.0])
    policy.actor.vector[-1] = np.log(0.2)
    # A deviation of e⁻⁵ around 0: an entropy of 2·(-5 + 1.419) = -7.162, and the tanh is as good as none.
    _set_actor(policy, [0.0, 0.0], [-5.0, -5.0])
    policy.train(lambda rollout: np.full_like(rollout.true_rewards, 3.0))
    # 3 + 0.5·(4 - 0.2·7.162) = 4.284; the batch's own noise is 0.1·√(2·½)/√16 = 0.025.
    assert policy.report()["act/value_loss"] ** 0.5 == pytest.approx(4.284, abs=0.1)


def test_slow_critics_follow_by_their_slowness() -> None:
    policy = _policy(config=replace(SMALL, updates_per_step=1 / 16, slowness=0.25), steps=1)
    assert torch.equal(policy.slow.flat, policy.critics.flat)
    before = policy.slow.flat.clone()
    policy.train(_true)
    assert not torch.equal(policy.critics.flat, before)
    np.testing.assert_allclose(policy.slow.flat, 0.75 * before + 0.25 * policy.critics.flat, atol=1e-6)


# ---- acting


def test_exploration_is_as_wide_as_the_networks_say_and_choices_are_in_its_middle() -> None:
    policy = _policy(config=replace(SMALL, environments=8, burst_steps=100))
    _set_actor(policy, [0.5, -0.2], [float(np.log(0.1)), float(np.log(0.3))])
    actions = policy.explore().actions / np.float32(0.6)
    before = np.arctanh(actions.astype(np.float64)).reshape(-1, 2)
    # 800 draws: four standard errors are 4·0.3/√800 = 0.042 of the mean, and 4/√1600 = 10 % of the deviation.
    np.testing.assert_allclose(before.mean(0), [0.5, -0.2], atol=0.042)
    np.testing.assert_allclose(before.std(0), [0.1, 0.3], rtol=0.1)
    chosen = policy.choose(np.zeros((3, 2), np.float32))
    np.testing.assert_allclose(chosen, 0.6 * np.tanh([[0.5, -0.2]] * 3), rtol=1e-5)


class Lopsided(gym.ActionWrapper[Any, Any, Any]):
    """Follow, with bounds that have no middle of 0."""

    def __init__(self, env: Any) -> None:
        super().__init__(env)
        self.action_space = spaces.Box(np.array([1, -7], np.float32), np.array([2, 3], np.float32))

    def action(self, action: Any) -> Any:
        assert self.action_space.contains(action)
        return action


def test_actions_are_within_their_bounds_and_reach_them() -> None:
    policy = _policy(replace(FOLLOW, wrap=Lopsided), replace(SMALL, random_steps=1600), steps=400)
    at_random = policy.explore().actions.reshape(-1, 2)
    np.testing.assert_allclose(at_random.min(0), [1, -7], atol=0.05)
    np.testing.assert_allclose(at_random.max(0), [2, 3], atol=0.05)
    np.testing.assert_allclose(at_random.mean(0), [1.5, -2], atol=0.3)
    _set_actor(policy, [0.0, 0.0], [2.0, 2.0])
    drawn = policy.explore().actions.reshape(-1, 2)
    np.testing.assert_allclose(drawn.min(0), [1, -7], atol=0.05)
    np.testing.assert_allclose(drawn.max(0), [2, 3], atol=0.05)
    _set_actor(policy, [90.0, -90.0], [0.0, 0.0])
    np.testing.assert_allclose(policy.choose(np.zeros((1, 2), np.float32)), [[2, -7]], rtol=1e-5)


@pytest.mark.parametrize(
    ("space", "named"),
    [
        (spaces.Discrete(2), "Discrete"),
        (spaces.Box(-np.inf, np.inf, (2,)), "-inf"),
        (spaces.Box(0, np.inf, (2,)), "inf"),
    ],
)
def test_choices_and_unbounded_actions_are_refused(space: Any, named: str) -> None:
    def wrap(env: Any) -> Any:
        env.action_space = space
        return env

    with pytest.raises(ValueError, match=rf"follow has the actions .*{named}.*; SAC needs bounded numbers: use PPO"):
        _policy(replace(FOLLOW, wrap=wrap))


def test_a_rollout_is_whole_bursts_and_at_least_as_long_as_is_asked() -> None:
    assert [len(_policy(steps=steps).explore().ends) for steps in (1, 4, 5, 16)] == [4, 4, 8, 16]


def test_a_rollout_is_what_the_environments_did() -> None:
    policy = _policy(steps=16)
    rollout = policy.train(_true)
    assert rollout.starts.all()
    assert rollout.ends[[7, 15]].all()
    assert rollout.ends.sum() == 8
    expected = -np.square(rollout.actions - 0.5 * rollout.observations).sum(-1)
    np.testing.assert_allclose(rollout.true_rewards, expected, rtol=1e-4, atol=1e-6)
    assert (policy.steps, policy.iteration) == (64, 1)


def test_exploring_remembers_and_does_not_learn() -> None:
    policy = _policy()
    assert isinstance(policy, Policy)
    before = _weights(policy)
    policy.explore()
    assert _weights(policy) == before
    assert policy.report() == {}
    assert (policy.iteration, policy.steps, policy.updates, len(policy.replay)) == (1, 64, 0, 64)
    policy.train(_true)
    assert _weights(policy) != before
    assert (policy.iteration, policy.steps, len(policy.replay)) == (2, 128, 128)


# ---- learning


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_it_learns_continuous_actions(precision: torch.dtype) -> None:
    policy = _policy(config=QUICK, steps=8)
    for stack in (policy.actor, policy.critics, policy.slow):
        stack.precision = precision
    assert _follow_error(policy) > 0.2  # doing nothing is wrong by 0.25
    for _ in range(16):
        policy.train(_true)
    assert _follow_error(policy) < 0.05


@pytest.mark.parametrize(
    ("wanted", "gains", "precision"),
    [(True, True, torch.bfloat16), (True, False, torch.float32), (False, True, torch.float32)],
)
def test_bfloat16_is_computed_in_where_it_is_wanted_and_quicker(
    monkeypatch: pytest.MonkeyPatch, wanted: bool, gains: bool, precision: torch.dtype
) -> None:
    monkeypatch.setattr("backflip.policies.sac.gains_from_bfloat16", lambda: gains)
    policy = _policy(config=replace(SMALL, bfloat16=wanted))
    assert {policy.actor.precision, policy.critics.precision, policy.slow.precision} == {precision}


def test_it_learns_the_reward_that_it_is_paid_and_not_the_true_one() -> None:
    policy = _policy(config=QUICK, steps=8)

    def opposite(rollout: Rollout) -> Array:
        paid: Array = -np.square(rollout.actions + 0.5 * rollout.observations).sum(-1)
        return paid

    for _ in range(16):
        policy.train(opposite)
    assert _follow_error(policy, sign=-1) < 0.05


def test_the_true_reward_does_not_leak_into_what_is_learned() -> None:
    seen, unseen = _policy(), _policy(replace(FOLLOW, has_true_reward=False))

    def pay(rollout: Rollout) -> Array:
        paid: Array = rollout.observations[..., 0] * rollout.actions[..., 0]
        return paid

    def repay(observations: Array, actions: Array) -> Array:
        paid: Array = observations[:, 1] * actions[:, 1]
        return paid

    for policy, known in ((seen, True), (unseen, False)):
        policy.explore()
        policy.repay(repay)
        for _ in range(3):
            rollout = policy.train(pay)
            assert np.isnan(rollout.true_rewards).all() != known
    assert _weights(seen) == _weights(unseen)
    for one, other in zip(_memory(seen), _memory(unseen), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_paid_anew_it_learns_from_what_it_did_long_ago() -> None:
    # 2048 random steps are remembered, unpaid. Then a single rollout of 64 steps, and 640 updates from all of them.
    policy = _policy(config=replace(QUICK, updates_per_step=10, random_steps=1600), steps=256)
    policy.explore()
    policy.rollout_steps = 8
    for sign in (1, -1):

        def reward(seen: Array, done: Array, sign: float = sign) -> Array:
            paid: Array = -np.square(done - sign * 0.5 * seen).sum(-1)
            return paid

        policy.repay(reward)
        policy.train(lambda rollout: reward(rollout.observations, rollout.actions))
        assert _follow_error(policy, sign) < 0.1
    assert len(policy.replay) == 2048 + 2 * 64


def test_what_is_remembered_is_paid_for_what_was_done_and_not_for_the_policys_own_units() -> None:
    policy = _policy(replace(FOLLOW, wrap=Lopsided), replace(SMALL, random_steps=48))
    rollout = policy.train(_nothing)
    remembered: list[Array] = []

    def reward(seen: Array, done: Array) -> Array:
        remembered.extend([seen, done])
        paid: Array = done[:, 0] - done[:, 1]
        return paid

    policy.repay(reward)
    np.testing.assert_array_equal(remembered[0], rollout.observations.reshape(-1, 2))
    np.testing.assert_allclose(remembered[1], rollout.actions.reshape(-1, 2), rtol=1e-5)
    actions = rollout.actions.reshape(-1, 2)
    np.testing.assert_allclose(_memory(policy)[2][:, 0], actions[:, 0] - actions[:, 1], rtol=1e-5)


@pytest.mark.parametrize(
    ("sees_ends", "discount", "same"), [(False, 0.999, True), (True, 0.999, False), (False, 0.99, False)]
)
def test_a_reward_that_is_higher_everywhere_teaches_who_looks_far_the_same_unless_ends_are_seen(
    sees_ends: bool, discount: float, same: bool
) -> None:
    values = []
    for higher in (0.0, 8.0):

        def reward(seen: Array, done: Array, higher: float = higher) -> Array:
            paid: Array = (seen[:, 0] * done[:, 0]).round(1) + higher
            return paid

        def pay(rollout: Rollout, reward: Any = reward) -> Array:
            paid = reward(rollout.observations.reshape(-1, 2), rollout.actions.reshape(-1, 2))
            return np.asarray(paid).reshape(rollout.ends.shape)

        config = replace(SMALL, updates_per_step=0.5, discount=discount)
        policy = _policy(replace(FOLLOW, sees_ends=sees_ends), config)
        policy.train(_true)
        policy.repay(reward)
        policy.train(pay)
        values.append(policy.report()["act/value"])
    assert (abs(values[1] - values[0]) < 1e-3) == same


def test_a_policy_that_sees_a_table_is_paid_anew_for_the_table() -> None:
    def wrap(env: Any) -> Any:
        return gym.wrappers.ReshapeObservation(env, (2, 1))

    policy = _policy(replace(FOLLOW, wrap=wrap))
    policy.train(_true)
    shapes = []

    def reward(seen: Array, done: Array) -> Array:
        shapes.append(seen.shape)
        return np.zeros(len(seen), np.float32)

    policy.repay(reward)
    assert shapes == [(64, 2, 1)]


@pytest.mark.parametrize("updates_per_step", [0.25, 0.3, 1 / 7, 2.0])
def test_updates_are_kept_in_proportion_to_steps_over_all_bursts(updates_per_step: float) -> None:
    policy = _policy(config=replace(SMALL, updates_per_step=updates_per_step, batch=2), steps=20)
    for _ in range(3):
        policy.train(_true)
        assert -1e-6 < policy.steps * updates_per_step - policy.updates < 1 + 1e-6
    assert policy.updates > 0


def test_random_steps_are_remembered_and_not_learned_from() -> None:
    policy = _policy(config=replace(SMALL, random_steps=64, updates_per_step=1), steps=8)
    before = _weights(policy)
    policy.train(_true)
    policy.train(_true)
    assert (policy.steps, policy.updates, len(policy.replay)) == (64, 0, 64)
    assert _weights(policy) == before
    policy.train(_true)
    assert policy.updates == 32  # for the steps since, and not for those before
    assert _weights(policy) != before


def test_random_steps_do_not_come_from_the_policy() -> None:
    policy = _policy(config=replace(SMALL, random_steps=64), steps=16)
    _set_actor(policy, [9.0, 9.0], [-5.0, -5.0])
    actions = policy.explore().actions
    assert np.abs(actions.mean()) < 0.15  # uniform in ±0.6: four standard errors are 4·0.346/√128 = 0.12
    assert policy.explore().actions.min() > 0.5


def test_a_policy_that_has_learned_does_not_act_at_random_again_in_a_longer_run(tmp_path: Path) -> None:
    # A fifth of a short run is random at most (`Settings.exploration`), and a fifth of a longer run is more.
    policy, longer = (_policy(config=replace(SMALL, random_steps=steps), steps=16) for steps in (64, 1000))
    policy.train(_true)
    policy.train(_true)
    policy.save(tmp_path)
    longer.load(tmp_path)
    _set_actor(longer, [9.0, 9.0], [-5.0, -5.0])
    before = longer.updates
    assert longer.train(_true).actions[:4].min() > 0.5
    assert longer.updates > before > 0


@pytest.mark.parametrize("random_steps", [0, 128])
def test_every_rollout_draws_its_own_actions(random_steps: int) -> None:
    policy = _policy(config=replace(SMALL, random_steps=random_steps))
    _set_actor(policy, [0.0, 0.0], [-1.0, -1.0])
    first, second = policy.explore().actions, policy.explore().actions
    assert len(np.unique(np.concatenate([first, second]))) == first.size + second.size


def test_the_actor_learns_every_so_many_updates_of_the_critics() -> None:
    policy = _policy(config=replace(SMALL, updates_per_step=1 / 16, actor_every=3), steps=1)
    moved = []
    for _ in range(7):
        before = policy.actor.vector.clone()
        policy.train(_true)
        moved.append(not torch.equal(policy.actor.vector, before))
    assert moved == [False, False, True, False, False, True, False]


def test_what_critics_thought_of_novelty_is_forgotten_once_there_is_a_reward(tmp_path: Path) -> None:
    config = replace(SMALL, random_steps=32, entropy_steps=64, updates_per_step=1.0)
    policy = _policy(config=config, steps=8)
    for _ in range(3):
        policy.explore()
    assert policy.updates > 0
    assert policy.adams["critics"].taken[0] > 0
    sought = policy.critics.flat.clone()
    policy.config = replace(config, updates_per_step=0)
    policy.train(_true)
    fresh = Stack(2, 4, 1, config.width, np.random.default_rng([0, 2])).flat
    assert not torch.equal(fresh, sought)
    assert torch.equal(policy.critics.flat, fresh)
    assert torch.equal(policy.slow.flat, fresh)
    assert policy.adams["critics"].taken[0] == 0
    policy.train(_true)
    assert torch.equal(policy.critics.flat, fresh)  # only once
    policy.config = config
    policy.train(_true)
    policy.save(tmp_path)


def test_seeking_entropy_it_goes_farther_before_there_is_a_reward() -> None:
    # A point that makes steps of ±0.1 at random is some 0.36 away after the 40 of an episode; it could be 4 away.
    reached = []
    for entropy_steps in (0, 1500):
        config = replace(QUICK, random_steps=320, entropy_steps=entropy_steps, discount=0.95, updates_per_step=0.4)
        policy = _policy(POINT, config, steps=40)
        for _ in range(6):
            rollout = policy.explore()
        reached.append(float(np.abs(rollout.observations[..., -1]).max()))
        assert (policy.updates > 0) == (entropy_steps > 0)
    assert reached[1] > 2 * reached[0]


# ---- safety


@pytest.mark.parametrize("explored", [0, 1])
def test_saved_and_loaded_it_goes_on_as_if_uninterrupted(explored: int, tmp_path: Path) -> None:
    # 0.3·16 updates a burst leave something owed, and an odd number of them is in the middle of the actor's turn.
    config = replace(SMALL, updates_per_step=0.3, random_steps=64 * explored, capacity=200)
    through, resumed = _policy(config=config, steps=12), _policy(config=config, steps=12)
    for _ in range(explored):
        through.explore()
    for _ in range(4):
        through.train(_true)
    through.repay(lambda seen, done: 1 + seen[:, 0] * done[:, 0])
    assert through.updates % 2 == 1 or through._owed > 0
    through.save(tmp_path)
    resumed.load(tmp_path)
    assert (resumed.iteration, resumed.steps) == (4 + explored, 48 * (4 + explored))
    for policy in (through, resumed):
        policy.collector.reset(5)
        for _ in range(3):
            policy.train(_true)
        policy.repay(lambda seen, done: seen[:, 0] * done[:, 0])
        policy.train(_true)
    assert _weights(through) == _weights(resumed)
    assert through.report() == resumed.report()
    for one, other in zip(_memory(through), _memory(resumed), strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_untrained_policy_can_be_saved_too(tmp_path: Path) -> None:
    policy, back = _policy(), _policy(seed=1)
    policy.save(tmp_path)
    assert _weights(policy) != _weights(back)
    back.load(tmp_path)
    assert _weights(policy) == _weights(back)
    assert len(back.replay) == 0
    back.train(_true)
    assert len(back.replay) == 64


def test_a_loaded_policy_acts_by_what_it_loaded(tmp_path: Path) -> None:
    policy, back = _policy(), _policy(seed=1)
    for _ in range(2):
        policy.train(_true)
    policy.save(tmp_path)
    back.load(tmp_path)
    seen = np.random.default_rng(0).uniform(-1, 1, (5, 2)).astype(np.float32)
    np.testing.assert_array_equal(policy.choose(seen), back.choose(seen))


def test_a_damaged_policy_is_refused(tmp_path: Path) -> None:
    policy = _policy()
    policy.save(tmp_path)
    file = tmp_path / "policy.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(DamagedFile, match="cannot be read"):
        policy.load(tmp_path)


def test_training_repeats_itself_and_another_seed_does_not() -> None:
    policies = [_policy(seed=seed) for seed in (3, 3, 4)]
    for policy in policies:
        policy.train(_true)
    assert _weights(policies[0]) == _weights(policies[1])
    assert _weights(policies[0]) != _weights(policies[2])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_reward_that_is_no_number_is_refused_before_anything_is_learned(bad: float) -> None:
    policy = _policy()
    before = _weights(policy)

    def pay(rollout: Rollout) -> Array:
        rewards = rollout.true_rewards.copy()
        rewards[3, 1] = bad
        return rewards

    with pytest.raises(FloatingPointError, match="is not finite; the policy cannot learn from it"):
        policy.train(pay)
    assert _weights(policy) == before
    assert len(policy.replay) == 0


def test_a_constant_reward_is_learned_from_without_harm() -> None:
    policy = _policy()
    for _ in range(5):
        policy.train(_nothing)
    assert np.isfinite(np.frombuffer(_weights(policy), np.float32)).all()
    assert len(policy.report()) >= 5
    assert all(np.isfinite(value) for value in policy.report().values())


@pytest.mark.parametrize("name", ["environments", "burst_steps", "batch", "actor_every", "width"])
def test_settings_that_leave_nothing_to_do_are_refused(name: str) -> None:
    zero: dict[str, Any] = {name: 0}
    with pytest.raises(ValueError, match="environments, burst_steps, actor_every and width are at least 1, batch 2"):
        replace(SMALL, **zero)


@pytest.mark.parametrize(
    ("constant_until", "total", "rates"),
    [
        (0.5, 256, [1.0, 1.0, 1.0, 0.525, 0.05, 0.05]),
        (0.0, 256, [1.0, 0.7625, 0.525, 0.2875, 0.05, 0.05]),
        (1.0, 256, 6 * [1.0]),
        (0.5, None, 6 * [1.0]),
    ],
)
def test_the_learning_rate_falls_at_the_end_where_it_is_wanted(
    constant_until: float, total: int | None, rates: list[float]
) -> None:
    config = replace(SMALL, constant_until=constant_until, random_steps=0)
    policy = SAC(Collector(FOLLOW, config.environments, 0), config, 0, 16, total)
    found = []
    for _ in rates:
        found.append(policy.learning_rate / config.learning_rate)
        policy.train(_true)  # of 64 steps, in bursts of 16
    assert found == pytest.approx(rates)
    last = policy.adams["critics"].learning_rate, policy.adams["actor"].learning_rate
    assert last == pytest.approx(2 * (config.learning_rate * rates[-1],))


@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan")])
def test_a_share_of_a_run_that_is_none_is_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="constant_until"):
        SACConfig(constant_until=bad)


@pytest.mark.parametrize("discount", [0.0, 1.0])
def test_a_discount_that_forgets_nothing_or_everything_is_refused(discount: float) -> None:
    with pytest.raises(ValueError, match=rf"discount is {discount}; it lies between 0 and 1"):
        replace(SMALL, discount=discount)
