"""DeepMind's control suite: what its two tasks are, that they can be drawn, and what is said where it is missing."""

import importlib.util
import os
import subprocess
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from backflip.envs import TASKS, Collector, find_task, steps_per_second
from backflip.envs.clips import draw_segment
from backflip.envs.collect import has_simulator_state
from backflip.envs.facts import facts
from backflip.envs.suite import SUITE
from backflip.segments import Array

NAMES = [task.name for task in SUITE]
MISSING = [name for name in ("dm_control", "shimmy") if importlib.util.find_spec(name) is None]


@pytest.fixture(autouse=True)
def _dm_control(request: pytest.FixtureRequest) -> None:
    """Skip without the suite; in CI, where it has to be, fail."""
    if not MISSING or "without" in request.node.name:
        return
    reason = f"needs {' and '.join(MISSING)}: pip install 'backflip[dmc]'"
    if os.environ.get("CI"):
        pytest.fail(f"{reason}; CI must test the suite too", pytrace=False)
    pytest.skip(reason)


def _at_random(seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    return lambda seen: rng.uniform(-1, 1, (len(seen), 6)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "observation", "rate", "segment"), [("dmc-walker-walk", 24, 40, 60), ("dmc-cheetah-run", 17, 100, 150)]
)
def test_spaces_and_lengths_are_those_of_the_suite(name: str, observation: int, rate: float, segment: int) -> None:
    env = TASKS[name].make()
    assert env.action_space == gym.spaces.Box(-1, 1, (6,), np.float64)
    assert steps_per_second(env) == pytest.approx(rate)
    told = facts(TASKS[name])
    assert told.observation_shape == (observation,)
    assert (told.action_size, told.bounded, told.discrete) == (6, True, False)
    assert (told.episode_steps, told.segment_steps) == (1000, segment)


@pytest.mark.parametrize("name", NAMES)
def test_an_episode_lasts_a_thousand_steps_and_pays_between_0_and_1(name: str) -> None:
    collector = Collector(TASKS[name], 1, seed=0)
    rollout = collector.collect(_at_random(), 1001)
    assert np.flatnonzero(rollout.ends[:, 0]).tolist() == [999]
    assert rollout.terminated.tolist() == [False]
    assert np.isfinite(rollout.observations).all()
    assert rollout.observations.dtype == np.float32
    assert (rollout.true_rewards >= 0).all()
    assert (rollout.true_rewards <= 1).all()
    assert rollout.true_rewards.std() > 0
    # A new episode begins where the old one ended.
    assert not np.allclose(rollout.observations[1000], rollout.end_observations[0])


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_gives_an_episode_again_and_another_gives_another(name: str) -> None:
    one, again, other = (Collector(TASKS[name], 1, seed=seed).collect(_at_random(), 5) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.observations, again.observations)
    np.testing.assert_array_equal(one.true_rewards, again.true_rewards)
    assert not np.allclose(one.observations[0], other.observations[0])


def test_the_cheetah_is_paid_for_its_speed_up_to_ten_metres_a_second() -> None:
    env = TASKS["dmc-cheetah-run"].make()
    env.reset(seed=0)
    inner: Any = env.unwrapped
    moved = []
    for _ in range(100):
        _, reward, *_ = env.step(np.array([1, -1, 1, -1, 1, -1]))
        # The speed that the suite's own sensor tells, of the torso's subtree.
        speed = inner._env.physics.named.data.sensordata["torso_subtreelinvel"][0]
        assert reward == pytest.approx(float(np.clip(speed / 10, 0, 1)), abs=1e-6)
        moved.append(speed)
    assert max(moved) > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_frames_can_be_drawn_from_what_is_recorded(name: str) -> None:
    task = TASKS[name]
    assert has_simulator_state(task)
    rollout = Collector(task, 2, seed=0, filmed=1).collect(_at_random(), 60)
    assert rollout.states.shape == (60, 1, 18)
    clip = draw_segment(task, rollout.states[:, 0], 60)
    assert len(clip.frames) > 10
    for frame in clip.frames:
        assert frame.shape == (256, 256, 3)
        assert _colourful(frame).sum() > 150
    assert (clip.frames[0] != clip.frames[-1]).any()


def test_both_legs_of_the_walker_are_seen() -> None:
    standing = np.zeros((1, 18), np.float32)
    frame = draw_segment(TASKS["dmc-walker-walk"], standing, 1).frames[0]
    hues = {int(np.argmax(pixel)) for pixel in frame[_colourful(frame)]}
    assert {0, 2} <= hues  # one leg is orange, the other blue
    assert not _colourful(frame)[[0, -1]].any()  # nothing is cut off
    assert not _colourful(frame)[:, [0, -1]].any()


def _colourful(frame: Array) -> Array:
    return np.asarray(frame.max(axis=2).astype(int) - frame.min(axis=2) > 90)


def test_the_suites_tasks_say_what_counts_and_pay_without_ends() -> None:
    for name in NAMES:
        task = find_task(name)
        assert task.has_true_reward
        assert not task.sees_ends
        assert task.question.endswith("Judge only what you see happen in the clip.")


@pytest.mark.slow
def test_making_a_task_leaves_the_environments_variables_and_the_folder_alone(tmp_path: Any) -> None:
    program = """
import os
before = dict(os.environ)
from backflip.envs import find_task
for name in ("dmc-walker-walk", "dmc-cheetah-run"):
    find_task(name).make().reset(seed=0)
assert dict(os.environ) == before, set(os.environ.items()) ^ set(before.items())
"""
    environment = {name: value for name, value in os.environ.items() if name not in ("MUJOCO_GL", "DISPLAY")}
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("package", ["dm_control", "shimmy", "mujoco"])
def test_without_a_package_one_sentence_says_how_to_get_it(package: str) -> None:
    program = f"""
import sys
sys.modules[{package!r}] = None  # what Python does where a package is not installed
from backflip.envs import MissingExtra, find_task
find_task("CartPole-v1").make()
for name in ("dmc-walker-walk", "dmc-cheetah-run"):
    try:
        find_task(name).make()
    except MissingExtra as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        f"{name} needs a package that is not installed; to get it: pip install 'backflip[dmc]'" for name in NAMES
    ]
