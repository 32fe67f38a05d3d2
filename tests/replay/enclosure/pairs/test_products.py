"""Products of pairs against exact fractions."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
from tests.replay.enclosure.pairs.exact import convolved, inside, spread
from torch import Tensor

from roundoff.replay.enclosure.pairs.pair import Pair, moved
from roundoff.replay.enclosure.pairs.products import matmul
from roundoff.replay.enclosure.pairs.registry import pairs_of
from roundoff.replay.enclosure.registry import Operation


def dot(a: list[Fraction], b: list[Fraction]) -> Fraction:
    return sum((x * y for x, y in zip(a, b, strict=True)), Fraction(0))


@pytest.mark.parametrize("n", [1, 5, 40])
@pytest.mark.parametrize(("rx", "rw"), [(0.0, 0.0), (1e-30, 0.0), (1e-25, 1e-27), (0.0, 1e-3)])
def test_products_of_matrices(n: int, rx: float, rw: float) -> None:
    (x, at_x), (w, at_w) = spread(n, (3, n), rx), spread(n + 1, (n, 4), rw)
    y = matmul(x, w)
    exact = [[dot(row, list(col)) for col in zip(*at_w, strict=True)] for row in at_x]
    assert inside(y, exact)
    assert y.tail is not None
    off = torch.tensor([[float(e - Fraction(float(m)) - Fraction(float(low))) for e, m, low in zip(*rows, strict=True)]
                        for rows in zip(exact, y.mid, y.low, strict=True)])  # fmt: skip
    assert float(off.norm()) <= y.tail.far * (1 + 1e-6)
    if rx < 1e-20 and rw < 1e-20:
        assert float(y.error.max()) < n * (1e-24 if rx == 1e-25 else 2e-29)


def test_vectors_and_batches() -> None:
    g = torch.Generator().manual_seed(0)
    for a, b in (((5,), (5,)), ((5,), (5, 3)), ((2, 5), (5,)), ((2, 3, 5), (5, 4)), ((2, 3, 5), (2, 5, 4)),
                 ((2, 1, 3, 5), (4, 5, 2))):  # fmt: skip
        x, w = (torch.randn(s, generator=g, dtype=torch.float64) for s in (a, b))
        y = matmul(Pair(x), Pair(w))
        assert torch.allclose(y.mid, x @ w, rtol=0, atol=1e-13) and y.mid.shape == (x @ w).shape == y.low.shape


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups", "transposed"),
    [(1, 1, 1, 1, False), (2, 0, 1, 2, False), (1, 2, 2, 1, False), (2, 1, 1, 1, True), (1, 0, 1, 2, True)],
)
def test_convolutions(stride: int, padding: int, dilation: int, groups: int, transposed: bool) -> None:
    (x, at_x), (w, at_w) = (
        spread(1, (2, 2, 24), 1e-28),
        spread(2, (2, 4 // groups if transposed else 2 // groups, 9), 0.0),
    )
    x, w = moved(x, lambda t: t.reshape(2, 2, 4, 6)), moved(w, lambda t: t.reshape(2, -1, 3, 3))
    op = torch.ops.aten.convolution.default
    rest: tuple[Any, ...] = (None, [stride] * 2, [padding] * 2, [dilation] * 2, transposed, [0, 0], groups)
    out = op(x.mid, w.mid, *rest)
    (y,) = pairs_of(op, Operation(op, (x, w, *rest), {}, (out,)))
    assert isinstance(y, Pair) and 0 < float(y.error.max()) < 1e-26
    exact = convolved(at_x, at_w, x.mid, w.mid, stride, padding, dilation, groups, transposed, out)
    assert inside(moved(y, lambda t: t.flatten(1)), exact)


def test_a_bias_and_factors() -> None:
    (x, at_x), (w, at_w), (b, at_b) = spread(1, (3, 5), 1e-30), spread(2, (5, 4), 0.0), spread(3, (1, 4), 1e-29)
    op = torch.ops.aten.addmm.default
    bias = moved(b, lambda t: t[0])
    out: Tensor = op(bias.mid, x.mid, w.mid, beta=0.5, alpha=0.1)
    (y,) = pairs_of(op, Operation(op, (bias, x, w), {"beta": 0.5, "alpha": 0.1}, (out,)))
    exact = [
        [dot(row, list(col)) / 10 + at_b[0][j] / 2 for j, col in enumerate(zip(*at_w, strict=True))] for row in at_x
    ]
    assert isinstance(y, Pair) and inside(y, exact) and float(y.error.max()) < 1e-27
