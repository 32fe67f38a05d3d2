"""Sums of products against exact fractions, and bounds of the norms of matrices."""

from __future__ import annotations

from fractions import Fraction
from math import prod

import pytest
import torch
from torch import Tensor

from roundoff.replay.enclosure.ball import Ball
from roundoff.replay.enclosure.opened import balls_of
from roundoff.replay.enclosure.products import matmul, spectral
from roundoff.replay.enclosure.registry import Operation


def drawn(seed: int, *shape: int, decades: float = 0.0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    powers = 10 ** ((torch.rand(shape, generator=g, dtype=torch.float64) - 0.5) * decades)
    return torch.randn(shape, generator=g, dtype=torch.float64) * powers


@pytest.mark.parametrize("decades", [0.0, 10.0])
@pytest.mark.parametrize("n", [1, 5, 64])
def test_products_of_matrices(n: int, decades: float) -> None:
    x, w = drawn(n, 3, n, decades=decades), drawn(n + 1, n, 4, decades=decades)
    x[0] = 1.0  # equal addends round the same way each time
    r, s = x.abs() * 1e-14, w.abs() * 1e-15
    for balls in ((Ball(x), Ball(w)), (Ball(x, r), Ball(w)), (Ball(x, r), Ball(w, s))):
        y = matmul(*balls)
        signs_x, signs_w = drawn(7, 3, n).sign(), drawn(8, n, 4).sign()
        for i in range(3):
            for j in range(4):
                exact = Fraction(0)
                for k in range(n):
                    a, b = Fraction(float(x[i, k])), Fraction(float(w[k, j]))
                    if balls[0].rad is not None:
                        a += Fraction(float(r[i, k])) * int(signs_x[i, k])
                    if balls[1].rad is not None:
                        b += Fraction(float(s[k, j])) * int(signs_w[k, j])
                    exact += a * b
                assert abs(exact - Fraction(float(y.mid[i, j]))) <= Fraction(float(y.radius[i, j]))


@pytest.mark.parametrize("shape", [(1, 1), (3, 40), (40, 3), (64, 64), (5, 7, 9), (650, 640)])
def test_norms_of_matrices_are_not_below(shape: tuple[int, ...]) -> None:
    a = drawn(prod(shape), *shape)
    exact = float(torch.linalg.matrix_norm(a, 2).max())
    assert exact <= spectral(a) * (1 + 1e-12)
    assert spectral(a) <= 1.35 * exact


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_norms_of_matrices_of_any_size(scale: float) -> None:
    a = drawn(0, 20, 30)
    assert spectral(a * scale) == pytest.approx(spectral(a) * scale, rel=1e-6)
    assert spectral(a * 0) == 0 and spectral(a * float("inf")) == float("inf")


def test_norms_of_matrices_whose_norm_is_known() -> None:
    q, _ = torch.linalg.qr(drawn(3, 50, 50))
    assert 1 - 1e-12 <= spectral(q) <= 50 ** (1 / 64) * (1 + 30 * 2**-30)  # enlarged by 2^-30 some twenty times
    assert spectral(torch.diag(torch.tensor([3.0, -7.0, 0.0], dtype=torch.float64))) == pytest.approx(7, rel=1e-3)


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "groups", "transposed"),
    [(3, 1, 1, 1, 1, False), (3, 2, 0, 1, 1, False), (1, 1, 0, 1, 1, False), (3, 1, 2, 2, 2, False), (4, 2, 1, 1, 1, True),
     (3, 3, 0, 1, 2, True), (3, 2, 0, 2, 1, False)],
)  # fmt: skip
def test_convolutions_grow_no_more_than_their_norm(
    kernel: int, stride: int, padding: int, dilation: int, groups: int, transposed: bool
) -> None:
    """The largest growth is found by going back and forth between the convolution and its adjoint."""
    w = drawn(kernel, 4, 4 // groups, kernel, kernel)
    op = torch.ops.aten.convolution.default
    rest = (None, [stride] * 2, [padding] * 2, [dilation] * 2, transposed, [0, 0], groups)
    x = drawn(1, 1, 4, 12, 12).requires_grad_()
    with torch.enable_grad():
        for _ in range(60):
            y = op(x, w, *rest)
            (back,) = torch.autograd.grad(y.square().sum() / 2, x)
            x = (back / back.norm()).detach().requires_grad_()
    step = x.detach()
    growth = float(op(step, w, *rest).norm())
    at = torch.zeros_like(step)
    ball = Ball(at, torch.ones_like(at), 1.0)
    (y,) = balls_of(op, Operation(op, (ball, Ball(w), *rest), {}, (op(at, w, *rest),)))
    assert y.norm is not None and growth <= y.norm
    assert bool((op(step, w, *rest).abs() <= y.radius).all())
    assert y.norm <= growth * 3


def test_numbers_whose_squares_underflow_are_not_lost() -> None:
    x = torch.full((1, 2), 1e-170, dtype=torch.float64) * torch.tensor([1.0, 0.7], dtype=torch.float64)
    w = torch.tensor([[1.1e150], [0.3e150]], dtype=torch.float64)
    y = matmul(Ball(x), Ball(w))
    exact = sum(Fraction(float(x[0, k])) * Fraction(float(w[k, 0])) for k in range(2))
    assert 0 < abs(exact - Fraction(float(y.mid))) <= Fraction(float(y.radius))
