"""What written numbers stand for."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest

from roundoff.replay.enclosure.ball import Unknown
from roundoff.replay.enclosure.pairs.written import meant


def reach(value: object) -> tuple[Fraction, Fraction]:
    high, low, error = meant(value)
    assert high == value
    return Fraction(high) + Fraction(low), Fraction(error)


@pytest.mark.parametrize("value", [2, 0.5, -3.25, 2.0**-20, 16777215, 0.0])
def test_short_numbers_are_exact(value: float) -> None:
    assert meant(value) == (value, 0.0, 0.0)


@pytest.mark.parametrize("text", ["0.1", "1e-05", "-0.044715", "1e-12", "0.7071067811", "123456789.125"])
def test_decimals(text: str) -> None:
    middle, error = reach(float(text))
    assert abs(middle - Fraction(text)) <= error <= abs(Fraction(text)) / 2**104


@pytest.mark.parametrize("n", [3, 7, 48, 50257, 1 << 20])
@pytest.mark.parametrize("sign", [1, -1])
def test_roots_and_parts_of_whole_numbers(n: int, sign: int) -> None:
    for value in (1 / math.sqrt(n), n**-0.5):
        middle, error = reach(sign * value)
        if not error and middle == sign * Fraction(value):  # the root is whole
            continue
        low, high = ((middle * sign - error) ** 2, (middle * sign + error) ** 2)
        assert low <= Fraction(1, n) <= high and error <= abs(middle) / 2**100
    middle, error = reach(sign * math.sqrt(n))
    assert (abs(middle) - error) ** 2 <= n <= (abs(middle) + error) ** 2
    middle, error = reach(sign / n)
    assert abs(middle - Fraction(sign, n)) <= error <= abs(middle) / 2**100


@pytest.mark.parametrize("value", [math.pi, math.e, 0.1234567890123456, 1 / math.pi, math.sqrt(math.pi)])
def test_others_are_near_what_was_meant(value: float) -> None:
    assert meant(value) == (value, 0.0, value * 2.0**-52)


def test_odd_numbers() -> None:
    assert meant(math.inf) == (math.inf, 0.0, 0.0)
    high, low, error = meant(2**60 + 1)
    assert (high, low, error) == (2.0**60, 1.0, 0.0)
    assert meant(1e-320)[2] > 0
    with pytest.raises(Unknown, match="complex"):
        meant(1j)
