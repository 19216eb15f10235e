"""Tasks: an environment, the question that people answer about its clips, and the paper's settings for it. §3, A"""

import importlib
import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from jaxtyping import Float

from backflip.errors import Mendable

Env = gym.Env[Any, Any]
Script = Callable[[Float[np.ndarray, "k s"], Float[np.ndarray, "k o"], float], float]
"""From the simulator's states and what was seen in some steps of one environment, and the steps in a second, to a
number."""
Measure = Callable[[Float[np.ndarray, "k s"], float], float]
"""From the simulator's states in the steps of an episode, and the steps in a second, to a number."""

SEGMENT_SECONDS = 1.5
"""Length of a clip in the robotics tasks (A.1)."""
FALLBACK_STEPS_PER_SECOND = 30
"""Used where an environment tells neither its dt nor a frame rate."""


class UnknownTask(Mendable, ValueError):
    """No task or environment of that name; the message lists what there is."""


class MissingExtra(Mendable, RuntimeError):
    """The environment needs a package that is not installed; the message says how to get it."""


class BrokenEnvironment(Mendable, ValueError):
    """The environment gave what no environment should; the message says what and when."""


class CannotBeShown(Mendable, ValueError):
    """No clips of the environment can be shown; the message says why."""


@dataclass(frozen=True)
class Behaviour:
    """What tells, of a whole episode, how well a task without a true reward was learned."""

    name: str
    measure: Measure


@dataclass(frozen=True)
class Task:
    """What to train on, and what to ask people about it."""

    name: str
    environment: str
    """The Gymnasium id."""
    question: str
    """One or two sentences that tell an annotator what counts (Appendix B)."""
    options: dict[str, Any] = field(default_factory=dict)
    """Passed to `gymnasium.make`."""
    wrap: Callable[[Env], Env] | None = None
    """The task's changes to the environment."""
    has_true_reward: bool = True
    script: Script | None = None
    """What a scripted teacher makes of a segment, in place of a person; larger is better."""
    script_margin: float = 0.0
    """Two segments whose scores differ by less are a tie, as for people who see what was asked for in neither clip.
    Choices have no scale: without ties, a trifle in which many pairs differ weighs as much in r̂ as what is wanted."""
    behaviour: Behaviour | None = None
    """What evaluations measure beside returns; like a script, it needs a simulator."""
    sees_ends: bool = False
    """Whether the policy may learn from episode ends. The paper hides them, because they give the task away (A)."""
    entropy: float = 0.01
    """Entropy bonus (A.1)."""
    discount: float | None = None
    """γ of SAC, where the task needs another than 0.99."""
    segment_steps: int | None = None
    """Steps of a segment in the preset `fast`, where 50 are less than one stroke or stride."""
    reads_sizes: bool = False
    """Whether r̂ reads the size of each number beside it in the preset `fast`: where a distance is what counts."""
    training_steps: int | None = None
    """Steps of an episode while training, where one should be shorter than in evaluation."""
    training_wrap: Callable[[Env], Env] | None = None
    """Changes to the environment while training alone, such as other beginnings of episodes; `wrap` goes around it."""
    labels_spread: tuple[float, float] | None = None
    """With few labels: the share of the run after which their rate has fallen to a half, and the share by whose end all
    are asked; for long runs whose behaviour goes through stages, such as standing before walking."""
    asks_about_newest: bool = False
    """In the preset `fast`: whether one side of every pair shows what the policy did of late, pairs are chosen by what
    an answer would tell about r̂, and r̂ is fitted for half as long; for such runs, too."""
    exploring_steps: int = 0
    """In the preset `fast`: steps in which the policy seeks what is new before there is an r̂, where what is asked for
    hardly happens by chance."""
    source: str = ""
    """Where the settings come from."""
    extra: str = ""
    """Which extra of ours brings what the environment needs, as in `pip install 'backflip[mujoco]'`."""

    def in_training(self) -> "Task":
        """The same task, with episodes as long as training wants them, and beginning as it does."""
        limit = {} if self.training_steps is None else {"max_episode_steps": self.training_steps}
        wraps = tuple(wrap for wrap in (self.training_wrap, self.wrap) if wrap is not None)
        return replace(self, options={**self.options, **limit}, wrap=partial(_wrapped, wraps=wraps) if wraps else None)

    def make(self, film: bool = False) -> Env:
        """One environment of this task; with `film`, one whose frames can be asked for by `render()`.

        Raises:
            MissingExtra: the environment needs a package that is not installed.
            UnknownTask: Gymnasium lists the environment, and cannot make it.
            ValueError: no policy here can act in it.
            CannotBeShown: it cannot be filmed.
        """
        env = _filmable(self) if film else _made(self, self.options)
        env = env if self.wrap is None else self.wrap(env)
        if not isinstance(env.observation_space, gym.spaces.Box):
            with suppress(NotImplementedError):  # a space that Gymnasium cannot flatten: refused in the next line
                env = gym.wrappers.FlattenObservation(env)
        check_spaces(self.name, env)
        return env


def _wrapped(env: Env, wraps: tuple[Callable[[Env], Env], ...]) -> Env:
    for wrap in wraps:
        env = wrap(env)
    return env


def _made(task: Task, options: dict[str, Any]) -> Env:
    try:
        with _quiet_mujoco(task.environment):
            env: Env = gym.make(task.environment, **options)
    except (gym.error.DependencyNotInstalled, ModuleNotFoundError) as error:
        advice = f"pip install 'backflip[{task.extra}]'" if task.extra else str(error)
        raise MissingExtra(f"{task.name} needs a package that is not installed; to get it: {advice}") from error
    except (gym.error.Error, ImportError) as error:  # such as Hopper-v3, which Gymnasium lists and cannot make
        raise UnknownTask(f"{task.name} cannot be made ({error}); backflip tasks lists others") from error
    return env


def _filmable(task: Task) -> Env:
    """The environment with `render_mode="rgb_array"`, after seeing that it has one."""
    advice = "its clips cannot be shown to people: give the environment that render mode, or let an oracle answer"
    try:
        with warnings.catch_warnings():
            # What Gymnasium only warns of is an error below.
            warnings.filterwarnings("ignore", message=".*render_mode.*", category=UserWarning)
            env = _made(task, {**task.options, "render_mode": "rgb_array"})
    except TypeError as error:
        if "render_mode" not in str(error):
            raise
        raise CannotBeShown(f"{task.name} takes no render_mode, and needs 'rgb_array'; {advice}") from error
    modes = env.metadata.get("render_modes", [])
    if "rgb_array" not in modes:
        env.close()
        raise CannotBeShown(f"{task.name} has the render modes {modes}, not 'rgb_array'; {advice}")
    return env


@contextmanager
def _quiet_mujoco(environment: str) -> Iterator[None]:
    """Send what MuJoCo says while it loads a model to the log.

    Left alone, it prints a line for every HalfCheetah (whose file uses a deprecated attribute) and leaves a
    MUJOCO_LOG.TXT where the command was started. Warnings during simulation still go there.
    """
    module, _, known = environment.rpartition(":")
    if module:
        importlib.import_module(module)
    if not {"mujoco", "dm_control"} & set(re.split(r"[./:]", f"{known}.{gym.spec(known).entry_point}")):
        yield
        return
    try:
        import mujoco
    except ImportError as error:
        raise gym.error.DependencyNotInstalled("pip install 'backflip[mujoco]'") from error
    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(logging.getLogger(__name__).debug)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)


def steps_per_second(env: Env) -> float:
    """How many steps of the environment make a second, by its own account."""
    dt = getattr(env.unwrapped, "dt", None)
    if isinstance(dt, float | int) and dt > 0:
        return 1.0 / float(dt)
    rate = env.metadata.get("render_fps")
    return float(rate) if rate else float(FALLBACK_STEPS_PER_SECOND)


def default_segment_steps(env: Env, seconds: float = SEGMENT_SECONDS) -> int:
    """Steps of a segment that lasts `seconds`, at most half an episode, so that there is something to choose from."""
    steps = max(1, round(seconds * steps_per_second(env)))
    limit = env.spec.max_episode_steps if env.spec else None
    return min(steps, max(1, limit // 2)) if limit else steps


def check_spaces(task: str, env: Env) -> None:
    """Refuse at once what no policy here could act in.

    Raises:
        ValueError: the action space is neither Discrete nor a Box of floats, or the observations cannot be flattened.
    """
    action = env.action_space
    if not isinstance(action, gym.spaces.Discrete) and not (
        isinstance(action, gym.spaces.Box) and len(action.shape) == 1 and np.issubdtype(action.dtype, np.floating)
    ):
        raise ValueError(
            f"{task} has the action space {action}; only Discrete and one-dimensional Box spaces of floats are "
            "supported: wrap the environment so that it has one of these"
        )
    if not isinstance(env.observation_space, gym.spaces.Box):
        raise ValueError(
            f"{task} has the observation space {env.observation_space}; only Box, or a Dict of Boxes, is supported: "
            "wrap the environment in TransformObservation"
        )


def _import(module: str) -> None:
    """Import a module that may lie in the current folder, which an installed program is not given to look in.

    Raises:
        ModuleNotFoundError: there is no such module.
        MissingExtra: it imports what is not there.
    """
    try:
        _look_here(module)
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            raise
        raise MissingExtra(f"{module} imports what is not there ({error}); install or mend that") from error


def _look_here(module: str) -> None:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        here = str(Path.cwd())
        if error.name != module.partition(".")[0] or here in sys.path:
            raise
        sys.path.append(here)
        importlib.invalidate_caches()
        importlib.import_module(module)


def gymnasium_task(name: str) -> Task:
    """Any Gymnasium id as a task, taken as it is; `module:id` imports the module that registers it first.

    Raises:
        UnknownTask: Gymnasium knows no such id, or lacks what it needs.
        MissingExtra: the module is there, and imports what is not.
    """
    module, _, environment = name.rpartition(":")
    try:
        if module:
            _import(module)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            spec = gym.spec(environment)
    except (gym.error.Error, ImportError) as error:
        raise UnknownTask(f"no task or Gymnasium environment is called {name!r} ({error})") from error
    return Task(
        name=name,
        environment=spec.id,
        question="Which clip shows the better behaviour?",
        source="the environment as registered with Gymnasium",
    )
