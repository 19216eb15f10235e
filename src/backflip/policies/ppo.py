"""Proximal policy optimisation (Schulman et al. 2017, arXiv 1707.06347), in place of the paper's TRPO. §2.2.1, A.1

Lean on a CPU: actor and critic run as one stacked network, Adam is fused, nothing waits for a number inside an update,
and acting on a handful of observations goes through numpy.
"""

from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch
from jaxtyping import Float, Float32, Shaped
from torch import Tensor

from backflip.adam import Adam
from backflip.envs import Collector
from backflip.errors import plain_numbers
from backflip.files import load_arrays, save_arrays
from backflip.policies import Pay
from backflip.policies.advantages import clipped_loss, generalised_advantages
from backflip.policies.replay import Reward
from backflip.policies.running import RunningMoments, bounded
from backflip.segments import Array, Rollout

LOG_2PI = float(np.log(2 * np.pi))


@dataclass(frozen=True)
class PPOConfig:
    """Settings of PPO; where the paper gives none, those that benchmarks/ppo_sweep.py chose (docs/log.md)."""

    environments: int = 16
    """Environments stepped together."""
    rollout_steps: int = 128
    """Steps of each between two updates."""
    minibatch: int = 512
    epochs: int = 10
    """Passes over each rollout (Schulman 2017)."""
    learning_rate: float = 1e-3
    anneal: bool = False
    """Let the learning rate fall to 0 at the run's last step."""
    discount: float = 0.995
    """γ (A.1)."""
    gae: float = 0.97
    """λ of generalised advantage estimation (A.1)."""
    entropy: float = 0.01
    """Weight of the entropy bonus (A.1)."""
    clip: float = 0.2
    """Bound on the change of an action's probability (Schulman 2017)."""
    value_weight: float = 0.5
    gradient_norm: float = 0.5
    """Gradients longer than this are shortened to it."""
    width: int = 64
    """Units of each of the two hidden layers of actor and critic."""

    def __post_init__(self) -> None:
        plain_numbers(self)
        size = self.environments * self.rollout_steps
        if self.minibatch > size or self.minibatch < 2:
            raise ValueError(
                f"minibatch is {self.minibatch}, but a rollout has {self.environments} x {self.rollout_steps} = {size} "
                "steps; choose 2 or more, and at most that"
            )


class Networks:
    """Actor and critic: two trunks of two tanh layers in stacked weights, a head each.

    All weights lie in one vector, `flat`, which Adam and the bound on the gradient take as one; `leaves` are its views.
    """

    def __init__(self, observation_size: int, outputs: int, discrete: bool, width: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)

        def orthogonal(rows: int, columns: int, gain: float) -> Tensor:
            return torch.nn.init.orthogonal_(torch.empty(columns, rows), gain, generator).T.contiguous()

        root2 = 2**0.5
        self.trunk = [
            torch.stack([orthogonal(observation_size, width, root2) for _ in range(2)]),
            torch.zeros(2, 1, width),
            torch.stack([orthogonal(width, width, root2) for _ in range(2)]),
            torch.zeros(2, 1, width),
        ]
        self.actor = [orthogonal(width, outputs, 0.01), torch.zeros(outputs)]
        self.critic = [orthogonal(width, 1, 1.0), torch.zeros(1)]
        self.log_deviation = torch.zeros(0 if discrete else outputs)
        drawn = [*self.trunk, *self.actor, *self.critic, *([] if discrete else [self.log_deviation])]
        self.flat = torch.cat([weights.flatten() for weights in drawn])
        parts = torch.split_with_sizes(self.flat, [weights.numel() for weights in drawn])
        self.leaves = [
            part.view(weights.shape).requires_grad_(True) for part, weights in zip(parts, drawn, strict=True)
        ]
        self.trunk, self.actor, self.critic = self.leaves[:4], self.leaves[4:6], self.leaves[6:8]
        self.log_deviation = self.log_deviation if discrete else self.leaves[8]

    def __call__(self, observations: Float[Tensor, "b o"]) -> tuple[Float[Tensor, "b a"], Float[Tensor, " b"]]:
        """Means (or logits) of the actions, and values in the critic's normalised units."""
        w1, b1, w2, b2 = self.trunk
        hidden = _tanh(torch.baddbmm(b1, observations.expand(2, *observations.shape), w1))
        hidden = _tanh(torch.baddbmm(b2, hidden, w2))
        actions = torch.addmm(self.actor[1], hidden[0], self.actor[0])
        return actions, torch.addmm(self.critic[1], hidden[1], self.critic[0])[:, 0]

    def actor_arrays(self) -> list[Array]:
        """The actor's weights for acting in numpy: three layers, each followed by its bias; then log σ."""
        w1, b1, w2, b2 = (tensor.detach().numpy()[0] for tensor in self.trunk)
        w3, b3 = (tensor.detach().numpy() for tensor in self.actor)
        return [w1, b1, w2, b2, w3, b3, self.log_deviation.detach().numpy()]


class PPO:
    """A policy that learns by PPO in the environments of a collector; it is paid per rollout, once."""

    def __init__(
        self, collector: Collector, config: PPOConfig | None = None, seed: int = 0, total_steps: int | None = None
    ) -> None:
        """Make an untrained policy.

        Args:
            total_steps: the run's length, which only an annealed learning rate needs.
        """
        self.collector = collector
        self.config = config or PPOConfig()
        if collector.environments != self.config.environments:
            raise ValueError(
                f"the collector has {collector.environments} environments and the settings say "
                f"{self.config.environments}; make them agree"
            )
        self.seed = seed
        self.total_steps = total_steps
        self.iteration = 0
        space = collector.action_space
        self.discrete = isinstance(space, gym.spaces.Discrete)
        self.first_action = int(space.start) if isinstance(space, gym.spaces.Discrete) else 0
        outputs = int(space.n) if isinstance(space, gym.spaces.Discrete) else int(np.prod(space.shape or ()))
        if isinstance(space, gym.spaces.Box):
            self.low, self.high = space.low.astype(np.float32), space.high.astype(np.float32)
        self.observation_size = int(np.prod(collector.observation_space.shape or ()))
        self.networks = Networks(self.observation_size, outputs, self.discrete, self.config.width, seed)
        self.adam = Adam([self.networks.flat], self.config.learning_rate, epsilon=1e-5)
        self.seen = RunningMoments(self.observation_size)
        self.value_mean, self.value_deviation = 0.0, 1.0
        self._report: dict[str, float] = {}

    @property
    def steps(self) -> int:
        """Environment steps so far."""
        return self.collector.steps

    def explore(self) -> Rollout:
        """Act for one rollout without learning; only the statistics of the observations are kept."""
        rollout, *_ = self._act(self._rng())
        self.seen.update(rollout.observations)
        self.iteration += 1
        return rollout

    def train(self, pay: Pay) -> Rollout:
        """Act for one rollout, ask once what it was worth, and learn from that."""
        rng = self._rng()
        rollout, observations, raw_actions, log_probabilities = self._act(rng)
        rewards = pay(rollout)
        if not np.isfinite(rewards).all():
            raise FloatingPointError(f"the reward of step {self.steps} is not finite; the policy cannot learn from it")
        advantages, returns = self._advantages(rollout, observations, rewards)
        self._update(rng, observations, raw_actions, log_probabilities, advantages, returns)
        self.seen.update(rollout.observations)
        self.iteration += 1
        return rollout

    def repay(self, reward: Reward) -> None:
        """Nothing: PPO forgets each rollout once it has learned from it."""

    def choose(self, observations: Array) -> Array:
        """The actions without exploration: the mean, or the likeliest choice."""
        outputs = _forward(self.networks.actor_arrays(), self._normal(observations))
        if self.discrete:
            choices: Array = outputs.argmax(1) + self.first_action
            return choices
        return bounded(outputs, self.low, self.high)

    def report(self) -> dict[str, float]:
        """Measurements of the last update (docs/metrics.md)."""
        return self._report

    def _rng(self) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.iteration])

    def _normal(self, observations: Shaped[np.ndarray, "*lead_obs"]) -> Float32[np.ndarray, "b o"]:
        return self.seen.normal(observations.reshape(-1, self.observation_size))

    def _act(self, rng: np.random.Generator) -> tuple[Rollout, Array, Array, Array]:
        """One rollout, and for the update: normalised observations, actions before clipping, log-probabilities."""
        shape = (self.config.rollout_steps, self.collector.environments)
        weights = self.networks.actor_arrays()
        observations = np.empty((*shape, self.observation_size), np.float32)
        outputs = np.empty((*shape, weights[5].size), np.float32)
        time = iter(range(shape[0]))
        if self.discrete:
            uniform = rng.random((*shape, 1), np.float32)
            chosen = np.empty(shape, np.int64)

            def act(seen: Array) -> Array:
                t = next(time)
                observations[t] = self._normal(seen)
                outputs[t] = _forward(weights, observations[t])
                cumulative = np.exp(outputs[t] - outputs[t].max(1, keepdims=True)).cumsum(1)
                chosen[t] = (cumulative < uniform[t] * cumulative[:, -1:]).sum(1)
                choices: Array = chosen[t] + self.first_action
                return choices

            rollout = self.collector.collect(act, shape[0])
            logits = outputs - outputs.max(-1, keepdims=True)
            table = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            return rollout, observations, chosen, np.take_along_axis(table, chosen[..., None], -1)[..., 0]

        noise = rng.standard_normal(outputs.shape, np.float32)
        shifts = noise * np.exp(weights[6])

        def act_continuously(seen: Array) -> Array:
            t = next(time)
            observations[t] = self._normal(seen)
            outputs[t] = _forward(weights, observations[t]) + shifts[t]
            return bounded(outputs[t].copy(), self.low, self.high)

        rollout = self.collector.collect(act_continuously, shape[0])
        log_probabilities = -0.5 * (noise**2 + LOG_2PI).sum(-1) - weights[6].sum()
        return rollout, observations, outputs, log_probabilities

    def _advantages(
        self, rollout: Rollout, observations: Float32[np.ndarray, "t e o"], rewards: Float32[np.ndarray, "t e"]
    ) -> tuple[Float32[np.ndarray, "t e"], Float32[np.ndarray, "t e"]]:
        """Advantages and the returns that the critic should have predicted, by generalised advantage estimation.

        An episode's end cuts the sum; what would have come after it is the critic's estimate, so that the policy does
        not learn where episodes end, unless the task says that it may (A).
        """
        steps, environments = rewards.shape
        after = np.concatenate([self._normal(rollout.last_observations), self._normal(rollout.end_observations)])
        seen = np.concatenate([observations.reshape(-1, self.observation_size), after])
        with torch.no_grad():
            values = self.networks(torch.from_numpy(seen))[1].numpy() * self.value_deviation + self.value_mean
        now = values[: steps * environments].reshape(steps, environments)
        following = np.empty_like(now)
        following[:-1] = now[1:]
        following[-1] = values[steps * environments : steps * environments + environments]
        at_ends = values[steps * environments + environments :]
        if self.collector.task.sees_ends:
            at_ends = np.where(rollout.terminated, 0, at_ends)
        following[rollout.ends] = at_ends
        advantages = generalised_advantages(
            rewards, now, following, rollout.ends, self.config.discount, self.config.gae
        )
        return advantages, advantages + now

    def _update(
        self,
        rng: np.random.Generator,
        observations: Float32[np.ndarray, "t e o"],
        actions: Shaped[np.ndarray, "t e *a"],
        log_probabilities: Float32[np.ndarray, "t e"],
        advantages: Float32[np.ndarray, "t e"],
        returns: Float32[np.ndarray, "t e"],
    ) -> None:
        """Some epochs of minibatches. Everything a minibatch needs lies side by side in one table, shuffled at once."""
        size, a = advantages.size, 1 if self.discrete else actions.shape[-1]
        self._rescale_values(returns)
        columns = [
            observations.reshape(size, -1),
            actions.reshape(size, a).astype(np.float32),
            log_probabilities.reshape(size, 1),
            ((advantages - advantages.mean()) / (advantages.std() + 1e-8)).reshape(size, 1),
            ((returns - self.value_mean) / self.value_deviation).reshape(size, 1),
        ]
        table = torch.from_numpy(np.concatenate(columns, axis=1, dtype=np.float32))
        widths = [self.observation_size, a, 1, 1, 1]
        rate = self.config.learning_rate
        if self.config.anneal and self.total_steps:
            rate *= max(0.0, 1 - self.steps / self.total_steps)
        self.adam.learning_rate = rate
        whole = size - size % self.config.minibatch
        losses: tuple[Tensor, ...] = ()
        for _ in range(self.config.epochs):
            shuffled = table[torch.from_numpy(rng.permutation(size)[:whole])]
            for start in range(0, whole, self.config.minibatch):
                minibatch = shuffled[start : start + self.config.minibatch]
                losses = self._learn(*torch.split_with_sizes(minibatch, widths, dim=1))
        policy_loss, value_loss, entropy, ratio = losses
        kl = (ratio - 1 - torch.log(ratio)).mean()  # Schulman's low-variance estimate
        self._report = {
            "act/policy_loss": policy_loss.item(),
            "act/value_loss": value_loss.item(),
            "act/entropy": entropy.item(),
            "act/kl": kl.item(),
        }

    def _learn(
        self,
        observations: Float[Tensor, "b o"],
        actions: Float[Tensor, "b a"],
        old: Float[Tensor, "b 1"],
        advantages: Float[Tensor, "b 1"],
        targets: Float[Tensor, "b 1"],
    ) -> tuple[Tensor, ...]:
        """One step of Adam on one minibatch; gives policy loss, value loss, entropy and each action's ratio."""
        config = self.config
        outputs, values = self.networks(observations)
        if self.discrete:
            table = torch.log_softmax(outputs, 1)
            new = table.gather(1, actions.long())
            entropy = -(table.exp() * table).sum(1).mean()
        else:
            log_deviation = self.networks.log_deviation
            distance = (actions - outputs) * torch.exp(-log_deviation)
            new = -0.5 * distance.square().sum(1, keepdim=True) - (
                log_deviation.sum() + 0.5 * LOG_2PI * actions.shape[1]
            )
            entropy = log_deviation.sum() + 0.5 * (LOG_2PI + 1) * actions.shape[1]
        policy_loss, ratio = clipped_loss(new, old, advantages, config.clip)
        value_loss = torch.nn.functional.mse_loss(values[:, None], targets)
        loss = policy_loss + config.value_weight * value_loss - config.entropy * entropy
        gradient = torch.cat([part.flatten() for part in torch.autograd.grad(loss, self.networks.leaves)])
        shorter = config.gradient_norm / (torch.linalg.vector_norm(gradient) + 1e-6)
        self.adam.step([gradient.mul_(shorter.clamp_(max=1.0))])
        return policy_loss, value_loss, entropy, ratio.detach()

    def _rescale_values(self, returns: Float32[np.ndarray, "t e"]) -> None:
        """Follow mean and deviation of the returns, and change the critic's head so that its values stay the same.

        (van Hasselt et al. 2016, arXiv 1602.07714.) r̂ keeps its scale but drifts, true rewards have any scale.
        """
        weight = 1.0 if self.iteration == 0 or self.value_deviation == 1.0 else 0.1
        mean = self.value_mean + weight * (float(returns.mean()) - self.value_mean)
        deviation = max(self.value_deviation + weight * (float(returns.std()) - self.value_deviation), 1e-3)
        with torch.no_grad():
            self.networks.critic[0].mul_(self.value_deviation / deviation)
            self.networks.critic[1].mul_(self.value_deviation).add_(self.value_mean - mean).div_(deviation)
        self.value_mean, self.value_deviation = mean, deviation

    def save(self, directory: Path) -> None:
        """Write everything that learning depends on, the state of the environments excepted."""
        arrays = {"network": self.networks.flat.numpy()}
        arrays |= self.adam.arrays("adam_")
        arrays |= self.seen.arrays()
        meta = {
            "iteration": self.iteration,
            "steps": self.steps,
            "value_mean": self.value_mean,
            "value_deviation": self.value_deviation,
        }
        save_arrays(directory / "policy.safetensors", arrays, meta)

    def load(self, directory: Path) -> None:
        """Go on from what `save` wrote.

        Raises:
            DamagedFile: it cannot be read.
        """
        arrays, meta = load_arrays(directory / "policy.safetensors")
        self.networks.flat.copy_(torch.from_numpy(arrays["network"]))
        self.adam.restore(arrays, "adam_")
        self.seen.restore(arrays)
        self.iteration, self.collector.steps = meta["iteration"], meta["steps"]
        self.value_mean, self.value_deviation = meta["value_mean"], meta["value_deviation"]


def _tanh(x: Tensor) -> Tensor:
    """tanh(x) = 2·σ(2x) - 1: a quarter of the time of torch.tanh, whose CPU kernel is not the vectorised one."""
    return torch.sigmoid(x * 2) * 2 - 1


def _forward(weights: list[Array], x: Array) -> Array:
    w1, b1, w2, b2, w3, b3, _ = weights
    outputs: Array = np.tanh(np.tanh(x @ w1 + b1) @ w2 + b2) @ w3 + b3
    return outputs
