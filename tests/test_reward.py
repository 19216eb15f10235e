"""r̂: members evaluated together, normalised one by one, saved and loaded; and what a person would choose."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from backflip.envs import Task
from backflip.envs.facts import facts
from backflip.files import DamagedFile, save_arrays
from backflip.queries import select_queries
from backflip.reward import (
    LEAK,
    SMALLEST_DEVIATION,
    STEPS_AT_ONCE,
    Inputs,
    RewardConfig,
    RewardEnsemble,
    probability_left,
)
from backflip.segments import Array, Segments

VECTORS = Inputs((3,), 2, discrete=False)
CHOICES = Inputs((3,), 4, discrete=True)
NORMALISATION = ("input_mean", "input_deviation", "output_mean", "output_deviation")


def _steps(n: int, seed: int = 0, inputs: Inputs = VECTORS) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    observations = rng.normal(2, 3, (n, *inputs.observation_shape)).astype(np.float32)
    if inputs.discrete:
        return observations, rng.integers(inputs.action_size, size=n) + inputs.first_action
    return observations, rng.normal(size=(n, inputs.action_size)).astype(np.float32)


def _state(ensemble: RewardEnsemble) -> list[Array]:
    """A copy of everything that an ensemble's rewards depend on."""
    parts = [*ensemble.parameters, *(getattr(ensemble, name) for name in NORMALISATION)]
    return [part.detach().numpy().copy() for part in parts]


def _by_hand(ensemble: RewardEnsemble, member: int, features: Array) -> Array:
    x = features.astype(np.float64)
    weights = [leaf[member].numpy().astype(np.float64) for leaf in ensemble.parameters]
    for layer in range(0, len(weights), 2):
        x = x @ weights[layer] + weights[layer + 1]
        if layer + 2 < len(weights):
            x = np.where(x > 0, x, LEAK * x)
    return x[:, 0]


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_members_together_give_what_each_gives_alone(layers: int) -> None:
    ensemble = RewardEnsemble(VECTORS, RewardConfig(members=4, layers=layers, width=16), seed=3)
    observations, actions = _steps(50)
    ensemble.standardise_inputs([observations])
    standard = (observations - observations.mean(0)) / observations.std(0)
    raw = ensemble.raw(observations, actions).numpy()
    for member in range(4):
        expected = _by_hand(ensemble, member, np.concatenate([standard, actions], 1))
        np.testing.assert_allclose(raw[member], expected, rtol=1e-4, atol=1e-5)


def test_a_bounded_ensemble_gives_the_tanh_of_what_a_plain_one_gives() -> None:
    plain, bounded = (RewardEnsemble(VECTORS, RewardConfig(width=16, bounded=bound), seed=3) for bound in (False, True))
    observations, actions = _steps(50)
    raw = plain.raw(100 * observations, actions).numpy()
    assert np.abs(raw).max() > 2
    np.testing.assert_allclose(bounded.raw(100 * observations, actions), np.tanh(raw), rtol=1e-5, atol=1e-6)


def test_members_differ_and_seeds_differ() -> None:
    observations, actions = _steps(20)
    raw = [RewardEnsemble(VECTORS, seed=seed).raw(observations, actions).numpy() for seed in (0, 1)]
    different = np.concatenate(raw)
    for i in range(len(different)):
        for j in range(i):
            assert np.abs(different[i] - different[j]).max() > 1e-3


def test_a_larger_ensemble_contains_the_smaller() -> None:
    small, large = (RewardEnsemble(VECTORS, RewardConfig(members=members), seed=7) for members in (2, 5))
    for few, many in zip(small.parameters, large.parameters, strict=True):
        np.testing.assert_array_equal(few.numpy(), many[:2].numpy())


def test_any_leading_axes_give_the_same_rewards() -> None:
    ensemble = RewardEnsemble(VECTORS)
    observations, actions = _steps(24)
    flat = ensemble.reward(observations, actions)
    shaped = ensemble.reward(observations.reshape(2, 3, 4, 3), actions.reshape(2, 3, 4, 2))
    assert shaped.shape == (2, 3, 4)
    np.testing.assert_allclose(shaped.reshape(-1), flat, rtol=1e-5, atol=1e-6)
    assert ensemble.reward(observations[:0], actions[:0]).shape == (0,)


def test_inputs_are_standardised_but_what_never_moved_is_not_blown_up() -> None:
    ensemble = RewardEnsemble(VECTORS)
    # Column 0 has mean 2 and deviation 1, column 1 never moves, column 2 has mean 0 and deviation 3.
    observations = np.array([[1, 5, -3], [3, 5, 3]], np.float32)
    ensemble.standardise_inputs([observations])
    np.testing.assert_allclose(ensemble.input_mean, [2, 5, 0])
    np.testing.assert_allclose(ensemble.input_deviation, [1, SMALLEST_DEVIATION, 3])
    features = ensemble.features(observations, np.zeros((2, 2), np.float32))
    np.testing.assert_allclose(features[:, :3], [[-1, 0, -1], [1, 0, 1]])


def test_beside_each_number_its_size_is_read_where_that_is_wanted() -> None:
    ensemble = RewardEnsemble(VECTORS, RewardConfig(sizes=True))
    observations = np.array([[1, -5, -3], [3, 5, 3]], np.float32)
    ensemble.standardise_inputs([observations])
    np.testing.assert_allclose(ensemble.input_mean, [2, 0, 0, 2, 5, 3])
    features = ensemble.features(observations, np.array([[0.5, -0.5], [-1, 0]], np.float32))
    np.testing.assert_allclose(features[:, :6], [[-1, -1, -1, -1, 0, 0], [1, 1, 1, 1, 0, 0]])
    np.testing.assert_allclose(features[:, 6:], np.array([[0.5, -0.5, 0.5, 0.5], [-1, 0, 1, 0]]))
    choices = RewardEnsemble(Inputs((2,), 3, discrete=True), RewardConfig(sizes=True))
    features = choices.features(np.array([[1, -5]], np.float32), np.array([1]))
    np.testing.assert_allclose(features, [[1, -5, 1, 5, 0, 1, 0]])


@pytest.mark.parametrize("sizes", [False, True])
def test_inputs_that_are_standardised_anew_change_no_reward(sizes: bool) -> None:
    rng = np.random.default_rng(5)
    observations, actions = rng.normal(1, 3, (50, 3)).astype(np.float32), rng.normal(size=(50, 2)).astype(np.float32)
    ensemble = RewardEnsemble(VECTORS, RewardConfig(sizes=sizes))
    before = ensemble.raw(observations, actions)
    assert ensemble.restandardise_inputs([observations]).shape == (6 if sizes else 3,)
    assert not torch.equal(ensemble.input_deviation, torch.ones_like(ensemble.input_deviation))
    np.testing.assert_allclose(ensemble.raw(observations, actions), before, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("deviation", [1.0, 0.05])
def test_calibration_gives_every_member_mean_0_and_the_set_deviation(deviation: float) -> None:
    ensemble = RewardEnsemble(VECTORS, RewardConfig(members=3, deviation=deviation))
    # Members of very different scales: without one normalisation each, the last would decide alone.
    for leaf in ensemble.parameters[-2:]:
        leaf *= torch.tensor([0.01, 1, 100])[:, None, None]
    observations, actions = _steps(500)
    ensemble.calibrate(observations, actions)
    rewards = ensemble.member_rewards(observations, actions)
    np.testing.assert_allclose(rewards.mean(1), 0, atol=1e-4)
    np.testing.assert_allclose(rewards.std(1), deviation, rtol=1e-4)
    np.testing.assert_allclose(ensemble.reward(observations, actions), rewards.mean(0), rtol=1e-5, atol=1e-6)


def test_calibration_of_known_outputs() -> None:
    # No hidden layer, so that the output is w·o + b: member 0 gives o, member 1 gives 10·o + 5. On o = 1, 3, 5, 7
    # member 0 has mean 4 and deviation √5, member 1 has mean 45 and deviation 10·√5; both become (o - 4)/√5.
    ensemble = RewardEnsemble(Inputs((1,), 1, discrete=False), RewardConfig(members=2, layers=0))
    ensemble.parameters[0].copy_(torch.tensor([[[1.0], [0.0]], [[10.0], [0.0]]]))
    ensemble.parameters[1].copy_(torch.tensor([[[0.0]], [[5.0]]]))
    observations = np.array([[1], [3], [5], [7]], np.float32)
    actions = np.zeros((4, 1), np.float32)
    ensemble.calibrate(observations, actions)
    np.testing.assert_allclose(ensemble.output_mean, [4, 45])
    np.testing.assert_allclose(ensemble.output_deviation, [5**0.5, 10 * 5**0.5], rtol=1e-6)
    expected = (np.array([1, 3, 5, 7]) - 4) / 5**0.5
    np.testing.assert_allclose(ensemble.member_rewards(observations, actions), [expected, expected], rtol=1e-5)
    np.testing.assert_allclose(ensemble.reward(observations, actions), expected, rtol=1e-5)


def test_constant_behaviour_is_calibrated_to_0_and_not_to_infinity() -> None:
    ensemble = RewardEnsemble(VECTORS)
    observations, actions = np.full((1, 3), 0.3, np.float32), np.full((1, 2), 0.1, np.float32)
    ensemble.calibrate(observations, actions)
    np.testing.assert_allclose(ensemble.reward(observations, actions), 0, atol=1e-6)
    assert np.abs(ensemble.reward(*_steps(10))).max() < 10


def test_neither_asking_for_rewards_nor_choosing_queries_moves_anything(make_segments: Any) -> None:
    ensemble = RewardEnsemble(VECTORS)
    segments: Segments = make_segments(40)
    ensemble.standardise_inputs([segments.observations])
    ensemble.calibrate(segments.observations, segments.actions)
    before = _state(ensemble)
    for seed in range(3):
        ensemble.reward(*_steps(100, seed))
        ensemble.member_rewards(*_steps(100, seed))
        select_queries(np.random.default_rng(seed), ensemble, segments, 4)
    for old, new in zip(before, _state(ensemble), strict=True):
        np.testing.assert_array_equal(old, new)


def test_rewards_carry_no_gradient() -> None:
    ensemble = RewardEnsemble(VECTORS)
    for leaf in ensemble.parameters:
        leaf.requires_grad_(True)
    assert not ensemble.raw(*_steps(4)).requires_grad


@pytest.mark.parametrize("first", [0, 1, -2])
def test_choices_are_one_hot_wherever_they_begin(first: int) -> None:
    ensemble = RewardEnsemble(Inputs((3,), 4, discrete=True, first_action=first))
    observations = np.zeros((4, 3), np.float32)
    features = ensemble.features(observations, np.arange(first, first + 4))
    np.testing.assert_array_equal(features[:, 3:], np.eye(4))


def test_a_choice_that_does_not_exist_is_refused() -> None:
    with pytest.raises(RuntimeError, match="smaller than num_classes"):
        RewardEnsemble(CHOICES).reward(np.zeros((1, 3), np.float32), np.array([4]))


def test_images_and_dictionaries_are_read_flat() -> None:
    pixels = RewardEnsemble(Inputs((5, 5, 2), 4, discrete=True))
    images = np.random.default_rng(0).integers(0, 256, (6, 5, 5, 2)).astype(np.uint8)
    pixels.standardise_inputs([images])
    assert pixels.reward(images.reshape(2, 3, 5, 5, 2), np.zeros((2, 3), np.int64)).shape == (2, 3)

    class Parts(gym.Env[Any, Any]):
        observation_space = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Box(-1, 1, (2, 2))})
        action_space = spaces.Discrete(3, start=1)

    entry: Any = Parts
    gym.register("backflip-tests/Parts-v0", entry_point=entry, disable_env_checker=True)
    try:
        told = facts(Task("parts", "backflip-tests/Parts-v0", "Which?"))
    finally:
        del gym.registry["backflip-tests/Parts-v0"]
    assert (told.observation_shape, told.action_size, told.discrete, told.first_action) == ((6,), 3, True, 1)
    ensemble = RewardEnsemble(Inputs(told.observation_shape, told.action_size, told.discrete, told.first_action))
    assert ensemble.inputs.size == 9
    assert ensemble.reward(np.zeros((2, 6), np.float32), np.array([1, 3])).shape == (2,)


@pytest.mark.parametrize("sizes", [False, True])
@pytest.mark.parametrize("inputs", [VECTORS, Inputs((2, 2), 3, discrete=True, first_action=1)])
def test_saved_and_loaded_it_is_the_same_to_the_byte(inputs: Inputs, sizes: bool, tmp_path: Path) -> None:
    ensemble = RewardEnsemble(inputs, RewardConfig(members=2, width=8, deviation=0.5, sizes=sizes), seed=5)
    steps = _steps(30, inputs=inputs)
    ensemble.standardise_inputs([steps[0]])
    ensemble.calibrate(*steps)
    ensemble.baseline = 0.25
    ensemble.save(tmp_path / "a")
    back = RewardEnsemble.load(tmp_path / "a")
    assert (back.inputs, back.config, back.baseline) == (inputs, ensemble.config, 0.25)
    assert back.reward(*steps).tobytes() == ensemble.reward(*steps).tobytes()
    back.save(tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_damaged_a_foreign_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "reward.safetensors"
    RewardEnsemble(VECTORS).save(file)
    whole = file.read_bytes()
    for size in (0, 7, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(DamagedFile, match=r"reward.safetensors cannot be read"):
            RewardEnsemble.load(file)
    file.write_bytes(b"not an ensemble at all")
    with pytest.raises(DamagedFile, match="cannot be read"):
        RewardEnsemble.load(file)
    with pytest.raises(DamagedFile, match="is missing"):
        RewardEnsemble.load(tmp_path / "none")
    save_arrays(file, {"l2": np.zeros(3)}, {"fits": 1})
    with pytest.raises(DamagedFile, match="holds no reward ensemble"):
        RewardEnsemble.load(file)


def test_a_sum_over_a_segment_leaves_padding_out() -> None:
    ensemble = RewardEnsemble(VECTORS)
    observations, actions = _steps(8)
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 1]], np.float32)
    returns = ensemble.segment_returns(observations.reshape(2, 4, 3), actions.reshape(2, 4, 2), mask)
    raw = ensemble.raw(observations, actions).numpy().reshape(3, 2, 4)
    np.testing.assert_allclose(returns[:, 0], raw[:, 0, :2].sum(-1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(returns[:, 1], raw[:, 1].sum(-1), rtol=1e-5, atol=1e-6)


def test_probability_left_is_09_sigma_plus_005() -> None:
    # σ(0) = 1/2 -> 0.5. σ(log 3) = 3/4 -> 0.9·0.75 + 0.05 = 0.725. σ(±∞) = 1 and 0 -> 0.95 and 0.05.
    left = torch.tensor([2.0, np.log(3.0) + 1, 1e4, -1e4])
    right = torch.tensor([2.0, 1.0, -1e4, 1e4])
    np.testing.assert_allclose(probability_left(left, right), [0.5, 0.725, 0.95, 0.05], rtol=1e-6)
    np.testing.assert_allclose(probability_left(left, right, 0.0), [0.5, 0.75, 1, 0], rtol=1e-6)


def test_probability_left_and_right_make_1() -> None:
    left, right = torch.randn(2, 1000, generator=torch.Generator().manual_seed(0)) * 10
    both = probability_left(left, right) + probability_left(right, left)
    np.testing.assert_allclose(both, 1, atol=1e-6)


def test_probability_left_has_finite_gradients_at_huge_margins() -> None:
    returns = torch.tensor([1e4, -1e4, 0.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(probability_left(returns, torch.zeros(3)).sum(), returns)
    # At 0 the slope is 0.9·σ'(0) = 0.9/4.
    np.testing.assert_allclose(gradient, [0, 0, 0.225], atol=1e-7)


def test_parts_are_standardised_as_if_they_were_one() -> None:
    rng = np.random.default_rng(3)
    parts = [rng.normal(1000 * i, 1 + i, size=(n, 3)).astype(np.float32) for i, n in enumerate((1, 5000, 7))]
    ensemble, whole = (RewardEnsemble(VECTORS) for _ in range(2))
    ensemble.standardise_inputs(part for part in parts)
    together = np.concatenate(parts).astype(np.float64)
    whole.standardise_inputs([together])
    np.testing.assert_allclose(ensemble.input_mean, together.mean(0), rtol=1e-6)
    np.testing.assert_allclose(ensemble.input_deviation, together.std(0), rtol=1e-6)
    np.testing.assert_array_equal(ensemble.input_deviation, whole.input_deviation)


def test_rewards_of_many_steps_are_those_of_each() -> None:
    rng = np.random.default_rng(4)
    observations = rng.normal(size=(2 * STEPS_AT_ONCE + 3, 1, 3)).astype(np.float32)
    actions = rng.normal(size=(len(observations), 1, 2)).astype(np.float32)
    ensemble = RewardEnsemble(VECTORS)
    rows = [0, STEPS_AT_ONCE - 1, STEPS_AT_ONCE, len(observations) - 1]
    together = ensemble.raw(observations, actions)
    assert together.shape == (ensemble.members, len(observations), 1)
    np.testing.assert_allclose(together[:, rows], ensemble.raw(observations[rows], actions[rows]), rtol=1e-4, atol=1e-6)


def test_of_no_steps_there_are_no_rewards() -> None:
    nothing = RewardEnsemble(VECTORS).raw(np.zeros((0, 5, 3), np.float32), np.zeros((0, 5, 2), np.float32))
    assert nothing.shape == (3, 0, 5)
