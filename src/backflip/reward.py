"""The reward ensemble r̂: several small networks evaluated together, normalised one by one. §2.2.3, A.1"""

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Shaped
from torch import Tensor

from backflip.errors import plain_numbers
from backflip.files import DamagedFile, load_arrays, save_arrays
from backflip.preferences import ERROR_RATE
from backflip.segments import Array

LEAK = 0.01
"""Slope of the leaky ReLU below zero (A.1)."""
PRIORS = 1
"""Keys the draws of the networks that stay as they are."""
SMALLEST_DEVIATION = 1e-2
"""Inputs that hardly moved while the statistics were taken are not blown up beyond this."""
STEPS_AT_ONCE = 4096
"""What three members' hidden layers make of so many steps is 3 MB, and stays in a core's cache."""


@dataclass(frozen=True)
class RewardConfig:
    """Shape of the reward ensemble."""

    members: int = 3
    """Number of networks (A)."""
    layers: int = 2
    """Hidden layers of each (A.1)."""
    width: int = 64
    """Units of each hidden layer (A.1)."""
    bounded: bool = False
    """Bound each output by a tanh (PEBBLE): far from everything that was compared, r̂ cannot be large."""
    deviation: float = 1.0
    """Standard deviation of each member's output on recent behaviour (A.1)."""
    sizes: bool = False
    """Read, beside each number, its size whatever its sign: a distance or an effort is nearly a sum of these."""
    prior: float = 0.0
    """To each member's output so much of a network is added that stays as it was drawn (Osband et al. 2018): members
    that read the same frozen features then differ wherever nothing was compared."""

    def __post_init__(self) -> None:
        plain_numbers(self)
        if min(self.members, self.width) < 1 or self.layers < 0 or self.deviation <= 0 or self.prior < 0:
            raise ValueError(
                f"{self} is no ensemble: members and width are at least 1, layers and prior 0, deviation above 0"
            )


@dataclass(frozen=True)
class Inputs:
    """What r̂ gets to see: observations of a shape, and actions, either vectors or numbers of choices."""

    observation_shape: tuple[int, ...]
    action_size: int
    """Numbers in an action, or choices where actions are choices."""
    discrete: bool
    first_action: int = 0
    """The number of the first choice."""

    @property
    def observation_size(self) -> int:
        """Numbers in one observation."""
        return math.prod(self.observation_shape)

    @property
    def size(self) -> int:
        """Numbers that a member reads for one step."""
        return self.observation_size + self.action_size


class RewardEnsemble:
    """r̂(o, a): m networks side by side in stacked weights, each normalised by itself, then averaged with equal weight.

    `parameters` are the leaves that fitting moves: per layer the weights [m in out] and the biases [m 1 out].
    """

    def __init__(self, inputs: Inputs, config: RewardConfig | None = None, seed: int = 0) -> None:
        self.inputs = inputs
        self.config = config or RewardConfig()
        members = self.config.members
        self.seen = inputs.observation_size * (2 if self.config.sizes else 1)
        """Numbers that members read of an observation."""
        self.parameters = self._drawn(seed)
        self.priors = self._drawn(seed, PRIORS) if self.config.prior else []
        """Like `parameters`, but never moved by fitting."""
        self.input_mean = torch.zeros(self.seen)
        self.input_deviation = torch.ones(self.seen)
        self.output_mean = torch.zeros(members)
        self.output_deviation = torch.ones(members)
        self.baseline = 0.0
        """Mean reward of the untrained policy's behaviour: r̂ has mean 0 on recent behaviour, so that only the distance
        from here says how far the policy has come."""

    def _drawn(self, *key: int) -> list[Tensor]:
        """Weights and biases of untrained networks; keyed by member, so that a larger ensemble contains a smaller."""
        done = self.inputs.action_size * (2 if self.config.sizes and not self.inputs.discrete else 1)
        sizes = [self.seen + done, *[self.config.width] * self.config.layers, 1]
        layers: list[Tensor] = []
        for layer, (before, after) in enumerate(itertools.pairwise(sizes)):
            bound = 1 / math.sqrt(before)
            drawn = [
                np.random.default_rng([key[0], member, layer, *key[1:]]).uniform(-bound, bound, (before + 1, after))
                for member in range(self.config.members)
            ]
            stacked = torch.from_numpy(np.stack(drawn).astype(np.float32))
            layers += [stacked[:, :-1].contiguous(), stacked[:, -1:].contiguous()]
        return layers

    @property
    def members(self) -> int:
        """How many networks."""
        return self.config.members

    def features(
        self, observations: Shaped[np.ndarray, "*n"], actions: Shaped[np.ndarray, "*n_act"]
    ) -> Float[Tensor, "b i"]:
        """What the members read: standardised flat observations, then the action (one-hot if it is a choice)."""
        standard = (torch.from_numpy(self._flat(observations)) - self.input_mean) / self.input_deviation
        if self.inputs.action_size == 0:
            return standard
        if self.inputs.discrete:
            choices = torch.from_numpy(np.ascontiguousarray(actions, np.int64).reshape(-1)) - self.inputs.first_action
            action = torch.nn.functional.one_hot(choices, self.inputs.action_size).float()
        else:
            action = torch.from_numpy(np.ascontiguousarray(actions, np.float32).reshape(-1, self.inputs.action_size))
            if self.config.sizes:
                action = torch.cat([action, action.abs()], dim=1)
        return torch.cat([standard, action], dim=1)

    def _flat(self, observations: Shaped[np.ndarray, "*n"]) -> Float32[np.ndarray, "b s"]:
        """Observations a row each, with their sizes beside them where these are read."""
        flat = np.ascontiguousarray(observations, np.float32).reshape(-1, self.inputs.observation_size)
        return np.concatenate([flat, np.abs(flat)], axis=1) if self.config.sizes else flat

    def forward(self, features: Float[Tensor, "b i"]) -> Float[Tensor, "m b"]:
        """Every member's output for every step, not normalised, in one batched call a layer."""
        output = self._through(self.parameters, features)
        if self.priors:
            output = output + self.config.prior * self._through(self.priors, features)
        return torch.tanh(output) if self.config.bounded else output

    def _through(self, parameters: list[Tensor], features: Float[Tensor, "b i"]) -> Float[Tensor, "m b"]:
        x = features.expand(self.members, *features.shape)
        layers = len(parameters) // 2
        for layer in range(layers):
            x = torch.baddbmm(parameters[2 * layer + 1], x, parameters[2 * layer])
            if layer + 1 < layers:
                x = torch.nn.functional.leaky_relu(x, LEAK)
        return x[..., 0]

    def raw(
        self, observations: Shaped[np.ndarray, "*n"], actions: Shaped[np.ndarray, "*n_act"]
    ) -> Float[Tensor, "m *lead"]:
        """Every member's output [m ...] for steps with any leading axes, not normalised; without gradient.

        Some steps at a time: what the hidden layers make of all steps of D is twenty times as large as D.
        """
        lead = observations.shape[: observations.ndim - len(self.inputs.observation_shape)]
        steps = math.prod(lead)
        seen = observations.reshape(steps, *self.inputs.observation_shape)
        done = actions.reshape(steps, *actions.shape[len(lead) :])
        outputs = torch.empty(self.members, steps)
        with torch.no_grad():
            for first in range(0, steps, STEPS_AT_ONCE):
                part = slice(first, first + STEPS_AT_ONCE)
                outputs[:, part] = self.forward(self.features(seen[part], done[part]))
        return outputs.reshape(self.members, *lead)

    def standardise_inputs(self, parts: Iterable[Shaped[np.ndarray, "..."]]) -> None:
        """Measure the mean and deviation that observations are standardised with, over all parts together."""
        count, mean, squares = 0, np.zeros(self.seen), np.zeros(self.seen)
        for part in parts:
            flat = part.reshape(-1, self.inputs.observation_size)
            for first in range(0, len(flat), STEPS_AT_ONCE):
                some = self._flat(flat[first : first + STEPS_AT_ONCE]).astype(np.float64)
                shift, total = some.mean(0) - mean, count + len(some)
                squares += some.var(0) * len(some) + shift**2 * (count * len(some) / total)  # Chan et al. 1979
                mean += shift * (len(some) / total)
                count = total
        self.input_mean = torch.from_numpy(mean.astype(np.float32))
        deviation = np.maximum(np.sqrt(squares / count), SMALLEST_DEVIATION)
        self.input_deviation = torch.from_numpy(deviation.astype(np.float32))

    def restandardise_inputs(self, parts: Iterable[Shaped[np.ndarray, "..."]]) -> Float[Tensor, " s"]:
        """Measure them anew, and change the first layer so that every output stays what it was.

        Returns:
            By how much the weights of each number read of an observation were multiplied.
        """
        mean, deviation = self.input_mean, self.input_deviation
        self.standardise_inputs(parts)
        scale = self.input_deviation / deviation
        seen = slice(0, self.seen)
        with torch.no_grad():
            for weights, bias in [self.parameters[:2], self.priors[:2]][: 2 if self.priors else 1]:
                bias += torch.einsum("i,mio->mo", (self.input_mean - mean) / deviation, weights[:, seen])[:, None]
                weights[:, seen] *= scale[:, None]
        return scale

    def calibrate(self, observations: Shaped[np.ndarray, "*n"], actions: Shaped[np.ndarray, "*n_act"]) -> None:
        """Measure each member on recent behaviour, so that its reward there has mean 0 and the set deviation (§2.2.3).

        Only this moves the normalisation; asking for rewards or choosing queries never does.
        """
        self.normalise(self.raw(observations, actions).reshape(self.members, -1))

    def normalise(self, outputs: Float[Tensor, "m n"]) -> None:
        """The same, by what `raw` gave for the steps of recent behaviour."""
        raw = outputs.double()
        self.output_mean = raw.mean(1).float()
        deviation = raw.std(1, correction=0) / self.config.deviation
        self.output_deviation = torch.where(deviation > 0, deviation, 1.0).float()

    def member_rewards(
        self, observations: Shaped[np.ndarray, "*n"], actions: Shaped[np.ndarray, "*n_act"]
    ) -> Float32[np.ndarray, "m *lead"]:
        """Every member's normalised reward [m ...]."""
        raw = self.raw(observations, actions)
        column = (self.members, *[1] * (raw.ndim - 1))
        normal = (raw - self.output_mean.reshape(column)) / self.output_deviation.reshape(column)
        rewards: Float32[np.ndarray, "m *lead"] = normal.numpy()
        return rewards

    def reward(
        self, observations: Shaped[np.ndarray, "*n"], actions: Shaped[np.ndarray, "*n_act"]
    ) -> Float32[np.ndarray, "*lead"]:
        """r̂ for steps with any leading axes: the mean of the normalised members (§2.2.3)."""
        return np.asarray(self.member_rewards(observations, actions).mean(0))  # of one step, mean gives a number

    def segment_returns(
        self,
        observations: Shaped[np.ndarray, "n k *obs"],
        actions: Shaped[np.ndarray, "n k *act"],
        mask: Float32[np.ndarray, "n k"],
    ) -> Float32[np.ndarray, "m n"]:
        """Every member's sum over each segment, not normalised: the numbers that eq. 1 compares."""
        returns: Float32[np.ndarray, "m n"] = (self.raw(observations, actions).numpy() * mask).sum(-1)
        return returns

    def save(self, path: Path) -> None:
        """Write everything into one safetensors file."""
        arrays = {f"parameter_{i}": p.detach().numpy() for i, p in enumerate(self.parameters)}
        arrays |= {f"prior_{i}": p.numpy() for i, p in enumerate(self.priors)}
        for name in ("input_mean", "input_deviation", "output_mean", "output_deviation"):
            arrays[name] = getattr(self, name).numpy()
        save_arrays(path, arrays, {"inputs": vars(self.inputs), "config": vars(self.config), "baseline": self.baseline})

    @classmethod
    def load(cls, path: Path) -> "RewardEnsemble":
        """Read what `save` wrote.

        Raises:
            DamagedFile: it cannot be read.
        """
        arrays, meta = load_arrays(path)
        try:
            shape: dict[str, Any] = meta["inputs"]
            inputs = Inputs(**{**shape, "observation_shape": tuple(shape["observation_shape"])})
            ensemble = cls(inputs, RewardConfig(**meta["config"]))
            ensemble.baseline = float(meta["baseline"])
            for i, parameter in enumerate(ensemble.parameters):
                ensemble.parameters[i] = _like(parameter, arrays[f"parameter_{i}"])
            for i, prior in enumerate(ensemble.priors):
                ensemble.priors[i] = _like(prior, arrays[f"prior_{i}"])
            for name in ("input_mean", "input_deviation", "output_mean", "output_deviation"):
                setattr(ensemble, name, _like(getattr(ensemble, name), arrays[name]))
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedFile(
                f"{path} holds no reward ensemble ({error!r}); give the file reward.safetensors of a run or a card"
            ) from error
        return ensemble


def _like(expected: Tensor, found: Array) -> Tensor:
    if found.shape != tuple(expected.shape) or found.dtype != np.float32:
        raise ValueError(f"{found.shape} {found.dtype} where {tuple(expected.shape)} float32 belongs")
    return torch.from_numpy(found.copy())


def probability_left(
    left: Float[Tensor, "*n"], right: Float[Tensor, "*n"], error_rate: float | Float[Tensor, " e"] = ERROR_RATE
) -> Float[Tensor, "*n"]:
    """P̂ that a person chooses left, from the two returns: (1-ε)·σ(left - right) + ε/2 (eq. 1, §2.2.3; Ibarz 2018 A.3).

    With probability ε the person answers at random, whatever the difference; ε may differ along the last axis.
    """
    return (1 - error_rate) * torch.sigmoid(left - right) + error_rate / 2
