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
from typing import TypedDict

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL import Image

from backflip.envs.stage import shown_states, stage_of
from backflip.envs.task import MissingExtra, Task, gymnasium_task
from backflip.files import write_whole

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
    shown = shown_states(task, states, length)
    if shown.stage is None:
        return Clip(np.ascontiguousarray(shown.states), shown.fps, recorded=True)
    return Clip(np.stack([shown.stage.painter.frame(state) for state in shown.states]), shown.fps)


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
    _write(directory, name, sheet, meta, "json")
    return name


def save_sheet(directory: Path, name: str, clip: Clip) -> None:
    """Write a sheet beside the poses of that name, for browsers that cannot draw them."""
    _write(directory, name, *sprite_sheet(clip), "sheet.json")


def renderers() -> list[tuple[str, float | None, str]]:
    """Each way to draw MuJoCo here: its name, milliseconds a frame (None where it fails), and what there is to say.

    Clips are drawn by the first, `multiray`. The OpenGL ones are tried in processes of their own, since a driver that
    is half there can take its process down.
    """
    found: list[tuple[str, float | None, str]] = [("multiray", *_probe_rays())]
    return [*found, *((name, *_probe_gl(name)) for name in ("egl", "osmesa", "glfw"))]


def _write(directory: Path, name: str, sheet: bytes, meta: SheetMeta, about: str) -> None:
    write_whole(directory / f"{name}.{meta['mime'].removeprefix('image/')}", sheet)
    write_whole(directory / f"{name}.{about}", json.dumps(meta, sort_keys=True).encode())


def _encoded(picture: Image.Image, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def _probe_rays() -> tuple[float | None, str]:
    try:
        stage = stage_of(gymnasium_task("Hopper-v5"))
    except MissingExtra:
        return None, "mujoco is not installed: pip install 'backflip[mujoco]'"
    assert stage.figure is not None
    state = np.zeros(stage.figure.state_size)
    state[1] = 1.25
    painter = stage.painter
    painter.frame(state)
    begin = time.perf_counter()
    for _ in range(PROBE_FRAMES):
        painter.frame(state)
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
