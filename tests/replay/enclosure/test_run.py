"""The enclosure of a whole run: views, operations in place, choices, and what cannot be followed."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import inf
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from roundoff.replay.enclosure import Enclosure
from roundoff.replay.enclosure.ball import Ball
from roundoff.replay.enclosure.radii import Radii
from roundoff.replay.run import Leaf, Side, run_wide
from roundoff.tape.trace import random_state


def enclosed(model: Callable[..., Any], *args: Any) -> tuple[Leaf, Tensor, Enclosure]:
    """The first output, its radius, and the enclosure of the run."""
    enclosure = Enclosure()
    ran, _ = run_wide(Side("A", model, args, {}, random_state()), observe=enclosure, beside=enclosure)
    leaf = next(iter(ran.tensors.values()))
    assert leaf.of is not None
    return leaf, enclosure.value(leaf.of), enclosure


def fractions(x: Tensor) -> list[list[Fraction]]:
    return [[Fraction(v) for v in row] for row in x.tolist()]


def held(leaf: Leaf, radius: Tensor, exact: list[list[Fraction]]) -> float:
    """The largest share of its radius that a wide value is off by."""
    assert leaf.wide is not None
    worst = Fraction(0)
    for mids, rads, row in zip(leaf.wide.tolist(), radius.tolist(), exact, strict=True):
        for m, r, e in zip(mids, rads, row, strict=True):
            assert abs(Fraction(m) - e) <= Fraction(r)
            worst = max(worst, abs(Fraction(m) - e) / Fraction(r) if r else Fraction(0))
    return float(worst)


def product(x: list[list[Fraction]], w: list[list[Fraction]]) -> list[list[Fraction]]:
    return [
        [sum((a * b for a, b in zip(row, col, strict=True)), Fraction(0)) for col in zip(*w, strict=True)] for row in x
    ]


X, W = (torch.randn(4, 6, generator=torch.Generator().manual_seed(s)) for s in (0, 1))


def test_operations_in_place_on_views() -> None:
    def net(x: Tensor, w: Tensor) -> Tensor:
        y = x @ w.t()
        y[:, 0] += y[:, 1] * 0.5
        left = y[:, :2]
        left.mul_(left)
        y.t()[3].neg_()
        y[2:].relu_()
        y.sub_(y[:, 1:2].clone())
        return y

    y = product(fractions(X), [list(c) for c in zip(*fractions(W), strict=True)])
    for row in y:
        row[0] += row[1] / 2
        row[0], row[1] = row[0] ** 2, row[1] ** 2
        row[3] = -row[3]
    for row in y[2:]:
        row[:] = [max(v, Fraction(0)) for v in row]
    exact = [[v - row[1] for v in row] for row in y]
    leaf, radius, enclosure = enclosed(net, X, W)
    assert enclosure.gaps == []
    assert 0 < held(leaf, radius, exact) <= 1
    assert float(radius.max()) < 1e-12


def test_memory_that_is_overwritten_is_exact_again() -> None:
    def net(x: Tensor, w: Tensor) -> Tensor:
        y = x @ w.t()
        y[0] = x[0, :4]
        y[1].zero_()
        y[2].fill_(0.5)
        return y

    _, radius, _ = enclosed(net, X, W)
    assert radius[:3].eq(0).all() and radius[3].gt(0).all()


def test_inputs_and_parameters_start_from_nothing() -> None:
    layer = nn.Linear(6, 3)
    _, radius, _ = enclosed(lambda x: (layer.weight, x.t(), x[1:])[0], X)
    assert bool(radius.eq(0).all())


def test_choices_near_their_threshold_may_be_either() -> None:
    def net(x: Tensor, w: Tensor) -> Tensor:
        y = x @ w.t()
        gap = y - torch.stack([row @ w.t() for row in x])  # zero, as far as float64 can tell
        return torch.where(gap >= 0, y, -y)

    leaf, radius, _ = enclosed(net, X, W)
    assert leaf.wide is not None
    assert bool((radius >= 2 * leaf.wide.abs()).all())


def test_a_number_that_steers_is_told() -> None:
    def net(x: Tensor) -> Tensor:
        return x * 2 if (x.sum() / 3).item() > 0.1 else x

    _, _, enclosure = enclosed(net, X)
    assert any(gap.steers for gap in enclosure.gaps)
    _, _, enclosure = enclosed(lambda x: x * 2 if x[0, 0].item() > 0.1 else x, X)
    assert enclosure.gaps == []  # it is the input's own


def test_what_is_not_known_makes_what_follows_unbounded_and_nothing_else() -> None:
    _, radius, enclosure = enclosed(lambda x, w: torch.cat([(x @ w.t()).sin().fmod(0.3), x[:, :4] * 0.1]), X, W)
    assert [gap.op for gap in enclosure.gaps] == ["aten.fmod.Scalar"]
    assert bool(radius[:4].isinf().all()) and float(radius[4:].max()) < 1e-15


def test_random_draws_are_as_they_were() -> None:
    drop = nn.Dropout(0.5)
    leaf, radius, enclosure = enclosed(lambda x: drop(x * 0.1), X)
    assert enclosure.gaps == [] and leaf.wide is not None
    assert bool(radius[leaf.wide == 0].eq(0).all()) and float(radius.max()) < 1e-14


def test_recurrent_layers_are_written_out() -> None:
    """The same numbers as a cell that is written in Python, within both radii, and both are small."""
    lstm = nn.LSTM(6, 5, batch_first=True).eval()

    def cell(x: Tensor) -> Tensor:
        h = c = torch.zeros(x.shape[0], 5)
        found = []
        for t in range(x.shape[1]):
            gates = x[:, t] @ lstm.weight_ih_l0.t() + lstm.bias_ih_l0 + h @ lstm.weight_hh_l0.t() + lstm.bias_hh_l0
            i, f, g, o = gates.chunk(4, -1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            found.append(h)
        return torch.stack(found, 1)

    x = torch.randn(2, 4, 6)
    with torch.no_grad():
        a, r, _ = enclosed(lambda x: lstm(x)[0], x)
        b, s, _ = enclosed(cell, x)
    assert a.wide is not None and b.wide is not None
    assert bool(((a.wide - b.wide).abs() <= r + s).all())
    assert 0 < float(r.max()) < 1e-12 and 0 < float(s.max()) < 1e-12


@pytest.mark.parametrize("training", [False, True])
def test_statistics_that_are_updated(training: bool) -> None:
    """The second call in training reads what the first has written, and uses its own batch's all the same."""
    norm = nn.BatchNorm1d(6).train(training)
    _, radius, enclosure = enclosed(lambda x: norm(norm(x)), X * 3 + 1)
    assert enclosure.gaps == [] and 0 < float(radius.max()) < 1e-12


def test_statistics_that_were_updated_are_not_known_afterwards() -> None:
    norm = nn.BatchNorm1d(6)

    def net(x: Tensor) -> Tensor:
        norm.train()(x)
        return norm.eval()(x)

    _, radius, _ = enclosed(net, X * 3 + 1)
    norm.train()
    assert bool(radius.isinf().all())


# -- radii by storage --------------------------------------------------------------------------------------------------


def ones(x: Tensor) -> Tensor:
    return torch.ones(x.shape, dtype=torch.float64)


def test_the_radius_of_a_view_is_a_view() -> None:
    radii, x = Radii(), torch.randn(4, 5)
    radii.set(x, Ball(x.double(), ones(x) * 3, 7.0))
    assert radii.ball(x.t()[1:], x.double().t()[1:]).radius.eq(3).all()
    radii.set(x[0], None)
    assert radii.ball(x, x.double()).radius.sum() == 45
    assert radii.ball(x[0], x[0].double()).rad is None
    assert radii.ball(torch.randn(3), torch.randn(3).double()).rad is None


def test_the_norm_of_a_part_is_that_of_the_whole_at_most() -> None:
    radii, x = Radii(), torch.randn(4, 5)
    radii.set(x, Ball(x.double(), ones(x) * 3, 7.0))
    assert radii.ball(x[1:3], x[1:3].double()).far == 7.0
    repeated = x[:1].expand(6, 5)
    assert radii.ball(repeated, repeated.double()).norm is None  # the same error six times
    radii.set(x[0], Ball(x[0].double(), ones(x[0]), 1.0))
    assert radii.ball(x, x.double()).norm == pytest.approx(50**0.5)
    radii.set(x, Ball(x.double(), ones(x), 2.0))
    assert radii.ball(x, x.double()).norm == 2.0


def test_bits_that_are_read_in_another_format_are_unknown() -> None:
    radii, x = Radii(), torch.randn(4)
    radii.set(x, Ball(x.double(), ones(x)))
    y = x.view(torch.int16)
    assert bool((radii.ball(y, y).radius == inf).all())


@pytest.mark.parametrize(
    ("make", "exact"),
    [
        (lambda: torch.arange(7.0), [Fraction(i) for i in range(7)]),
        (lambda: torch.arange(1, 3, 0.25), [1 + Fraction(i, 4) for i in range(8)]),
        (lambda: torch.arange(0, 1, 0.1), [Fraction(i, 10) for i in range(10)]),
        (lambda: torch.linspace(0, 1, 7), [Fraction(i, 6) for i in range(7)]),
        (lambda: torch.full((3,), 0.1), [Fraction(1, 10)] * 3),
    ],
    ids=["whole", "quarters", "tenths", "sixths", "full"],
)
def test_tensors_that_are_made_of_numbers(make: Callable[[], Tensor], exact: list[Fraction]) -> None:
    """A written 0.1 stands for a tenth."""
    leaf, radius, enclosure = enclosed(lambda x: (make() * x[0, 0])[None], torch.ones(1, 1))
    assert enclosure.gaps == []
    held(leaf, radius, [exact])
