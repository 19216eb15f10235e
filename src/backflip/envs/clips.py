"""Clips: a segment drawn, as one picture that holds all its frames."""

import hashlib
import io
import json
import math
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image

from backflip.envs.task import MissingExtra, Task, gymnasium_task, steps_per_second
from backflip.files import write_whole

FRAMES_PER_SECOND = 30
"""About how many frames a second are drawn at most; people see no more in a robot."""
WEBP_QUALITY = 80
WEBP_METHOD = 2
"""A sheet of 47 Hopper frames: 320 kB in 0.16 s with method 0, 246 kB in 0.15 s with 2, 235 kB in 0.32 s with 4."""
WEBP_SIDE = 16383
"""Pixels; the format's own limit."""
PROBE_SECONDS = 20
PROBE_FRAMES = 5


@dataclass(frozen=True)
class Clip:
    """The frames that a person sees of one segment."""

    frames: UInt8[np.ndarray, "f h w 3"]
    fps: float
    """Frames a second at which it plays as fast as it happened."""
    recorded: bool = False
    """Whether the environment drew the frames: pixel art, often, which a lossy format would smear."""


class SheetMeta(TypedDict):
    """How to play a sprite sheet; its frames go from left to right, then down."""

    mime: str
    frame_width: int
    frame_height: int
    columns: int
    frames: int
    fps: float


def draw_segment(task: Task, states: Shaped[np.ndarray, "k *s"], length: int) -> Clip:
    """The first `length` steps of a segment as a clip that plays in real time.

    Args:
        states: what `Collector` recorded: MuJoCo's positions and velocities, or frames.

    Raises:
        ValueError: the states are not of this task, or there are none.
    """
    if not 0 < length <= len(states):
        raise ValueError(f"length is {length}; a segment of {len(states)} recorded steps has 1 to {len(states)}")
    if states.size == 0:
        raise ValueError(f"this segment of {task.name} was recorded without states; collect it with filmed >= 1")
    stage = _stage(task)
    every = max(1, round(stage.steps_per_second / FRAMES_PER_SECOND))
    shown, fps = states[:length:every], stage.steps_per_second / every
    if states.dtype == np.uint8 and states.ndim == 4:
        return Clip(np.ascontiguousarray(shown), fps, recorded=True)
    size = stage.painter.state_size if stage.painter else None
    if stage.painter is None or states.ndim != 2 or states.shape[1] != size:
        raise ValueError(
            f"states have the shape {states.shape} and the type {states.dtype}; {task.name} is drawn from "
            + (f"[k {size}] numbers: positions and velocities" if size else "[k h w 3] uint8 frames")
        )
    return Clip(np.stack([stage.painter.frame(state) for state in shown.astype(np.float64)]), fps)


def sprite_sheet(clip: Clip) -> tuple[bytes, SheetMeta]:
    """All frames in one picture, and how to play it: WebP, or PNG where that is smaller and the frames were recorded.

    Raises:
        ValueError: there are more frames than fit into a WebP.
    """
    count, height, width, _ = clip.frames.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    grid = np.zeros((rows * columns, height, width, 3), np.uint8)
    grid[:count] = clip.frames
    sheet = Image.fromarray(
        grid.reshape(rows, columns, height, width, 3).swapaxes(1, 2).reshape(rows * height, columns * width, 3)
    )
    encoded: dict[str, bytes] = {}
    if max(sheet.size) <= WEBP_SIDE:
        encoded["image/webp"] = _encoded(sheet, "WEBP", quality=WEBP_QUALITY, method=WEBP_METHOD)
    if clip.recorded:
        encoded["image/png"] = _encoded(sheet, "PNG")
    if not encoded:
        raise ValueError(f"{count} frames of {width}x{height} do not fit into one WebP; use shorter segments")
    mime = min(encoded, key=lambda name: len(encoded[name]))
    meta = SheetMeta(
        mime=mime, frame_width=width, frame_height=height, columns=columns, frames=count, fps=round(clip.fps, 3)
    )
    return encoded[mime], meta


def save_clip(directory: Path, clip: Clip) -> str:
    """Write the clip's sheet and metadata, named by the SHA-256 of the sheet, and return that name."""
    sheet, meta = sprite_sheet(clip)
    name = hashlib.sha256(sheet).hexdigest()
    write_whole(directory / f"{name}.{meta['mime'].removeprefix('image/')}", sheet)
    write_whole(directory / f"{name}.json", json.dumps(meta, sort_keys=True).encode())
    return name


def renderers() -> list[tuple[str, float | None, str]]:
    """Each way to draw MuJoCo here: its name, milliseconds a frame (None where it fails), and what there is to say.

    Clips are drawn by the first, `multiray`. The OpenGL ones are tried in processes of their own, since a driver that
    is half there can take its process down.
    """
    found: list[tuple[str, float | None, str]] = [("multiray", *_probe_rays())]
    return [*found, *((name, *_probe_gl(name)) for name in ("egl", "osmesa", "glfw"))]


@dataclass(frozen=True)
class _Stage:
    """What drawing needs to know of a task, found by making one environment of it."""

    steps_per_second: float
    painter: Any
    """A Painter, or None where the task does not run in MuJoCo; its module is only imported where it does."""


_stages: dict[str, _Stage] = {}
"""One for each task drawn in this process: a model takes longer to load than a frame to draw."""


def _stage(task: Task) -> _Stage:
    key = f"{task.environment} {sorted(task.options.items())}"
    if key not in _stages:
        env = task.make()
        painter = None
        if hasattr(env.unwrapped, "model") and hasattr(env.unwrapped, "data"):
            from backflip.envs.painter import VIEWS, Painter

            painter = Painter(env.unwrapped.model, VIEWS.get(task.environment.rpartition(":")[2].rpartition("-v")[0]))
        _stages[key] = _Stage(steps_per_second(env), painter)
        env.close()
    return _stages[key]


def _encoded(picture: Image.Image, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def _probe_rays() -> tuple[float | None, str]:
    try:
        stage = _stage(gymnasium_task("Hopper-v5"))
    except MissingExtra:
        return None, "mujoco is not installed: pip install 'backflip[mujoco]'"
    assert stage.painter is not None
    state = np.zeros(stage.painter.state_size)
    state[1] = 1.25
    stage.painter.frame(state)
    begin = time.perf_counter()
    for _ in range(PROBE_FRAMES):
        stage.painter.frame(state)
    return 1000 * (time.perf_counter() - begin) / PROBE_FRAMES, "used for clips; needs no OpenGL"


_GL_PROBE = f"""
import time, mujoco
from pathlib import Path
import gymnasium
path = Path(gymnasium.__file__).parent / "envs/mujoco/assets/hopper.xml"
model = mujoco.MjModel.from_xml_path(str(path))
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer = mujoco.Renderer(model, 256, 256)
renderer.update_scene(data)
renderer.render()
begin = time.perf_counter()
for _ in range({PROBE_FRAMES}):
    renderer.update_scene(data)
    renderer.render()
milliseconds = 1000 * (time.perf_counter() - begin) / {PROBE_FRAMES}
try:
    from OpenGL import GL
    note = GL.glGetString(GL.GL_RENDERER).decode()
except Exception:
    note = "works"
print("PROBE", milliseconds, note, flush=True)
"""


def _probe_gl(backend: str) -> tuple[float | None, str]:
    """Draw with OpenGL in another process."""
    try:
        done = subprocess.run(  # noqa: S603 (our own program and words)
            [sys.executable, "-c", _GL_PROBE],
            env={**os.environ, "MUJOCO_GL": backend},
            capture_output=True,
            text=True,
            timeout=PROBE_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return None, f"no frame within {PROBE_SECONDS} s"
    for line in done.stdout.splitlines():
        if line.startswith("PROBE "):
            _, milliseconds, note = line.split(maxsplit=2)
            return float(milliseconds), note
    complaints = re.findall(r"^[\w.]*(?:Error|Exception): .*$", done.stderr, re.MULTILINE)
    return None, complaints[-1][:100] if complaints else f"the process ended with {done.returncode}"
