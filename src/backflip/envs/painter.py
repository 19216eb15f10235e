"""Drawing a MuJoCo robot from its state with rays on the CPU: no OpenGL, no display, no system library."""

import math
from typing import Any

import mujoco
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from backflip.envs.figure import (
    FIELD_OF_VIEW,
    FLOOR,
    HEAD,
    HORIZON,
    LIGHT,
    LINE,
    LINE_THICKNESS,
    LINE_TILES,
    SHADOW,
    SKY_TOP,
    TILE_DARK,
    TILE_LIGHT,
    Figure,
)
from backflip.envs.stage import PIXELS
from backflip.segments import Array

LIGHT_DISTANCE = 30.0
"""In metres; far enough for nearly parallel shadows."""
EDGE_RAYS = ((-0.25, -0.25), (0.25, -0.25), (-0.25, 0.25), (0.25, 0.25))
"""Offsets from a pixel's centre, in pixels, at which outlines are sampled again."""


class Painter:
    """Draws the states of one figure, always from the same side."""

    def __init__(self, figure: Figure, pixels: int = PIXELS) -> None:
        """Prepare everything that is the same in all frames.

        Args:
            figure: whose geoms that are not seen are put into a group of their own.
        """
        self._figure, self._model, self._data, self._view = figure, figure.model, figure.data, figure.view
        self._pixels = pixels
        self._model.geom_group[:] = 5
        self._model.geom_group[figure.geoms] = 0
        self._ball_geoms, self._ball_offsets, self._radii = _balls(self._model, figure.geoms)
        self._light = LIGHT / np.linalg.norm(LIGHT)
        self._floor_height = figure.floor_height
        self._aim()

    def frame(self, state: Float[np.ndarray, " s"]) -> UInt8[np.ndarray, "h w 3"]:
        """The robot in one state."""
        where = self._figure.pose(state)
        eye = self._eye + where
        image = self._background.copy()
        image[self._floor] = self._floor_colours(eye, where)
        self._draw_robot(image, eye)
        pixels: Array = (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
        return pixels.reshape(self._pixels, self._pixels, 3)

    def _aim(self) -> None:
        """Fix the direction of every pixel, and what does not depend on where the robot is."""
        n, view = self._pixels, self._view
        elevation = math.radians(view.elevation)
        self._forward = np.array([0.0, math.cos(elevation), math.sin(elevation)])
        self._up = np.array([0.0, -math.sin(elevation), math.cos(elevation)])
        self._eye = np.array([0.0, 0.0, view.height]) - view.distance * self._forward
        self._pixel = 2 * math.tan(math.radians(FIELD_OF_VIEW) / 2) / n
        across = (np.arange(n) - (n - 1) / 2) * self._pixel
        rays = self._forward + across[None, :, None] * np.array([1.0, 0, 0]) - across[:, None, None] * self._up
        self._rays = rays.reshape(-1, 3)
        down = self._rays[:, 2] < -1e-3
        self._floor = np.flatnonzero(down)
        self._floor_at = np.full(n * n, np.inf)
        self._floor_at[down] = (self._floor_height - self._eye[2]) / self._rays[down, 2]
        far = self._floor_at[self._floor]
        self._floor_points = self._eye + far[:, None] * self._rays[self._floor]
        # How much of the floor a pixel covers: the tiles are averaged over that, or they would flicker far away.
        wide = far * self._pixel
        covers = np.stack([wide, wide / -self._rays[self._floor, 2]]) / view.tile
        self._covers = covers.astype(np.float32)
        self._tiles = (self._floor_points[:, :2].T / view.tile).astype(np.float32)
        fog = 1 - np.exp(-((np.maximum(far / view.distance - 1, 0) / 3.5) ** 2))[:, None]
        self._floor_share, self._fog = ((1 - fog) * FLOOR).astype(np.float32), (fog * HORIZON).astype(np.float32)
        height = np.clip(self._rays[:, 2:] / np.linalg.norm(self._rays, axis=1, keepdims=True), 0, 0.25) * 4
        self._background = (HORIZON + (SKY_TOP - HORIZON) * height).astype(np.float32)

    def _floor_colours(self, eye: Array, where: Array) -> Float[np.ndarray, "p 3"]:
        """Tiles and lines that stand still in the world, and the robot's shadow on them."""
        period = 2 * LINE_TILES  # all that repeats, so that places far from the origin stay exact in float32
        x, y = self._tiles + np.mod(where[:2] / self._view.tile, period).astype(np.float32)[:, None]
        wide, deep = self._covers
        tone = _stripes(x, wide) * _stripes(y, deep) * np.float32((TILE_LIGHT - TILE_DARK) / 2)
        tone += np.float32((TILE_LIGHT + TILE_DARK) / 2)
        tone += (LINE - tone) * _line(x / LINE_TILES, wide / LINE_TILES, LINE_THICKNESS / LINE_TILES)
        tone *= self._shade(eye, where)
        return np.asarray(tone[:, None] * self._floor_share + self._fog)

    def _shade(self, eye: Array, where: Array) -> Float[np.ndarray, " p"]:
        """How bright each floor pixel is: SHADOW where the robot stands between it and the light, with a soft edge."""
        n = self._pixels
        bright = np.ones((n, n), np.float32)
        centres = self._balls()
        above = (centres[:, 2] - self._floor_height) / self._light[2]
        near = self._covered(centres - above[:, None] * self._light, self._radii / self._light[2], eye)
        points = np.flatnonzero(near.reshape(-1)[self._floor])
        if len(points):
            lamp = where + np.array([0, 0, self._floor_height]) + LIGHT_DISTANCE * self._light
            beams = self._floor_points[points] + where - lamp
            hit, distance, _ = self._cast(lamp, beams)
            dark = (hit >= 0) & (distance < 0.999)
            bright.reshape(-1)[self._floor[points[dark]]] = SHADOW
            bright = _blurred(bright)
        return bright.reshape(-1)[self._floor]

    def _draw_robot(self, image: Float[np.ndarray, "p 3"], eye: Array) -> None:
        """Paint the robot over the image, with smooth outlines."""
        n = self._pixels
        looked = np.flatnonzero(self._covered(self._balls(), self._radii, eye))
        geoms = np.full(n * n, -1, np.int32)
        if not len(looked):
            return
        geoms[looked], colours = self._seen(eye, self._rays[looked], self._floor_at[looked])
        inside = geoms[looked] >= 0
        backdrop = image.copy()
        image[looked[inside]] = colours[inside]
        outline = np.flatnonzero(_outline(geoms.reshape(n, n)))
        if not len(outline):
            return
        steps = [right * np.array([1.0, 0, 0]) - down * self._up for right, down in EDGE_RAYS]
        rays = self._rays[outline] + self._pixel * np.array(steps)[:, None]
        hit, colours = self._seen(eye, rays.reshape(-1, 3), np.tile(self._floor_at[outline], len(steps)))
        behind = np.tile(backdrop[outline], (len(steps), 1))
        image[outline] = np.where((hit >= 0)[:, None], colours, behind).reshape(len(steps), -1, 3).mean(axis=0)

    def _seen(
        self, eye: Array, rays: Float[np.ndarray, "r 3"], floor_at: Float[np.ndarray, " r"]
    ) -> tuple[Int[np.ndarray, " r"], Float[np.ndarray, "r 3"]]:
        """Which geom each ray meets before the floor, -1 for none, and in what colour."""
        geoms, distance, normals = self._cast(eye, rays)
        geoms = np.where(distance < floor_at + 1e-3, geoms, -1)
        colours = np.zeros((len(rays), 3), np.float32)
        met = np.flatnonzero(geoms >= 0)
        if len(met):
            base = self._figure.palette[geoms[met]]
            points = eye + distance[met, None] * rays[met]
            for geom, axis_end in self._figure.tips:
                rotation = self._data.geom_xmat[geom].reshape(3, 3)
                along = (points - self._data.geom_xpos[geom]) @ rotation[:, 2]
                base = np.where(((geoms[met] == geom) & (along > axis_end))[:, None], HEAD, base)
            colours[met] = self._lit(base, normals[met], rays[met])
        return geoms, colours

    def _lit(
        self, base: Float[np.ndarray, "r 3"], normals: Float[np.ndarray, "r 3"], rays: Float[np.ndarray, "r 3"]
    ) -> Float[np.ndarray, "r 3"]:
        """Light from the lamp and the sky, darker towards the outline, with a small highlight."""
        towards = -rays / np.linalg.norm(rays, axis=1, keepdims=True)
        facing = np.clip((normals * towards).sum(axis=1), 0, 1)
        lamp = np.clip(normals @ self._light, 0, 1)
        shine = np.clip((normals * _unit(towards + self._light)).sum(axis=1), 0, 1) ** 32
        light = (0.46 + 0.14 * normals[:, 2] + 0.52 * lamp) * (0.55 + 0.45 * np.sqrt(facing))
        return np.asarray(base * light[:, None] + 0.16 * shine[:, None], np.float32)

    def _cast(self, origin: Array, rays: Array) -> tuple[Array, Array, Array]:
        """First geom on each ray (-1 for none), how far in lengths of the ray, and the surface's normal there."""
        count = len(rays)
        geoms, distance, normals = np.empty(count, np.int32), np.empty(count), np.empty(3 * count)
        groups = np.array([1, 0, 0, 0, 0, 0], np.uint8)
        flat = np.ascontiguousarray(rays, np.float64).reshape(-1)
        mujoco.mj_multiRay(
            self._model, self._data, origin, flat, groups, True, -1, geoms, distance, normals, count, mujoco.mjMAXVAL
        )
        return geoms, np.where(geoms >= 0, distance, np.inf), normals.reshape(-1, 3)

    def _balls(self) -> Float[np.ndarray, "b 3"]:
        """Where the middles of the balls are that hold the robot."""
        axes = self._data.geom_xmat[self._ball_geoms].reshape(-1, 3, 3)[:, :, 2]
        return np.asarray(self._data.geom_xpos[self._ball_geoms] + self._ball_offsets[:, None] * axes)

    def _covered(self, centres: Array, radii: Array, eye: Array) -> Bool[np.ndarray, "h w"]:
        """The pixels where balls of these centres and radii may be seen."""
        n = self._pixels
        offset = centres - eye
        depth = np.maximum(offset @ self._forward - radii, 1e-3)
        right, down = offset[:, 0] / (self._pixel * depth), -(offset @ self._up) / (self._pixel * depth)
        far = (offset @ self._forward) / depth  # the middle was divided by the depth of the near side: undo that
        reach = radii / (self._pixel * depth) + 1
        mask = np.zeros((n, n), bool)
        for x, y, r in zip(right / far + n / 2, down / far + n / 2, reach, strict=True):
            left, top = max(int(x - r), 0), max(int(y - r), 0)
            mask[top : max(int(y + r) + 2, 0), left : max(int(x + r) + 2, 0)] = True
        return mask


def _unit(vectors: Array) -> Array:
    lengths: Array = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / lengths)


def _stripes(at: Array, width: Array) -> Array:
    """Stripes of ±1 and of width 1, averaged over `width` around each place."""
    half = 0.5 * width
    rising, falling = _sawtooth(at + half), _sawtooth(at - half)
    return np.asarray((rising - falling) / width)


def _sawtooth(at: Array) -> Array:
    """The integral of the stripes from 0."""
    return np.asarray(np.abs(at - 2 * np.floor(0.5 * at) - 1) * -1)


def _line(at: Array, width: Array, thickness: float) -> Array:
    """How much of `width` around each place is taken by lines of some thickness at the whole numbers."""
    half = 0.5 * width
    distance = np.abs(at - np.round(at))
    return np.clip((thickness / 2 + half - distance) / width, 0, np.minimum(1, thickness / width))


def _blurred(image: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """The mean over 3x3 pixels."""
    rows = image.copy()
    rows[1:-1] = (image[:-2] + image[1:-1] + image[2:]) / 3
    both = rows.copy()
    both[:, 1:-1] = (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / 3
    return both


def _outline(geoms: Int[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Pixels whose right or lower neighbour shows something else, and these neighbours."""
    edge = np.zeros(geoms.shape, bool)
    differs = geoms[:, 1:] != geoms[:, :-1]
    edge[:, 1:] |= differs
    edge[:, :-1] |= differs
    differs = geoms[1:] != geoms[:-1]
    edge[1:] |= differs
    edge[:-1] |= differs
    return edge


def _balls(model: Any, geoms: Array) -> tuple[Array, Array, Array]:
    """Balls that together hold every geom: (geom, offset along its axis, radius); several for a long capsule."""
    balls: list[tuple[int, float, float]] = []
    for geom in geoms.tolist():
        radius, half = (float(size) for size in model.geom_size[geom][:2])
        if model.geom_type[geom] == int(mujoco.mjtGeom.mjGEOM_CAPSULE):
            count = max(1, math.ceil(half / (2 * radius)))
            part = half / count
            balls += [(geom, part * (2 * i + 1) - half, math.hypot(part, radius) + 0.01 * radius) for i in range(count)]
            balls += [(geom, end, radius) for end in (-half, half)]
        else:
            balls.append((geom, 0.0, float(model.geom_rbound[geom])))
    columns = np.array(balls).reshape(-1, 3).T
    return columns[0].astype(np.int64), columns[1], columns[2]
