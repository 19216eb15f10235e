"""Clips as poses: where the parts of a robot are, what they are, and sheets for browsers that cannot draw them."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
import pytest

from backflip.asking import Ask
from backflip.envs import TASKS, Task
from backflip.envs.poses import Posed, pose_segment, save_posed
from backflip.envs.robotics import ROBOTICS
from backflip.envs.task import gymnasium_task
from backflip.rundir import RunDir
from backflip.segments import Array, Segments
from backflip.settings import Settings
from backflip.wanted import MOST, want, wanted

HOPPER = TASKS["hopper"]


def state_of(task: Task, **places: float) -> Array:
    """The state after a reset, with some positions changed: q2=3.1 sets the third."""
    inner: Any = task.make().unwrapped
    qpos = inner.init_qpos.copy()
    for name, value in places.items():
        qpos[int(name[1:])] = value
    state: Array = np.concatenate([qpos, inner.init_qvel * 0], dtype=np.float32)
    return state


def posed(task: Task, *states: Array) -> Posed:
    found = pose_segment(task, np.stack(states), len(states))
    assert found is not None
    return found


def parts_of(clip: Posed) -> Array:
    """[frames parts 7]."""
    return clip.poses[:, 2:].reshape(len(clip.poses), -1, 7)


def turned(rotation: Array, vector: Array) -> Array:
    """A vector turned by w, x, y, z."""
    w, axis = rotation[0], rotation[1:]
    return np.asarray(vector + 2 * np.cross(axis, np.cross(axis, vector) + w * vector))


# ---- what is in it


def test_an_upright_hopper_stands_where_its_model_says() -> None:
    # hopper.xml: the torso's middle at z = 1.25, thigh 0.825, leg 0.35, foot 0.1 high; all capsules along their z axis,
    # and the foot lies along x.
    parts = parts_of(posed(HOPPER, state_of(HOPPER)))[0]
    np.testing.assert_allclose(parts[:, 2], [1.25, 0.825, 0.35, 0.1], atol=1e-6)
    for part, axis in zip(parts, [(0, 0, 1), (0, 0, 1), (0, 0, 1), (1, 0, 0)], strict=True):
        along = turned(part[3:], np.array([0.0, 0.0, 1.0]))
        np.testing.assert_allclose(np.abs(along), axis, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(parts[:, 3:], axis=1), 1, atol=1e-6)


def test_a_robot_that_went_ahead_is_followed_and_stays_where_it_is_to_the_camera() -> None:
    here, there = (posed(HOPPER, state_of(HOPPER, q0=x)) for x in (0.0, 7.5))
    np.testing.assert_allclose(there.poses[0, :2] - here.poses[0, :2], [7.5, 0], atol=1e-5)
    np.testing.assert_allclose(parts_of(there)[..., 0] - parts_of(here)[..., 0], 7.5, atol=1e-5)
    np.testing.assert_allclose(parts_of(there)[..., 1:], parts_of(here)[..., 1:], atol=1e-6)
    still = TASKS["reacher"]
    assert (posed(still, state_of(still, q0=0.4)).poses[:, :2] == 0).all()


def test_a_somersault_turns_the_torso() -> None:
    clip = posed(HOPPER, *[state_of(HOPPER, q2=-angle) for angle in np.repeat([0.0, np.pi / 2, np.pi], 4)])
    up = [turned(part[0, 3:], np.array([0.0, 0.0, 1.0])) for part in parts_of(clip)]
    assert abs(up[0] @ up[-1] + 1) < 1e-5  # upside down


def test_the_geometry_has_the_colours_that_the_question_names_and_what_is_hidden_is_not_in_it() -> None:
    geometry = json.loads(posed(TASKS["reacher"], state_of(TASKS["reacher"])).geometry)
    colours = [tuple(part["colour"]) for part in geometry["parts"]]
    assert (0.84, 0.25, 0.20) in colours, "the red target"
    assert (0.05, 0.72, 0.40) in colours, "the green fingertip"
    assert len(geometry["parts"]) == 5  # root, two links, fingertip, target; no walls, no floor
    [tip] = [part for part in geometry["parts"] if part["colour"] == [0.05, 0.72, 0.40]]
    assert tip["size"][0] == pytest.approx(1.7 * 0.01)
    torso = json.loads(posed(HOPPER, state_of(HOPPER)).geometry)["parts"][0]
    head = pytest.approx(0.55 * 0.2)
    assert torso == {"shape": "capsule", "size": [0.05, 0.2, 0], "colour": [0.86, 0.86, 0.84], "head": head}


@pytest.mark.parametrize("task", ROBOTICS, ids=lambda task: task.name)
def test_every_robot_can_be_posed_in_a_few_kilobytes(task: Task) -> None:
    clip = posed(task, *[state_of(task)] * 60)
    parts = json.loads(clip.geometry)["parts"]
    assert clip.poses.shape[1] == 2 + 7 * len(parts)
    assert clip.poses.nbytes < 25_000
    assert len(clip.geometry) < 4_000


def test_as_many_frames_as_a_sheet_would_have() -> None:
    clip = posed(HOPPER, *[state_of(HOPPER)] * 188)
    assert len(clip.poses) == 47
    assert clip.fps == pytest.approx(31.25)
    assert len(posed(HOPPER, *[state_of(HOPPER)] * 9).poses) == 3


class Stone(gym.Env[Any, Any]):
    """Something with a mesh, which pages cannot draw."""

    observation_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self) -> None:
        stone = '<mesh name="stone" vertex="0 0 0  1 0 0  0 1 0  0 0 1"/>'
        body = '<body><freejoint/><geom type="mesh" mesh="stone"/></body>'
        self.model = mujoco.MjModel.from_xml_string(
            f"<mujoco><asset>{stone}</asset><worldbody>{body}</worldbody></mujoco>"
        )
        self.data = mujoco.MjData(self.model)


gym.register("Stone-v0", lambda **_: Stone())


def test_meshes_and_recorded_frames_are_left_to_sheets() -> None:
    assert pose_segment(gymnasium_task("Stone-v0"), np.zeros((5, 13), np.float32), 5) is None
    assert pose_segment(gymnasium_task("CartPole-v1"), np.zeros((5, 8, 8, 3), np.uint8), 5) is None


def test_states_of_another_task_are_refused_in_words() -> None:
    with pytest.raises(ValueError, match=r"hopper is drawn from \[k 12\] numbers"):
        pose_segment(HOPPER, np.zeros((5, 11), np.float32), 5)


# ---- how it is kept


def test_a_clip_is_named_by_its_poses_and_the_geometry_is_there_once(tmp_path: Path) -> None:
    first, second = (posed(HOPPER, state_of(HOPPER, q2=angle)) for angle in (0.0, 0.5))
    name, other = save_posed(tmp_path, first), save_posed(tmp_path, second)
    assert save_posed(tmp_path, first) == name != other
    content = (tmp_path / f"{name}.poses").read_bytes()
    assert hashlib.sha256(content).hexdigest() == name
    np.testing.assert_array_equal(np.frombuffer(content, "<f4").reshape(first.poses.shape), first.poses)
    [geometry] = tmp_path.glob("*.geometry.json")
    assert hashlib.sha256(geometry.read_bytes()).hexdigest() == geometry.name.split(".")[0]
    assert json.loads((tmp_path / f"{name}.json").read_text()) == {
        "mime": "application/x-backflip-poses",
        "frames": 1,
        "fps": 31.25,
        "frame_width": 256,
        "frame_height": 256,
        "geometry": geometry.name.split(".")[0],
    }
    assert len(list(tmp_path.iterdir())) == 5


# ---- who draws


def ask_for(tmp_path: Path, **people: Any) -> Ask:
    settings = Settings.from_dict({"task": "hopper-backflip", "labels": 9, "people": people})
    run = RunDir.create(tmp_path / "run", settings.to_dict())
    return Ask(run, run.store(), settings)


def drawn(ask: Ask, make_segments: Callable[..., Segments]) -> str:
    """The clip of a segment that was asked about."""
    ids = ask.store.add(make_segments(2, steps=8, state=12))
    ask.store.ask(ids.reshape(1, 2))
    ask.teacher.teach(ask.store)
    clip: str = ask.store.claim("ana")[0].left_clip
    return clip


@pytest.fixture
def ask(tmp_path: Path) -> Iterator[Ask]:
    made = ask_for(tmp_path)
    with closing(made.store):
        yield made


def test_people_are_shown_poses_unless_sheets_are_chosen(
    ask: Ask, tmp_path: Path, make_segments: Callable[..., Segments]
) -> None:
    assert (ask.run.clips / f"{drawn(ask, make_segments)}.poses").exists()
    sheets = ask_for(tmp_path / "sheets", clips="sheets")
    with closing(sheets.store):
        assert (sheets.run.clips / f"{drawn(sheets, make_segments)}.webp").exists()
        assert not list(sheets.run.clips.glob("*.poses"))


def test_a_sheet_is_drawn_when_somebody_needs_it(ask: Ask, make_segments: Callable[..., Segments]) -> None:
    clip = drawn(ask, make_segments)
    assert not list(ask.run.clips.glob("*.webp"))
    for name in ("f" * 64, clip):  # of the first, nobody knows
        want(ask.run.wanted, name)
    ask.step()
    assert wanted(ask.run.wanted) == []
    assert [sheet.name for sheet in ask.run.clips.glob("*.webp")] == [f"{clip}.webp"]
    about = json.loads((ask.run.clips / f"{clip}.sheet.json").read_text())
    assert (about["mime"], about["frames"], about["frame_width"]) == ("image/webp", 4, 256)
    assert ask.store.has_clip(clip), "it is still the same clip"


def test_notes_are_granted_in_their_order_and_are_bounded(tmp_path: Path) -> None:
    folder = tmp_path / "wanted"
    assert wanted(folder) == []
    names = [f"{i:064x}" for i in range(MOST + 3)]
    for i, name in enumerate(names):
        want(folder, name)
        if i < MOST:
            os.utime(folder / name, (1000 - i, 1000 - i))
    assert wanted(folder) == names[:MOST][::-1]
