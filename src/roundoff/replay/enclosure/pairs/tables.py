"""Numbers that functions are computed from, in two float64 numbers each: by integers, so that their error is known.

Everything is a whole multiple of 2^-_BITS, and each step of a series loses less than one of them.
"""

from __future__ import annotations

from functools import cache
from math import factorial, isqrt

import torch
from torch import Tensor

from roundoff.replay.enclosure.pairs.words import Words

_BITS = 320
_ONE = 1 << _BITS

#: Steps of the table of 2^(j / STEPS), and of that of Φ to the unit.
STEPS = 256
PER_UNIT = 64

#: Φ is tabulated from -REACH to REACH, with so many of its Taylor coefficients, the first of them in two words.
REACH = 12
TERMS = 12
LONG = 6


def _exp(numerator: int, denominator: int) -> int:
    """exp(numerator / denominator), for small arguments directly and for others by halving."""
    halvings = max(0, (abs(numerator) // denominator).bit_length() + 1)
    x = (numerator << _BITS) // (denominator << halvings)
    total = term = _ONE
    n = 0
    while term:
        n += 1
        term = (term * x >> _BITS) // n
        total += term
        if term in (0, -1):
            break
    for _ in range(halvings):
        total = total * total >> _BITS
    return total


@cache
def ln2() -> int:
    """The natural logarithm of 2: 2 artanh(1/3)."""
    total, power, n = 0, (2 << _BITS) // 3, 1
    while power:
        total += power // n
        power, n = power // 9, n + 2
    return total


@cache
def pi() -> int:
    """π, by Machin's formula."""

    def arctan(inverse: int) -> int:
        total, power, n = 0, _ONE // inverse, 1
        while power:
            total += power // n if n % 4 == 1 else -(power // n)
            power, n = power // inverse**2, n + 2
        return total

    return 4 * (4 * arctan(5) - arctan(239))


def words(x: int) -> tuple[float, float]:
    """The two float64 numbers nearest to x 2^-_BITS: off by 2^-106 of it at most."""
    high = x / _ONE  # whole numbers are divided with one rounding
    numerator, denominator = high.as_integer_ratio()
    scaled = (numerator << _BITS) // denominator
    return high, (x - scaled) / _ONE


def _tensor(values: list[int], device: torch.device) -> Words:
    both = [words(v) for v in values]
    high, low = (torch.empty(len(both), dtype=torch.float64) for _ in range(2))
    for i, (a, b) in enumerate(both):
        high[i], low[i] = a, b
    return high.to(device), low.to(device)


@cache
def powers_of_two(device: torch.device) -> Words:
    """2^(j / STEPS) for j from 0 to STEPS - 1."""
    return _tensor([_exp(j * ln2(), STEPS << _BITS) for j in range(STEPS)], device)


@cache
def steps_of_ln2() -> tuple[float, float, float]:
    """ln 2 / STEPS as a sum of three numbers, the first two of 32 bits: exact times whole numbers below 2^21."""
    left, parts = ln2() // STEPS, []
    for bits in (41, 73):  # multiples of 2^-41 and 2^-73, and ln 2 / 256 is below 2^-8
        part = left >> (_BITS - bits) << (_BITS - bits)
        parts.append(part / _ONE)
        left -= part
    return parts[0], parts[1], left / _ONE


@cache
def root_of_two_over_pi() -> tuple[float, float]:
    """√(2 / π)."""
    return words(isqrt((2 << 3 * _BITS) // pi()))


@cache
def normal(device: torch.device) -> tuple[Words, list[Words], list[Tensor]]:
    """Φ at i / PER_UNIT - REACH, and Taylor's coefficients there: (-1)^n He_n φ / (n + 1)!, the first LONG in two words.

    1 - Φ is φ times x + x³/3 + x⁵/15 + ..., whose terms have one sign.
    """
    centres = range(-REACH * PER_UNIT, REACH * PER_UNIT + 1)
    root = isqrt((2 * pi()) << _BITS)
    values, rows = [], []
    for i in centres:
        density = (_exp(-i * i, 2 * PER_UNIT**2) << _BITS) // root
        x = (abs(i) << _BITS) // PER_UNIT
        square = x * x >> _BITS
        total, term, n = 0, x, 1
        while term:
            total += term
            n += 2
            term = (term * square >> _BITS) // n
        half = total * density >> _BITS
        values.append(_ONE // 2 + (half if i >= 0 else -half))
        hermite = [1, i]  # times PER_UNIT^n
        while len(hermite) < TERMS:
            n = len(hermite) - 1
            hermite.append(i * hermite[-1] - n * PER_UNIT**2 * hermite[-2])
        rows.append([(-1) ** n * h * density // (PER_UNIT**n * factorial(n + 1)) for n, h in enumerate(hermite)])
    columns = [_tensor(list(column), device) for column in zip(*rows, strict=True)]
    return _tensor(values, device), columns[:LONG], [high for high, _ in columns[LONG:]]
