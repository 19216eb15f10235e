"""Small networks side by side, with their gradient written out: what SAC's actor and critics are made of.

PyTorch's own gradient of the same functions takes twice as long on a CPU: more and smaller calls, a graph for each,
and gradients in layouts that are slow to read. A test compares the two.
"""

from functools import cache, partial
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from backflip.products import CLEARLY, quickest
from backflip.segments import Array


@cache
def gains_from_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 clearly quicker than float32, measured once in some milliseconds.

    Instructions alone do not tell: with AMX, or on a Zen 4, it is two to four times as quick; on an Intel processor
    that has AVX-512's bfloat16 but no AMX half as quick (docs/log.md); without either PyTorch only imitates it.
    """
    if not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return False
    taken = {}
    for precision in (torch.float32, torch.bfloat16):
        factors = torch.ones(2, 128, 256, dtype=precision), torch.ones(2, 256, 256, dtype=precision)
        taken[precision] = quickest(partial(torch.bmm, *factors))
    return taken[torch.float32] > CLEARLY * taken[torch.bfloat16]


class Forward(NamedTuple):
    """Outputs of a stack, and what its gradient needs: that, and the weights as they were."""

    outputs: Float32[Tensor, "n b outputs"]
    x: Float32[Tensor, "b i"]
    first: Float[Tensor, "n b w"]
    wide: Float[Tensor, "n w w"]
    second: Float32[Tensor, "n b w"]


class Stack:
    """n networks of two hidden ReLU layers, all their weights in one vector of float32.

    Only the product of the two hidden layers, the wide one, is in `precision`. Inputs and outputs keep float32: a
    pole's cosine near 1, or a return of some hundreds, would lose what matters. Nothing here is for autograd.
    """

    def __init__(
        self, networks: int, inputs: int, outputs: int, width: int, rng: np.random.Generator, others: int = 0
    ) -> None:
        """Draw the weights.

        Args:
            others: further numbers that are learned together with them.
        """
        self.precision = torch.float32
        self.shapes: list[tuple[int, int, int]] = []
        drawn: list[Array] = []
        for before, after in ((inputs, width), (width, width), (width, outputs)):
            bound = before**-0.5  # PyTorch's own
            for rows in (before, 1):
                self.shapes.append((networks, rows, after))
                drawn.append(rng.uniform(-bound, bound, networks * rows * after))
        self._sizes = [int(np.prod(shape)) for shape in self.shapes]
        self.vector = torch.from_numpy(np.concatenate([*drawn, np.zeros(others)]).astype(np.float32))
        """The weights, and behind them the others."""
        self.gradient = torch.zeros_like(self.vector)
        self.flat = self.vector[: sum(self._sizes)]
        """The weights alone."""
        self.weights = self.views(self.flat)
        self.weight_gradients = self.views(self.gradient[: len(self.flat)])
        self._alone = [weight[0] for weight in self.weights]

    def views(self, flat: Float32[Tensor, " w"]) -> list[Tensor]:
        """A vector of weights by layers: [networks in out], [networks 1 out] and so on."""
        return [
            part.view(shape) for part, shape in zip(torch.split_with_sizes(flat, self._sizes), self.shapes, strict=True)
        ]

    def __call__(self, x: Float32[Tensor, "b i"]) -> Forward:
        """Every network's outputs."""
        w1, b1, w2, b2, w3, b3 = self.weights
        first = torch.baddbmm(b1, x.expand(len(w1), *x.shape), w1).relu_()
        wide = w2
        if self.precision == torch.float32:
            second = torch.baddbmm(b2, first, w2).relu_()
        else:
            first, wide = first.to(self.precision), w2.to(self.precision)
            second = torch.bmm(first, wide).float().add_(b2).relu_()
        if w3.shape[2] == 1:  # a product with a vector is five times quicker as a sum
            outputs = (second * w3.transpose(1, 2)).sum(-1, keepdim=True).add_(b3)
        else:
            outputs = torch.baddbmm(b3, second, w3)
        return Forward(outputs, x, first, wide, second)

    def differentiate(self, forward: Forward, slope: Float32[Tensor, "n b outputs"]) -> None:
        """Write the gradient of Σ slope·outputs by every weight to `gradient`."""
        v1, c1, v2, c2, v3, c3 = self.weight_gradients
        w3 = self.weights[4].transpose(1, 2)
        at_second = slope * w3 if w3.shape[1] == 1 else torch.bmm(slope, w3)
        at_second = torch.ops.aten.threshold_backward(at_second, forward.second, 0)
        rough = at_second.to(self.precision)
        at_first = torch.bmm(rough, forward.wide.transpose(1, 2))
        at_first = torch.ops.aten.threshold_backward(at_first, forward.first, 0).float()
        torch.bmm(forward.x.T.expand(len(v1), *forward.x.T.shape), at_first, out=v1)
        torch.sum(at_first, 1, keepdim=True, out=c1)
        if self.precision == torch.float32:
            torch.bmm(forward.first.transpose(1, 2), rough, out=v2)
        else:
            v2.copy_(torch.bmm(forward.first.transpose(1, 2), rough))
        torch.sum(at_second, 1, keepdim=True, out=c2)
        if v3.shape[2] == 1:
            torch.sum(forward.second * slope, 1, out=v3[:, :, 0])
        else:
            torch.bmm(forward.second.transpose(1, 2), slope, out=v3)
        torch.sum(slope, 1, keepdim=True, out=c3)

    def by_inputs(self, forward: Forward, of: Int64[Tensor, " b"], since: int = 0) -> Float32[Tensor, "b inputs"]:
        """The gradient of the one output of network `of`, by every input from number `since` on.

        Each row goes back through its own network alone, which for two is half the work.
        """
        inward = self.weights[0][:, since:]
        found = torch.empty(len(of), inward.shape[1])
        for i, last in enumerate(self.weights[4]):
            rows = (of == i).nonzero()[:, 0]
            at_second = torch.ops.aten.threshold_backward(
                last.T.expand(len(rows), -1), forward.second[i].index_select(0, rows), 0
            )
            at_first = torch.mm(at_second.to(self.precision), forward.wide[i].T)
            at_first = torch.ops.aten.threshold_backward(at_first, forward.first[i].index_select(0, rows), 0).float()
            found.index_copy_(0, rows, torch.mm(at_first, inward[i].T))
        return found

    def alone(self, x: Float32[Tensor, "b i"]) -> Float32[Tensor, "b outputs"]:
        """The first network's outputs for a handful of inputs, in float32."""
        w1, b1, w2, b2, w3, b3 = self._alone
        hidden = torch.addmm(b2, torch.addmm(b1, x, w1).relu_(), w2).relu_()
        return torch.addmm(b3, hidden, w3)
