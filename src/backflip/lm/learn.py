"""Learning from paid completions: RLOO, and PPO over tokens."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from backflip.lm.models import whole
from backflip.lm.passes import Batch, forward, log_p_of
from backflip.policies.advantages import clipped_loss, generalised_advantages
from backflip.tuning import TuneConfig


@dataclass(frozen=True)
class Paid:
    """A batch of completions, what r̂ gives for them, and how likely policy and original found their tokens."""

    batch: Batch
    rewards: Float32[np.ndarray, " n"]
    """r̂ of each completion."""
    log_p: Float[Tensor, "n t"]
    """log π when they were sampled."""
    original: Float[Tensor, "n t"]
    """log ρ, the original's."""
    step_rewards: Float32[np.ndarray, "n k"] | None = None
    """r̂ token by token, where it reads tokens."""


def leave_one_out(rewards: Float[Tensor, " n"], each: int) -> Float[Tensor, " n"]:
    """Advantages of completions against the mean of the prompt's others: Aᵢ = rᵢ - mean(rⱼ, j ≠ i).

    Args:
        rewards: those of a prompt lie side by side.
        each: completions of a prompt.

    (Kool et al. 2019; Ahmadian et al. 2024, eq. 6.)
    """
    groups = rewards.reshape(-1, each)
    others = (groups.sum(1, keepdim=True) - groups) / (each - 1)
    return (groups - others).reshape(-1)


def sampling_error(now: Float[Tensor, "n t"], drawn: Float[Tensor, "n t"], mask: Float[Tensor, "n t"]) -> float:
    """The largest |log π now - log π when drawn| of a token that counts; infinite where one of them is no number."""
    off = torch.where(mask > 0, now - drawn, torch.zeros(())).abs()
    return float(off.nan_to_num(nan=torch.inf).max())


class RLOO:
    """One step of REINFORCE a batch; KL is part of the reward: r = r̂ - β·Σₜ(log π - log ρ). (Ahmadian et al. 2024)"""

    def __init__(self, model: Any, config: TuneConfig) -> None:
        self.model, self.config = model, config
        self.average: Callable[[Sequence[Tensor]], None] = _alone
        """Averages the gradients of some weights over the processes that share a batch."""
        self.take_weights()

    def take_weights(self) -> None:
        """Learn the weights that the model has now, by an Adam that remembers nothing."""
        self.leaves = [p for p in self.model.parameters() if p.requires_grad]
        self.adam = torch.optim.AdamW(self.leaves, self.config.learning_rate, weight_decay=0.0, fused=True)

    def learn(self, paid: Paid, beta: float) -> dict[str, float]:
        """Learn from a batch; returns measurements."""
        batch, config = paid.batch, self.config
        total = torch.from_numpy(paid.rewards) - beta * ((paid.log_p - paid.original) * batch.mask).sum(1)
        advantages = leave_one_out(total, config.completions)
        self.adam.zero_grad(set_to_none=True)
        surprise = 0.0
        for i in range(0, len(batch), config.micro_batch):
            some = slice(i, i + config.micro_batch)
            log_p = log_p_of(forward(self.model, batch[some]).logits, batch.responses[some], config.temperature)
            mask = batch.mask[some]
            loss = -(advantages[some] * (log_p * mask).sum(1)).sum() / len(batch)
            torch.autograd.backward(loss)
            surprise = max(surprise, sampling_error(log_p.detach(), paid.log_p[some], mask))
        norm = self.step()
        return {
            "act/gradient_norm": norm,
            "act/sampling_error": surprise,
            "act/advantage": float(advantages.abs().mean()),
        }

    def step(self) -> float:
        """One step of Adam by the gradients there are; gives their norm before it was bounded.

        Raises:
            FloatingPointError: it is not finite; no weight was changed.
        """
        self.average(self.leaves)
        norm = float(whole(torch.nn.utils.clip_grad_norm_(self.leaves, self.config.gradient_norm)))
        if not math.isfinite(norm):
            raise FloatingPointError(
                f"the gradient's norm is {norm}: a reward, a KL or the model's own numbers are not finite; the weights "
                "are as they were, and the run goes on from its last checkpoint, perhaps at a smaller learning rate"
            )
        self.adam.step()
        return norm

    def heads(self) -> dict[str, Tensor]:
        """Weights beside the model's own."""
        return {}


class TokenPPO(RLOO):
    """PPO over tokens, with a value head on the policy's own last layer. (Ziegler et al. 2019)"""

    def __init__(self, model: Any, config: TuneConfig, width: int) -> None:
        super().__init__(model, config)
        self.value_weights = torch.zeros(width, requires_grad=True)
        self.value_bias = torch.zeros(1, requires_grad=True)
        self.leaves += [self.value_weights, self.value_bias]
        self.adam = torch.optim.AdamW(self.leaves, config.learning_rate, weight_decay=0.0, fused=True)

    def heads(self) -> dict[str, Tensor]:
        """The value head."""
        return {"value_weights": self.value_weights, "value_bias": self.value_bias}

    def learn(self, paid: Paid, beta: float) -> dict[str, float]:
        """Some passes over a batch; returns measurements."""
        batch, config = paid.batch, self.config
        rewards = token_rewards(paid, beta)
        with torch.no_grad():
            outputs = [self._outputs(batch[i]) for i in self._slices(len(batch), config.micro_batch)]
        log_p, values = (torch.cat(parts) for parts in zip(*outputs, strict=True))
        advantages, returns = advantages_of_tokens(rewards, values.numpy(), batch.mask.numpy(), config.gae)
        found: dict[str, float] = {}
        for _ in range(config.epochs):
            for rows in self._slices(len(batch), -(-len(batch) // config.minibatches)):
                found = self._pass(paid, rows, advantages[rows], returns[rows])
        return {**found, "act/sampling_error": sampling_error(log_p, paid.log_p, batch.mask)}

    def _pass(
        self, paid: Paid, rows: slice, advantages: Float[Tensor, "b t"], returns: Float[Tensor, "b t"]
    ) -> dict[str, float]:
        self.adam.zero_grad(set_to_none=True)
        mask = paid.batch.mask[rows]
        policy_loss = value_loss = torch.zeros(())
        for part in self._slices(len(mask), self.config.micro_batch):
            some = slice(rows.start + part.start, min(rows.start + part.stop, rows.stop))
            counted = paid.batch.mask[some] > 0
            log_p, values = self._outputs(paid.batch[some])
            inner = slice(part.start, part.start + len(counted))
            share = counted.sum() / mask.sum()
            loss, _ = clipped_loss(
                log_p[counted][:, None],
                paid.log_p[some][counted][:, None],
                advantages[inner][counted][:, None],
                self.config.clip,
            )
            error = torch.nn.functional.mse_loss(values[counted], returns[inner][counted])
            torch.autograd.backward((loss + self.config.value_weight * error) * share)
            policy_loss, value_loss = policy_loss + loss.detach() * share, value_loss + error.detach() * share
        norm = self.step()
        return {
            "act/gradient_norm": norm,
            "act/policy_loss": float(policy_loss),
            "act/value_loss": float(value_loss),
        }

    def _outputs(self, batch: Batch) -> tuple[Float[Tensor, "n t"], Float[Tensor, "n t"]]:
        passed = forward(self.model, batch, hidden=True)
        assert passed.before is not None
        values = passed.before.float() @ self.value_weights + self.value_bias
        return log_p_of(passed.logits, batch.responses, self.config.temperature), values

    @staticmethod
    def _slices(n: int, size: int) -> list[slice]:
        return [slice(i, min(i + size, n)) for i in range(0, n, size)]


def _alone(_: Sequence[Tensor]) -> None:
    """Nobody shares the batch."""


def token_rewards(paid: Paid, beta: float) -> Float32[np.ndarray, "n t"]:
    """What each token is paid: -β·(log π - log ρ), and r̂ where it reads tokens, else all of r̂ at the last."""
    mask = paid.batch.mask.numpy()
    rewards: Float32[np.ndarray, "n t"] = -beta * (paid.log_p - paid.original).numpy() * mask
    if paid.step_rewards is not None:
        rewards[:, : paid.step_rewards.shape[1]] += paid.step_rewards
        return rewards
    last = mask.sum(1).astype(np.int64) - 1
    rewards[np.arange(len(rewards)), last] += paid.rewards
    return rewards


def advantages_of_tokens(
    rewards: Float32[np.ndarray, "n t"],
    values: Float32[np.ndarray, "n t"],
    mask: Float32[np.ndarray, "n t"],
    gae: float,
) -> tuple[Float[Tensor, "n t"], Float[Tensor, "n t"]]:
    """Whitened advantages and the returns that values should have been; no discount, a completion ends at its end."""
    following = np.zeros_like(values)
    following[:, :-1] = values[:, 1:] * mask[:, 1:]
    ends = np.zeros(mask.shape, bool)
    ends[np.arange(len(mask)), mask.sum(1).astype(np.int64) - 1] = True
    found = generalised_advantages(rewards.T, (values * mask).T, following.T, ends.T, 1.0, gae).T
    returns = found + values
    inside = found[mask > 0]
    white = (found - inside.mean()) / (inside.std() + 1e-8)
    return torch.from_numpy((white * mask).astype(np.float32)), torch.from_numpy((returns * mask).astype(np.float32))
