"""Scripts that judge the two novel behaviours, from the simulator's states, as a person judges a clip of them. §3.2

A script stands in for a person where no reward says what is wanted, so that the whole method can be run and measured
without one. It reads (qpos, qvel) of some steps of one environment, as `collect.simulator_state` records them, and
gives a number: of two clips, the one with the larger is the better. Nobody but a teacher may read it, as with a true
reward. A behaviour is measured in whole episodes, and by a stricter rule than the script's.
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

AIRBORNE = 0.4
"""Height of the Hopper's centre of mass in a jump, in metres: 0.6 where it stands, below 0.3 where it rolls about."""
UPRIGHT = 0.4
"""Radians from upright at most."""
STANDING = 0.7
"""Height of the Hopper's torso in metres; Gymnasium calls one above it healthy. It stands at 1.25."""
STANDS_AT = 0.6
"""Height of its centre of mass in metres where it stands."""
HOLD_SECONDS = 0.2
"""How long a landing has to be upright."""
GRADES = 4
"""A script gives part of a landing's worth for a step, a quarter, a half and three quarters of that time."""
LOW = 0.1
"""Metres between torso and floor at most where the Hopper lies; it may lie on its own leg."""
LEAP = 0.3
"""Metres over the floor; a higher jump is not worth more."""

KEPT_SECONDS = 0.2
"""A leg that touches the floor is in use so long before and after; a running Cheetah's touch it more often."""
FAST = 1.0
"""Metres a second that count as going forward."""


def backflip_score(states: Float[np.ndarray, "k s"], steps_per_second: float) -> float:
    """How close a clip of the Hopper is to a backflip: T + 2π·L + 0.1·[N]± + P.

    With β the backward turn in radians, unwrapped (Gymnasium's Hopper turns about +y, which takes its head towards +x,
    forward, so β = -qpos[2]), and the robot *in the air* while all of it is more than 2 cm above the floor and its
    centre of mass above 0.4 m:

    - N is the net turn β_k - β_1; [N]± is N held within ±π.
    - T is the largest turn in one go, that is between two *crashes*: steps in which its torso touches the floor, or
      anything of it while its torso is upside down. Only what it turns in the air counts, Σ Δβ, and no more than the
      net turn of the same steps, nor more than 2π·(1 + L). If it turns forward in the air on the whole, T is that.
    - L is the number of backflips landed in the clip, as `backflips` counts them, but with part of it for a landing
      that is upright for less than 0.2 s, if only for a step, or that the clip's end cuts.
    - P = ½·mean(min(c/0.6, 1)) + ½·mean(min(h/0.3, 1)) - ½·mean(torso lies), with c the height of the centre of
      mass, h that of the robot's lowest point, and a torso that lies less than 0.1 m from the floor: between -½ and 1.

    So a turn landed upright is worth 4π and its repetition as much again, one that is not finished 2π at most, a jump
    with a bit of a turn about that bit, standing ½, lying some -0.4. What does not pay:

    - Rolling or spinning on the floor: nothing there is in the air, and all it can get is 0.1·π, at a cost in P.
    - Bouncing along the floor: the centre of mass stays below 0.4 m.
    - Leaning back in every hop and forward again on the foot: A grows, N does not, and T is the smaller one.
    - Tumbling through the air without a thought of landing: without L, T ends at 2π, and every crash begins it anew.
    - A roll over the floor that ends upright: L asks that nothing touches the floor while the torso is upside down.
    """
    body = _hopper(states)
    turned = np.diff(body.backward)
    in_air = np.where(body.airborne[1:] & body.airborne[:-1], turned, 0.0)
    hold = HOLD_SECONDS * steps_per_second
    landed = float(np.mean([_landed(body, hold * grade / GRADES) for grade in range(GRADES + 1)]))
    in_one_go = [
        min(in_air[first : end - 1].sum(), turned[first : end - 1].sum()) for first, end in _runs(~_crashed(body))
    ]
    best = min(max(in_one_go, default=0.0), TURN * (1 + landed))
    turn = in_air.sum() if in_air.sum() < 0 else max(best, 0.0)
    posture = 0.5 * (
        np.minimum(body.mass_height / STANDS_AT, 1).mean()
        + np.clip(body.clearance / LEAP, 0, 1).mean()
        - (body.torso_clearance < LOW).mean()
    )
    return float(turn + TURN * landed + 0.1 * np.clip(turned.sum(), -np.pi, np.pi) + posture)


def backflips(states: Float[np.ndarray, "k s"], steps_per_second: float) -> float:
    """The Hopper's backflips: whole backward turns through the air that landed upright.

    It *stands* after n turns while |β - 2πn| < 0.4 and its torso is above 0.7 m for 0.2 s on end, in which it touches
    the floor at least once. From one standing to the next, the turns gained count, if meanwhile its torso never touched
    the floor, and nothing of it did while the torso was upside down. It begins as if it stood.
    """
    return float(_landed(_hopper(states), HOLD_SECONDS * steps_per_second))


def one_leg_score(states: Float[np.ndarray, "k s"], steps_per_second: float) -> float:
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
    gait = _cheetah(states, steps_per_second)
    seconds = max(len(states) - 1, 1) / steps_per_second
    forward = np.diff(states[:, 0].astype(np.float64), append=states[-1, 0])
    scores = []
    for up, off in zip(gait.kept_up.T, gait.off_floor.T, strict=True):
        speed = float(forward[up].sum()) / seconds
        scores.append(up.mean() ** 2 * (1 + max(speed, 0.0)) + 0.1 * min(speed, 0.0) + 0.2 * off.mean())
    return float(max(scores))


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
    mass_height: Float64[np.ndarray, " k"]
    """Of the centre of mass."""
    clearance: Float64[np.ndarray, " k"]
    """Of the robot's lowest point."""
    torso_clearance: Float64[np.ndarray, " k"]
    """Of the torso's lowest point."""
    airborne: Bool[np.ndarray, " k"]


def _hopper(states: Float[np.ndarray, "k s"]) -> _Hopper:
    lowest, mass_height = _heights(HOPPER, states)
    clearance = lowest.min(1)
    forward = float(_model(HOPPER).joint("rooty").axis[1])  # 1, or -1 in a model that turns the other way
    return _Hopper(
        backward=-forward * states[:, 2].astype(np.float64),
        height=states[:, 1].astype(np.float64),
        mass_height=mass_height,
        clearance=clearance,
        torso_clearance=lowest[:, 0],
        airborne=(clearance >= OFF_FLOOR) & (mass_height > AIRBORNE),
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
    lowest, _ = _heights(CHEETAH, states)
    torso, head, back_thigh, back_shin, back_foot, front_thigh, front_shin, front_foot = (lowest < OFF_FLOOR).T
    body = torso | head | back_thigh | front_thigh
    touches = np.stack([body | back_shin | back_foot, body | front_shin | front_foot], 1)
    reach = round(KEPT_SECONDS * steps_per_second)
    near = sliding_window_view(np.pad(touches, ((reach, reach), (0, 0))), 2 * reach + 1, axis=0)
    speed = states[:, _model(CHEETAH).nq]
    return _Cheetah(kept_up=~np.any(near, axis=-1), off_floor=~touches, fast=speed > FAST)


def _runs(true: Bool[np.ndarray, " k"]) -> list[tuple[int, int]]:
    """(first, end) of every stretch of consecutive True."""
    edges = np.flatnonzero(np.diff(true.astype(np.int8), prepend=0, append=0))
    return [(int(first), int(end)) for first, end in edges.reshape(-1, 2)]


def _heights(
    environment: str, states: Float[np.ndarray, "k s"]
) -> tuple[Float64[np.ndarray, "k g"], Float64[np.ndarray, " k"]]:
    """Height of the lowest point of each capsule, in the model's order, and of the centre of mass."""
    import mujoco

    model = _model(environment)
    data = mujoco.MjData(model)
    middle, along, masses = (np.empty((len(states), n)) for n in (model.ngeom, model.ngeom, model.nbody))
    for t, state in enumerate(states):
        data.qpos[:] = state[: model.nq]
        mujoco.mj_kinematics(model, data)
        middle[t], along[t], masses[t] = data.geom_xpos[:, 2], data.geom_xmat[:, 8], data.xipos[:, 2]
    radius, half = model.geom_size[:, 0], model.geom_size[:, 1]
    lowest = middle - np.abs(along) * half - radius
    capsules = model.geom_type == mujoco.mjtGeom.mjGEOM_CAPSULE
    return lowest[:, capsules], masses @ model.body_mass / model.body_mass.sum()


@cache
def _model(environment: str) -> Any:
    """MuJoCo's model of a robot, loaded once: that takes longer than to judge a clip."""
    env = Task(environment, environment, question="", extra="mujoco").make()
    model = env.unwrapped.model  # type: ignore[attr-defined]  # Gymnasium's robots have it
    env.close()
    return model
