"""Environments: the tasks, stepping them, and drawing what happened in them."""

import difflib

import gymnasium as gym

from backflip.envs.collect import Collector
from backflip.envs.robotics import ROBOTICS
from backflip.envs.suite import SUITE
from backflip.envs.task import (
    MissingExtra,
    Task,
    UnknownTask,
    default_segment_steps,
    gymnasium_task,
    steps_per_second,
)

__all__ = [
    "TASKS",
    "Collector",
    "MissingExtra",
    "Task",
    "UnknownTask",
    "default_segment_steps",
    "find_task",
    "steps_per_second",
]

TASKS: dict[str, Task] = {task.name: task for task in (*ROBOTICS, *SUITE)}
"""The tasks that have a question and settings of their own, by name."""


def find_task(name: str) -> Task:
    """One of `TASKS`, or any environment that Gymnasium knows by that id.

    Raises:
        UnknownTask: neither; the message names what is near.
    """
    if name in TASKS:
        return TASKS[name]
    try:
        return gymnasium_task(name)
    except UnknownTask as error:
        known = {known.lower(): known for known in [*gym.registry, *TASKS]}
        near = [known[match] for match in difflib.get_close_matches(name.lower(), known, n=4, cutoff=0.5)]
        hint = f"did you mean {', '.join(near)}? " if near else ""
        advice = (
            f"Ours are {', '.join(TASKS)}; any Gymnasium id works too ({error.__cause__}); one of your own is named "
            f"with the module that registers it, as in my_module:{name}, as `task` in a run's run.json, too"
        )
        module, _, environment = name.rpartition(":")
        if module:
            file = f"{module.replace('.', '/')}.py"
            advice = f"Go to the folder that has {file}, and see that it registers {environment} ({error.__cause__})"
        raise UnknownTask(f"no task or Gymnasium environment is called {name!r}; {hint}{advice}") from error
