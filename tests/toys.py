"""Environments for tests."""

from typing import Any

import gymnasium as gym
import numpy as np


class DictPoint(gym.Env[dict[str, Any], Any]):
    """A point on a line that should go right; what it sees comes as a dictionary."""

    observation_space = gym.spaces.Dict(
        {"place": gym.spaces.Box(-9, 9, (1,), np.float32), "more": gym.spaces.Box(-1, 1, (2,), np.float32)}
    )
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)
    metadata: dict[str, Any] = {"render_fps": 10, "render_modes": []}  # noqa: RUF012

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.place = np.float32(0)
        return self._seen(), {}

    def step(self, action: Any) -> Any:
        self.place = np.clip(self.place + np.float32(0.1) * np.float32(action[0]), -9, 9)
        return self._seen(), float(action[0]), False, False, {}

    def _seen(self) -> dict[str, Any]:
        return {"place": np.array([self.place], np.float32), "more": np.zeros(2, np.float32)}


class Follow(gym.Env[Any, Any]):
    """Two numbers are shown; half of each, as an action, is worth most. It may end itself after some steps."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Box(-0.6, 0.6, (2,), np.float32)

    def __init__(self, falls: int | None = None) -> None:
        self.falls = falls

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return self._show(), {}

    def step(self, action: Any) -> Any:
        reward = -float(np.square(action - 0.5 * self.shown).sum())
        self.steps += 1
        return self._show(), reward, self.steps == self.falls, False, {}

    def _show(self) -> Any:
        self.shown = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return self.shown


class Pictures(gym.Env[Any, Any]):
    """A picture is shown; nothing that is done changes anything."""

    observation_space = gym.spaces.Box(0, 255, (40, 40, 3), np.uint8)
    action_space = gym.spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        return self.observation_space.sample(), 0.0, False, False, {}


gym.register("DictPoint-v0", "toys:DictPoint", max_episode_steps=40)
gym.register("Follow-v0", "toys:Follow", max_episode_steps=8, disable_env_checker=True)
gym.register("Pictures-v0", "toys:Pictures", max_episode_steps=20)
