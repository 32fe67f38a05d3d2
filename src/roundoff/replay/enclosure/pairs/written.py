"""What a number that is written in Python stands for, to more digits than float64 has."""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from math import inf, isfinite, isqrt

from roundoff.formats import U64
from roundoff.replay.enclosure.ball import TINY, Unknown

#: A number that is written with up to so many decimal digits is what somebody wrote: others were computed.
_DIGITS = 12

#: Whole numbers n up to here are looked at: is the number 1/n, √n or 1/√n, to within two roundings?
_WHOLE = 1 << 20

#: How far the rational numbers below are from √n and 1/√n, as a part of them.
_ROOT = 2.0**-110


@lru_cache(4096)
def meant(value: object) -> tuple[float, float, float]:
    """``(high, low, error)``: what ``value`` stands for lies within ``error`` of high + low; ``high`` is ``value``.

    Where it has no more digits than float32 it is itself; where it is short in decimal it is that decimal; where it is
    1/n, √n or 1/√n of a whole n to within two roundings, as in ``1 / math.sqrt(48)``, it is that. Any other number was
    computed in float64, and stands for a real number within two roundings of itself.
    """
    if isinstance(value, complex):
        raise Unknown("complex numbers")
    x = float(value)  # type: ignore[arg-type]
    if not isfinite(x) or x == 0 or not 2.0**-900 < abs(x) < 2.0**900:
        return x, 0.0, 0.0 if not isfinite(x) or x == 0 else abs(x) * 2 * U64 + TINY
    exact = Fraction(x)
    if isinstance(value, int) and value != exact:
        return _around(x, Fraction(value), 0.0)
    if exact.numerator.bit_length() - _trailing(exact.numerator) <= 24:
        return x, 0.0, 0.0
    digits = repr(abs(x)).partition("e")[0].replace(".", "").strip("0")
    if len(digits) <= _DIGITS:
        return _around(x, Fraction(repr(x)), 0.0)
    for candidate, error in _candidates(abs(exact)):
        if abs(candidate - abs(exact)) <= 2 * Fraction(U64) * abs(exact):
            return _around(x, candidate if x > 0 else -candidate, error)
    return x, 0.0, abs(x) * 2 * U64


def _trailing(n: int) -> int:
    return (n & -n).bit_length() - 1


def _candidates(x: Fraction) -> list[tuple[Fraction, float]]:
    found: list[tuple[Fraction, float]] = []
    for inverse in (True, False):
        n = round(1 / x) if inverse else 0
        if 0 < n <= _WHOLE:
            found.append((Fraction(1, n), 0.0))
        n = round(1 / x**2) if inverse else round(x**2)
        if 0 < n <= _WHOLE:
            root = Fraction(isqrt(n << 300), 1 << 150)  # below √n by less than 2^-150
            found.append((1 / root if inverse else root, _ROOT))
    return found


def _around(x: float, exact: Fraction, error: float) -> tuple[float, float, float]:
    left = exact - Fraction(x)
    low = float(left)
    off = abs(left - Fraction(low)) + Fraction(error) * abs(exact)
    above = float(off) * (1 + 2.0**-40)
    return x, low, above if above < inf else inf
