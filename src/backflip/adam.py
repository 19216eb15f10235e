"""Adam (Kingma & Ba 2015, arXiv 1412.6980) by PyTorch's own fused step, without the classes of torch.optim.

The first torch.optim.Adam of a process imports PyTorch's compiler, which takes seconds and is not used here, and each
of its steps spends longer on hooks than a small network's arithmetic takes (docs/log.md).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam


class Adam:
    """Adam's memory of some parameters' gradients, and its step."""

    def __init__(self, parameters: Sequence[Tensor], learning_rate: float, epsilon: float = 1e-8) -> None:
        self.parameters = list(parameters)
        self.learning_rate = learning_rate
        self.epsilon = epsilon
        self.forget()

    def forget(self) -> None:
        """Remember nothing, as before the first step."""
        self.means = [torch.zeros_like(parameter, requires_grad=False) for parameter in self.parameters]
        """Running means of the gradients."""
        self.squares = [torch.zeros_like(mean) for mean in self.means]
        """Running means of their squares."""
        self.taken = [torch.zeros(()) for _ in self.parameters]
        """Steps that each parameter has taken."""

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        """Move every parameter by its gradient, one in the order of the other."""
        adam(
            self.parameters,
            list(gradients),
            self.means,
            self.squares,
            [],
            self.taken,
            fused=True,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=self.learning_rate,
            weight_decay=0.0,
            eps=self.epsilon,
            maximize=False,
        )

    def arrays(self, before: str) -> dict[str, Any]:
        """What it remembers; `before` is what the names begin with."""
        parts = {"exp_avg": self.means, "exp_avg_sq": self.squares, "step": self.taken}  # named as by torch.optim
        return {f"{before}{i}_{name}": part.numpy() for name, some in parts.items() for i, part in enumerate(some)}

    def restore(self, arrays: Mapping[str, Any], before: str) -> None:
        """Remember what `arrays` gave."""
        for name, kept in self.arrays(before).items():
            kept[...] = arrays[name]
