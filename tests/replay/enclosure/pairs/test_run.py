"""Pairs of a whole run: views, operations in place, numbers that are moved, and what is not followed in pairs."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.replay.enclosure.test_run import fractions, product
from torch import Tensor

from roundoff.replay.enclosure.ball import Ball
from roundoff.replay.enclosure.pairs import PairEnclosure, products
from roundoff.replay.enclosure.pairs.pair import Pair
from roundoff.replay.enclosure.pairs.run import settled
from roundoff.replay.enclosure.products import matrices
from roundoff.replay.run import Side, run_wide
from roundoff.tape.trace import random_state

Rows = list[list[Fraction]]
X, W = (torch.randn(4, 6, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
Y = product(fractions(X), [list(c) for c in zip(*fractions(W), strict=True)])  # [4, 4]
T = [[v / 10 for v in r] for r in Y]  # with more digits than a float64 number has


def enclosed(model: Callable[..., Any], *args: Any) -> tuple[Pair, PairEnclosure]:
    """The first output with its correction and radius, and the enclosure of the run."""
    enclosure = PairEnclosure()
    ran, _ = run_wide(Side("A", model, args, {}, random_state()), observe=enclosure, beside=enclosure)
    leaf = next(iter(ran.tensors.values()))
    assert leaf.of is not None and leaf.wide is not None
    low = enclosure.correction(leaf.of)
    assert low is not None
    return Pair(leaf.wide, Ball(low, enclosure.value(leaf.of))), enclosure


def holds(found: Pair, exact: Rows) -> None:
    assert list(found.mid.shape) == [len(exact), len(exact[0])]
    for rows in zip(found.mid.tolist(), found.low.tolist(), found.error.tolist(), exact, strict=True):
        for m, low, r, e in zip(*rows, strict=True):
            assert abs(Fraction(m) + Fraction(low) - e) <= Fraction(r)
    assert float(found.error.max()) < 1e-27


def switched(rows: Rows) -> Rows:
    return [list(c) for c in zip(*rows, strict=True)]


def each(f: Callable[[Fraction], Fraction]) -> Callable[[Rows], Rows]:
    return lambda y: [[f(v) for v in r] for r in y]


def masked(f: Callable[[int, int, Fraction], Any]) -> Callable[[Rows], Rows]:
    return lambda y: [[Fraction(f(i, j, v)) for j, v in enumerate(r)] for i, r in enumerate(y)]


def pooled(y: Rows) -> Rows:
    return [[max(y[i][j], y[i][j + 1], y[i + 1][j], y[i + 1][j + 1]) for j in (0, 2)] for i in (0, 2)]


def averaged(y: Rows) -> Rows:
    return [[sum((y[i + a][j + c] for a in range(3) for c in range(3)), NONE) / 9 for j in (0, 1)] for i in (0, 1)]


EYE, CHOSEN, TENTH, NONE = torch.eye(4) > 0, torch.tensor([[1], [0], [3], [2]]), Fraction(1, 10), Fraction(0)

#: What moves numbers, and what it makes of rows of exact ones.
MOVES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Rows], Rows]]] = {
    "transpose": (lambda y: y.t(), switched),
    "permute": (lambda y: y.reshape(2, 2, 4).permute(2, 0, 1).reshape(4, 4), switched),
    "slice": (lambda y: y[1:, ::2], lambda y: [r[::2] for r in y[1:]]),
    "select": (lambda y: y[2][None], lambda y: [y[2]]),
    "split and cat": (lambda y: torch.cat(y.split(1)[::-1], 0), lambda y: y[::-1]),
    "stack": (lambda y: torch.stack(y.unbind(1)), switched),
    "flip": (lambda y: y.flip(0, 1), lambda y: [r[::-1] for r in y[::-1]]),
    "roll": (lambda y: y.roll(1, 1), lambda y: [r[-1:] + r[:-1] for r in y]),
    "expand": (lambda y: y[:1].expand(3, 4).contiguous(), lambda y: [y[0]] * 3),
    "repeat": (lambda y: y.repeat(2, 1), lambda y: y + y),
    "index": (lambda y: y[torch.tensor([2, 0])], lambda y: [y[2], y[0]]),
    "gather": (
        lambda y: y.gather(1, CHOSEN),
        lambda y: [[y[i][i ^ 1]] for i in range(4)],
    ),
    "diagonal": (lambda y: y.diagonal()[None], lambda y: [[y[i][i] for i in range(4)]]),
    "lower triangle": (lambda y: y.tril(), masked(lambda i, j, v: v if j <= i else 0)),
    "padding": (lambda y: F.pad(y, (0, 1), value=0.5), lambda y: [[*r, Fraction(1, 2)] for r in y]),
    "where": (lambda y: torch.where(EYE, y, y * 0.1), masked(lambda i, j, v: v if i == j else v / 10)),
    "masked fill": (lambda y: y.masked_fill(EYE, 0.1), masked(lambda i, j, v: TENTH if i == j else v)),
    "cast": (lambda y: y.double().float(), lambda y: y),
    "negative": (lambda y: -y, each(lambda v: -v)),
    "size": (lambda y: y.abs(), each(abs)),
    "relu": (lambda y: y.relu(), each(lambda v: max(v, NONE))),
    "relu6": (lambda y: F.relu6(y * 32), each(lambda v: min(max(32 * v, NONE), Fraction(6)))),
    "largest": (lambda y: y.amax(1, keepdim=True), lambda y: [[max(r)] for r in y]),
    "least": (lambda y: y.amin(1, keepdim=True), lambda y: [[min(r)] for r in y]),
    "pooled": (lambda y: F.max_pool2d(y[None, None], 2)[0, 0], pooled),
    "averaged": (lambda y: F.avg_pool2d(y[None, None], 3, 1)[0, 0], averaged),
    "leaky": (lambda y: F.leaky_relu(y, 0.1), each(lambda v: max(v, v / 10))),
    "sum": (lambda y: y.sum(0, keepdim=True), lambda y: [[sum(c, NONE) for c in switched(y)]]),
    "mean": (lambda y: y.mean(1, keepdim=True), lambda y: [[sum(r, NONE) / 4] for r in y]),
    "third": (lambda y: y / 3, each(lambda v: v / 3)),
    "one over": (lambda y: 1 / y, each(lambda v: 1 / v)),
    "tenth": (lambda y: y * 0.1 + 1, each(lambda v: v / 10 + 1)),
    "cube": (lambda y: y**3, each(lambda v: v**3)),
    "itself": (
        lambda y: torch.rsub(y, 1, alpha=0.5).addcmul(y, y, value=3).addcdiv(y, y * y),
        each(lambda v: 1 - v / 2 + 3 * v * v + 1 / v),
    ),
}


@pytest.mark.parametrize("name", MOVES)
def test_what_moves_and_combines(name: str) -> None:
    """The exact numbers lie within radii of 1e-27, so that a tail that is left behind or goes elsewhere is found."""
    move, exactly = MOVES[name]
    found, enclosure = enclosed(lambda x, w: move(x @ w.t() * 0.1), X, W)
    assert enclosure.gaps == [] and enclosure.coarse == ""
    holds(found, exactly(T))
    assert float(found.low.abs().max()) > 1e-20  # there are tails to be moved


def test_operations_in_place_on_views() -> None:
    def net(x: Tensor, w: Tensor) -> Tensor:
        y = x @ w.t()
        y[:, 0] += y[:, 1] * 0.5
        left = y[:, :2]
        left.mul_(left)
        y.t()[3].neg_()
        y[2:].relu_()
        y.sub_(y[:, 1:2].clone())
        y[0].copy_(x[0, :4])
        y[1, 1:].zero_()
        y[3, 3:].fill_(0.1)
        return y

    y = [list(row) for row in Y]
    for row in y:
        row[0] += row[1] / 2
        row[0], row[1] = row[0] ** 2, row[1] ** 2
        row[3] = -row[3]
    for row in y[2:]:
        row[:] = [max(v, Fraction(0)) for v in row]
    y = [[v - row[1] for v in row] for row in y]
    y[0] = fractions(X)[0][:4]
    y[1][1:] = [Fraction(0)] * 3
    y[3][3] = Fraction(1, 10)
    found, enclosure = enclosed(net, X, W)
    assert enclosure.gaps == []
    holds(found, y)
    assert bool(found.error[0].eq(0).all()) and bool(found.low[0].eq(0).all())


def test_a_mean_and_a_product_of_pooled_numbers() -> None:
    """Tails go through sums and products as well."""
    w = W.t().contiguous()
    found, _ = enclosed(lambda x, w: ((x @ w) @ (x @ w)).mean(0, keepdim=True), X, w)
    squared = product(Y, Y)
    holds(found, [[sum(c, Fraction(0)) / 4 for c in zip(*squared, strict=True)]])


def test_what_is_not_known_in_pairs_is_known_in_float64() -> None:
    found, enclosure = enclosed(lambda x, w: (x @ w.t()).asinh(), X, W)
    assert enclosure.gaps == [] and "aten.asinh" in enclosure.coarse
    assert 1e-18 < float(found.error.max()) < 1e-13


def test_a_number_that_steers_must_be_certain() -> None:
    _, enclosure = enclosed(lambda x, w: x * 2 if (x @ w.t()).sum().item() > 0 else x, X, W)
    assert any(gap.steers for gap in enclosure.gaps)
    _, enclosure = enclosed(lambda x: x * 2 if (x.sum() > 0.1).item() else x, X)
    assert enclosure.gaps == []


def test_an_overflow_is_unknown_ever_after() -> None:
    """And an infinity that was given is exact, where its sign is certain."""
    big = torch.full((2, 3), 1e38).double() * 1e300
    found, _ = enclosed(lambda x: 1 / (x * x + 1), big)
    assert bool(found.error.isinf().all())
    mask = torch.tensor([[0.0, -torch.inf]])
    found, _ = enclosed(lambda x: x * 0.1 + mask, torch.ones(2, 2))
    assert found.error[:, 1].tolist() == [0, 0] and bool(found.mid[:, 1].eq(-torch.inf).all())
    found, _ = enclosed(lambda x: (x * 0.1 - 0.1 * x) * mask.exp().log(), torch.ones(2, 2))
    assert bool(found.error[:, 1].isinf().all())


# -- faults that are planted -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("off", [1e-9, -1e-11])
def test_a_rule_that_is_off_is_told(monkeypatch: pytest.MonkeyPatch, off: float) -> None:
    """What is computed here is then not what the wide run has, nor near what float64 says."""
    monkeypatch.setattr(products, "matmul", lambda x, w, of=products.matmul: of(Pair(x.mid * (1 + off)), w))
    found, enclosure = enclosed(lambda x, w: x @ w.t(), X, W)
    assert [gap.why for gap in enclosure.gaps] == ["its kernel in float64 is off"]
    assert bool(found.error.isinf().all())


def test_a_faulty_product_is_not_asked_again_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    def faulty(x: Tensor, w: Tensor) -> Any:
        return replace(matrices(x, w), times=lambda a, c: a[..., 1:] @ c[..., 1:, :])

    monkeypatch.setattr(products, "matrices", faulty)
    found, enclosure = enclosed(lambda x, w: x @ w.t(), X, W)
    assert [gap.why for gap in enclosure.gaps] == ["a kernel in float64 whose product is another"]
    assert bool(found.error.isinf().all())


def test_nothing_is_left_of_everything() -> None:
    """Where all cancels the wide result is far from the exact one, and no kernel is to blame."""
    found, enclosure = enclosed(lambda x, w: x @ w.t() - torch.stack([r @ w.t() for r in x]), X, W)
    assert enclosure.gaps == []
    holds(found, [[Fraction(0)] * 4] * 4)


def test_other_shapes_and_infinities_do_not_settle() -> None:
    nan, inf = torch.tensor([float("nan")]).double(), torch.tensor([float("inf")]).double()
    for x, mid in ((nan, inf), (inf, nan), (inf, -inf), (inf, torch.ones(1).double()), (torch.ones(1).double(), inf)):
        kept, _ = settled(x, Pair(mid, Ball(torch.zeros(1).double())))
        assert isinstance(kept, Pair) and bool(kept.error.isinf().all())
    kept, far = settled(inf, Pair(inf, Ball(torch.zeros(1).double(), torch.zeros(1).double())))
    assert isinstance(kept, Pair) and float(kept.error) == 0 and not far
