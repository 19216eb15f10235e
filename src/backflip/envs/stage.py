"""What drawing needs to know of a task, and which of a segment's recorded states are shown."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Shaped

from backflip.envs.collect import is_simulated
from backflip.envs.task import Task, steps_per_second

PIXELS = 256
"""The side of a frame that is drawn here."""
FRAMES_PER_SECOND = 30
"""About how many frames a second are drawn at most; people see no more in a robot."""


@dataclass(frozen=True)
class Stage:
    """What drawing needs to know of a task, found by making one environment of it."""

    steps_per_second: float
    figure: Any
    """A Figure, or None where the task does not run in MuJoCo; its module is only imported where it does."""

    @cached_property
    def painter(self) -> Any:
        """Draws the figure with rays; made when first wanted, for poses do without it."""
        from backflip.envs.painter import Painter

        return Painter(self.figure)


@dataclass(frozen=True)
class Shown:
    """The states that people see of a segment."""

    states: Shaped[np.ndarray, "f *s"] = field(repr=False)
    fps: float
    """Frames a second at which they play as fast as it happened."""
    stage: Stage | None
    """Where they are played; None where the states are frames themselves."""


_stages: dict[str, Stage] = {}
"""One for each task drawn in this process: a model takes longer to load than a frame to draw."""


def stage_of(task: Task) -> Stage:
    """The task's stage."""
    key = f"{task.environment} {sorted(task.options.items())}"
    if key not in _stages:
        env = task.make()
        figure = None
        if is_simulated(env):
            from backflip.envs.figure import VIEWS, Figure

            model: Any = env.unwrapped.model  # type: ignore[attr-defined]  # is_simulated said that it is there
            figure = Figure(model, VIEWS.get(task.environment.rpartition(":")[2].rpartition("-v")[0]))
        _stages[key] = Stage(steps_per_second(env), figure)
        env.close()
    return _stages[key]


def shown_states(task: Task, states: Shaped[np.ndarray, "k *s"], length: int) -> Shown:
    """Those of the first `length` steps of a segment that are shown.

    Args:
        states: what `Collector` recorded: MuJoCo's positions and velocities, or frames.

    Raises:
        ValueError: the states are not of this task, or there are none.
    """
    if not 0 < length <= len(states):
        raise ValueError(f"length is {length}; a segment of {len(states)} recorded steps has 1 to {len(states)}")
    if states.size == 0:
        raise ValueError(f"this segment of {task.name} was recorded without states; collect it with filmed >= 1")
    stage = stage_of(task)
    every = max(1, round(stage.steps_per_second / FRAMES_PER_SECOND))
    shown, fps = states[:length:every], stage.steps_per_second / every
    if states.dtype == np.uint8 and states.ndim == 4:
        return Shown(shown, fps, None)
    if stage.figure is None or states.ndim != 2 or states.shape[1] != stage.figure.state_size:
        size = stage.figure.state_size if stage.figure else None
        raise ValueError(
            f"states have the shape {states.shape} and the type {states.dtype}; {task.name} is drawn from "
            + (f"[k {size}] numbers: positions and velocities" if size else "[k h w 3] uint8 frames")
        )
    return Shown(shown.astype(np.float64), fps, stage)
