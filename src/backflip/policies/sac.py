"""Soft actor-critic (Haarnoja et al. 2018, arXiv 1812.05905), whose memory is always paid by the newest r̂. §2.2.1

Lean on a CPU: the critics run as one stacked network, all weights of a network lie in one vector, so that Adam and the
slow copy are one call each, nothing waits for a number inside an update, and the wide products are in bfloat16 where
the processor is quicker in it.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import torch
from jaxtyping import Bool, Float32
from torch import Tensor

from backflip.adam import Adam
from backflip.envs import Collector
from backflip.errors import plain_numbers
from backflip.files import load_arrays, save_arrays
from backflip.policies import Pay
from backflip.policies.novelty import state_entropy
from backflip.policies.replay import Batch, Replay, Reward
from backflip.policies.stack import Forward, Stack, gains_from_bfloat16
from backflip.segments import Array, Rollout, join_rollouts

LOG_2, LOG_2PI = math.log(2), math.log(2 * math.pi)
LOWEST, HIGHEST = -5.0, 2.0
"""Bounds of the actor's log σ (CleanRL)."""
FAR_SIGHTED = 0.995
"""With a γ above this, values cannot follow each new r̂ to its mean; at .99 it made no difference (docs/log.md)."""
LAST_RATE = 0.05
"""Share of the learning rate that is left at the end of a run in which it falls."""
ENTROPY_SAMPLE = 1024
"""Remembered states that novelty is measured among."""


@dataclass(frozen=True)
class SACConfig:
    """Settings of SAC; those of Haarnoja 2018 where nothing else is said."""

    environments: int = 8
    """Environments stepped together."""
    burst_steps: int = 8
    """Steps of each between two bursts of updates."""
    updates_per_step: float = 0.5
    """Critic updates for each environment step (pilot, docs/log.md)."""
    actor_every: int = 2
    """Critic updates for each update of the actor (Fujimoto 2018)."""
    batch: int = 128
    """Half of Haarnoja's: it learns as much in a step, and takes 0.75 of the time (docs/log.md)."""
    learning_rate: float = 1e-3
    """Of actor, critics and temperature (pilot, docs/log.md)."""
    constant_until: float = 1.0
    """Share of the run's steps after which the learning rate falls, in a line, to a twentieth at its end."""
    discount: float = 0.99
    slowness: float = 0.005
    """How far the slow critics move towards the critics in each update (τ)."""
    width: int = 256
    """Units of each of the two hidden layers."""
    temperature: float = 0.1
    """α at the start; from then on it adapts itself."""
    entropy_per_action: float = -1.0
    """The entropy that the temperature aims at, for each number of an action."""
    capacity: int = 1_000_000
    """Transitions remembered at most."""
    random_steps: int = 4_000
    """Environment steps of uniformly random actions at the beginning."""
    entropy_steps: int = 0
    """Environment steps after these in which the policy learns to see new states, before there is an r̂ (PEBBLE)."""
    bfloat16: bool = True
    """Compute the wide products in bfloat16, where the processor is quicker in it."""

    def __post_init__(self) -> None:
        plain_numbers(self)
        if min(self.environments, self.burst_steps, self.actor_every, self.width) < 1 or self.batch < 2:
            raise ValueError(
                f"{self} cannot be: environments, burst_steps, actor_every and width are at least 1, batch 2"
            )
        if self.updates_per_step < 0 or min(self.random_steps, self.entropy_steps) < 0:
            raise ValueError(f"{self} cannot be: updates_per_step, random_steps and entropy_steps are not negative")
        if not 0 <= self.constant_until <= 1:
            raise ValueError(f"constant_until is {self.constant_until}; it is a share of the run, between 0 and 1")
        if not 0 < self.discount < 1:
            raise ValueError(f"discount is {self.discount}; it lies between 0 and 1")


class Drawn(NamedTuple):
    """Actions that the actor drew, and what their gradient needs."""

    action: Float32[Tensor, "b a"]
    log_probability: Float32[Tensor, "b 1"]
    spread: Float32[Tensor, "b a"]
    """σ·noise."""
    within: Bool[Tensor, "b a"]
    """Whether log σ is within its bounds."""
    forward: Forward


class SAC:
    """A policy that learns by SAC from everything it remembers, as the newest reward pays it."""

    def __init__(
        self,
        collector: Collector,
        config: SACConfig | None = None,
        seed: int = 0,
        steps: int = 1,
        total_steps: int | None = None,
    ) -> None:
        """Make an untrained policy.

        Args:
            steps: environment steps that `train` takes in each environment at least.
            total_steps: the run's length, which only a learning rate that falls needs.

        Raises:
            ValueError: the actions are choices, or have no bounds.
        """
        self.collector = collector
        self.config = config or SACConfig()
        self.seed = seed
        self.total_steps = total_steps
        self.rollout_steps = -(-steps // self.config.burst_steps) * self.config.burst_steps
        self.iteration = 0
        self.updates = 0
        space = collector.action_space
        if not isinstance(space, gym.spaces.Box) or not np.isfinite([space.low, space.high]).all():
            raise ValueError(f"{collector.task.name} has the actions {space}; SAC needs bounded numbers: use PPO")
        self.middle = ((space.high + space.low) / 2).astype(np.float32)
        self.reach = ((space.high - space.low) / 2).astype(np.float32)
        o, a = int(np.prod(collector.observation_space.shape or ())), self.middle.size
        self.actions = a
        rng = np.random.default_rng([seed, 0])
        # The temperature rides in the actor's vector: one Adam for both.
        self.actor = Stack(1, o, 2 * a, self.config.width, rng, others=1)
        self.actor.vector[-1] = math.log(self.config.temperature)
        self.critics = Stack(2, o + a, 1, self.config.width, rng)
        self.slow = Stack(2, o + a, 1, self.config.width, rng)
        self.slow.flat.copy_(self.critics.flat)
        for stack in (self.actor, self.critics, self.slow):
            stack.precision = torch.bfloat16 if self.config.bfloat16 and gains_from_bfloat16() else torch.float32
        self.adams = {
            "actor": Adam([self.actor.vector], self.config.learning_rate),
            "critics": Adam([self.critics.vector], self.config.learning_rate),
        }
        self.replay = Replay(self.config.capacity, o, a)
        self.level = 0.0
        """What is taken from every reward (`repay`)."""
        self._owed = 0.0
        self._sought = False
        self._measured: dict[str, Tensor] = {}
        """What `report` measures, of the last update."""

    @property
    def steps(self) -> int:
        """Environment steps so far."""
        return self.collector.steps

    def explore(self) -> Rollout:
        """Act for one rollout before there is an r̂: at random, then to see what is new, if that is wanted."""
        seeks = not self._at_random and self.config.entropy_steps > 0
        self._sought |= seeks
        return self._rollout(lambda rollout: np.zeros_like(rollout.true_rewards), learn=seeks, novelty=seeks)

    def train(self, pay: Pay) -> Rollout:
        """Act for one rollout, paid burst by burst, and learn from everything that is remembered.

        As long as the first steps are random, they are only remembered. What the critics thought of novelty is
        forgotten first (PEBBLE).
        """
        if self._sought:
            self._sought = False
            self._draw_critics()
        return self._rollout(pay, learn=True)

    def repay(self, reward: Reward) -> None:
        """Pay everything that is remembered by a new reward.

        Where the ends of episodes are hidden, adding c to every reward adds c/(1 - γ) to every value and changes no
        policy. A new r̂ moves all rewards a little, and with γ near 1 all values by a thousand times as much: there,
        rewards count from their mean.
        """
        shape = self.collector.observation_space.shape or ()
        self.replay.repay(lambda seen, done: reward(seen.reshape(-1, *shape), self._outward(done)))
        if self.config.discount > FAR_SIGHTED and not self.collector.task.sees_ends:
            self.level = self.replay.mean_reward()

    def choose(self, observations: Array) -> Array:
        """The actions without exploration."""
        means, _ = self._outputs(observations)
        return self._outward(np.tanh(means))

    def report(self) -> dict[str, float]:
        """Measurements of the last update (docs/metrics.md)."""
        return {name: value.mean().item() for name, value in self._measured.items()}

    @property
    def learning_rate(self) -> float:
        """That of the updates to come."""
        since = self.config.constant_until
        if self.total_steps is None or since == 1:
            return self.config.learning_rate
        fallen = min(max(0.0, self.steps / self.total_steps - since) / (1 - since), 1.0)
        return self.config.learning_rate * (1 - (1 - LAST_RATE) * fallen)

    @property
    def _at_random(self) -> bool:
        """Whether actions are uniformly random still; not again once it has learned, in a run that was made longer."""
        return self.steps < self.config.random_steps and not self.updates

    def _draw_critics(self) -> None:
        """New critics, that know nothing."""
        rng = np.random.default_rng([self.seed, 2])
        fresh = Stack(2, self.critics.shapes[0][1], 1, self.config.width, rng)
        self.critics.flat.copy_(fresh.flat)
        self.slow.flat.copy_(fresh.flat)
        self.adams["critics"].forget()

    def _rollout(self, pay: Pay, learn: bool, novelty: bool = False) -> Rollout:
        parts = []
        rng = np.random.default_rng([self.seed, 1, self.iteration])
        for _ in range(self.rollout_steps // self.config.burst_steps):
            burst, actions = self._act(rng)
            rewards = pay(burst)
            if not np.isfinite(rewards).all():
                raise FloatingPointError(
                    f"the reward of step {self.steps} is not finite; the policy cannot learn from it"
                )
            self.replay.add(burst, actions, rewards)
            parts.append(burst)
            if learn and (self.updates or self.steps > self.config.random_steps):
                self._learn(rng, burst.ends.size, novelty)
        self.iteration += 1
        return join_rollouts(parts)

    def _act(self, rng: np.random.Generator) -> tuple[Rollout, Float32[np.ndarray, "t e a"]]:
        """One burst, and its actions between -1 and 1."""
        shape = (self.config.burst_steps, self.collector.environments, self.actions)
        inward = np.empty(shape, np.float32)
        time = iter(range(shape[0]))
        if self._at_random:
            inward[:] = rng.uniform(-1, 1, shape)
            return self.collector.collect(lambda _: self._outward(inward[next(time)]), shape[0]), inward
        noise = rng.standard_normal(shape, np.float32)

        def act(seen: Array) -> Array:
            t = next(time)
            means, deviations = self._outputs(seen)
            inward[t] = np.tanh(means + deviations * noise[t])
            return self._outward(inward[t])

        return self.collector.collect(act, shape[0]), inward

    def _outputs(self, observations: Array) -> tuple[Array, Array]:
        """Mean and deviation of each number of an action, before the tanh."""
        flat = np.ascontiguousarray(observations, np.float32).reshape(len(observations), -1)
        out = self.actor.alone(torch.from_numpy(flat)).numpy()
        return out[:, : self.actions], np.exp(np.clip(out[:, self.actions :], LOWEST, HIGHEST))

    def _outward(self, inward: Array) -> Array:
        """Actions between -1 and 1 as the environment wants them."""
        outward: Array = self.middle + self.reach * inward
        return outward

    @torch.inference_mode()
    def _learn(self, rng: np.random.Generator, steps: int, novelty: bool) -> None:
        """As many updates as these environment steps allow."""
        self._owed += steps * self.config.updates_per_step
        for adam in self.adams.values():
            adam.learning_rate = self.learning_rate
        updates, batch = int(self._owed), self.config.batch
        self._owed -= updates
        places = rng.integers(0, len(self.replay), (updates, batch))
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        noise = torch.randn(updates, 2, batch, self.actions, generator=generator)
        among = self.replay.observations(rng.integers(0, len(self.replay), ENTROPY_SAMPLE)) if novelty else None
        for chosen, (then, now) in zip(places, noise, strict=True):
            sample = self.replay.sample(chosen)
            if among is not None:
                sample = sample._replace(rewards=state_entropy(sample.following, among))
            elif self.level:
                sample = sample._replace(rewards=sample.rewards - self.level)
            if not self.collector.task.sees_ends:
                sample = sample._replace(going_on=torch.ones_like(sample.going_on))
            self._learn_critics(sample, then)
            self.updates += 1
            if self.updates % self.config.actor_every == 0:
                self._learn_actor(sample.seen, now)

    @torch.inference_mode()
    def _learn_critics(self, sample: Batch, noise: Float32[Tensor, "b a"]) -> None:
        """Both critics towards r + γ·(min Q(s', a') - α·log π(a'|s')), with Q the slow critics (eq. 5 and 6)."""
        then = self._draw(sample.following, noise)
        value = self.slow(torch.cat([sample.following, then.action], 1)).outputs.amin(0)
        value -= self._temperature() * then.log_probability
        target = torch.addcmul(sample.rewards, sample.going_on, value, value=self.config.discount)
        forward = self.critics(sample.seen_and_done)
        error = forward.outputs - target
        self.critics.differentiate(forward, error / len(noise))  # of ½·error², a mean over the batch
        self.adams["critics"].step([self.critics.gradient])
        self.slow.flat.lerp_(self.critics.flat, self.config.slowness)
        # The sum over both critics of ½·error² is the mean over both of error².
        self._measured |= {"act/value_loss": error.square(), "act/value": forward.outputs}

    @torch.inference_mode()
    def _learn_actor(self, seen: Float32[Tensor, "b o"], noise: Float32[Tensor, "b a"]) -> None:
        """The actor towards larger min Q - α·log π (eq. 7), and α towards the wanted entropy (eq. 18)."""
        batch, alpha = len(noise), self._temperature()
        now = self._draw(seen, noise)
        action = now.action
        forward = self.critics(torch.cat([seen, action], 1))
        smallest, which = forward.outputs[..., 0].min(0)
        by_action = self.critics.by_inputs(forward, which, seen.shape[1]) / -batch
        # u = mean + σ·noise. With noise fixed, log π depends on u through the tanh alone, ∂log π/∂u = 2·tanh(u), and on
        # log σ beside by -1; ∂tanh(u)/∂u = 1 - tanh²(u), ∂u/∂log σ = σ·noise.
        by_u = by_action * (1 - action.square()) + (2 * alpha / batch) * action
        by_log_deviation = (by_u * now.spread - alpha / batch) * now.within
        self.actor.differentiate(now.forward, torch.cat([by_u, by_log_deviation], 1)[None])
        entropy = -now.log_probability.mean()
        self.actor.gradient[-1] = entropy - self.config.entropy_per_action * self.actions
        self.adams["actor"].step([self.actor.gradient])
        self._measured |= {
            "act/policy_loss": alpha * now.log_probability[:, 0] - smallest,
            "act/entropy": entropy,
            "act/temperature": torch.tensor(alpha),
        }

    def _temperature(self) -> float:
        """α."""
        return math.exp(self.actor.vector[-1])

    def _draw(self, seen: Float32[Tensor, "b o"], noise: Float32[Tensor, "b a"]) -> Drawn:
        """Actions tanh(u), u = mean + σ·noise, and log π = log N(u) - Σ log(1 - tanh²(u)) (Haarnoja 2018, C)."""
        forward = self.actor(seen)
        mean, wanted = forward.outputs[0].chunk(2, 1)
        log_deviation = wanted.clamp(LOWEST, HIGHEST)
        spread = log_deviation.exp() * noise
        before = mean + spread
        # log(1 - tanh²(u)) = 2·(log 2 - u - softplus(-2u)), which never takes the log of 0.
        squash = 2 * (LOG_2 - before - torch.nn.functional.softplus(-2 * before))
        log_probability = (-0.5 * (noise.square() + LOG_2PI) - log_deviation - squash).sum(1, keepdim=True)
        return Drawn(torch.tanh(before), log_probability, spread, log_deviation == wanted, forward)

    def save(self, directory: Path) -> None:
        """Write everything that learning depends on, the memory included, the state of the environments excepted."""
        arrays = {
            "actor": self.actor.vector.numpy(),
            "critics": self.critics.flat.numpy(),
            "slow": self.slow.flat.numpy(),
        }
        for name, adam in self.adams.items():
            arrays |= adam.arrays(f"{name}_adam_")
        arrays |= self.replay.arrays()
        meta = {
            "iteration": self.iteration,
            "steps": self.steps,
            "updates": self.updates,
            "owed": self._owed,
            "sought": self._sought,
            "level": self.level,
        }
        save_arrays(directory / "policy.safetensors", arrays, meta)

    def load(self, directory: Path) -> None:
        """Go on from what `save` wrote.

        Raises:
            DamagedFile: it cannot be read.
        """
        arrays, meta = load_arrays(directory / "policy.safetensors")
        for name, flat in {"actor": self.actor.vector, "critics": self.critics.flat, "slow": self.slow.flat}.items():
            flat.copy_(torch.from_numpy(arrays[name]))
        for name, adam in self.adams.items():
            adam.restore(arrays, f"{name}_adam_")
        self.replay.restore(arrays)
        self.iteration, self.collector.steps = meta["iteration"], meta["steps"]
        self.updates, self._owed, self._sought = meta["updates"], meta["owed"], meta["sought"]
        self.level = meta.get("level", 0.0)
