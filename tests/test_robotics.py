"""The paper's robotics tasks: what they pay, and that nothing ends them but time."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from backflip.envs import TASKS, Collector, MissingExtra, UnknownTask, default_segment_steps, find_task
from backflip.envs.robotics import ROBOTICS, Turning
from backflip.envs.scripts import FARTHEST, Flip, OffFloor
from backflip.envs.task import gymnasium_task

PAPER = ["reacher", "hopper", "walker", "swimmer", "cheetah", "ant", "double-pendulum", "pendulum"]
Measure = Callable[[Any], float]


def _speed_of_root(data: Any) -> float:
    return float(data.qpos[0])


def _speed_of_torso(data: Any) -> float:
    return float(data.body("torso").xpos[0])


def _double_pendulum(data: Any) -> float:
    x, _, y = data.site_xpos[0]
    _, first, second = data.qvel
    return float(10 - 0.01 * x**2 - (y - 2) ** 2 - 0.001 * first**2 - 0.005 * second**2 + 10 * (y - 1))


def _reacher(data: Any) -> float:
    return -float(np.linalg.norm(data.body("fingertip").xpos - data.body("target").xpos))


# For each task: whose place gives the velocity (None where that is not paid), and the rest of the reward.
BY_HAND: dict[str, tuple[Measure | None, Measure]] = {
    "hopper": (_speed_of_root, lambda data: 1 + data.qpos[1] - 1),
    "walker": (_speed_of_root, lambda data: 1 + data.qpos[1] - 2),
    "cheetah": (_speed_of_root, lambda data: 0.0),
    "swimmer": (_speed_of_root, lambda data: 0.0),
    "ant": (_speed_of_torso, lambda data: data.qpos[2] - 1.2),
    "pendulum": (None, lambda data: 1 - data.qpos[1] ** 2),
    "double-pendulum": (None, _double_pendulum),
    "reacher": (None, _reacher),
}


@pytest.mark.parametrize("name", PAPER)
def test_a_task_pays_what_the_paper_paid(name: str) -> None:
    place, rest = BY_HAND[name]
    env = TASKS[name].make()
    inner: Any = env.unwrapped
    env.reset(seed=3)
    env.action_space.seed(3)
    for _ in range(40):  # long enough for hopper, walker and both pendulums to fall
        before = place(inner.data) if place else 0.0
        _, reward, *_ = env.step(env.action_space.sample())
        speed = (place(inner.data) - before) / inner.dt if place else 0.0
        assert reward == pytest.approx(speed + rest(inner.data), abs=1e-9)


@pytest.mark.parametrize("name", [task.name for task in ROBOTICS])
def test_an_episode_lasts_until_its_time_limit_and_stays_finite(name: str) -> None:
    env = TASKS[name].make()
    env.action_space.seed(0)
    env.reset(seed=0)
    steps, truncated = 0, False
    while not truncated:
        steps += 1
        seen, reward, terminated, truncated, _ = env.step(env.action_space.sample())
        assert np.isfinite(seen).all()
        assert np.isfinite(float(reward))
        assert not terminated
    assert steps == {"reacher": 50, "hopper-backflip": 400}.get(name, 1000)
    inner: Any = env.unwrapped
    assert not any(warning.number for warning in inner.data.warning)  # MuJoCo resets a simulation that blows up


@pytest.mark.parametrize(
    ("name", "steps"),
    [("hopper", 188), ("cheetah", 30), ("reacher", 25), ("walker", 188), ("pendulum", 38), ("hopper-backflip", 75)],
)
def test_a_segment_lasts_a_second_and_a_half_but_at_most_half_an_episode(name: str, steps: int) -> None:
    assert default_segment_steps(TASKS[name].make()) == steps


def test_the_ant_is_seen_without_contact_forces() -> None:
    assert TASKS["ant"].make().observation_space.shape == (27,)


@pytest.mark.parametrize("name", ["hopper-backflip", "cheetah-one-leg"])
def test_a_novel_behaviour_has_no_true_reward(name: str) -> None:
    collector = Collector(TASKS[name], 2, seed=0)
    size = collector.action_space.shape
    assert size is not None
    rollout = collector.collect(lambda seen: np.zeros((len(seen), *size), np.float32), 3)
    assert np.isnan(rollout.true_rewards).all()


def test_the_paper_uses_less_entropy_for_the_swimmer_alone() -> None:
    assert {name: task.entropy for name, task in TASKS.items() if task.entropy != 0.01} == {"swimmer": 0.001}


def test_no_task_shows_the_policy_where_episodes_end() -> None:
    assert not any(task.sees_ends for task in TASKS.values())


def test_any_gymnasium_id_is_a_task() -> None:
    assert find_task("CartPole-v1") == gymnasium_task("CartPole-v1")


def test_an_id_may_name_the_module_that_registers_it() -> None:
    assert find_task("gymnasium:CartPole-v1").environment == "CartPole-v1"


@pytest.mark.parametrize(
    ("wrong", "near"),
    [("hoper", "hopper"), ("Hopper", "hopper"), ("cartpole-v1", "CartPole-v1"), ("x:Ant-v5", "Ant-v5")],
)
def test_an_unknown_name_is_answered_with_near_ones(wrong: str, near: str) -> None:
    with pytest.raises(UnknownTask, match=f"{wrong!r}; did you mean .*{near}"):
        find_task(wrong)


@pytest.mark.parametrize("line", ["import nothing_of_the_kind", "from json import nothing_of_the_kind"])
def test_a_module_that_imports_what_is_not_there_is_not_called_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    (tmp_path / "needy_envs.py").write_text(line)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingExtra, match=r"needy_envs imports what is not there \(.*nothing_of_the_kind"):
        find_task("needy_envs:Reach-v0")
    with pytest.raises(UnknownTask, match=r"Go to the folder that has absent_envs/inner\.py"):
        find_task("absent_envs.inner:Reach-v0")


@pytest.mark.filterwarnings("ignore:.*out of date:DeprecationWarning")
def test_what_gymnasium_lists_and_cannot_make_is_named() -> None:
    with pytest.raises(UnknownTask, match=r"Hopper-v3 cannot be made \(.*gymnasium-robotics.*\)"):
        find_task("Hopper-v3").make()


def test_missing_mujoco_is_one_clear_sentence_and_only_when_a_robot_is_made() -> None:
    program = """
import sys
sys.modules["mujoco"] = None  # what Python does where a package is not installed
from backflip.envs import MissingExtra, find_task
find_task("CartPole-v1").make()
for name in ("hopper", "Hopper-v5"):
    try:
        find_task(name).make()
    except MissingExtra as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all("pip install 'backflip[mujoco]'" in line for line in lines)


def test_making_a_cheetah_leaves_no_log_file(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # HalfCheetah's own file makes MuJoCo 4 complain, into the directory one is in
    TASKS["cheetah"].make()
    assert not list(tmp_path.iterdir())


def test_all_ids_are_registered() -> None:
    assert all(gym.spec(task.environment) for task in ROBOTICS)


def test_the_backflipping_hopper_sees_its_pitch_as_cosine_and_sine() -> None:
    plain, turning = find_task("hopper").make(), find_task("hopper-backflip").make()
    before, after = plain.reset(seed=3)[0], turning.reset(seed=3)[0]
    assert turning.observation_space.shape == after.shape == (18,)
    np.testing.assert_allclose(after[[1, 11]], [np.cos(before[1]), np.sin(before[1])])
    np.testing.assert_allclose(np.delete(after[:12], [1, 11]), np.delete(before, 1))
    bare: Any = turning.unwrapped
    looking: Any = turning
    while not isinstance(looking, Turning):
        looking = looking.env
    for turns in (0, 1, -3):
        bare.data.qpos[2] = 0.5 + 2 * np.pi * turns
        looked = looking.observation(bare._get_obs())
        np.testing.assert_allclose(looked[[1, -1]], [np.cos(0.5), np.sin(0.5)], atol=1e-9)
    plain.close()
    turning.close()


def test_the_backflipping_hopper_sees_how_far_its_flip_has_come() -> None:
    env = find_task("hopper-backflip").in_training().make()
    robot: Any = env.unwrapped
    rng = np.random.default_rng(0)
    farthest = []
    for seed in range(6):
        flip = Flip(50.0)
        seen, _ = env.reset(seed=seed)
        np.testing.assert_array_equal(seen[12:], flip.see(robot.data.qpos))
        for _ in range(60):
            seen, *_ = env.step(rng.uniform(-1, 1, 3))
            np.testing.assert_array_equal(seen[12:], flip.see(robot.data.qpos))
            assert -1 <= seen[14] <= 1.5
            assert (np.delete(seen[12:], 2) >= 0).all()
            assert (np.delete(seen[12:], 2) <= 1).all()
        farthest.append(seen[FARTHEST])
    assert max(farthest) > 0.3, "some were thrown"
    env.close()


def test_the_cheetah_on_one_leg_sees_what_it_keeps_up_from_each_episode_s_beginning() -> None:
    env = find_task("cheetah-one-leg").make()
    robot: Any = env.unwrapped
    rng = np.random.default_rng(0)
    for seed in range(2):
        off = OffFloor(20.0)
        seen, _ = env.reset(seed=seed)
        assert seen.shape == env.observation_space.shape == (20,)
        for _ in range(30):
            np.testing.assert_array_equal(seen[17:], off.see(robot.data.qpos))
            seen, *_ = env.step(rng.uniform(-1, 1, 6))
    assert 0 < seen[17:].sum() < 3
    env.close()


def test_the_backflipping_hopper_begins_every_other_training_episode_in_a_flip() -> None:
    evaluated, trained = find_task("hopper-backflip").make(), find_task("hopper-backflip").in_training().make()
    robots: list[Any] = [evaluated.unwrapped, trained.unwrapped]
    flying, shares = 0, []
    for seed in range(200):
        seen = [env.reset(seed=seed)[0] for env in (evaluated, trained)]
        for robot, what in zip(robots, seen, strict=True):
            np.testing.assert_allclose(what[[1, 11]], [np.cos(robot.data.qpos[2]), np.sin(robot.data.qpos[2])])
            np.testing.assert_allclose(what[0], robot.data.qpos[1])
        usual, thrown = (robot.data.qpos for robot in robots)
        speed, backward = robots[1].data.qvel, -robots[1].data.qvel[2]
        assert robots[0].data.qvel[2] > -0.01
        if np.array_equal(seen[0], seen[1]):
            continue
        if not np.array_equal(thrown[3:], usual[3:]):  # its joints are bent
            flying += 1
            assert thrown[1] >= 1.3
            assert 2 <= backward <= 10
            continue
        assert -0.5 <= thrown[2] <= 0
        share = (thrown[1] - usual[1]) / 0.1
        assert 2 * share <= speed[1] <= 4 * share
        assert 5 * share <= backward <= 11 * share
        shares.append(share)
    assert 30 <= flying <= 70
    assert 30 <= len(shares) <= 70
    np.testing.assert_allclose(np.quantile(shares, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.15)
    evaluated.close()
    trained.close()
