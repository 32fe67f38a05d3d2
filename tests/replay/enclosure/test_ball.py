"""Arithmetic on balls against exact fractions."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from roundoff.formats import U64
from roundoff.replay.enclosure.ball import (
    Ball,
    Unknown,
    add,
    div,
    gamma,
    l2,
    largest,
    mean,
    mul,
    number,
    square,
    sub,
    total,
)

HUNT = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

numbers = st.floats(-1e30, 1e30, allow_subnormal=False) | st.sampled_from([0.0, 1.0, -1.0, 0.1, 1e-200, 1e200, 3.0])
shares = st.sampled_from([0.0, 0.0, 1e-15, 1e-9, 1e-3, 0.4])
ends = st.sampled_from([-1, 1, 0])

OPERATIONS: dict[str, tuple[Callable[[Ball, Ball], Ball], Callable[[Fraction, Fraction], Fraction]]] = {
    "add": (add, lambda x, y: x + y),
    "sub": (sub, lambda x, y: x - y),
    "mul": (mul, lambda x, y: x * y),
    "div": (div, lambda x, y: x / y),
    "square": (lambda x, y: square(x), lambda x, y: x * x),
}


def one(value: float, share: float) -> Ball:
    mid = torch.tensor([value], dtype=torch.float64)
    return Ball(mid, mid.abs() * share if share else None)


def at(x: Ball, end: int) -> Fraction:
    return Fraction(float(x.mid)) + end * Fraction(float(x.radius))


@pytest.mark.parametrize("name", OPERATIONS)
def test_two_numbers(name: str) -> None:
    on_balls, exactly = OPERATIONS[name]

    @HUNT
    @given(numbers, shares, ends, numbers, shares, ends)
    def hunt(a: float, r: float, i: int, b: float, s: float, j: int) -> None:
        x, y = one(a, r), one(b, s)
        if name == "div" and (b == 0 or abs(a) > 1e100 or abs(b) < 1e-100):
            return
        ball = on_balls(x, y)
        if not bool(ball.mid.isfinite().all()):
            return
        exact = exactly(at(x, i), at(y, j))
        assert abs(exact - Fraction(float(ball.mid))) <= Fraction(float(ball.radius))

    hunt()


def test_sums_that_are_exact_have_no_error() -> None:
    x = add(Ball(torch.tensor([0.5, 1e16], dtype=torch.float64)), Ball(torch.tensor([0.25, 1.0], dtype=torch.float64)))
    assert x.radius[0] == 0 and 1 <= x.radius[1] < 1.001


@pytest.mark.parametrize("size", [1e-300, 1e-150, 1e-20, 1e20, 1e150, 1e300])
@pytest.mark.parametrize("other", [1e-300, 1e-150, 1.0, 1e150, 1e300])
def test_wide_exponents(size: float, other: float) -> None:
    """What a slope is made of may underflow where the error does not."""
    x, y = one(size, 1e-9), one(other, 1e-3)
    for name, (on_balls, exactly) in OPERATIONS.items():
        ball = on_balls(x, y)
        for i, j in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
            exact = exactly(at(x, i), at(y, j))
            for reach in (float(ball.radius), float("inf") if ball.norm is None else ball.norm):
                assert reach == float("inf") or abs(exact - Fraction(float(ball.mid))) <= Fraction(reach), name


def test_infinities() -> None:
    """One that was given is exact; an overflow is unknown, and so is what is made of it, and of an uncertain sign."""
    given, big = one(float("inf"), 0), one(1e308, 0)
    assert float(add(given, big).radius) == 0 == float(mul(given, big).radius)
    over = mul(big, big)
    assert float(over.radius) == float("inf")
    for result in (add(over, big), mul(over, big), square(over), div(over, big), div(big, over), sub(over, given)):
        assert float(result.radius) == float("inf")
    unsure = Ball(torch.full((1,), 1e-9).double(), torch.full((1,), 1e-8).double())
    assert float(mul(given, unsure).radius) == float("inf") == float(div(given, unsure).radius)
    assert float(add(given, unsure).radius) == 0


def test_a_divisor_that_may_be_nothing() -> None:
    x = div(Ball(torch.ones(1, dtype=torch.float64)), one(1e-3, 1.1))
    assert bool(x.radius.isinf().all())


def rows(seed: int, n: int, decades: float) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    powers = 10 ** ((torch.rand(3, n, generator=g, dtype=torch.float64) - 0.5) * decades)
    return torch.randn(3, n, generator=g, dtype=torch.float64) * powers


@pytest.mark.parametrize("decades", [0, 12])
@pytest.mark.parametrize("n", [1, 7, 300])
def test_sums_and_means(n: int, decades: int) -> None:
    x = rows(n, n, decades)
    for ball, over in ((total(Ball(x), [1]), 1), (mean(Ball(x), [1]), n)):
        for row, middle, radius in zip(x.tolist(), ball.mid.tolist(), ball.radius.tolist(), strict=True):
            exact = sum(map(Fraction, row)) / over
            assert abs(exact - Fraction(middle)) <= Fraction(radius)
            assert radius <= 2 * gamma(n + 2) * float(sum(map(abs, row))) + 1e-290


def test_the_largest_of_some() -> None:
    x = Ball(
        torch.tensor([[1.0, 0.9, 0.0]], dtype=torch.float64), torch.tensor([[0.01, 0.3, 0.5]], dtype=torch.float64)
    )
    (radius,) = largest(x, [1]).radius.tolist()
    assert abs(radius - 0.2) < 1e-9  # 0.9 + 0.3; the first can fall to 0.99
    (radius,) = largest(Ball(x.mid, torch.tensor([[0.4, 0.0, 0.0]], dtype=torch.float64)), [1]).radius.tolist()
    assert abs(radius - 0.4) < 1e-9


def test_numbers_that_are_written() -> None:
    like = torch.zeros((), dtype=torch.float64)
    for exact in (2, 0.5, -3.25, float("inf"), 1e-5 * 0 + 2.0**-20):
        assert number(exact, like).rad is None
    (third,) = (number(1 / 3, like),)
    assert float(third.radius) == 2 * U64 * float(third.mid)
    with pytest.raises(Unknown, match="complex"):
        number(1j, like)


@pytest.mark.parametrize("scale", [1e-290, 1.0, 1e290])
def test_norms_are_not_below(scale: float) -> None:
    x = rows(1, 50, 3) * scale
    squared = sum(Fraction(v) ** 2 for v in x.flatten().tolist())
    assert squared <= Fraction(l2(x)) ** 2 <= squared * Fraction(1 + 1e-9)


def test_infinities_that_were_given_are_exact_and_others_are_not() -> None:
    mask = Ball(torch.tensor([0.0, -float("inf")], dtype=torch.float64))
    x = Ball(torch.ones(2, dtype=torch.float64), torch.full((2,), 1e-9, dtype=torch.float64))
    assert add(x, mask).radius[1] == 0
    huge: Any = Ball(torch.tensor([1e308], dtype=torch.float64))
    assert bool(add(huge, huge).radius.isinf().all())
