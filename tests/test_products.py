"""Products by oneDNN are those of PyTorch, with their gradients, and are used only where they are quicker."""

import pytest
import torch
from torch import Tensor

from backflip import products

BUILT_WITH_IT: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]  # of PyTorch
ONEDNN = pytest.mark.skipif(not BUILT_WITH_IT, reason="this PyTorch was built without oneDNN")


@pytest.fixture(params=[pytest.param(True, marks=ONEDNN), False], ids=["onednn", "default"])
def by_onednn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "gains_from_onednn", lambda: request.param)


@ONEDNN
def test_a_pytorch_with_onednn_has_the_operator_that_is_called() -> None:
    assert hasattr(torch.ops.mkldnn, "_linear_pointwise"), "renamed: products are slow again where it was quicker"


@pytest.mark.parametrize(("quicker", "times"), [(True, 1), (False, 0)])
def test_onednn_multiplies_where_it_is_quicker_and_only_there(
    monkeypatch: pytest.MonkeyPatch, quicker: bool, times: int
) -> None:
    asked: list[Tensor] = []

    def product(x: Tensor, weight: Tensor) -> Tensor:
        asked.append(x)
        return x @ weight.T

    monkeypatch.setattr(products, "gains_from_onednn", lambda: quicker)
    monkeypatch.setattr(products, "_by_onednn", product)
    products.linear(torch.randn(4, 7), torch.randn(5, 7))
    assert len(asked) == times


@pytest.mark.usefixtures("by_onednn")
@pytest.mark.parametrize("shape", [(7,), (4, 7), (3, 4, 7), (1, 1, 7), (0, 7)])
@pytest.mark.parametrize("turned", [False, True])
def test_a_product_and_its_gradients_are_pytorch_s(shape: tuple[int, ...], turned: bool) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(shape), torch.randn(7, 5).T if turned else torch.randn(5, 7)
    leaves = [part.detach().requires_grad_() for part in (x, weight, x, weight)]
    ours, expected = products.linear(*leaves[:2]), torch.nn.functional.linear(*leaves[2:])
    slope = torch.randn(expected.shape)
    torch.autograd.backward([ours, expected], [slope, slope])
    torch.testing.assert_close(ours, expected)
    for mine, other in zip(leaves[:2], leaves[2:], strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


@pytest.mark.usefixtures("by_onednn")
def test_what_needs_no_gradient_gets_none() -> None:
    x, weight = torch.randn(4, 7), torch.randn(5, 7, requires_grad=True)
    torch.autograd.backward(products.linear(x, weight).sum())
    assert x.grad is None
    torch.testing.assert_close(weight.grad, x.sum(0).expand(5, 7))
    with torch.no_grad():
        assert not products.linear(x, weight).requires_grad


def test_other_numbers_than_float32_are_left_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "gains_from_onednn", lambda: True)
    monkeypatch.setattr(products, "_by_onednn", None)
    x, weight = torch.randn(4, 7, dtype=torch.float64), torch.randn(5, 7, dtype=torch.float64)
    torch.testing.assert_close(products.linear(x, weight), x @ weight.T)


@ONEDNN
@pytest.mark.parametrize(("onednn", "gains"), [(1.0, True), (1.9, False), (2.0, False)])
def test_it_is_used_where_it_is_clearly_quicker(monkeypatch: pytest.MonkeyPatch, onednn: float, gains: bool) -> None:
    taken = iter([2.0, onednn])
    monkeypatch.setattr(torch.cpu, "_is_avx512_supported", lambda: True)
    monkeypatch.setattr(products, "quickest", lambda work: next(taken))
    assert products.gains_from_onednn.__wrapped__() is gains
