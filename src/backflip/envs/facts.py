"""What a task's environment says about itself, for the parts that never step it."""

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from backflip.envs.task import Task, default_segment_steps, steps_per_second


@dataclass(frozen=True)
class Facts:
    """Shapes and lengths of a task."""

    observation_shape: tuple[int, ...]
    action_size: int
    """Numbers in an action, or choices where actions are choices."""
    discrete: bool
    first_action: int
    """The number of the first choice."""
    bounded: bool
    """Whether actions are numbers with bounds."""
    segment_steps: int
    """Steps of a segment, by default."""
    episode_steps: int | None
    """The time limit of an episode, if there is one."""
    steps_per_second: float


def facts(task: Task) -> Facts:
    """Make one environment of the task, look, and close it."""
    env = task.make()
    try:
        space: gym.spaces.Space[Any] = env.action_space
        discrete = isinstance(space, gym.spaces.Discrete)
        return Facts(
            observation_shape=tuple(env.observation_space.shape or ()),
            action_size=int(space.n) if isinstance(space, gym.spaces.Discrete) else int(np.prod(space.shape or ())),
            discrete=discrete,
            first_action=int(space.start) if isinstance(space, gym.spaces.Discrete) else 0,
            bounded=isinstance(space, gym.spaces.Box) and bool(np.isfinite([space.low, space.high]).all()),
            segment_steps=default_segment_steps(env),
            episode_steps=env.spec.max_episode_steps if env.spec else None,
            steps_per_second=steps_per_second(env),
        )
    finally:
        env.close()
