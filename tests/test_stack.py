"""Stacked networks: outputs and written-out gradients against PyTorch's own."""

import numpy as np
import pytest
import torch
from torch import Tensor

from backflip import products
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


def _slope(outputs: Tensor) -> Tensor:
    """A weight of its own for every output, negative ones among them."""
    return torch.randn(outputs.shape, generator=torch.Generator().manual_seed(1))


def _by_autograd(stack: Stack, x: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs, and the gradient of Σ slope·outputs by every weight, all by PyTorch."""
    flat = stack.flat.clone().requires_grad_()
    outputs = _plain(stack, flat, x)
    (by_flat,) = torch.autograd.grad((outputs * _slope(outputs)).sum(), flat)
    return outputs.detach(), by_flat


def _by_hand(stack: Stack, x: Tensor) -> tuple[Tensor, Tensor]:
    """The same by the stack."""
    forward = stack(x)
    stack.differentiate(forward, _slope(forward.outputs))
    return forward.outputs, stack.gradient[: len(stack.flat)].clone()


def _networks(count: int) -> Tensor:
    """Whose output counts, for each row."""
    return torch.randint(count, (ROWS,), generator=torch.Generator().manual_seed(2))


def _apart(one: Tensor, other: Tensor) -> float:
    """Relative distance."""
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("networks", [1, 2])
@pytest.mark.parametrize("outputs", [1, 4])
def test_outputs_and_gradients_are_those_of_pytorch(networks: int, outputs: int) -> None:
    stack, x = _stack(networks, outputs=outputs), _inputs()
    assert stack(x).outputs.shape == (networks, ROWS, outputs)
    for mine, autograd in zip(_by_hand(stack, x), _by_autograd(stack, x), strict=True):
        assert (autograd != 0).any()
        torch.testing.assert_close(mine, autograd)


@pytest.mark.parametrize("networks", [1, 2, 3])
def test_the_gradient_by_inputs_is_that_of_each_rows_own_network(networks: int) -> None:
    stack, x = _stack(networks), _inputs().requires_grad_()
    of = _networks(networks)
    output = _plain(stack, stack.flat, x)[of, torch.arange(ROWS), 0]
    (wanted,) = torch.autograd.grad(output.sum(), x)
    found = stack.by_inputs(stack(x.detach()), of)
    torch.testing.assert_close(found, wanted)
    if networks > 1:
        assert not torch.allclose(found, stack.by_inputs(stack(x.detach()), 1 - of.clamp(max=1)))


def test_the_gradient_by_inputs_is_nearly_the_same_in_bfloat16() -> None:
    stack, x = _stack(width=64), _inputs()
    wanted = stack.by_inputs(stack(x), _networks(2))
    stack.precision = torch.bfloat16
    assert _apart(stack.by_inputs(stack(x), _networks(2)), wanted) < 0.03


def test_a_network_that_no_row_counts_for_is_no_harm() -> None:
    stack, x = _stack(), _inputs()
    of = torch.ones(ROWS, dtype=torch.int64)
    torch.testing.assert_close(stack.by_inputs(stack(x), of)[:4], stack.by_inputs(stack(x[:4]), of[:4]))


@pytest.mark.parametrize("networks", [1, 2])
@pytest.mark.parametrize("outputs", [1, 4])
def test_in_bfloat16_outputs_and_gradients_are_nearly_the_same(networks: int, outputs: int) -> None:
    stack, x = _stack(networks, outputs=outputs, width=64), _inputs(64)
    wanted = _by_hand(stack, x)
    stack.precision = torch.bfloat16
    rough = _by_hand(stack, x)
    # bfloat16 keeps 8 bits: each factor of the wide product is off by at most 1/256.
    assert 1e-5 < _apart(rough[0], wanted[0]) < 1 / 128
    for mine, sharp in zip(rough, wanted, strict=True):
        assert mine.dtype == torch.float32
        assert 1e-5 < _apart(mine, sharp) < 0.1  # the ReLUs that flip near 0 count most


def test_inputs_near_each_other_and_large_outputs_survive_bfloat16() -> None:
    # bfloat16 would round 0.9999 to 1, and 300.1 to 300. The first unit is 10·relu(1000·x - 999.8): 1 and 2.
    stack = _stack(1, 1, 1)
    stack.precision = torch.bfloat16
    stack.flat.zero_()
    w1, b1, w2, _, w3, b3 = stack.weights
    w1[0, 0, 0], b1[0, 0, 0], w2[0, 0, 0], w3[0, 0, 0], b3[0] = 1000, -999.8, 1, 10, 300.1
    x = torch.tensor([[0.9999], [1.0]])
    np.testing.assert_allclose(stack(x).outputs[0, :, 0], [301.1, 302.1], atol=0.02)
    assert float(stack(torch.zeros(1, 1)).outputs) == np.float32(300.1)


def test_a_gradient_by_some_of_the_inputs_is_a_part_of_that_by_all() -> None:
    stack, x = _stack(), _inputs()
    forward = stack(x)
    of = _networks(2)
    torch.testing.assert_close(stack.by_inputs(forward, of, since=1), stack.by_inputs(forward, of)[:, 1:])


def test_a_gradient_by_inputs_leaves_that_by_weights_as_it_is() -> None:
    stack, x = _stack(), _inputs()
    forward = stack(x)
    stack.differentiate(forward, _slope(forward.outputs))
    before = stack.gradient.clone()
    stack.by_inputs(forward, _networks(2))
    assert torch.equal(stack.gradient, before)


def test_others_lie_behind_the_weights_and_are_nobodys_weight() -> None:
    alone, stack = _stack(), Stack(2, 3, 1, WIDTH, np.random.default_rng(0), others=2)
    assert torch.equal(stack.vector[:-2], alone.vector)
    assert torch.equal(stack.vector[-2:], torch.zeros(2))
    stack.vector[-2:] = torch.tensor([5.0, 6.0])
    stack.gradient[-2:] = torch.tensor([7.0, 8.0])
    forward = stack(_inputs())
    assert torch.equal(forward.outputs, alone(_inputs()).outputs)
    stack.differentiate(forward, _slope(forward.outputs))
    assert torch.equal(stack.gradient[-2:], torch.tensor([7.0, 8.0]))


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_alone_the_first_network_gives_its_outputs_always_in_float32(precision: torch.dtype) -> None:
    stack = _stack(2, outputs=4)
    stack.precision = precision
    x = _inputs()
    torch.testing.assert_close(stack.alone(x), _plain(stack, stack.flat, x)[0])
    assert _apart(stack.alone(x), _plain(stack, stack.flat, x)[1]) > 0.1


def test_networks_of_a_stack_do_not_share_anything() -> None:
    stack, x = _stack(2), _inputs()
    before = stack(x).outputs
    assert _apart(before[0], before[1]) > 0.1
    for view in stack.weights:
        view[1] += 1
    after = stack(x).outputs
    assert torch.equal(after[0], before[0])
    assert not torch.equal(after[1], before[1])


def test_weights_begin_within_one_over_the_root_of_a_layers_inputs() -> None:
    stack = _stack(2, inputs=4, width=25)
    bounds = [4**-0.5, 4**-0.5, 25**-0.5, 25**-0.5, 25**-0.5, 25**-0.5]
    for view, bound in zip(stack.weights, bounds, strict=True):
        assert view.abs().max() <= bound
    for view, bound in zip(stack.weights[:3:2], bounds[:3:2], strict=True):
        assert view.abs().max() > 0.9 * bound
    assert torch.equal(stack.flat, _stack(2, inputs=4, width=25).flat)
    assert not torch.equal(stack.flat, _stack(2, inputs=4, width=25, seed=1).flat)


@pytest.mark.parametrize(
    ("instructions", "seconds", "gains"),
    [("avx512", 0.5, True), ("amx", 0.5, True), ("amx", 0.95, False), ("avx512", 2.0, False), ("none", 0.5, False)],
)
def test_bfloat16_is_taken_only_where_it_is_clearly_quicker(
    monkeypatch: pytest.MonkeyPatch, instructions: str, seconds: float, gains: bool
) -> None:
    clock = [0.0]

    def product(left: Tensor, right: Tensor) -> None:
        clock[0] += seconds if left.dtype == torch.bfloat16 else 1.0

    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: instructions == "avx512")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: instructions == "amx")
    monkeypatch.setattr(torch, "bmm", product)
    monkeypatch.setattr(products, "perf_counter", lambda: clock[0])
    assert gains_from_bfloat16.__wrapped__() == gains
