"""Stepping several environments: what is recorded is what happened."""

import itertools
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from backflip.envs import TASKS, Collector, Task
from backflip.envs.collect import has_simulator_state, small_frame
from backflip.envs.stage import stage_of
from backflip.envs.task import BrokenEnvironment, CannotBeShown, Env, gymnasium_task
from backflip.segments import Array, Rollout, cut_segments

CARTPOLE = gymnasium_task("CartPole-v1")


def _at_random(collector: Collector, seed: int = 0) -> Callable[[Array], Array]:
    rng = np.random.default_rng(seed)
    space: Any = collector.action_space
    if isinstance(space, gym.spaces.Discrete):
        return lambda seen: rng.integers(space.n, size=len(seen))
    return lambda seen: rng.uniform(-1, 1, (len(seen), *space.shape)).astype(np.float32)


def _replayed(task: Task, rollout: Rollout, environment: int, seed: int) -> None:
    """Check one environment's part of a rollout against an environment of its own."""
    env = task.make()
    seen, _ = env.reset(seed=seed + environment)
    ends = list(zip(*np.nonzero(rollout.ends), strict=True))
    for t in range(len(rollout.observations)):
        np.testing.assert_array_equal(rollout.observations[t, environment], seen.astype(np.float32))
        seen, reward, terminated, truncated, _ = env.step(rollout.actions[t, environment])
        assert rollout.true_rewards[t, environment] == np.float32(reward)
        assert rollout.ends[t, environment] == (terminated or truncated)
        if terminated or truncated:
            j = ends.index((t, environment))
            np.testing.assert_array_equal(rollout.end_observations[j], seen.astype(np.float32))
            assert rollout.terminated[j] == terminated
            seen, _ = env.reset()
    np.testing.assert_array_equal(rollout.last_observations[environment], seen.astype(np.float32))


@pytest.mark.parametrize("task", [CARTPOLE, TASKS["hopper"], TASKS["reacher"]], ids=lambda task: task.name)
def test_a_rollout_is_what_single_environments_do(task: Task) -> None:
    collector = Collector(task, 3, seed=11)
    rollout = collector.collect(_at_random(collector), 120)
    for environment in range(3):
        _replayed(task, rollout, environment, seed=11)
    assert (len(rollout.end_observations) > 0) == (task.name != "hopper")


def test_a_time_limit_is_not_a_termination() -> None:
    collector = Collector(TASKS["reacher"], 2, seed=0)
    rollout = collector.collect(_at_random(collector), 50)
    assert rollout.ends[-1].all()
    assert not rollout.terminated.any()


def test_one_rollout_goes_on_where_the_last_one_stopped() -> None:
    whole, parts = Collector(CARTPOLE, 2, seed=5), Collector(CARTPOLE, 2, seed=5)
    act_whole, act_parts = _at_random(whole), _at_random(parts)
    together = whole.collect(act_whole, 60)
    first, second = parts.collect(act_parts, 25), parts.collect(act_parts, 35)
    for name in ("observations", "actions", "true_rewards", "ends"):
        joined = np.concatenate([getattr(first, name), getattr(second, name)])
        np.testing.assert_array_equal(getattr(together, name), joined)
    assert first.starts.all()
    assert (second.starts == first.ends[-1]).all()
    np.testing.assert_array_equal(first.last_observations, second.observations[0])


def test_steps_are_counted_in_every_environment() -> None:
    collector = Collector(CARTPOLE, 4, seed=0)
    collector.collect(_at_random(collector), 10)
    collector.collect(_at_random(collector), 5)
    assert collector.steps == 60


def test_an_action_array_may_be_used_again() -> None:
    collector = Collector(TASKS["reacher"], 2, seed=0)
    buffer = np.zeros((2, 2), np.float32)

    def act(_: Array) -> Array:
        buffer[:] += 0.01
        return buffer

    assert collector.collect(act, 3).actions[:, 0, 0].tolist() == pytest.approx([0.01, 0.02, 0.03])


def test_a_reset_begins_the_same_episodes_again() -> None:
    collector = Collector(TASKS["hopper"], 2, seed=3)
    first = collector.collect(_at_random(collector), 20)
    collector.reset(3)
    again = collector.collect(_at_random(collector), 20)
    np.testing.assert_array_equal(first.observations, again.observations)
    assert again.starts.all()


def test_the_state_is_that_of_the_observation() -> None:
    collector = Collector(TASKS["hopper"], 3, seed=0, filmed=2)
    rollout = collector.collect(_at_random(collector), 30)
    assert rollout.states.shape == (30, 2, 12)
    # Hopper's observation is its state without the place (number 0), velocities clipped.
    np.testing.assert_array_equal(np.clip(rollout.states[:, :, 6:], -10, 10), rollout.observations[:, :2, 5:])
    np.testing.assert_array_equal(rollout.states[:, :, 1:6], rollout.observations[:, :2, :5])


def test_frames_are_recorded_where_there_is_no_simulator_state() -> None:
    pytest.importorskip("pygame")
    collector = Collector(CARTPOLE, 2, seed=0, filmed=1)
    rollout = collector.collect(_at_random(collector), 6)
    assert rollout.states.shape == (6, 1, 133, 200, 3)  # 400 x 600, reduced by 3
    assert rollout.states.dtype == np.uint8
    assert (rollout.states[0] != rollout.states[5]).any()
    collector.close()


def test_only_mujoco_has_a_simulator_state() -> None:
    assert has_simulator_state(gymnasium_task("Hopper-v5"))
    assert not has_simulator_state(CARTPOLE)


def test_attributes_that_are_called_like_mujocos_are_no_simulator() -> None:
    class Fit(gym.Wrapper[Any, Any, Any, Any]):
        model, data = "linear", (1, 2)

        @property
        def unwrapped(self) -> Any:
            return self

    task = Task("toy", "CartPole-v1", "Which?", wrap=Fit)
    assert not has_simulator_state(task)
    assert stage_of(task).figure is None


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_observation_that_is_not_finite_is_the_environments_fault(value: float) -> None:
    class Breaks(gym.ObservationWrapper[Any, Any, Any]):
        def observation(self, observation: Any) -> Any:
            self.seen = getattr(self, "seen", 0) + 1
            return observation if self.seen < 8 else np.array([value, 0, 0, 0], np.float32)

    collector = Collector(Task("toy", "CartPole-v1", "Which?", wrap=Breaks), 2, seed=0)
    act = _at_random(collector)
    collector.collect(act, 5)
    with pytest.raises(BrokenEnvironment, match=r"toy gave an observation that is not finite .* after step 10;"):
        collector.collect(act, 5)


def test_the_last_observation_of_an_episode_has_to_be_finite_too() -> None:
    class Breaks(gym.Wrapper[Any, Any, Any, Any]):
        def step(self, action: Any) -> Any:
            seen, reward, _, _, info = self.env.step(action)
            return seen * np.nan, reward, True, False, info  # as of a simulation that has blown up

    collector = Collector(Task("toy", "CartPole-v1", "Which?", wrap=Breaks), 2, seed=0)
    with pytest.raises(BrokenEnvironment, match="toy gave an observation that is not finite"):
        collector.collect(_at_random(collector), 5)


def test_an_observation_of_another_shape_than_the_space_says_is_named() -> None:
    class Short(gym.ObservationWrapper[Any, Any, Any]):
        def observation(self, observation: Any) -> Any:
            return observation[:3]

    with pytest.raises(BrokenEnvironment, match=r"toy gave an observation of the shape \(3,\), .* says \(4,\)"):
        Collector(Task("toy", "CartPole-v1", "Which?", wrap=Short), 2, seed=0)


@pytest.mark.parametrize("reward", [np.ones(1), "much"])
def test_a_reward_has_to_be_one_number(reward: Any) -> None:
    class Pays(gym.Wrapper[Any, Any, Any, Any]):
        def step(self, action: Any) -> Any:
            seen, _, over, cut, info = self.env.step(action)
            return seen, reward, over, cut, info

    collector = Collector(Task("toy", "CartPole-v1", "Which?", wrap=Pays), 2, seed=0)
    with pytest.raises(BrokenEnvironment, match=r"toy gave the reward .*, which has to be one number"):
        collector.collect(_at_random(collector), 5)


@pytest.mark.parametrize(
    ("frame", "gave"),
    [
        (None, "NoneType"),
        (np.zeros((20, 30, 4), np.uint8), r"uint8 \(20, 30, 4\)"),
        (np.zeros((3, 20, 30), np.uint8), r"uint8 \(3, 20, 30\)"),
        (np.zeros((20, 30), np.uint8), r"uint8 \(20, 30\)"),
        (np.zeros((0, 0, 3), np.uint8), r"uint8 \(0, 0, 3\)"),
        (np.full((20, 30, 3), 0.5), r"float64 \(20, 30, 3\)"),  # as uint8 it would be black
    ],
)
def test_an_environment_that_gives_no_picture_is_named(frame: Any, gave: str) -> None:
    class Blind(gym.Wrapper[Any, Any, Any, Any]):
        def render(self) -> Any:
            return frame

    env = Blind(CARTPOLE.make())
    with pytest.raises(CannotBeShown, match=f"CartPole-v1 gave {gave} for .* pictures .height, width, 3. of uint8"):
        small_frame(env)


def test_pictures_whose_size_changes_are_named() -> None:
    class Grows(gym.Wrapper[Any, Any, Any, Any]):
        sides = itertools.count(20)

        def render(self) -> Any:
            return np.zeros((next(self.sides), 30, 3), np.uint8)

    collector = Collector(Task("toy", "CartPole-v1", "Which?", wrap=Grows), 1, seed=0, filmed=1)
    collector.collect(_at_random(collector), 1)
    with pytest.raises(CannotBeShown, match="toy draws pictures of several sizes"):
        collector.collect(_at_random(collector), 1)


def test_a_large_picture_is_averaged_down() -> None:
    class Wide(gym.Wrapper[Any, Any, Any, Any]):
        def render(self) -> Any:
            chequer = 200 * (np.indices((301, 400)).sum(axis=0) % 2)
            return np.repeat(chequer.astype(np.uint8)[:, :, None], 3, axis=2)

    frame = small_frame(Wide(CARTPOLE.make()))
    assert frame.shape == (150, 200, 3)
    assert (frame == 100).all()


def test_images_stay_uint8() -> None:
    class Picture(gym.ObservationWrapper[Any, Any, Any]):
        def __init__(self, env: Env) -> None:
            super().__init__(env)
            self.observation_space = gym.spaces.Box(0, 255, (4, 4), np.uint8)

        def observation(self, observation: Any) -> Any:
            return np.full((4, 4), 200, np.uint8)

    collector = Collector(Task("toy", "CartPole-v1", "Which?", wrap=Picture), 2, seed=0)
    assert collector.collect(_at_random(collector), 3).observations.dtype == np.uint8


def test_short_episodes_become_short_segments_and_none_crosses_an_end() -> None:
    collector = Collector(CARTPOLE, 4, seed=0)
    rollout = collector.collect(_at_random(collector), 300)
    segments = cut_segments(rollout, 20, collector.steps, np.random.default_rng(0))
    assert (segments.lengths < 20).any()
    assert (segments.lengths == 20).any()
    assert (segments.policy_steps == 1200).all()
    # CartPole pays 1 a step: a return is a length, unless padding was counted.
    np.testing.assert_array_equal(segments.true_returns(), segments.lengths)
    # Its cart moves by 0.02 times its speed at each step; a reset between two steps would break that.
    moved = segments.observations[:, 1:, 0] - segments.observations[:, :-1, 0]
    expected = 0.02 * segments.observations[:, :-1, 1]
    np.testing.assert_allclose(np.where(segments.mask()[:, 1:] > 0, moved - expected, 0), 0, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"environments": 0}, "environments is 0"), ({"environments": 1, "filmed": -1}, "filmed is -1")],
)
def test_impossible_numbers_are_refused(settings: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Collector(CARTPOLE, seed=0, **settings)


def test_a_rollout_of_no_steps_is_refused() -> None:
    collector = Collector(CARTPOLE, 1, seed=0)
    with pytest.raises(ValueError, match="steps is 0"):
        collector.collect(_at_random(collector), 0)
