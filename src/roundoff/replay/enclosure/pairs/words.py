"""Double-word arithmetic: numbers as unevaluated sums of two float64 numbers, high + low, with high = fl(high + low).

The algorithms and bounds are those of Joldes, Muller and Popescu, "Tight and rigorous error bounds for basic building blocks
of double-word arithmetic", ACM TOMS 44 (2017), with u = 2^-53: relative errors where nothing under- or overflows. They are
used for functions, on numbers of moderate size; what underflows is below ``TINY``, which is added where it could matter.
"""

from __future__ import annotations

from torch import Tensor

from roundoff.replay.enclosure.pairs.pair import two_product, two_sum

Words = tuple[Tensor, Tensor]


def quick(x: Tensor, y: Tensor) -> Words:
    """x + y = s + e exactly, where |x| >= |y| or x is 0 (algorithm 1)."""
    s = x + y
    return s, y - (s - x)


def plus(x: Words, y: Words) -> Words:
    """x + y, to 3 u² / (1 - 4 u) (algorithm 6)."""
    s, e = two_sum(x[0], y[0])
    t, f = two_sum(x[1], y[1])
    s, e = quick(s, e + t)
    return quick(s, f + e)


def plus_one(x: Words, y: Tensor | float) -> Words:
    """x + y for a float64 number y, to 2 u² (algorithm 4)."""
    s, e = two_sum(x[0], y) if isinstance(y, Tensor) else two_sum(x[0], x[0].new_full((), y))
    return quick(s, x[1] + e)


def times(x: Words, y: Words) -> Words:
    """x y, to 7 u² (algorithm 10, with Dekker's product in place of a fused one)."""
    p, e, _ = two_product(x[0], y[0])
    return quick(p, e + (x[0] * y[1] + x[1] * y[0]))
