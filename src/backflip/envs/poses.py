"""Clips that the browser draws: where each part of a robot is in each frame, and once for all clips what the parts are.

A frame is 2 + 7 g little-endian float32: how far the camera has followed the robot (x, y), then for each of the g parts
its place (x, y, z) and its rotation (w, x, y, z), in metres and in MuJoCo's axes. A JSON file, the geometry, shared by
all clips of a model, says what the parts, colours, floor, light and camera are.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Shaped

from backflip.envs.stage import PIXELS, shown_states
from backflip.envs.task import Task
from backflip.files import write_whole

MIME = "application/x-backflip-poses"
SHAPES = ("sphere", "capsule", "ellipsoid", "cylinder", "box")
"""What pages can draw; a model with anything else, a mesh mostly, is drawn here."""


@dataclass(frozen=True)
class Posed:
    """What a person sees of one segment, before it is drawn."""

    poses: Float32[np.ndarray, "f n"]
    fps: float
    geometry: bytes
    pixels: int
    """The side of a frame, if somebody draws it as a sheet."""


def pose_segment(task: Task, states: Shaped[np.ndarray, "k *s"], length: int) -> Posed | None:
    """The first `length` steps of a segment as poses; None where pages cannot draw this task.

    Args:
        states: what `Collector` recorded: MuJoCo's positions and velocities, or frames.

    Raises:
        ValueError: the states are not of this task, or there are none.
    """
    shown = shown_states(task, states, length)
    if shown.stage is None:
        return None
    figure = shown.stage.figure
    if any(solid.shape not in SHAPES for solid in figure.solids()):
        return None
    poses = []
    for state in shown.states:
        where = figure.pose(state)
        poses.append(np.concatenate([where[:2], figure.places().reshape(-1)]))
    geometry = json.dumps(_geometry(figure), sort_keys=True).encode()
    return Posed(np.stack(poses).astype(np.float32), shown.fps, geometry, PIXELS)


def save_posed(directory: Path, posed: Posed) -> str:
    """Write poses, what there is to say about them, and the geometry if it is new; return the SHA-256 of the poses."""
    geometry = hashlib.sha256(posed.geometry).hexdigest()
    if not (directory / f"{geometry}.geometry.json").exists():
        write_whole(directory / f"{geometry}.geometry.json", posed.geometry)
    content = posed.poses.astype("<f4").tobytes()
    name = hashlib.sha256(content).hexdigest()
    about = {
        "mime": MIME,
        "frames": len(posed.poses),
        "fps": round(posed.fps, 3),
        "frame_width": posed.pixels,
        "frame_height": posed.pixels,
        "geometry": geometry,
    }
    write_whole(directory / f"{name}.poses", content)
    write_whole(directory / f"{name}.json", json.dumps(about, sort_keys=True).encode())
    return name


def _geometry(figure: Any) -> dict[str, Any]:
    """All that is the same in all frames."""
    from backflip.envs import figure as f

    view = figure.view
    return {
        "parts": [vars(solid) for solid in figure.solids()],
        "camera": {
            "distance": view.distance,
            "height": view.height,
            "elevation": view.elevation,
            "field_of_view": f.FIELD_OF_VIEW,
        },
        "floor": {
            "height": figure.floor_height,
            "tile": view.tile,
            "line_tiles": f.LINE_TILES,
            "line_thickness": f.LINE_THICKNESS,
            "colour": f.FLOOR.tolist(),
            "light": f.TILE_LIGHT,
            "dark": f.TILE_DARK,
            "line": f.LINE,
            "shadow": f.SHADOW,
        },
        "head": list(f.HEAD),
        "sky": f.SKY_TOP.tolist(),
        "horizon": f.HORIZON.tolist(),
        "light": f.LIGHT.tolist(),
    }
