"""DeepMind's control suite, through shimmy, as B-Pref and its successors use it. (Lee et al. 2021, arXiv 2111.03026)

Importing this module registers the suite's environments with Gymnasium: `backflip.envs.dmc:dm_control/walker-walk-v0`.
"""

import logging
import os
from typing import Any

import mujoco

from backflip.envs.task import Env


def _without_gone_arrays() -> None:
    """Take from dm_control's tables the arrays that this MuJoCo no longer has.

    dm_control 1.0.50, its newest, allows MuJoCo 4 and then fails on the seven arrays of flexes that 4.0 took out; no
    task of the suite uses them.
    """
    from dm_control.mujoco.wrapper.mjbindings import sizes

    model = mujoco.MjModel.from_xml_string("<mujoco/>")
    for name, thing in {"mjmodel": model, "mjdata": mujoco.MjData(model)}.items():
        table: dict[str, Any] = sizes.array_sizes[name]
        for gone in [array for array in table if not hasattr(thing, array)]:
            del table[gone]


def _registered() -> None:
    # Without a display, dm_control's look for OpenGL warns; we draw with rays and need none.
    before = os.environ.get("MUJOCO_GL")
    os.environ.setdefault("MUJOCO_GL", "disable")
    try:
        _without_gone_arrays()
        import shimmy  # noqa: F401 (registers the suite)
        from dm_control import suite  # noqa: F401 (here, while no OpenGL is looked for)
    finally:
        if before is None:
            del os.environ["MUJOCO_GL"]
    logging.getLogger("absl").setLevel(logging.ERROR)  # a deprecated attribute in every Cheetah's file


def with_simulator(env: Env) -> Env:
    """The environment, with its simulator where Gymnasium's own robots have it, so that any moment can be drawn."""
    bare: Any = env.unwrapped
    physics = bare._env.physics
    bare.model, bare.data = physics.model.ptr, physics.data.ptr
    return env


_registered()
