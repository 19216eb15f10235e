"""PPO: its parts by numbers worked out by hand, and that it learns."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from backflip.envs import Collector, Task
from backflip.envs.task import gymnasium_task
from backflip.files import DamagedFile
from backflip.policies import Policy
from backflip.policies.advantages import clipped_loss, generalised_advantages
from backflip.policies.ppo import PPO, PPOConfig
from backflip.policies.running import CLIP, RunningMoments
from backflip.segments import Array, Rollout

CARTPOLE = replace(gymnasium_task("CartPole-v1"), sees_ends=True, entropy=0.0)
FOLLOW = Task("follow", "toys:Follow-v0", "Which follows the number better?")
SMALL = PPOConfig(environments=4, rollout_steps=16, minibatch=32, epochs=2)


def _true(rollout: Rollout) -> Array:
    return rollout.true_rewards


def _policy(task: Task, config: PPOConfig = SMALL, seed: int = 0) -> PPO:
    return PPO(Collector(task, config.environments, seed), config, seed)


def _weights(policy: PPO) -> bytes:
    return b"".join(leaf.detach().numpy().tobytes() for leaf in policy.networks.leaves)


# ---- formulas


def test_advantages_by_hand_with_an_end_in_the_middle() -> None:
    # γ = λ = ½. Surprises: 1 + ½·1 - ½ = 1; 2 + ½·10 - 1 = 6, its episode ends there; 3 + ½·4 - 2 = 3.
    # From the back: 3; 6, since the end stops the sum; 1 + ¼·6 = 2.5.
    rewards, values, following = (np.array([x], np.float32).T for x in ([1, 2, 3], [0.5, 1, 2], [1, 10, 4]))
    ends = np.array([[False], [True], [False]])
    advantages = generalised_advantages(rewards, values, following, ends, discount=0.5, gae=0.5)
    np.testing.assert_allclose(advantages[:, 0], [2.5, 6, 3])
    assert advantages.dtype == np.float32


def test_environments_do_not_share_their_sums() -> None:
    rng = np.random.default_rng(0)
    rewards, values, following = rng.normal(size=(3, 20, 4)).astype(np.float32)
    ends = rng.random((20, 4)) < 0.2
    together = generalised_advantages(rewards, values, following, ends, 0.9, 0.8)
    for e in range(4):
        r, v, f, over = (x[:, e : e + 1] for x in (rewards, values, following, ends))
        alone = generalised_advantages(r, v, f, over, 0.9, 0.8)
        np.testing.assert_array_equal(together[:, e : e + 1], alone)


def test_with_lambda_1_advantage_plus_value_is_the_discounted_return() -> None:
    rng = np.random.default_rng(0)
    rewards, values = rng.normal(size=(2, 6, 1)).astype(np.float32)
    following = np.concatenate([values[1:], np.array([[5.0]], np.float32)])
    advantages = generalised_advantages(rewards, values, following, np.zeros((6, 1), bool), 0.9, 1.0)
    returns = [sum(0.9**i * float(rewards[t + i, 0]) for i in range(6 - t)) + 0.9 ** (6 - t) * 5 for t in range(6)]
    np.testing.assert_allclose((advantages + values)[:, 0], returns, rtol=1e-5)


def test_clipped_loss_by_hand() -> None:
    # Ratios 1.5, 0.5, 1.5, 0.5 and advantages 1, 1, -1, -1, bound to 0.8-1.2: min(1.5, 1.2) = 1.2; min(0.5, 0.8) = 0.5;
    # min(-1.5, -1.2) = -1.5; min(-0.5, -0.8) = -0.8. Their mean is -0.15.
    old = torch.tensor([[0.3], [-1.0], [0.0], [2.0]])
    change = torch.log(torch.tensor([[1.5], [0.5], [1.5], [0.5]]))
    new = (old + change).requires_grad_(True)
    loss, ratio = clipped_loss(new, old, torch.tensor([[1.0], [1.0], [-1.0], [-1.0]]), 0.2)
    assert loss.item() == pytest.approx(0.15)
    np.testing.assert_allclose(ratio.detach()[:, 0], [1.5, 0.5, 1.5, 0.5], rtol=1e-6)
    # The slope of -r·A/4 is -r·A/4 where nothing was cut off, and 0 where it was.
    (gradient,) = torch.autograd.grad(loss, new)
    np.testing.assert_allclose(gradient[:, 0], [0, -0.125, 0.375, 0], atol=1e-6)


def test_clipped_loss_of_an_unchanged_policy_is_the_plain_policy_gradient() -> None:
    new = torch.zeros(3, 1, requires_grad=True)
    advantages = torch.tensor([[1.0], [2.0], [-6.0]])
    loss, _ = clipped_loss(new, torch.zeros(3, 1), advantages, 0.2)
    assert loss.item() == pytest.approx(1.0)
    np.testing.assert_allclose(torch.autograd.grad(loss, new)[0], -advantages / 3)


def test_running_moments_are_numpys_over_all_batches() -> None:
    rng = np.random.default_rng(0)
    batches = [rng.normal(1000 * i, 1 + i, (size, 3)).astype(np.float32) for i, size in enumerate([1, 7, 500, 20])]
    moments = RunningMoments(3)
    for batch in batches:
        moments.update(batch)
    everything = np.concatenate(batches).astype(np.float64)
    np.testing.assert_allclose(moments.mean, everything.mean(0), rtol=1e-9)
    np.testing.assert_allclose(moments.variance, everything.var(0), rtol=1e-9)
    assert moments.count == 528
    normal = moments.normal(np.concatenate(batches))
    np.testing.assert_allclose(normal.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(normal.std(0), 1, rtol=1e-4)


def test_running_moments_before_anything_and_after_one_constant() -> None:
    moments = RunningMoments(2)
    seen = np.array([[0.5, -0.5]], np.float32)
    np.testing.assert_allclose(moments.normal(seen), seen, rtol=1e-6)
    moments.update(seen)
    np.testing.assert_array_equal(moments.normal(seen), [[0, 0]])
    np.testing.assert_array_equal(moments.normal(seen + 1), [[CLIP, CLIP]])
    assert np.isfinite(moments.normal(seen)).all()


def test_running_moments_come_back() -> None:
    moments, back = RunningMoments(3), RunningMoments(3)
    moments.update(np.random.default_rng(0).normal(size=(5, 4, 3)))
    back.restore(moments.arrays())
    seen = np.random.default_rng(1).normal(size=(9, 3)).astype(np.float32)
    assert back.normal(seen).tobytes() == moments.normal(seen).tobytes()
    back.update(seen)
    moments.update(seen)
    assert back.normal(seen).tobytes() == moments.normal(seen).tobytes()


def test_rescaling_the_values_keeps_what_the_critic_predicts() -> None:
    policy = _policy(CARTPOLE)
    seen = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))

    def predicted() -> Array:
        with torch.no_grad():
            values: Array = policy.networks(seen)[1].numpy() * policy.value_deviation + policy.value_mean
        return values

    rng = np.random.default_rng(0)
    before = predicted()
    assert before.std() > 0.01
    for mean, deviation in ((100, 30), (-50, 0.1), (0, 0)):
        returns = rng.normal(mean, deviation, (16, 4)).astype(np.float32)
        policy._rescale_values(returns)
        policy.iteration += 1
        np.testing.assert_allclose(predicted(), before, rtol=1e-3, atol=1e-3)
    assert policy.value_deviation > 0


def test_the_first_returns_set_the_scale_and_later_ones_move_it_by_a_tenth() -> None:
    policy = _policy(CARTPOLE)
    policy._rescale_values(np.array([[2, 6]], np.float32))  # mean 4, deviation 2
    assert (policy.value_mean, policy.value_deviation) == (4, 2)
    policy.iteration += 1
    policy._rescale_values(np.array([[14, 14]], np.float32))  # 4 + (14 - 4)/10, 2 + (0 - 2)/10
    assert policy.value_mean == pytest.approx(5)
    assert policy.value_deviation == pytest.approx(1.8)


# ---- acting


@pytest.mark.parametrize("task", [CARTPOLE, FOLLOW], ids=lambda task: task.name)
def test_log_probabilities_when_acting_are_those_of_the_networks(task: Task) -> None:
    policy = _policy(task)
    for _ in range(3):
        policy.train(_true)
    _, observations, actions, stored = policy._act(policy._rng())
    with torch.no_grad():
        outputs, _ = policy.networks(torch.from_numpy(observations.reshape(-1, policy.observation_size)))
    outputs = outputs.reshape(*stored.shape, -1)
    distribution: Any
    if policy.discrete:
        distribution = torch.distributions.Categorical(logits=outputs)
        expected = distribution.log_prob(torch.from_numpy(actions))
    else:
        distribution = torch.distributions.Normal(outputs, policy.networks.log_deviation.detach().exp())
        expected = distribution.log_prob(torch.from_numpy(actions)).sum(-1)
        assert (policy.networks.log_deviation != 0).all()
    np.testing.assert_allclose(stored, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("task", [CARTPOLE, FOLLOW], ids=lambda task: task.name)
def test_a_policy_that_does_not_move_keeps_every_ratio_at_1(task: Task) -> None:
    policy = _policy(task)
    for _ in range(3):
        policy.train(_true)
    before = _weights(policy)
    policy.config = replace(policy.config, learning_rate=0.0)
    policy.networks.critic[0].data.zero_()  # so that rescaling has nothing to change
    policy.train(_true)
    assert abs(policy.report()["act/kl"]) < 1e-7  # about (r - 1)²/2
    assert abs(policy.report()["act/policy_loss"]) < 0.5  # a mean of normalised advantages
    policy.config = replace(policy.config, learning_rate=1e-2)
    policy.train(_true)
    assert policy.report()["act/kl"] > 1e-6
    assert _weights(policy) != before


def test_choices_are_drawn_as_often_as_the_networks_say() -> None:
    policy = _policy(CARTPOLE, PPOConfig(environments=4, rollout_steps=1000, minibatch=1000))
    with torch.no_grad():
        policy.networks.actor[0].zero_()
        policy.networks.actor[1].copy_(torch.tensor([0.0, np.log(3.0)]))  # probabilities 1/4 and 3/4
    rollout = policy.explore()
    assert rollout.actions.mean() == pytest.approx(0.75, abs=4 * (0.1875 / 4000) ** 0.5)
    assert (policy.choose(rollout.observations[0]) == 1).all()


def test_choices_begin_where_the_space_begins() -> None:
    class Shifted(gym.ActionWrapper[Any, Any, Any]):
        def __init__(self, env: Any) -> None:
            super().__init__(env)
            self.action_space = spaces.Discrete(2, start=5)

        def action(self, action: Any) -> Any:
            return action - 5

    policy = _policy(replace(CARTPOLE, wrap=Shifted))
    rollout = policy.train(_true)
    assert set(np.unique(rollout.actions)) == {5, 6}
    assert set(np.unique(policy.choose(rollout.observations[0]))) <= {5, 6}


def test_actions_are_within_their_bounds() -> None:
    policy = _policy(FOLLOW)
    with torch.no_grad():
        policy.networks.log_deviation.fill_(2.0)
    rollout = policy.explore()
    assert np.abs(rollout.actions).max() == np.float32(0.6)
    assert np.abs(policy.choose(1e3 * rollout.observations[0])).max() <= np.float32(0.6)
    _, _, before_clipping, _ = policy._act(policy._rng())
    assert np.abs(before_clipping).max() > 2  # what is learned from is what was drawn


def test_exploring_does_not_learn_but_counts_and_gets_to_know_the_observations() -> None:
    policy = _policy(FOLLOW)
    assert isinstance(policy, Policy)
    before = _weights(policy)
    policy.explore()
    assert _weights(policy) == before
    assert (policy.iteration, policy.steps, policy.seen.count) == (1, 64, 64)
    policy.train(_true)
    assert (policy.iteration, policy.steps, policy.seen.count) == (2, 128, 128)


# ---- ends


@pytest.mark.parametrize("sees_ends", [False, True])
def test_only_a_termination_that_may_be_seen_is_worth_nothing_afterwards(sees_ends: bool) -> None:
    task = replace(CARTPOLE, sees_ends=sees_ends, options={"max_episode_steps": 12})
    policy = _policy(task, PPOConfig(environments=16, rollout_steps=64, discount=0.5, gae=0.0))
    with torch.no_grad():
        for leaf in policy.networks.critic:
            leaf.zero_()
    policy.value_mean = 10.0  # the critic now says 10 everywhere
    rollout, observations, *_ = policy._act(policy._rng())
    assert rollout.terminated.any()
    assert not rollout.terminated.all()
    advantages, returns = policy._advantages(rollout, observations, rollout.true_rewards)
    # λ = 0: A = r + ½·V' - V, with r = 1, V = 10 and V' = 10, or 0 where an end counts: -4 or -9.
    at_ends = np.full(len(rollout.terminated), -4.0)
    if sees_ends:
        at_ends[rollout.terminated] = -9
    np.testing.assert_allclose(advantages[rollout.ends], at_ends, rtol=1e-5)
    np.testing.assert_allclose(advantages[~rollout.ends], -4, rtol=1e-5)
    np.testing.assert_allclose(returns, advantages + 10, rtol=1e-5)


def test_what_comes_after_an_end_is_valued_by_its_own_last_observation() -> None:
    policy = _policy(replace(CARTPOLE, sees_ends=False), replace(SMALL, rollout_steps=64, discount=1.0, gae=0.0))
    rollout, observations, *_ = policy._act(policy._rng())
    advantages, _ = policy._advantages(rollout, observations, np.zeros_like(rollout.true_rewards))

    def value(seen: Array) -> Array:
        with torch.no_grad():
            values: Array = policy.networks(torch.from_numpy(policy._normal(seen)))[1].numpy()
        return values

    now = value(rollout.observations).reshape(64, 4)
    following = np.concatenate([now[1:], value(rollout.last_observations)[None]])
    following[rollout.ends] = value(rollout.end_observations)
    np.testing.assert_allclose(advantages, following - now, atol=1e-5)


# ---- learning


def _follow_error(policy: PPO) -> float:
    seen = np.random.default_rng(9).uniform(-1, 1, (200, 2)).astype(np.float32)
    return float(np.abs(policy.choose(seen) - 0.5 * seen).mean())


@pytest.mark.slow
def test_it_learns_continuous_actions() -> None:
    config = PPOConfig(environments=8, rollout_steps=64, minibatch=128, learning_rate=3e-3, discount=0.5)
    policy = _policy(replace(FOLLOW, entropy=0.0), replace(config, entropy=0.0))
    assert _follow_error(policy) > 0.2  # doing nothing is wrong by 0.25
    for _ in range(40):
        policy.train(_true)
    assert _follow_error(policy) < 0.05
    assert np.exp(policy.networks.log_deviation.detach().numpy()).max() < 0.6  # and is surer than the 1 it began with


def test_it_learns_the_reward_that_it_is_paid_and_not_the_true_one() -> None:
    config = PPOConfig(environments=8, rollout_steps=64, minibatch=128, learning_rate=3e-3, discount=0.5, entropy=0.0)
    policy = _policy(FOLLOW, config)

    def opposite(rollout: Rollout) -> Array:
        paid: Array = -np.square(rollout.actions + 0.5 * rollout.observations).sum(-1)
        return paid

    for _ in range(28):
        policy.train(opposite)
    seen = np.random.default_rng(9).uniform(-1, 1, (200, 2)).astype(np.float32)
    assert np.abs(policy.choose(seen) + 0.5 * seen).mean() < 0.05


def test_the_true_reward_does_not_leak_into_what_is_learned() -> None:
    seen, unseen = _policy(FOLLOW), _policy(replace(FOLLOW, has_true_reward=False))

    def pay(rollout: Rollout) -> Array:
        paid: Array = rollout.observations[..., 0] * rollout.actions[..., 0]
        return paid

    for policy, known in ((seen, True), (unseen, False)):
        for _ in range(3):
            rollout = policy.train(pay)
            assert np.isnan(rollout.true_rewards).all() != known
    assert _weights(seen) == _weights(unseen)


@pytest.mark.slow
def test_it_balances_a_pole() -> None:
    config = PPOConfig(
        environments=8, rollout_steps=128, minibatch=256, learning_rate=1e-3, discount=0.99, gae=0.95, entropy=0.0
    )
    policy = _policy(CARTPOLE, config)

    def steps_upright() -> float:
        collector = Collector(CARTPOLE, 10, seed=1000)
        return float(500 / max(1, collector.collect(policy.choose, 500).ends.sum() / 10))

    assert steps_upright() < 150
    for _ in range(50):
        policy.train(_true)
    assert steps_upright() > 400


@pytest.mark.parametrize("task", [CARTPOLE, FOLLOW], ids=lambda task: task.name)
def test_saved_and_loaded_it_goes_on_as_if_uninterrupted(task: Task, tmp_path: Path) -> None:
    through, resumed = _policy(task), _policy(task)
    through.explore()
    for _ in range(2):
        through.train(_true)
    through.save(tmp_path)
    resumed.load(tmp_path)
    assert (resumed.iteration, resumed.steps) == (3, 3 * 64)
    for policy in (through, resumed):
        policy.collector.reset(5)
        for _ in range(3):
            policy.train(_true)
    assert _weights(through) == _weights(resumed)
    assert through.report() == resumed.report()


def test_an_untrained_policy_can_be_saved_too(tmp_path: Path) -> None:
    policy, back = _policy(FOLLOW), _policy(FOLLOW, seed=1)
    policy.save(tmp_path)
    back.load(tmp_path)
    assert _weights(policy) == _weights(back)


def test_a_damaged_policy_is_refused(tmp_path: Path) -> None:
    policy = _policy(FOLLOW)
    policy.save(tmp_path)
    file = tmp_path / "policy.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(DamagedFile, match="cannot be read"):
        policy.load(tmp_path)


def test_training_repeats_itself_and_another_seed_does_not() -> None:
    policies = [_policy(FOLLOW, seed=seed) for seed in (3, 3, 4)]
    for policy in policies:
        policy.train(_true)
    assert _weights(policies[0]) == _weights(policies[1])
    assert _weights(policies[0]) != _weights(policies[2])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_reward_that_is_no_number_is_refused_before_anything_is_learned(bad: float) -> None:
    policy = _policy(FOLLOW)
    before = _weights(policy)

    def pay(rollout: Rollout) -> Array:
        rewards = rollout.true_rewards.copy()
        rewards[3, 1] = bad
        return rewards

    with pytest.raises(FloatingPointError, match="is not finite; the policy cannot learn from it"):
        policy.train(pay)
    assert _weights(policy) == before


def test_a_constant_reward_is_learned_from_without_harm() -> None:
    policy = _policy(FOLLOW)
    for _ in range(5):
        policy.train(lambda rollout: np.zeros_like(rollout.true_rewards))
    assert all(np.isfinite(leaf.detach().numpy()).all() for leaf in policy.networks.leaves)
    assert all(np.isfinite(value) for value in policy.report().values())


def test_an_annealed_learning_rate_falls_to_0() -> None:
    config = replace(SMALL, anneal=True)
    policy = PPO(Collector(FOLLOW, 4, 0), config, 0, total_steps=128)
    policy.train(_true)
    before = [leaf.detach().clone() for leaf in policy.networks.trunk]
    policy.train(_true)  # its 128 steps are taken now
    for old, new in zip(before, policy.networks.trunk, strict=True):
        assert torch.equal(old, new.detach())


@pytest.mark.parametrize("minibatch", [1, 65])
def test_a_minibatch_larger_than_a_rollout_is_refused(minibatch: int) -> None:
    with pytest.raises(ValueError, match=rf"minibatch is {minibatch}, but a rollout has 4 x 16 = 64 steps; choose"):
        replace(SMALL, minibatch=minibatch)
