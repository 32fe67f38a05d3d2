from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch
from tests.exact.oracle import rounded, sum_of_products
from torch import Tensor
from torch.nn import functional as F

from roundoff import exact
from roundoff.exact import convolutions, ops

CASES = list(product((1, 2, 3), (1, 2), (0, 1), (1, 2), (1, 2, 4)))


def both(f: Callable[..., Tensor], g: Callable[..., Tensor], *tensors: Tensor) -> None:
    """The result and the gradients of ``f`` are those of ``g`` in float64, rounded once."""
    native = [t.clone().requires_grad_() for t in tensors]
    wide = [t.double().requires_grad_() for t in tensors]
    y, reference = f(*native), g(*wide)
    assert y.shape == reference.shape
    grad = torch.randn_like(y)
    y.backward(grad)
    reference.backward(grad.double())
    pairs = [(y, reference), *((a.grad, b.grad) for a, b in zip(native, wide, strict=True))]
    for a, b in pairs:
        assert a is not None and b is not None
        assert torch.equal(a, b.float())


@pytest.mark.parametrize(("dims", "stride", "padding", "dilation", "groups"), CASES)
def test_convolutions(dims: int, stride: int, padding: int, dilation: int, groups: int) -> None:
    """Random sums are nowhere near half way, so float64 rounded once is the right answer."""
    how = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    space, kernel = [9, 8, 7][:dims], [3, 2, 1][:dims]
    name = f"conv{dims}d"
    x, w, b = torch.randn(2, 4, *space), torch.randn(8, 4 // groups, *kernel), torch.randn(8)
    both(lambda *t: getattr(exact, name)(*t, **how), lambda *t: getattr(F, name)(*t, **how), x, w, b)


@pytest.mark.parametrize(("dims", "stride", "padding", "dilation", "groups"), CASES)
def test_transposed_convolutions(dims: int, stride: int, padding: int, dilation: int, groups: int) -> None:
    how = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    how["output_padding"] = 1 if max(stride, dilation) > 1 else 0
    space, kernel = [5, 4, 3][:dims], [3, 2, 1][:dims]
    name = f"conv_transpose{dims}d"
    x, w, b = torch.randn(2, 8, *space), torch.randn(8, 4, *kernel), torch.randn(4 * groups)
    both(lambda *t: getattr(exact, name)(*t, **how), lambda *t: getattr(F, name)(*t, **how), x, w, b)


def test_named_padding_and_single_images() -> None:
    x, w = torch.randn(4, 8, 9), torch.randn(8, 4, 3, 3)
    for padding in ("same", "valid"):
        both(
            lambda x, w, p=padding: exact.conv2d(x, w, padding=p),
            lambda x, w, p=padding: F.conv2d(x, w, padding=p),
            x,
            w,
        )


def test_blocks_and_layouts_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w, b = torch.randn(3, 4, 9, 9), torch.randn(6, 4, 3, 3), torch.randn(6)
    right = exact.conv2d(x, w, b)
    layout = torch.channels_last
    assert torch.equal(exact.conv2d(x.to(memory_format=layout), w.to(memory_format=layout), b), right)
    for block in (1, 400, 3000):
        monkeypatch.setattr(convolutions, "BLOCK", block)
        assert torch.equal(exact.conv2d(x, w, b), right)


def test_half_way_in_a_convolution() -> None:
    x = torch.randint(-3, 4, (1, 2, 5, 5)).float()
    x[:, :, 2, 2] = 2.0**12
    w = torch.randint(-3, 4, (3, 2, 3, 3)).float() + 2.0**12
    y = exact.conv2d(x, w, torch.full((3,), 0.5))
    for o, i, j in product(range(3), range(3), range(3)):
        patch = x[0, :, i : i + 3, j : j + 3].reshape(-1)
        assert float(y[0, o, i, j]) == rounded(sum_of_products(patch, w[o].reshape(-1), torch.tensor(0.5)))


@pytest.mark.parametrize(
    ("f", "shapes"),
    [
        (lambda x, w, b: exact.linear(x, w, b), [(3, 5, 7), (4, 7), (4,)]),
        (exact.matmul, [(3, 7), (7, 4)]),
        (exact.matmul, [(2, 3, 7), (7,)]),
        (exact.matmul, [(7,), (7,)]),
        (exact.matmul, [(7,), (2, 7, 4)]),
        (exact.matmul, [(2, 5, 3, 7), (2, 5, 7, 4)]),
        (lambda a, b, c: exact.tensordot(a, b, ([2], [1]), c), [(2, 3, 7), (4, 7), (4,)]),
        (exact.tensordot, [(2, 3, 7), (3, 7, 5)]),
        (lambda x: exact.sum(x, (0, 2)), [(2, 3, 4)]),
        (lambda x: exact.mean(x, 1, True), [(2, 4, 3)]),
        (exact.mean, [(2, 4, 4)]),
    ],
)
def test_the_other_sums(f: Callable[..., Tensor], shapes: list[tuple[int, ...]]) -> None:
    wide: dict[object, Callable[..., Tensor]] = {exact.matmul: torch.matmul, exact.tensordot: torch.tensordot,
                                                 exact.mean: torch.mean}  # fmt: skip
    other: dict[int, Callable[..., Tensor]] = {
        1: (lambda x: x.sum((0, 2))) if shapes[0] == (2, 3, 4) else (lambda x: x.mean(1, True)),
        3: lambda x, w, b: F.linear(x, w, b),
    }
    both(f, wide.get(f) or other[len(shapes)], *(torch.randn(s) for s in shapes))


def test_both_operands_broadcast() -> None:
    a, b = torch.randn(2, 1, 3, 7), torch.randn(5, 7, 4, requires_grad=True)
    y = exact.matmul(a, b)
    assert torch.equal(y, torch.matmul(a.double(), b.double()).float())
    grad = torch.randn_like(y)
    y.backward(grad)
    parts = torch.matmul(a.transpose(2, 3).double(), grad.double()).float()  # each rounded, and their sum once more
    assert b.grad is not None and torch.equal(b.grad, parts.double().sum(0).float())


def test_the_operators_keep_their_contract() -> None:
    x, w, b = torch.randn(2, 3, 5), torch.randn(2, 5, 4), torch.randn(1, 1, 4)
    image, kernel = torch.randn(2, 4, 6, 6), torch.randn(4, 2, 3, 3)
    grad, how = torch.randn(2, 4, 6, 3), ([1, 2], [1, 1], [1, 1], 2)
    pool = ([3, 3], [0, 2, 4] * 2, [2, 4, 6] * 2, [2, 2, 2] * 2, 0)
    calls = [
        (ops.products, (x, w, b)),
        (ops.convolution, (image, kernel, None, *how)),
        (ops.convolution_input, (grad, kernel, None, [6, 6], *how)),
        (ops.convolution_weight, (image, grad, [3, 3], *how)),
        (ops.add_up, (image, [1, 2], 3)),
        (ops.windows, (image, *pool)),
        (ops.bags, (x[0], x[0, :, 0], torch.tensor([0, 2, 0]), 4, False)),
        (ops.multiply_add, (x, x, x)),
        (ops.each, (image, "gelu")),
        (ops.power, (image, 3)),
    ]
    for op, args in calls:
        given = tuple(
            a.clone().requires_grad_() if isinstance(a, Tensor) and a.is_floating_point() else a for a in args
        )
        torch.library.opcheck(op, given, test_utils=("test_schema", "test_autograd_registration", "test_faketensor"))
