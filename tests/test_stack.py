"""Stacked networks: outputs and written-out gradients against PyTorch's own."""

import numpy as np
import pytest
import torch
from torch import Tensor

from backflip.policies import stack as stacks
from backflip.policies.stack import Stack, gains_from_bfloat16

WIDTH, ROWS = 16, 9


def _stack(networks: int = 2, inputs: int = 3, outputs: int = 1, seed: int = 0, width: int = WIDTH) -> Stack:
    return Stack(networks, inputs, outputs, width, np.random.default_rng(seed))


def _inputs(rows: int = ROWS, inputs: int = 3) -> Tensor:
    return torch.randn(rows, inputs, generator=torch.Generator().manual_seed(0))


def _plain(stack: Stack, flat: Tensor, x: Tensor) -> Tensor:
    """The formula: two hidden ReLU layers and a linear one, all left to PyTorch."""
    w1, b1, w2, b2, w3, b3 = stack.views(flat)
    outputs: Tensor = torch.relu(torch.relu(x @ w1 + b1) @ w2 + b2) @ w3 + b3
    return outputs


def _gradients(outputs: Tensor, flat: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Of a sum in which every output has its own weight, negative ones among them."""
    weights = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(1))
    for_flat, for_x = torch.autograd.grad((outputs * weights).sum(), (flat, x))
    return for_flat, for_x


def _apart(one: Tensor, other: Tensor) -> float:
    """Relative distance."""
    return float((one - other).detach().norm() / other.detach().norm())


@pytest.mark.parametrize("networks", [1, 2])
@pytest.mark.parametrize("outputs", [1, 4])
def test_outputs_and_gradients_are_those_of_pytorch(networks: int, outputs: int) -> None:
    stack = _stack(networks, outputs=outputs)
    flat, x = stack.flat.clone().requires_grad_(), _inputs().requires_grad_()
    ours, theirs = stack(flat, x), _plain(stack, flat, x)
    assert ours.shape == (networks, ROWS, outputs)
    torch.testing.assert_close(ours, theirs)
    for mine, autograd in zip(_gradients(ours, flat, x), _gradients(theirs, flat, x), strict=True):
        assert (autograd != 0).any()
        torch.testing.assert_close(mine, autograd)


@pytest.mark.parametrize("networks", [1, 2])
@pytest.mark.parametrize("outputs", [1, 4])
def test_in_bfloat16_outputs_and_gradients_are_nearly_the_same(networks: int, outputs: int) -> None:
    stack = _stack(networks, outputs=outputs, width=64)
    flat, x = stack.flat.clone().requires_grad_(), _inputs(64).requires_grad_()
    exact = stack(flat, x)
    wanted = _gradients(exact, flat, x)
    stack.precision = torch.bfloat16
    rough = stack(flat, x)
    # bfloat16 keeps 8 bits: each factor of the wide product is off by at most 1/256.
    assert 1e-5 < _apart(rough, exact) < 1 / 128
    assert rough.dtype == torch.float32
    for mine, sharp in zip(_gradients(rough, flat, x), wanted, strict=True):
        assert mine.dtype == torch.float32
        assert 1e-5 < _apart(mine, sharp) < 0.1  # the ReLUs that flip near 0 count most


def test_inputs_near_each_other_and_large_outputs_survive_bfloat16() -> None:
    # bfloat16 would round 0.9999 to 1, and 300.1 to 300. The first unit is 10·relu(1000·x - 999.8): 1 and 2.
    stack = _stack(1, 1, 1)
    stack.precision = torch.bfloat16
    stack.flat.zero_()
    w1, b1, w2, _, w3, b3 = stack.views(stack.flat)
    w1[0, 0, 0], b1[0, 0, 0], w2[0, 0, 0], w3[0, 0, 0], b3[0] = 1000, -999.8, 1, 10, 300.1
    x = torch.tensor([[0.9999], [1.0]])
    np.testing.assert_allclose(stack(stack.flat, x)[0, :, 0], [301.1, 302.1], atol=0.02)
    assert float(stack(stack.flat, torch.zeros(1, 1))) == np.float32(300.1)


def test_weights_that_no_gradient_is_wanted_for_get_none() -> None:
    stack, x = _stack(), _inputs().requires_grad_()
    (for_x,) = torch.autograd.grad(stack(stack.flat, x).sum(), x)
    (wanted,) = torch.autograd.grad(_plain(stack, stack.flat, x).sum(), x)
    torch.testing.assert_close(for_x, wanted)
    assert stack.flat.grad is None


def test_inputs_that_no_gradient_is_wanted_for_get_none() -> None:
    stack, x = _stack(), _inputs()
    flat = stack.flat.clone().requires_grad_()
    (for_flat,) = torch.autograd.grad(stack(flat, x).sum(), flat)
    (wanted,) = torch.autograd.grad(_plain(stack, flat, x).sum(), flat)
    torch.testing.assert_close(for_flat, wanted)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_alone_the_first_network_gives_its_outputs_always_in_float32(precision: torch.dtype) -> None:
    stack = _stack(2, outputs=4)
    stack.precision = precision
    x = _inputs()
    torch.testing.assert_close(stack.alone(x), _plain(stack, stack.flat, x)[0])
    assert _apart(stack.alone(x), _plain(stack, stack.flat, x)[1]) > 0.1


def test_networks_of_a_stack_do_not_share_anything() -> None:
    stack, x = _stack(2), _inputs()
    before = stack(stack.flat, x)
    assert _apart(before[0], before[1]) > 0.1
    for view in stack.views(stack.flat):
        view[1] += 1
    after = stack(stack.flat, x)
    assert torch.equal(after[0], before[0])
    assert not torch.equal(after[1], before[1])


def test_weights_begin_within_one_over_the_root_of_a_layers_inputs() -> None:
    stack = _stack(2, inputs=4, width=25)
    bounds = [4**-0.5, 4**-0.5, 25**-0.5, 25**-0.5, 25**-0.5, 25**-0.5]
    for view, bound in zip(stack.views(stack.flat), bounds, strict=True):
        assert view.abs().max() <= bound
    for view, bound in zip(stack.views(stack.flat)[:3:2], bounds[:3:2], strict=True):
        assert view.abs().max() > 0.9 * bound
    assert torch.equal(stack.flat, _stack(2, inputs=4, width=25).flat)
    assert not torch.equal(stack.flat, _stack(2, inputs=4, width=25, seed=1).flat)


@pytest.mark.parametrize(
    ("instructions", "seconds", "gains"),
    [(True, 0.5, True), (True, 0.95, False), (True, 2.0, False), (False, 0.5, False)],
)
def test_bfloat16_is_taken_only_where_it_is_clearly_quicker(
    monkeypatch: pytest.MonkeyPatch, instructions: bool, seconds: float, gains: bool
) -> None:
    clock = [0.0]

    def product(left: Tensor, right: Tensor) -> None:
        clock[0] += seconds if left.dtype == torch.bfloat16 else 1.0

    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: instructions)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(torch, "bmm", product)
    monkeypatch.setattr(stacks, "perf_counter", lambda: clock[0])
    assert gains_from_bfloat16.__wrapped__() == gains
