"""Small networks side by side, with their gradient written out: what SAC's actor and critics are made of.

PyTorch's own gradient of the same functions takes 1.5 times as long on a CPU: more and smaller calls, and gradients in
layouts that are slow to read. A test compares the two.
"""

from functools import cache
from time import perf_counter
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor
from torch.autograd.function import once_differentiable

from backflip.segments import Array

CLEARLY = 1.2
"""Times as quick as float32 that bfloat16 has to be: with noise in the clock, one machine gives one answer."""


@cache
def gains_from_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 clearly quicker than float32, measured once in some milliseconds.

    Instructions alone do not tell: with AMX, or on a Zen 4, it is two to four times as quick; on an Intel processor
    that has AVX-512's bfloat16 but no AMX half as quick (docs/log.md); without either PyTorch only imitates it.
    """
    if not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return False
    quickest: dict[torch.dtype, float] = {}
    for precision in (torch.float32, torch.bfloat16):
        factors = torch.ones(2, 128, 256, dtype=precision), torch.ones(2, 256, 256, dtype=precision)
        times = []
        for _ in range(20):
            start = perf_counter()
            torch.bmm(*factors)
            times.append(perf_counter() - start)
        quickest[precision] = min(times)
    return quickest[torch.float32] > CLEARLY * quickest[torch.bfloat16]


class Stack:
    """n networks of two hidden ReLU layers, all their weights in one vector of float32, `flat`.

    Only the product of the two hidden layers, the wide one, is in `precision`. Inputs and outputs keep float32: a
    pole's cosine near 1, or a return of some hundreds, would lose what matters.
    """

    def __init__(self, networks: int, inputs: int, outputs: int, width: int, rng: np.random.Generator) -> None:
        self.precision = torch.float32
        self.shapes: list[tuple[int, int, int]] = []
        drawn: list[Array] = []
        for before, after in ((inputs, width), (width, width), (width, outputs)):
            bound = before**-0.5  # PyTorch's own
            for rows in (before, 1):
                self.shapes.append((networks, rows, after))
                drawn.append(rng.uniform(-bound, bound, networks * rows * after))
        self.flat = torch.from_numpy(np.concatenate(drawn).astype(np.float32))
        self._sizes = [int(np.prod(shape)) for shape in self.shapes]

    def views(self, flat: Float32[Tensor, " w"]) -> list[Tensor]:
        """A vector of weights by layers: [networks in out], [networks 1 out] and so on."""
        return [
            part.view(shape) for part, shape in zip(torch.split_with_sizes(flat, self._sizes), self.shapes, strict=True)
        ]

    def __call__(self, flat: Float32[Tensor, " w"], x: Float32[Tensor, "b i"]) -> Float32[Tensor, "n b outputs"]:
        """Every network's outputs, with the weights `flat`; differentiable in both."""
        outputs: Tensor = _Evaluate.apply(flat, x, self)  # type: ignore[no-untyped-call]  # PyTorch's
        return outputs

    @torch.no_grad()
    def alone(self, x: Float32[Tensor, "b i"]) -> Float32[Tensor, "b outputs"]:
        """The first network's outputs for a handful of inputs, in float32; without gradient."""
        w1, b1, w2, b2, w3, b3 = (view[0] for view in self.views(self.flat))
        hidden = torch.addmm(b2, torch.addmm(b1, x, w1).relu_(), w2).relu_()
        return torch.addmm(b3, hidden, w3)


class _Evaluate(torch.autograd.Function):
    """Outputs of a stack, and the gradient of each weight and input."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor, x: Tensor, stack: Stack) -> Tensor:
        w1, b1, w2, b2, w3, b3 = stack.views(flat)
        first = torch.baddbmm(b1, x.expand(len(w1), *x.shape), w1).relu_().to(stack.precision)
        wide = w2.to(stack.precision)
        second = torch.bmm(first, wide).float().add_(b2).relu_()
        ctx.stack = stack
        ctx.save_for_backward(flat, x, first, wide, second)
        if w3.shape[2] == 1:  # a product with a vector is five times quicker as a sum
            return (second * w3.transpose(1, 2)).sum(-1, keepdim=True) + b3
        return torch.baddbmm(b3, second, w3)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Float[Tensor, "n b outputs"]) -> tuple[Tensor | None, Tensor | None, None]:
        flat, x, first, wide, second = ctx.saved_tensors
        w1, _, _, _, w3, _ = ctx.stack.views(flat)
        at_second = torch.empty_like(second)
        if w3.shape[2] == 1:
            torch.mul(slope, w3.transpose(1, 2), out=at_second)
        else:
            torch.bmm(slope, w3.transpose(1, 2), out=at_second)
        at_second = torch.ops.aten.threshold_backward(at_second, second, 0)
        rough = at_second.to(wide.dtype)
        at_first = torch.ops.aten.threshold_backward(torch.bmm(rough, wide.transpose(1, 2)), first, 0).float()
        gradient = for_x = None
        if ctx.needs_input_grad[0]:
            gradient = torch.empty_like(flat)
            v1, c1, v2, c2, v3, c3 = ctx.stack.views(gradient)
            torch.bmm(x.T.expand(len(w1), *x.T.shape), at_first, out=v1)
            torch.sum(at_first, 1, keepdim=True, out=c1)
            v2.copy_(torch.bmm(first.transpose(1, 2), rough))
            torch.sum(at_second, 1, keepdim=True, out=c2)
            if w3.shape[2] == 1:
                torch.sum(second * slope, 1, out=v3[:, :, 0])
            else:
                torch.bmm(second.transpose(1, 2), slope, out=v3)
            torch.sum(slope, 1, keepdim=True, out=c3)
        if ctx.needs_input_grad[1]:
            for_x = torch.bmm(at_first, w1.transpose(1, 2)).sum(0)
        return gradient, for_x, None
