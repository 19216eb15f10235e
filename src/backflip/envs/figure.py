"""A MuJoCo model as people are shown it: from where, in which colours, and what of it."""

import math
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from jaxtyping import Bool, Float

FIELD_OF_VIEW = 30.0
"""Degrees, vertical; narrow, so that the two ends of a long robot are drawn at about the same size."""

# Okabe and Ito's palette, which colour-blind people can tell apart.
LIMBS = ((0.90, 0.55, 0.10), (0.16, 0.47, 0.78), (0.10, 0.66, 0.50), (0.78, 0.42, 0.66))
TORSO = (0.86, 0.86, 0.84)
HEAD = (0.84, 0.25, 0.20)
NAMED = {"target": HEAD, "fingertip": (0.05, 0.72, 0.40), "head": HEAD, "rail": (0.42, 0.44, 0.50)}
"""Colours that the questions mention, or that stand for themselves, by geom."""
LIGHT = np.array([-0.45, -0.55, 1.0])
"""Direction to the light: from above, behind the robot's back and a little towards the viewer."""
SKY_TOP, HORIZON = np.array([0.45, 0.60, 0.80]), np.array([0.86, 0.90, 0.94])
FLOOR = np.array([0.80, 0.82, 0.82])
TILE_LIGHT, TILE_DARK, LINE = 1.0, 0.79, 0.45
"""Brightness of the floor."""
LINE_TILES = 5
"""Every so many tiles a dark line crosses the way, so that fast motion over the tiles is not mistaken for slow."""
LINE_THICKNESS = 0.12
"""In tiles."""
SHADOW = 0.52
"""Brightness of the floor where the robot stands between it and the light."""


@dataclass(frozen=True)
class View:
    """Where a robot is seen from. The camera follows it sideways, never up, down, in scale or in direction."""

    distance: float
    height: float
    """Of the point looked at, in metres."""
    elevation: float = -12.0
    """Degrees; negative looks down."""
    tile: float = 0.5
    """Side of a floor tile in metres."""
    follows: bool = True
    floor: float | None = None
    """Height of the floor where the model has none."""
    hidden: tuple[str, ...] = ()
    """Geoms that are not drawn."""
    marks: tuple[str, ...] = ()
    """Geoms drawn 1.7 times as large, because everything depends on seeing them."""
    apart: tuple[tuple[str, float], ...] = ()
    """Bodies drawn so many metres further away than they are: in a planar robot one leg would hide the other."""


_WALLS = ("sideS", "sideE", "sideN", "sideW")
VIEWS = {
    "Hopper": View(distance=6.2, height=1.3),
    "Walker2d": View(distance=5.6, height=1.0, apart=(("thigh", -0.07), ("thigh_left", 0.07))),
    "HalfCheetah": View(distance=4.6, height=0.6),
    "Ant": View(distance=6.2, height=0.4, elevation=-28, tile=1.0),
    "Swimmer": View(distance=8.0, height=0.0, elevation=-60, tile=1.0),
    "Reacher": View(
        distance=0.95,
        height=0.0,
        elevation=-89.9,
        tile=0.1,
        follows=False,
        hidden=_WALLS,
        marks=("target", "fingertip"),
    ),
    "InvertedPendulum": View(distance=4.6, height=0.15, elevation=-8, follows=False, floor=-0.75),
    "InvertedDoublePendulum": View(distance=6.0, height=0.0, elevation=-6, follows=False, floor=-1.45),
    "dm_control/walker-walk": View(distance=5.6, height=1.0, apart=(("right_thigh", -0.07), ("left_thigh", 0.07))),
    "dm_control/cheetah-run": View(distance=4.6, height=0.6),
}
"""By the name of the environment without its version."""


@dataclass(frozen=True)
class Solid:
    """A geom that is seen, apart from where it is."""

    shape: str
    """MuJoCo's name: sphere, capsule, ellipsoid, cylinder, box, or one that sizes do not describe."""
    size: tuple[float, ...]
    """MuJoCo's: radius, or radius and half length, or half sides; 0 where there is none."""
    colour: tuple[float, ...]
    head: float | None
    """From where along its axis on it is painted as a head."""


class Figure:
    """One MuJoCo model as it is shown: coloured, marked, and moved from state to state."""

    def __init__(self, model: Any, view: View | None = None) -> None:
        """Prepare everything that is the same in all states.

        Args:
            model: the MjModel; ours from now on.
        """
        self.model, self.data = model, mujoco.MjData(model)
        self.view = view or _overview(model, self.data)
        self._root = 1 if model.nbody > 1 else 0
        self.geoms = np.flatnonzero(_is_solid(model, self.view.hidden))
        """Those that are seen."""
        for body, away in self.view.apart:
            model.body(body).pos[1] += away
        for mark in self.view.marks:
            model.geom(mark).size *= 1.7
            model.geom(mark).rbound *= 1.7
        self.palette = _palette(model).astype(np.float32)
        self.tips = _torso_tips(model)
        self.floor_height = _floor_height(model, self.view)

    @property
    def state_size(self) -> int:
        """How many numbers make a state: positions, then velocities."""
        return int(self.model.nq + self.model.nv)

    def pose(self, state: Float[np.ndarray, " s"]) -> Float[np.ndarray, " 3"]:
        """Bring the model into a state; how far the camera has followed it by then."""
        self.data.qpos[:] = state[: self.model.nq]
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_comPos(self.model, self.data)
        where = np.zeros(3)
        if self.view.follows:
            where[:2] = self.data.subtree_com[self._root][:2]
        return where

    def solids(self) -> list[Solid]:
        """What is seen, in the order in which `places` says where it is."""
        heads = dict(self.tips)
        return [
            Solid(
                mujoco.mjtGeom(int(self.model.geom_type[geom])).name.removeprefix("mjGEOM_").lower(),
                tuple(round(float(size), 6) for size in self.model.geom_size[geom]),
                tuple(round(float(part), 4) for part in self.palette[geom]),
                heads.get(geom),
            )
            for geom in self.geoms.tolist()
        ]

    def places(self) -> Float[np.ndarray, "g 7"]:
        """Where what is seen is in the state it was brought into: x, y, z, then a rotation as w, x, y, z."""
        placed = np.empty((len(self.geoms), 7))
        placed[:, :3] = self.data.geom_xpos[self.geoms]
        for row, geom in zip(placed, self.geoms.tolist(), strict=True):
            mujoco.mju_mat2Quat(row[3:], self.data.geom_xmat[geom])
        return placed


def _overview(model: Any, data: Any) -> View:
    """A view that shows all that moves, as it stands at first, with half as much again around it."""
    mujoco.mj_kinematics(model, data)
    moves = _is_solid(model) & (model.geom_bodyid > 0)
    centres, radii = data.geom_xpos[moves], model.geom_rbound[moves][:, None]
    if not len(centres):
        return View(distance=4.0, height=0.5)
    low, high = (centres - radii).min(axis=0), (centres + radii).max(axis=0)
    distance = 1.5 * float((high - low).max()) / 2 / math.tan(math.radians(FIELD_OF_VIEW) / 2)
    return View(distance, height=float(low[2] + high[2]) / 2, tile=10.0 ** round(math.log10(distance / 10)))


def _is_solid(model: Any, hidden_names: tuple[str, ...] = ()) -> Bool[np.ndarray, " geoms"]:
    """What is drawn by rays: all that a viewer shows, but planes (the floor is a formula) and what the view hides."""
    plane = model.geom_type == int(mujoco.mjtGeom.mjGEOM_PLANE)
    hidden = np.array([_name(model, geom) in hidden_names for geom in range(model.ngeom)], bool)
    return np.asarray(~plane & ~hidden & (model.geom_group < 3) & (model.geom_rgba[:, 3] > 0))


def _floor_height(model: Any, view: View) -> float:
    """The height of the view's floor, else of the model's highest plane, else just below everything."""
    planes = model.geom_type == int(mujoco.mjtGeom.mjGEOM_PLANE)
    if view.floor is not None:
        return view.floor
    return float(model.geom_pos[planes, 2].max()) if planes.any() else float(-model.stat.extent / 2)


def _palette(model: Any) -> Float[np.ndarray, "geoms 3"]:
    """A colour for each geom: one hue a limb, darker towards its end; in a robot of one chain, one hue a link."""
    colours = np.array(model.geom_rgba[:, :3], np.float64)
    parents = model.body_parentid.tolist()
    limbs: list[int] = []
    for geom, body in enumerate(model.geom_bodyid.tolist()):
        name = _name(model, geom)
        if name in NAMED:
            colours[geom] = NAMED[name]
        elif body and body == model.body_rootid[body]:
            colours[geom] = TORSO
        elif body:
            limb, depth = _limb(parents, int(model.body_rootid[body]), body)
            if parents[limb] == model.body_rootid[body] and parents.count(parents[limb]) == 1:
                colours[geom] = LIMBS[depth % len(LIMBS)]
                continue
            limbs += [limb] if limb not in limbs else []
            colours[geom] = np.array(LIMBS[limbs.index(limb) % len(LIMBS)]) * (1 - 0.13 * min(depth, 3))
    return colours


def _limb(parents: list[int], root: int, body: int) -> tuple[int, int]:
    """The body at which the limb of this body branches off, and how many bodies further out this one is."""
    depth = 0
    while parents[body] != root and parents.count(parents[body]) == 1:
        body, depth = parents[body], depth + 1
    return body, depth


def _torso_tips(model: Any) -> list[tuple[int, float]]:
    """Upright capsules that are a torso, and from where along their axis on they are painted as a head."""
    tips = []
    for geom in range(model.ngeom):
        capsule = model.geom_type[geom] == int(mujoco.mjtGeom.mjGEOM_CAPSULE)
        if capsule and _name(model, geom) == "torso_geom":
            tips.append((geom, 0.55 * float(model.geom_size[geom, 1])))
    return tips


def _name(model: Any, geom: int) -> str:
    return str(mujoco.mj_id2name(model, mujoco.mjtObj.mjOBJ_GEOM, geom) or "")
