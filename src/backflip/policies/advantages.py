"""What PPO learns by, of robots' actions and of a language model's tokens: advantages, and the clipped loss."""

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor


def clipped_loss(
    new: Float[Tensor, "b 1"], old: Float[Tensor, "b 1"], advantages: Float[Tensor, "b 1"], clip: float
) -> tuple[Float[Tensor, ""], Float[Tensor, "b 1"]]:
    """The clipped surrogate -mean min(r·A, clamp(r, 1-c, 1+c)·A), r = exp(new - old) (Schulman 2017, eq. 7), and r."""
    ratio = torch.exp(new - old)
    bounded = ratio.clamp(1 - clip, 1 + clip)
    return -torch.min(ratio * advantages, bounded * advantages).mean(), ratio


def generalised_advantages(
    rewards: Float32[np.ndarray, "t e"],
    values: Float32[np.ndarray, "t e"],
    following: Float32[np.ndarray, "t e"],
    ends: Bool[np.ndarray, "t e"],
    discount: float,
    gae: float,
) -> Float32[np.ndarray, "t e"]:
    """Aₜ = δₜ + γλ·Aₜ₊₁ with δₜ = rₜ + γ·V(sₜ₊₁) - V(sₜ); an episode's end stops the sum (arXiv 1506.02438, eq. 16)."""
    surprise = rewards + discount * following - values
    carry = np.where(ends, np.float32(0), np.float32(discount * gae))
    advantages: Float32[np.ndarray, "t e"] = np.empty_like(surprise)
    running = np.zeros_like(surprise[0])
    for t in range(len(surprise) - 1, -1, -1):
        running = surprise[t] + carry[t] * running
        advantages[t] = running
    return advantages
