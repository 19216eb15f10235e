"""The paper's eight robotics tasks and its two novel behaviours, on Gymnasium's MuJoCo environments. §3.1.1, §3.2, A

What the paper changes, and how it is done here:

- *Episodes never end early*, because an end tells the policy what the task is (A). Every episode lasts until its time
  limit: 50 steps for Reacher, 1000 for all others. The authors' released code cuts the pendulums at 25 and 50 steps;
  that cannot give the returns of the paper's figure 2 (thousands), so they keep Gymnasium's 1000 here.
- *A penalty that can be learned* stands in for the end: a term in the height of the torso, or the angle of the pole.
  The formulas are those of the authors' `rl_teacher/envs.py`.
- *Torques cost nothing*; nor do the Ant's contacts.

"Reward" here is that of the environments which the paper used, where a robot was paid its alive bonus even in the
step that it fell in. Gymnasium's v5 pays the bonus only while the robot is healthy; without ends that would be a
second, hidden penalty, so here it is paid at every step. The paper's figure 2 agrees. Where its curves begin, and a
random policy here (mean of two episodes): Walker -871, -878; Hopper 220, 315; Ant -866, -842; double pendulum -8414,
-8797; Reacher -10.2, -9; Cheetah -91, -75; Swimmer -8, 11. Only the pendulum's curve, from -1760 to 1374, fits no
length of episode that we know (here: -1445, at best 1000): compare it by normalised score.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np

from backflip.envs.scripts import Flip, OffFloor, backflip_score, backflips, one_leg_score, one_leg_share
from backflip.envs.task import Behaviour, Env, Task

Reward = Callable[[Any, float], float]
"""From the bare environment after a step, and what that paid, to what the task pays."""

ALIVE = 1.0
"""What Hopper, Walker and pendulum were paid a step for being alive."""
ALIVE_DOUBLE_PENDULUM = 10.0
THROWN = 0.5
"""Share of the training episodes in which a Hopper that learns backflips begins in a flip."""
LEAVING = 0.5
"""Share of these in which the flip only begins, from the foot."""


class Paid(gym.Wrapper[Any, Any, Any, Any]):
    """An environment with the task's reward, whose episodes only a time limit ends."""

    def __init__(self, env: Env, reward: Reward) -> None:
        super().__init__(env)
        self._reward = reward

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Step, pay, and go on whatever fell."""
        seen, reward, _, cut, info = self.env.step(action)
        return seen, self._reward(self.env.unwrapped, float(reward)), False, cut, info


class Turning(gym.ObservationWrapper[Any, Any, Any]):
    """An environment that sees one of its angles as cosine and sine: after a whole turn the world looks as before.

    Gymnasium's Hopper counts its turns. After each backflip it would see a pitch that it has never seen, and policy and
    r̂ would have to learn the next flip from nothing.
    """

    def __init__(self, env: Env, angle: int) -> None:
        super().__init__(env)
        self._angle = angle
        size = int(np.prod(env.observation_space.shape or ())) + 1
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (size,), np.float64)

    def observation(self, observation: Any) -> Any:
        """What was seen, with the cosine in the angle's place and the sine at the end."""
        angle = observation[self._angle]
        seen = np.append(observation, np.sin(angle))
        seen[self._angle] = np.cos(angle)
        return seen


class Remembering(gym.Wrapper[Any, Any, Any, Any]):
    """A robot that sees, behind the rest, what no single moment shows of a novel behaviour: see `Flip` and `OffFloor`.

    r̂ and policy go by what is seen in a step. Without this a Hopper's standing after a flip looks like standing before
    it, and the second turn of a tumble like the first of a flip; then tumbling pays better than landing. Whether
    anything touches the floor r̂ would have to guess from joints and height (docs/log.md).
    """

    def __init__(self, env: Env, what: Callable[[float], Flip | OffFloor]) -> None:
        """Wrap it.

        Args:
            what: begins to remember, at so many steps a second.
        """
        super().__init__(env)
        robot: Any = env.unwrapped
        self._robot, self._begin = robot, partial(what, 1 / robot.dt)
        self._remembered = self._begin()
        size = int(np.prod(env.observation_space.shape or ())) + len(self._begin().see(robot.init_qpos))
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (size,), np.float64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset; there is nothing to remember yet."""
        seen, info = self.env.reset(seed=seed, options=options)
        self._remembered = self._begin()
        return self._beside(seen), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step, and remember."""
        seen, reward, ended, cut, info = self.env.step(action)
        return self._beside(seen), reward, ended, cut, info

    def _beside(self, seen: Any) -> Any:
        return np.append(seen, self._remembered.see(self._robot.data.qpos))


class Thrown(gym.Wrapper[Any, Any, Any, Any]):
    """A Hopper that begins every other episode in a backflip: in the air somewhere, or leaving the floor.

    By chance a Hopper never lands one, and what a jump would lead to it does not know before it can land. So landings
    are tried from the first step on, as with the initial states of Peng et al. 2018 (DeepMimic), and flips from
    takeoffs that lack some of their speed, from none to all of it. What either is worth: docs/log.md.
    """

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset; throw it in one of two episodes."""
        seen, info = self.env.reset(seed=seed, options=options)
        robot: Any = self.env.unwrapped
        rng = robot.np_random
        if rng.random() < THROWN:
            place, speed = robot.data.qpos.copy(), robot.data.qvel.copy()
            (self._leave_the_floor if rng.random() < LEAVING else self._fly)(rng, place, speed)
            robot.set_state(place, speed)
            seen = robot._get_obs()
        return seen, info

    @staticmethod
    def _fly(rng: np.random.Generator, place: Any, speed: Any) -> None:
        """Anywhere in a flip: height and pitch, joints, and the speeds of these."""
        place[1], place[2] = rng.uniform(1.3, 2.2), -rng.uniform(0, 2 * np.pi)
        place[3:] = rng.uniform([-1.5, -1.5, -0.5], [0, 0, 0.5])
        speed[0], speed[1], speed[2] = rng.uniform(-1, 1), rng.uniform(-2, 3), -rng.uniform(2, 10)

    @staticmethod
    def _leave_the_floor(rng: np.random.Generator, place: Any, speed: Any) -> None:
        """Off its foot, with a share of the speed that takes it around."""
        share = rng.random()
        place[1], place[2] = place[1] + 0.1 * share, -rng.uniform(0, 0.5) * share
        speed[1], speed[2] = share * rng.uniform(2, 4), -share * rng.uniform(5, 11)


def hopper_reward(env: Any, velocity: float) -> float:
    """v + 1 + (z - 1)."""
    return velocity + ALIVE + float(env.data.qpos[1]) - 1.0


def walker_reward(env: Any, velocity: float) -> float:
    """v + 1 + (z - 2).

    The Walker stands at z = 1.25, in v5 as in the paper's version, so its bonus is a penalty even when it stands. In
    episodes of fixed length the 2 only moves all returns by the same amount; it stays, to compare with figure 2.
    """
    return velocity + ALIVE + float(env.data.qpos[1]) - 2.0


def ant_reward(env: Any, velocity: float) -> float:
    """v + (z - 1.2): no alive bonus, as in the authors' code."""
    return velocity + float(env.data.qpos[2]) - 1.2


def pendulum_reward(env: Any, _: float) -> float:
    """1 - angle², with the angle in radians from upright."""
    return ALIVE - float(env.data.qpos[1]) ** 2


def double_pendulum_reward(env: Any, penalties: float) -> float:
    """10 - 0.01 x² - (y - 2)² - 0.001 ω₁² - 0.005 ω₂² + 10 (y - 1), with the tip of the poles at (x, y)."""
    return penalties + ALIVE_DOUBLE_PENDULUM + 10.0 * (float(env.data.site_xpos[0][2]) - 1.0)


_PAPER = "Christiano et al. 2017, §3.1.1 and A; formulas from rl-teacher's envs.py"
_FREE = {"ctrl_cost_weight": 0.0}
_HEALTHY = {"healthy_reward": 0.0, "terminate_when_unhealthy": False}
_TAIL = " Judge only what you see happen in the clip."


def _task(name: str, environment: str, question: str, **settings: Any) -> Task:
    return Task(name, environment, question + _TAIL, source=_PAPER, extra="mujoco", **settings)


_HOPPER = _task(
    "hopper",
    "Hopper-v5",
    "In which clip does the middle of the body get further to the right? Moving left is worse than staying. "
    "If they are about equal, the one that keeps its body higher is better.",
    options={**_FREE, **_HEALTHY},
    wrap=partial(Paid, reward=hopper_reward),
)


def _turning_hopper(env: Env) -> Env:
    return Remembering(Turning(Paid(env, reward=hopper_reward), angle=1), Flip)


_CHEETAH = _task(
    "cheetah",
    "HalfCheetah-v5",
    "In which clip does the robot run to the right faster? How it runs does not matter.",
    options=_FREE,
)

ROBOTICS = (
    _task(
        "reacher",
        "Reacher-v5",
        "In which clip is the green fingertip closer to the red target? Think of the whole clip: staying at a middling "
        "distance throughout is better than being near for a part and far for the rest.",
        options={"reward_control_weight": 0.0},
        reads_sizes=True,  # docs/log.md
    ),
    _HOPPER,
    _task(
        "walker",
        "Walker2d-v5",
        "In which clip does the middle of the body get further to the right? Moving left is worse than staying. "
        "If they are about equal, the one that keeps its body higher is better.",
        options={**_FREE, **_HEALTHY},
        wrap=partial(Paid, reward=walker_reward),
    ),
    _task(
        "swimmer",
        "Swimmer-v5",
        "In which clip does the middle of the body travel further to the right?",
        options=_FREE,
        entropy=0.001,
        discount=0.999,  # docs/log.md
        segment_steps=100,  # docs/log.md
    ),
    _CHEETAH,
    _task(
        "ant",
        "Ant-v5",
        "In which clip does the robot do better? Standing on its feet comes first: lying on its back or flipping over "
        "is bad. Among clips that stand, the one whose body moves faster to the right is better.",
        # 78 of v5's 105 numbers are contact forces, clipped to ±1 and nearly always 0. They say nothing about what the
        # question asks, and in Gym's v2 to v4, where most published results come from, they were 0 or left out.
        options={**_FREE, **_HEALTHY, "contact_cost_weight": 0.0, "include_cfrc_ext_in_observation": False},
        wrap=partial(Paid, reward=ant_reward),
    ),
    _task(
        "double-pendulum",
        "InvertedDoublePendulum-v5",
        "In which clip do both poles point up more of the time? If they have fallen in both, the one that swings them "
        "back up is better.",
        options={"healthy_reward": 0.0},
        wrap=partial(Paid, reward=double_pendulum_reward),
    ),
    _task(
        "pendulum",
        "InvertedPendulum-v5",
        "In which clip does the pole point up more of the time? Many pairs are equal: where the pole lies or stands in "
        "both, say so.",
        wrap=partial(Paid, reward=pendulum_reward),
    ),
    replace(
        _HOPPER,
        name="hopper-backflip",
        wrap=_turning_hopper,
        question="Which is closer to a backflip? A whole backward turn in the air that lands upright on the foot, and "
        "does so again, is best; then a turn that is not finished; then a jump with any backward turn. Falling on its "
        "head is worst. Where neither turns, they are about the same." + _TAIL,
        has_true_reward=False,
        script=backflip_score,
        script_margin=0.5,  # docs/log.md
        segment_steps=38,  # 0.76 s: shorter segments say more of single steps (docs/log.md)
        labels_spread=(0.5, 0.85),  # landings can only be asked about once there are turns
        behaviour=Behaviour("backflips", backflips),
        # It acts 50 times a second, not 125: chance pushes last longer and reach more, a second is fewer steps to learn
        # from, and γ = 0.99 sees two seconds, a flight and its landing (docs/log.md). Eight seconds, as many as the
        # Hopper's 1,000 steps.
        options={**_HOPPER.options, "frame_skip": 10, "max_episode_steps": 400},
        # Two clips long: a Hopper that has fallen lies there, and clips of that teach nothing. The authors' code has a
        # short version of 300 steps too.
        training_steps=150,
        training_wrap=Thrown,
        source="Christiano et al. 2017, §3.2 and A",
    ),
    replace(
        _CHEETAH,
        name="cheetah-one-leg",
        wrap=partial(Remembering, what=OffFloor),
        question="Which robot goes to the right on one leg better? The other leg should stay off the floor, and the "
        "body should not drag. Moving on one leg is best; then standing on one leg; then anything on two." + _TAIL,
        has_true_reward=False,
        script=one_leg_score,
        behaviour=Behaviour("share on one leg", one_leg_share),
        source="Christiano et al. 2017, §3.2",
    ),
)
