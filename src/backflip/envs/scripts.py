"""Scripts that judge the two novel behaviours, from the simulator's states, as a person judges a clip of them. §3.2

A script stands in for a person where no reward says what is wanted, so that the whole method can be run and measured
without one. It reads (qpos, qvel) of some steps of one environment, as `collect.simulator_state` records them, and what
the robot saw in them, and gives a number: of two clips, the one with the larger is the better. Nobody but a teacher may
read it, as with a true reward. A behaviour is measured in whole episodes, and by a stricter rule than the script's.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64
from numpy.lib.stride_tricks import sliding_window_view

from backflip.envs.task import Task

HOPPER, CHEETAH = "Hopper-v5", "HalfCheetah-v5"
TURN = 2 * np.pi
OFF_FLOOR = 0.02
"""Metres; what is nearer to the floor touches it. A person sees no smaller gap."""

UPRIGHT = 0.4
"""Radians from upright at most."""
STANDING = 0.7
"""Height of the Hopper's torso in metres; Gymnasium calls one above it healthy. It stands at 1.25."""
HOLD_SECONDS = 0.2
"""How long a landing has to be upright."""
FARTHEST = -3
"""Where `Flip.farthest` stands in what the Hopper sees, from the end."""

KEPT_SECONDS = 0.2
"""A leg that touches the floor is in use so long before and after; a running Cheetah's touch it more often."""
FAST = 1.0
"""Metres a second that count as going forward."""


def backflip_score(states: Float[np.ndarray, "k s"], seen: Float[np.ndarray, "k o"], steps_per_second: float) -> float:
    """How close a clip of the Hopper is to a backflip: T - C, a sum over its steps.

    - T are the radians that it turned backward in the air farther than before since it last landed, up to a whole turn:
      what it remembers of its flip, and sees (`Flip.farthest`). To be paid for the next one it has to land this one.
    - C are the seconds in which it has *crashed*: its torso touches the floor, or anything of it while its torso is
      upside down.

    So a backflip is worth 2π, its repetition as much again, a turn that is not finished less, standing nothing, lying
    on its back -1 a second: falls cost little, or it would not dare to turn. That each step counts for itself, by what
    is seen in it, is what r̂ can learn from few labels: what only a whole clip shows it would have to guess from single
    steps (docs/log.md). What does not pay:

    - Tumbling on and on: after a whole turn there is nothing to gain before it has landed.
    - Rolling over the floor, or a turn helped on by head or hand: what is turned there is lost.
    - Leaning back again and again: only what is turned farther than before counts.
    - Standing, where it can turn.
    """
    turned = np.maximum(np.diff(seen[:, FARTHEST].astype(np.float64)), 0).sum()
    return float(TURN * turned - _crashed(_hopper(states)).sum() / steps_per_second)


@dataclass
class Flip:
    """How far a Hopper has come with its backflip, step by step: what no single moment shows.

    It has *landed* after n whole turns when it has stood so for 0.2 s on end: |β - 2πn| < 0.4, its torso above 0.7 m,
    and the floor touched at least once. β is the backward turn in radians, unwrapped: Gymnasium's Hopper turns about
    +y, which takes its head towards +x, forward, so β = -qpos[2].
    """

    steps_per_second: float
    stands: bool = False
    """Whether it has stood for long enough, after a turn or a crash, to begin anew with the next step."""
    nearest: int = 0
    """Whole turns that it is nearest to."""
    landed: int = 0
    """Whole turns when it last stood so; an episode begins as if it just had, upright."""
    lost: float = 0.0
    """Turns since then on the floor: to roll over it, or to lean back on the foot, is no flip."""
    turned: float = 0.0
    """Turns since then in the air, less those forward anywhere."""
    farthest: float = 0.0
    """The most of them so far, up to 1."""
    crashed: bool = False
    """Whether it has crashed since it last stood."""
    upright: int = 0
    """Steps that it has been upright, on end."""
    touched: bool = False
    """Whether it touched the floor in these."""

    def see(self, position: Float[np.ndarray, " s"]) -> tuple[float, float, float, float, float, float]:
        """Go on by a step, from the simulator's qpos; what there is to see of it.

        Returns:
            Whether anything of it, and whether its torso touches the floor; `turned`, from -1 to 1.5; `farthest`; how
            long it has been upright, as a share of what a landing takes; and whether it has crashed.
        """
        body = _hopper(position[None])
        if self.stands:
            self.landed, self.lost, self.farthest, self.crashed = self.nearest, 0.0, 0.0, False
        turns = float(body.backward[0]) / TURN
        self.nearest = round(turns)
        touches = bool(body.clearance[0] < OFF_FLOOR)
        if abs(turns - self.nearest) * TURN < UPRIGHT and body.height[0] > STANDING:
            self.upright, self.touched = self.upright + 1, self.touched or touches
        else:
            self.upright, self.touched = 0, False
        stood = min(self.upright / (HOLD_SECONDS * self.steps_per_second), 1.0)
        self.crashed = self.crashed or bool(_crashed(body)[0])
        self.stands = stood == 1 and self.touched and (self.crashed or self.nearest != self.landed)
        if touches:
            self.lost = max(self.lost, turns - self.landed - self.turned)
        self.turned = turns - self.landed - self.lost
        self.farthest = min(max(self.farthest, self.turned), 1.0)
        torso_touches = bool(body.torso_clearance[0] < OFF_FLOOR)
        turned = min(max(self.turned, -1.0), 1.5)
        return float(touches), float(torso_touches), turned, self.farthest, stood, float(self.crashed)


def backflips(states: Float[np.ndarray, "k s"], steps_per_second: float) -> float:
    """The Hopper's backflips: whole backward turns through the air that landed upright.

    It *stands* after n turns while |β - 2πn| < 0.4 and its torso is above 0.7 m for 0.2 s on end, in which it touches
    the floor at least once. From one standing to the next, the turns gained count, if meanwhile its torso never touched
    the floor, and nothing of it did while the torso was upside down. It begins as if it stood.
    """
    return float(_landed(_hopper(states), HOLD_SECONDS * steps_per_second))


def one_leg_score(states: Float[np.ndarray, "k s"], seen: Float[np.ndarray, "k o"], steps_per_second: float) -> float:
    """How well a clip of the Cheetah goes forward on one leg, always the same: the larger of the two legs' scores.

    A leg (shin and foot) is *kept up* in a step if 0.2 s before and after it neither it nor the body (torso, head,
    thighs) touched the floor. With s the share of steps in which it is kept up, v the way forward made in these over
    the clip's time in m/s, and u the share of steps in which leg and body are off the floor at all:

        s²·(1 + max(v, 0)) + 0.1·min(v, 0) + 0.2·u

    Going forward on one leg is best, the faster the better; then standing on one, which is worth 1.2; then anything
    on two. A gallop is no way round: each leg touches the floor several times a second, so that s is 0, and u gives
    at most 0.2. Nor is a series of leaps from both legs: half a second in the air of 0.6 gives s = 1/6, which is
    squared. Lying on the back with the legs up, sitting and pushing with the head have the body on the floor.
    """
    del seen
    gait = _cheetah(states, steps_per_second)
    seconds = max(len(states) - 1, 1) / steps_per_second
    forward = np.diff(states[:, 0].astype(np.float64), append=states[-1, 0])
    scores = []
    for up, off in zip(gait.kept_up.T, gait.off_floor.T, strict=True):
        speed = float(forward[up].sum()) / seconds
        scores.append(up.mean() ** 2 * (1 + max(speed, 0.0)) + 0.1 * min(speed, 0.0) + 0.2 * off.mean())
    return float(max(scores))


@dataclass
class OffFloor:
    """How long a Cheetah's body and each of its legs have been off the floor: what no single moment shows."""

    steps_per_second: float
    steps: tuple[int, ...] = (0, 0, 0)
    """Of the body (torso, head, thighs), the back leg and the front leg (shin and foot)."""

    def see(self, position: Float[np.ndarray, " s"]) -> tuple[float, ...]:
        """Go on by a step, from the simulator's qpos; how long, in seconds over those that a leg has to be kept up."""
        body, *legs = _touches(_heights(CHEETAH, position[None]))
        touch = body[0], *(leg[0] for leg in legs)
        self.steps = tuple(0 if touches else steps + 1 for touches, steps in zip(touch, self.steps, strict=True))
        return tuple(min(steps / (KEPT_SECONDS * self.steps_per_second), 1.0) for steps in self.steps)


def one_leg_share(states: Float[np.ndarray, "k s"], steps_per_second: float) -> float:
    """The share of steps in which the Cheetah goes forward faster than 1 m/s with one leg kept up, always the same."""
    gait = _cheetah(states, steps_per_second)
    return float((gait.kept_up & gait.fast[:, None]).mean(0).max())


@dataclass(frozen=True)
class _Hopper:
    """What a clip shows of the Hopper in each of its k steps."""

    backward: Float64[np.ndarray, " k"]
    """Radians turned backward from upright, unwrapped."""
    height: Float64[np.ndarray, " k"]
    """Of the torso."""
    clearance: Float64[np.ndarray, " k"]
    """Of the robot's lowest point."""
    torso_clearance: Float64[np.ndarray, " k"]
    """Of the torso's lowest point."""


def _hopper(states: Float[np.ndarray, "k s"]) -> _Hopper:
    lowest = _heights(HOPPER, states)
    clearance = lowest.min(1)
    forward = float(_model(HOPPER).joint("rooty").axis[1])  # 1, or -1 in a model that turns the other way
    return _Hopper(
        backward=-forward * states[:, 2].astype(np.float64),
        height=states[:, 1].astype(np.float64),
        clearance=clearance,
        torso_clearance=lowest[:, 0],
    )


def _crashed(body: _Hopper) -> Bool[np.ndarray, " k"]:
    """Where its torso touches the floor, or anything of it while its torso is upside down."""
    touching, upside_down = body.clearance < OFF_FLOOR, np.cos(body.backward) < 0
    crashed: Bool[np.ndarray, " k"] = (body.torso_clearance < OFF_FLOOR) | (upside_down & touching)
    return crashed


def _landed(body: _Hopper, hold_steps: float) -> int:
    """Backflips from one standing of at least so many steps, and at least one, to the next."""
    turn = np.round(body.backward / TURN).astype(np.int64)
    upright = (np.abs(body.backward - TURN * turn) < UPRIGHT) & (body.height > STANDING)
    touching, crashed = body.clearance < OFF_FLOOR, _crashed(body)
    crashed[0] |= np.cos(body.backward[0]) < 0  # it may have touched the floor before the clip began
    since, before, landed = 0, int(turn[0]), 0
    for first, end in _runs(upright):
        if end - first < hold_steps or not touching[first:end].any():
            continue
        now = int(turn[first])
        if now > before and not crashed[since:first].any():
            landed += now - before
        since, before = end, now
    return landed


@dataclass(frozen=True)
class _Cheetah:
    """What a clip shows of the Cheetah in each of its k steps; legs are the back one and the front one."""

    kept_up: Bool[np.ndarray, "k 2"]
    off_floor: Bool[np.ndarray, "k 2"]
    """Where neither the leg nor the body touches the floor."""
    fast: Bool[np.ndarray, " k"]


def _cheetah(states: Float[np.ndarray, "k s"], steps_per_second: float) -> _Cheetah:
    lowest = _heights(CHEETAH, states)
    body, back, front = _touches(lowest)
    touches = np.stack([body | back, body | front], 1)
    reach = round(KEPT_SECONDS * steps_per_second)
    near = sliding_window_view(np.pad(touches, ((reach, reach), (0, 0))), 2 * reach + 1, axis=0)
    speed = states[:, _model(CHEETAH).nq]
    return _Cheetah(kept_up=~np.any(near, axis=-1), off_floor=~touches, fast=speed > FAST)


def _touches(lowest: Float[np.ndarray, "k 8"]) -> Bool[np.ndarray, "3 k"]:
    """Where the Cheetah's body, back leg and front leg touch the floor."""
    torso, head, back_thigh, back_shin, back_foot, front_thigh, front_shin, front_foot = (lowest < OFF_FLOOR).T
    return np.stack([torso | head | back_thigh | front_thigh, back_shin | back_foot, front_shin | front_foot])


def _runs(true: Bool[np.ndarray, " k"]) -> list[tuple[int, int]]:
    """(first, end) of every stretch of consecutive True."""
    edges = np.flatnonzero(np.diff(true.astype(np.int8), prepend=0, append=0))
    return [(int(first), int(end)) for first, end in edges.reshape(-1, 2)]


def _heights(environment: str, states: Float[np.ndarray, "k s"]) -> Float64[np.ndarray, "k g"]:
    """Height of the lowest point of each capsule, in the model's order."""
    import mujoco

    model, data = _model(environment), _data(environment)
    middle, along = (np.empty((len(states), model.ngeom)) for _ in range(2))
    for t, state in enumerate(states):
        data.qpos[:] = state[: model.nq]
        mujoco.mj_kinematics(model, data)
        middle[t], along[t] = data.geom_xpos[:, 2], data.geom_xmat[:, 8]
    radius, half = model.geom_size[:, 0], model.geom_size[:, 1]
    lowest: Float64[np.ndarray, "k a"] = middle - np.abs(along) * half - radius
    return lowest[:, model.geom_type == mujoco.mjtGeom.mjGEOM_CAPSULE]


@cache
def _model(environment: str) -> Any:
    """MuJoCo's model of a robot, loaded once: that takes longer than to judge a clip."""
    env = Task(environment, environment, question="", extra="mujoco").make()
    model = env.unwrapped.model  # type: ignore[attr-defined]  # Gymnasium's robots have it
    env.close()
    return model


@cache
def _data(environment: str) -> Any:
    """Where a robot's heights are computed: it takes twenty times as long to make as to compute them."""
    import mujoco

    return mujoco.MjData(_model(environment))
