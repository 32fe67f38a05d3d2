"""Double-word arithmetic within its bounds, and the tables, against fractions and mpmath."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import pytest
import torch
from mpmath import mp, mpf

from roundoff.replay.enclosure.pairs import tables
from roundoff.replay.enclosure.pairs.pair import two_sum
from roundoff.replay.enclosure.pairs.words import Words, plus, plus_one, quick, times

U2 = Fraction(1, 1 << 106)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def digits() -> Iterator[None]:
    """Enough of them, whatever other tests ask for."""
    with mp.workdps(60):
        yield


def drawn(seed: int, n: int = 3000) -> Words:
    g = torch.Generator().manual_seed(seed)
    high = torch.randn(n, generator=g, dtype=torch.float64) * 2.0 ** torch.randint(-3, 4, (n,), generator=g)
    return two_sum(high, high * 2.0**-53 * (torch.rand(n, generator=g, dtype=torch.float64) * 2 - 1))


def exact(x: Words) -> list[Fraction]:
    return [Fraction(a) + Fraction(c) for a, c in zip(x[0].tolist(), x[1].tolist(), strict=True)]


X, Y = drawn(0), drawn(1)
NEAR = two_sum(-X[0] * 1.001, X[1] * 0.7)  # most of a sum cancels
OPERATIONS: dict[str, tuple[Callable[[], Words], Callable[[Fraction, Fraction], Fraction], Words, int]] = {
    "plus": (lambda: plus(X, Y), lambda a, c: a + c, Y, 4),
    "plus what cancels": (lambda: plus(X, NEAR), lambda a, c: a + c, NEAR, 4),
    "plus one": (lambda: plus_one(X, Y[0]), lambda a, c: a + c, (Y[0], Y[0] * 0), 2),
    "times": (lambda: times(X, Y), lambda a, c: a * c, Y, 7),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_bounds(name: str) -> None:
    op, exactly, other, most = OPERATIONS[name]
    found = op()
    assert torch.equal(found[0] + found[1], found[0])
    worst = Fraction(0)
    for got, a, c in zip(exact(found), exact(X), exact(other), strict=True):
        right = exactly(a, c)
        assert abs(got - right) <= most * U2 * abs(right)
        worst = max(worst, abs(got - right) / abs(right) if right else Fraction(0))
    assert worst > U2 / 100  # what it loses is seen, so that a smaller bound would be found wrong


def test_quick_sums_are_exact() -> None:
    s, e = quick(X[0], X[0] * 1e-5)
    small = (X[0] * 1e-5).tolist()
    assert exact((s, e)) == [Fraction(a) + Fraction(c) for a, c in zip(X[0].tolist(), small, strict=True)]


def near(high: Any, low: Any, right: Any, bits: int = 104) -> None:
    assert abs(mpf(float(high)) + mpf(float(low)) - right) <= abs(right) * mpf(2) ** -bits


def test_constants_and_powers() -> None:
    near(*tables.root_of_two_over_pi(), mp.sqrt(2 / mp.pi))
    one, two, three = tables.steps_of_ln2()
    assert all(int(k * v * 2**80) == k * v * 2**80 for k, v in ((1 << 18, one), (1 << 18, two)))
    assert abs(mpf(one) + mpf(two) + mpf(three) - mp.log(2) / 256) < mpf(2) ** -125
    for k in (3, 12_345, (1 << 19) - 1):
        assert Fraction(k * one) == k * Fraction(one) and Fraction(k * two) == k * Fraction(two)
    high, low = tables.powers_of_two(CPU)
    for j in range(0, 256, 5):
        near(high[j], low[j], mpf(2) ** (mpf(j) / 256))


def test_the_normal_distribution() -> None:
    (high, low), long, short = tables.normal(CPU)
    assert len(long) == tables.LONG and len(long) + len(short) == tables.TERMS
    for i in range(0, len(high), 37):
        x = mpf(i) / tables.PER_UNIT - tables.REACH
        near(high[i], low[i], mp.erfc(-x / mp.sqrt(2)) / 2)
        for n in (0, 1, 4, 5, 8, 11):
            hermite = mp.hermite(n, x / mp.sqrt(2)) / mp.sqrt(2) ** n
            right = (-1) ** n * hermite * mp.npdf(x) / mp.factorial(n + 1)
            if n < tables.LONG:
                near(long[n][0][i], long[n][1][i], right)
            else:
                near(short[n - tables.LONG][i], 0.0, right, 52)
