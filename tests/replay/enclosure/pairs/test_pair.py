"""Arithmetic on pairs against exact fractions."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from math import isqrt

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from roundoff.replay.enclosure.ball import Ball
from roundoff.replay.enclosure.pairs import pair as p
from roundoff.replay.enclosure.pairs.pair import Pair

HUNT = settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

numbers = st.floats(-1e30, 1e30, allow_subnormal=False) | st.sampled_from(
    [0.0, 1.0, -1.0, 0.1, 1e-200, -3e150, 3.0, 2.0**-53, 1 + 2.0**-52, 5e-324, 1e-310]
)
lows = st.sampled_from([0.0, 2.0**-53, -(2.0**-53), 1e-17, -3e-20, 1e-3])
errors = st.sampled_from([0.0, 0.0, 1e-32, 1e-20, 1e-5])
ends = st.sampled_from([-1, 1, 0])
drawn = st.tuples(numbers, lows, errors, ends)

Drawn = tuple[float, float, float, int]


def made(given: Drawn) -> tuple[Pair, Fraction]:
    """A pair of one number, and an exact number in it."""
    a, low, error, end = given
    mid = torch.tensor([a], dtype=torch.float64)
    if low == 0 and error == 0:
        return Pair(mid), Fraction(a)
    tail = Ball(mid * low, mid.abs() * error if error else None)
    return Pair(mid, tail), Fraction(a) + Fraction(float(tail.mid)) + end * Fraction(float(tail.radius))


def off(x: Pair, exact: Fraction) -> Fraction:
    return abs(Fraction(float(x.mid)) + Fraction(float(x.low)) - exact)


def holds(x: Pair, exact: Fraction) -> bool:
    radius = float(x.error)
    return radius == float("inf") or off(x, exact) <= Fraction(radius)


def root(x: Fraction) -> Fraction:
    """√x, below it by 2^-400 or 2^-300 of it at most."""
    scaled = (x.numerator << 2200) // x.denominator
    return Fraction(isqrt(scaled), 1 << 1100)


TWO: dict[str, tuple[Callable[[Pair, Pair], Pair], Callable[[Fraction, Fraction], Fraction]]] = {
    "add": (p.add, lambda x, y: x + y),
    "sub": (p.sub, lambda x, y: x - y),
    "mul": (p.mul, lambda x, y: x * y),
    "div": (p.div, lambda x, y: x / y),
    "square": (lambda x, y: p.square(x), lambda x, y: x * x),
    "normal": (lambda x, y: p.normal(x), lambda x, y: x),
    "sqrt": (lambda x, y: p.sqrt(x), lambda x, y: root(x)),
    "rsqrt": (lambda x, y: p.rsqrt(x), lambda x, y: 1 / root(x)),
    "relu": (lambda x, y: p.clamped(x, 0, None), lambda x, y: max(x, Fraction(0))),
    "relu6": (lambda x, y: p.clamped(x, 0, 6), lambda x, y: min(max(x, Fraction(0)), Fraction(6))),
}


@pytest.mark.parametrize("name", TWO)
def test_two_numbers(name: str) -> None:
    on_pairs, exactly = TWO[name]
    looked = 0

    @HUNT
    @given(drawn, drawn)
    def hunt(a: Drawn, c: Drawn) -> None:
        nonlocal looked
        (x, at_x), (y, at_y) = made(a), made(c)
        if (name == "div" and at_y == 0) or ("sqrt" in name and (at_x <= 0 or a[0] < 1e-300)):
            return
        found = on_pairs(x, y)
        if not bool(found.mid.isfinite().all()):
            return
        exact = exactly(at_x, at_y)
        # a root by isqrt is itself off by a little
        slack = exact * Fraction(1, 1 << 300) if "sqrt" in name else Fraction(0)
        assert float(found.error) == float("inf") or off(found, exact) <= Fraction(float(found.error)) + slack
        looked += 1

    hunt()
    assert looked > 20


@pytest.mark.parametrize("name", ["add", "mul", "div", "square", "sqrt", "rsqrt"])
def test_twice_the_digits(name: str) -> None:
    """Radii are some 2^-100 of the results, so that one of 2^-106 is found to be too small."""
    g = torch.Generator().manual_seed(0)
    x, y = (torch.rand(200, generator=g, dtype=torch.float64) + 0.5 for _ in range(2))
    tails = [torch.randn(200, generator=g, dtype=torch.float64) * 2.0**-54 for _ in range(2)]
    found = TWO[name][0](Pair(x, Ball(tails[0])), Pair(y, Ball(tails[1])))
    assert float((found.error / found.mid).max()) < 2.0**-98
    worst = Fraction(0)
    for i in range(200):
        at_x, at_y = (Fraction(float(m[i])) + Fraction(float(t[i])) for m, t in zip((x, y), tails, strict=True))
        exact = TWO[name][1](at_x, at_y)
        error = abs(Fraction(float(found.mid[i])) + Fraction(float(found.low[i])) - exact)
        assert error <= Fraction(float(found.error[i]))
        worst = max(worst, error / exact)
    assert worst > Fraction(1, 1 << 112)  # something is lost, so that a radius of nothing would be found


def test_errors_of_the_operands_come_through() -> None:
    x = Pair(
        torch.ones(1, dtype=torch.float64), Ball(torch.zeros(1, dtype=torch.float64), torch.full((1,), 1e-3).double())
    )
    for name, slope in (("mul", 2), ("square", 2), ("add", 2), ("sqrt", 0.5), ("rsqrt", 0.5)):
        assert slope * 1e-3 <= float(TWO[name][0](x, x).error) < slope * 1.01e-3


def rows(seed: int, n: int, decades: float) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    powers = 10 ** ((torch.rand(3, n, generator=g, dtype=torch.float64) - 0.5) * decades)
    return torch.randn(3, n, generator=g, dtype=torch.float64) * powers


@pytest.mark.parametrize("decades", [0, 12, 60])
@pytest.mark.parametrize("n", [1, 2, 7, 300])
def test_sums_and_means(n: int, decades: int) -> None:
    x = rows(n, n, decades)
    tail = Ball(x * 2.0**-54, x.abs() * 1e-40)
    for found, over in ((p.total(Pair(x, tail), [1]), 1), (p.mean(Pair(x, tail), [1]), n)):
        assert found.mid.shape == (3,)
        for i, (row, low) in enumerate(zip(x.tolist(), tail.mid.tolist(), strict=True)):
            exact = (sum(map(Fraction, row)) + sum(map(Fraction, low))) / over
            part = Pair(found.mid[i], Ball(found.low[i], found.error[i]))
            assert holds(part, exact)
            assert float(found.error[i]) <= (n + 8) ** 2 * 2.0**-104 * sum(map(abs, row)) + 1e-290


def test_sums_over_some_dimensions() -> None:
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    for dims in ([0], [1, 3], [-1], [2, 0], [0, 1, 2, 3]):
        for keep in (False, True):
            found = p.total(Pair(x, Ball(x * 1e-17, x.abs() * 1e-30)), dims, keep)
            assert torch.allclose(found.mid, x.sum(dims, keep), rtol=0, atol=1e-12)
            assert found.mid.shape == found.low.shape == found.error.shape == x.sum(dims, keep).shape
    nothing = p.total(Pair(torch.zeros(2, 0, dtype=torch.float64)), [1])
    assert bool((nothing.mid == 0).all()) and bool((nothing.error == 0).all())


def test_infinities_that_were_given_are_exact_and_others_are_not() -> None:
    mask = Pair(torch.tensor([0.0, -float("inf")], dtype=torch.float64))
    x = Pair(torch.ones(2, dtype=torch.float64), Ball(torch.zeros(2).double(), torch.full((2,), 1e-30).double()))
    y = p.add(x, mask)
    assert y.mid[1] == -float("inf") and y.low[1] == 0 and y.error[1] == 0 and 0 < y.error[0] < 2e-30
    huge = Pair(torch.tensor([1e308], dtype=torch.float64))
    for found in (p.add(huge, huge), p.mul(huge, huge), p.square(huge), p.mul(huge, Pair(huge.mid * 1e-300))):
        assert bool(found.error.isinf().all())


def test_a_ball_where_it_is_nearer() -> None:
    x = Pair(torch.zeros(1).double(), Ball(torch.zeros(1).double(), torch.full((1,), 1e-20).double()))
    assert 0 < float(p.sqrt(x, known=True).error) < 1.1e-10
    assert float(p.sqrt(Pair(torch.zeros(1).double())).error) == 0


def test_what_is_cut_off_for_certain_has_no_error() -> None:
    mid = torch.tensor([-1.0, -1e-30, 1e-30, 1.0, 0.0], dtype=torch.float64)
    x = Pair(mid, Ball(torch.zeros(5).double(), torch.full((5,), 1e-29).double()))
    assert p.clamped(x, 0, None).error.tolist() == pytest.approx([0, 1e-29, 1e-29, 1e-29, 1e-29])
    low = Pair(torch.tensor([1e-30]).double(), Ball(torch.tensor([-1.0]).double()))  # -1, all told
    y = p.clamped(low, 0, None)
    assert float(y.mid) + float(y.low) == 0 and float(y.error) == 0
