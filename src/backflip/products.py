"""Products of float32 matrices by oneDNN, where the processor is quicker in it than PyTorch's default, MKL.

MKL does without AVX-512 on processors that are not Intel's, and oneDNN does not: on a Zen 5 it is 2.2 times as quick
(docs/log.md). PyTorch itself asks oneDNN for bfloat16 only.
"""

from collections.abc import Callable
from functools import cache
from time import perf_counter
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

CLEARLY = 1.2
"""Times as quick that another way of multiplying has to be: with noise in the clock, one machine gives one answer."""


def quickest(work: Callable[[], object], times: int = 20) -> float:
    """Seconds that some work takes at best."""
    found = []
    for _ in range(times):
        start = perf_counter()
        work()
        found.append(perf_counter() - start)
    return min(found)


@cache
def gains_from_onednn() -> bool:
    """Whether oneDNN is clearly quicker here than PyTorch's default, measured once in some milliseconds."""
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise") or not torch.cpu._is_avx512_supported():
        return False
    x, weight = torch.ones(256, 256), torch.ones(256, 256)
    return quickest(lambda: x @ weight.T) > CLEARLY * quickest(lambda: _by_onednn(x, weight))


def linear(x: Float[Tensor, "*n inputs"], weight: Float[Tensor, "outputs inputs"]) -> Float[Tensor, "*n outputs"]:
    """x·weightᵀ, by whichever library is quicker here."""
    matrices = x.dtype == torch.float32 and x.device.type == "cpu" and x.ndim > 1 and x.numel() > 0
    if not (matrices and gains_from_onednn()):
        return torch.nn.functional.linear(x, weight)
    if not torch.is_grad_enabled():
        return _by_onednn(x, weight)
    y: Tensor = _Linear.apply(x, weight)  # type: ignore[no-untyped-call]  # of PyTorch
    return y


def _by_onednn(x: Tensor, weight: Tensor) -> Tensor:
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return y


class _Linear(torch.autograd.Function):
    """What PyTorch's compiler calls for its own products has no gradient: dx = g·weight, dweight = gᵀ·x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _by_onednn(x, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        (g,) = gradients
        x, weight = ctx.saved_tensors
        by_x, by_weight = ctx.needs_input_grad
        return (
            _by_onednn(g, weight.T) if by_x else None,
            _by_onednn(g.flatten(0, -2).T, x.flatten(0, -2).T) if by_weight else None,
        )
