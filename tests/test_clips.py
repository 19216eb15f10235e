"""Drawing segments: what a person must be able to see in a clip, and how it is stored."""

import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backflip.envs import TASKS, Task
from backflip.envs.clips import Clip, draw_segment, renderers, save_clip, sprite_sheet
from backflip.envs.robotics import ROBOTICS
from backflip.envs.task import gymnasium_task
from backflip.segments import Array

ORANGE, BLUE, RED, GREEN = np.array([[229, 140, 25], [41, 120, 199], [214, 64, 51], [13, 184, 102]])
HOPPER, WALKER, REACHER = TASKS["hopper"], TASKS["walker"], TASKS["reacher"]
RNG = np.random.default_rng(0)


def _state(task: Task, **places: float) -> Array:
    """The state after a reset, with some positions changed: q2=3.1 sets the third."""
    env = task.make()
    inner: Any = env.unwrapped
    qpos = inner.init_qpos.copy()
    for name, value in places.items():
        qpos[int(name[1:])] = value
    state: Array = np.concatenate([qpos, inner.init_qvel * 0], dtype=np.float32)
    return state


def _frame(task: Task, **places: float) -> Array:
    frame: Array = draw_segment(task, _state(task, **places)[None], 1).frames[0]
    return frame


def _pixels_of(frame: Array, colour: Array) -> Array:
    """Where a frame shows a colour, in light or shade."""
    towards = frame / np.maximum(np.linalg.norm(frame, axis=2, keepdims=True), 1)
    return np.asarray(towards @ (colour / np.linalg.norm(colour)) > 0.985)


def _middle(mask: Array) -> tuple[float, float]:
    """Mean row and column."""
    rows, columns = np.nonzero(mask)
    return float(rows.mean()), float(columns.mean())


def test_legs_differ_in_colour() -> None:
    apart = _frame(WALKER, q3=-0.9, q6=0.0)
    orange, blue = _pixels_of(apart, ORANGE), _pixels_of(apart, BLUE)
    assert orange.sum() > 100
    assert blue.sum() > 100
    assert abs(_middle(orange)[1] - _middle(blue)[1]) > 10


def test_legs_one_behind_the_other_are_both_seen() -> None:
    together = _frame(WALKER)
    assert _pixels_of(together, ORANGE).sum() > 100
    assert _pixels_of(together, BLUE).sum() > 20


def test_the_front_and_the_back_leg_of_the_cheetah_differ_in_colour() -> None:
    frame = _frame(TASKS["cheetah"])
    assert _middle(_pixels_of(frame, ORANGE))[1] < 110 < 140 < _middle(_pixels_of(frame, BLUE))[1]


def test_a_backflip_is_seen_whole_and_head_down() -> None:
    upright, flipped = _frame(HOPPER), _frame(HOPPER, q1=1.5, q2=-3.14)
    head_up, head_down = _middle(_pixels_of(upright, RED)), _middle(_pixels_of(flipped, RED))
    assert head_up[0] < _middle(_pixels_of(upright, ORANGE))[0]
    assert head_down[0] > _middle(_pixels_of(flipped, ORANGE))[0]
    green = np.array([25, 168, 127])  # the foot, now on top
    rows = np.nonzero(_pixels_of(flipped, green).any(axis=1))[0]
    assert rows.min() > 2


def test_the_floor_moves_when_the_robot_does_and_the_camera_follows() -> None:
    here, there, far = _frame(HOPPER), _frame(HOPPER, q0=0.5), _frame(HOPPER, q0=5.0)
    floor = (slice(200, None), slice(None))
    assert (np.abs(here[floor].astype(int) - there[floor]) > 20).mean() > 0.2
    for colour in (ORANGE, BLUE, RED):
        assert _middle(_pixels_of(here, colour)) == pytest.approx(_middle(_pixels_of(there, colour)), abs=0.5)
    # Tiles of 0.5 m and a line at every fifth: all repeats after 5 m.
    assert np.abs(here.astype(int) - far).max() <= 3


def test_jumping_moves_the_robot_in_the_picture_and_not_the_floor() -> None:
    low, high = _frame(HOPPER), _frame(HOPPER, q1=1.75)
    # 0.5 m of 2 tan(15°) 6.2 m = 3.32 m in 256 pixels: 38.5, less a little because the camera looks down.
    assert _middle(_pixels_of(low, RED))[0] - _middle(_pixels_of(high, RED))[0] == pytest.approx(38, abs=2)
    # The floor but for the shadow, which moves to the right and away.
    assert (low[220:, :100] == high[220:, :100]).all()


def test_a_robot_casts_a_shadow() -> None:
    frames = _frame(HOPPER, q1=1.6), _frame(HOPPER, q1=40.0)  # the second is out of sight
    below = np.s_[150:, :]
    assert (frames[0][below].astype(int).sum(axis=2) < frames[1][below].astype(int).sum(axis=2) - 60).sum() > 100


def test_the_reacher_shows_its_target_and_fingertip() -> None:
    frame = _frame(REACHER, q0=0.0, q1=0.0, q2=0.0, q3=0.15)
    target, tip = _pixels_of(frame, RED), _pixels_of(frame, GREEN)
    assert target.sum() > 60
    assert tip.sum() > 60
    assert _middle(target)[0] < 80  # y = 0.15 is above the middle
    assert _middle(tip)[1] > 200  # and the arm points to the right


@pytest.mark.parametrize("name", [task.name for task in ROBOTICS])
def test_every_task_is_drawn_with_some_of_its_robot(name: str) -> None:
    task = TASKS[name]
    frame = _frame(task)
    assert frame.shape == (256, 256, 3)
    colourful = frame.max(axis=2).astype(int) - frame.min(axis=2) > 90
    assert colourful.sum() > 150
    assert not colourful[:, [0, -1]].any()  # nothing is cut off


def test_a_robot_without_a_view_of_its_own_is_drawn_too() -> None:
    frame = _frame(gymnasium_task("Humanoid-v5"))
    assert (frame.max(axis=2).astype(int) - frame.min(axis=2) > 60).sum() > 300


def test_frames_change_when_the_robot_moves() -> None:
    states = np.stack([_state(HOPPER, q3=-0.02 * step) for step in range(9)])
    clip = draw_segment(HOPPER, states, 9)
    assert len(clip.frames) == 3
    assert all((a != b).any() for a, b in zip(clip.frames[:-1], clip.frames[1:], strict=True))


@pytest.mark.parametrize(
    # (task, steps, frames, frames a second): Hopper has 125 steps a second, Reacher 50, Cheetah 20
    ("name", "steps", "frames", "fps"),
    [("hopper", 188, 47, 31.25), ("reacher", 25, 13, 25.0), ("cheetah", 30, 30, 20.0)],
)
def test_a_clip_plays_in_real_time_at_about_thirty_frames_a_second(
    name: str, steps: int, frames: int, fps: float
) -> None:
    clip = draw_segment(TASKS[name], np.repeat(_state(TASKS[name])[None], steps, axis=0), steps)
    assert len(clip.frames) == frames
    assert clip.fps == pytest.approx(fps)


def test_padding_is_not_drawn() -> None:
    states = np.repeat(_state(TASKS["cheetah"])[None], 30, axis=0)
    assert len(draw_segment(TASKS["cheetah"], states, 12).frames) == 12


def test_recorded_frames_are_taken_as_they_are() -> None:
    frames = RNG.integers(0, 255, (20, 8, 10, 3), np.uint8)
    clip = draw_segment(gymnasium_task("CartPole-v1"), frames, 20)  # 50 steps a second
    assert (clip.frames == frames[::2]).all()
    assert clip.recorded
    assert clip.fps == 25


@pytest.mark.parametrize(
    ("states", "length", "words"),
    [
        (np.zeros((5, 0), np.float32), 5, "without states"),
        (np.zeros((5, 11), np.float32), 5, r"\(5, 11\).*hopper is drawn from \[k 12\] numbers"),
        (np.zeros((5, 12), np.float32), 0, "length is 0"),
        (np.zeros((5, 12), np.float32), 6, "length is 6"),
    ],
)
def test_states_that_cannot_be_drawn_are_refused_in_words(states: Array, length: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        draw_segment(HOPPER, states, length)


def test_numbers_of_an_environment_without_a_simulator_are_refused() -> None:
    with pytest.raises(ValueError, match=r"CartPole-v1 is drawn from .* uint8 frames"):
        draw_segment(gymnasium_task("CartPole-v1"), np.zeros((5, 4), np.float32), 5)


def _unpacked(sheet: bytes, meta: Any) -> Array:
    picture = np.asarray(Image.open(io.BytesIO(sheet)).convert("RGB"))
    width, height, columns = meta["frame_width"], meta["frame_height"], meta["columns"]
    corners = [divmod(i, columns) for i in range(meta["frames"])]
    return np.stack([picture[r * height : (r + 1) * height, c * width : (c + 1) * width] for r, c in corners])


def test_a_sheet_of_a_robot_is_webp_and_unpacks_to_its_frames() -> None:
    states = np.stack([_state(HOPPER, q0=0.03 * step) for step in range(29)])
    clip = draw_segment(HOPPER, states, 29)
    sheet, meta = sprite_sheet(clip)
    assert meta == {
        "mime": "image/webp",
        "frame_width": 256,
        "frame_height": 256,
        "columns": 3,
        "frames": 8,
        "fps": 31.25,
    }
    assert Image.open(io.BytesIO(sheet)).format == "WEBP"
    unpacked = _unpacked(sheet, meta)
    assert unpacked.shape == clip.frames.shape
    assert np.abs(unpacked.astype(int) - clip.frames).mean() < 4


def test_pixel_art_is_kept_exactly() -> None:
    art = np.zeros((7, 210, 160, 3), np.uint8)
    for i in range(7):
        art[i, 20 * i : 20 * i + 8, 50:58] = (200, 72, 72)
    sheet, meta = sprite_sheet(Clip(art, 15.0, recorded=True))
    assert meta["mime"] == "image/png"
    assert (_unpacked(sheet, meta) == art).all()


def test_recorded_frames_like_photographs_are_webp() -> None:
    noise = RNG.integers(0, 255, (4, 64, 64, 3), np.uint8)
    assert sprite_sheet(Clip(noise, 15.0, recorded=True))[1]["mime"] == "image/webp"


def test_too_many_frames_are_refused_in_words() -> None:
    with pytest.raises(ValueError, match="do not fit into one WebP"):
        sprite_sheet(Clip(np.zeros((9, 6000, 1, 3), np.uint8), 30.0))


def test_the_same_clip_has_the_same_name_and_another_has_another(tmp_path: Path) -> None:
    first, second = (draw_segment(HOPPER, _state(HOPPER, q0=x)[None], 1) for x in (0.0, 0.1))
    name = save_clip(tmp_path, first)
    assert name == save_clip(tmp_path, Clip(first.frames.copy(), first.fps))
    other = save_clip(tmp_path, second)
    assert other != name
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        f"{stem}.{suffix}" for stem in (name, other) for suffix in ("json", "webp")
    )
    assert hashlib.sha256((tmp_path / f"{name}.webp").read_bytes()).hexdigest() == name
    assert json.loads((tmp_path / f"{name}.json").read_text()) == sprite_sheet(first)[1]


def test_drawing_touches_no_opengl() -> None:
    program = """
import numpy as np
from backflip.envs import TASKS
from backflip.envs.clips import draw_segment
state = np.zeros((1, 12), np.float32)
state[0, 1] = 1.25
assert draw_segment(TASKS["hopper"], state, 1).frames.std() > 10
loaded = open("/proc/self/maps").read()
print([name for name in ("libGL", "libEGL", "libOSMesa", "libX11", "libvulkan", "libOpenGL") if name in loaded])
"""
    env = {**os.environ, "MUJOCO_GL": "disable"}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_the_doctor_hears_of_every_renderer() -> None:
    found = {name: (milliseconds, note) for name, milliseconds, note in renderers()}
    assert list(found) == ["multiray", "egl", "osmesa", "glfw"]
    rays = found["multiray"][0]
    assert rays is not None
    assert 0 < rays < 1000
    assert all(note for _, note in found.values())
