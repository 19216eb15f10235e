"""Making environments: what is supported, what is refused and in which words."""

from dataclasses import replace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from backflip.envs import Task, default_segment_steps, steps_per_second
from backflip.envs.task import Env, gymnasium_task


class Toy(gym.Env[Any, Any]):
    """An environment of any spaces, which ends after four steps."""

    metadata = {"render_modes": ["ansi"]}  # noqa: RUF012 (Gymnasium's own way)

    def __init__(self, seen: Any, done: Any, render_mode: str | None = None) -> None:
        self.observation_space, self.action_space, self.render_mode = seen, done, render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return self.observation_space.sample(), 1.0, False, False, {}


class Plain(Toy):
    """The same, without a render mode at all."""

    def __init__(self, seen: Any, done: Any) -> None:
        super().__init__(seen, done)


class Odd(spaces.Space[int]):
    """A kind of space that Gymnasium does not know."""

    def sample(self, mask: Any = None, probability: Any = None) -> int:
        return 0

    def contains(self, x: Any) -> bool:
        return True


BOX = spaces.Box(-1, 1, (3,), np.float32)


@pytest.fixture(autouse=True)
def _registered() -> Any:
    toy: Any = Toy
    plain: Any = Plain
    gym.register("backflip-tests/Toy-v0", entry_point=toy, max_episode_steps=4, disable_env_checker=True)
    gym.register("backflip-tests/Plain-v0", entry_point=plain, disable_env_checker=True)
    yield
    del gym.registry["backflip-tests/Toy-v0"], gym.registry["backflip-tests/Plain-v0"]


def _toy(seen: Any = BOX, done: Any = BOX, environment: str = "backflip-tests/Toy-v0") -> Task:
    return Task("toy", environment, "Which?", options={"seen": seen, "done": done})


@pytest.mark.parametrize(
    "done",
    [
        spaces.MultiDiscrete([2, 2]),
        spaces.Box(-1, 1, (2, 2)),
        spaces.Box(-1, 1, ()),
        spaces.Box(0, 9, (2,), np.int32),  # would be given fractions
        spaces.Tuple([BOX]),
    ],
)
def test_an_unsupported_action_space_is_named(done: Any) -> None:
    with pytest.raises(ValueError, match=r"toy has the action space .*only Discrete and one-dimensional Box"):
        _toy(done=done).make()


def test_choices_may_begin_at_any_number() -> None:
    assert _toy(done=spaces.Discrete(3, start=1)).make().action_space == spaces.Discrete(3, start=1)


@pytest.mark.parametrize("seen", [spaces.Sequence(BOX), spaces.Graph(BOX, None), Odd()])
def test_an_unsupported_observation_space_is_named(seen: Any) -> None:
    with pytest.raises(ValueError, match=r"toy has the observation space .*only Box, or a Dict of Boxes"):
        _toy(seen=seen).make()


def test_a_dict_of_boxes_is_flattened() -> None:
    env = _toy(seen=spaces.Dict({"a": BOX, "b": spaces.Box(0, 1, (2, 2), np.float32)})).make()
    seen, _ = env.reset(seed=0)
    assert env.observation_space.shape == (7,)
    assert seen.shape == (7,)


def test_an_image_is_not_flattened() -> None:
    assert _toy(seen=spaces.Box(0, 255, (8, 8, 3), np.uint8)).make().observation_space.shape == (8, 8, 3)


def test_filming_without_rgb_frames_says_which_modes_there_are() -> None:
    with pytest.raises(ValueError, match=r"toy has the render modes \['ansi'\], not 'rgb_array'"):
        _toy().make(film=True)


def test_filming_without_any_render_mode_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="toy takes no render_mode, and needs 'rgb_array'"):
        _toy(environment="backflip-tests/Plain-v0").make(film=True)


def test_another_mistake_in_the_options_is_not_taken_for_a_render_mode() -> None:
    with pytest.raises(TypeError, match="colour"):
        Task("toy", "CartPole-v1", "Which?", options={"colour": 1}).make()


def test_the_change_of_a_task_is_applied() -> None:
    def halved(env: Env) -> Env:
        return gym.wrappers.TransformReward(env, lambda reward: float(reward) / 2)

    env = Task("toy", "CartPole-v1", "Which?", wrap=halved).make()
    env.reset(seed=0)
    assert env.step(0)[1] == 0.5


def test_steps_per_second_come_from_dt_then_from_the_frame_rate_then_from_a_guess() -> None:
    assert steps_per_second(gymnasium_task("Hopper-v5").make()) == pytest.approx(125)
    assert steps_per_second(gymnasium_task("CartPole-v1").make()) == 50
    assert steps_per_second(_toy().make()) == 30


def test_a_segment_of_a_very_short_episode_has_at_least_a_step() -> None:
    assert default_segment_steps(_toy().make()) == 2
    assert default_segment_steps(_toy().make(), seconds=0.001) == 1


def test_an_episode_may_be_shorter_in_training_than_in_evaluation() -> None:
    task = replace(gymnasium_task("Pendulum-v1"), training_steps=7)
    lengths = []
    for variant in (task, task.in_training()):
        env = variant.make()
        env.reset(seed=0)
        ends = [env.step(env.action_space.sample())[3] for _ in range(200)]
        lengths.append(ends.index(True) + 1)
        env.close()
    assert lengths == [200, 7]
    assert replace(task, training_steps=None).in_training() == replace(task, training_steps=None)


class Sunk(gym.Wrapper[Any, Any, Any, Any]):
    """What is seen at the beginning is one less."""

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        seen, info = self.env.reset(**options)
        return seen - 1, info


class Doubled(gym.ObservationWrapper[Any, Any, Any]):
    """Everything that is seen is doubled."""

    def observation(self, observation: Any) -> Any:
        return 2 * observation


@pytest.mark.parametrize("wrap", [None, Doubled])
def test_training_may_begin_otherwise_than_evaluation(wrap: Any) -> None:
    task = replace(gymnasium_task("Pendulum-v1"), wrap=wrap, training_wrap=Sunk)
    environments = task.make(), task.in_training().make()
    plain, trained = ([env.reset(seed=1)[0], env.step(np.zeros(1))[0]] for env in environments)
    np.testing.assert_allclose(trained[0], plain[0] - (1 if wrap is None else 2))
    np.testing.assert_allclose(trained[1], plain[1])
