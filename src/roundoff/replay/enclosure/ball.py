"""Numbers with a rigorous error: a ball is a float64 midpoint and a radius within which the exact number lies.

Midpoints are computed in float64 as they are; radii bound what their operands' radii become and what float64 rounded on
the way (Rump, "Verification methods", Acta Numerica 2010, §9; running error analysis: Higham, Accuracy and Stability of
Numerical Algorithms (2002), §3.3). Radii are themselves computed in float64, from terms that are not negative, so each
is off by at most a few u of itself: it is enlarged by 2^-40, and by its γ_n where it is a sum of n.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import frexp, inf
from typing import Any

import torch
from torch import Tensor

from roundoff.formats import U64

#: Added wherever a product may underflow: more than all that can be lost, and nothing beside any number that matters.
TINY = 2.0**-1000

_SLACK = 2.0**-40

#: How far a number written in Python may be from the one that was meant: two roundings, as in ``1 / math.sqrt(d)``.
_WRITTEN = 2 * U64


class Unknown(Exception):
    """Nothing rigorous is known of what this step does to errors."""


@dataclass(frozen=True)
class Ball:
    """Exact numbers within ``rad`` of ``mid``; ``rad`` has its shape, and is None where ``mid`` is exact.

    The radius of an integer or a boolean is 0, or infinite where it may be another.
    """

    mid: Tensor
    rad: Tensor | None = None

    @property
    def radius(self) -> Tensor:
        """The radius as a tensor."""
        return torch.zeros_like(self.mid, dtype=torch.float64) if self.rad is None else self.rad

    @property
    def size(self) -> Tensor:
        """The largest that its magnitude can be."""
        size = self.mid.abs()
        return size if self.rad is None else size + self.rad


def gamma(n: float) -> float:
    """γ_n in float64 (Higham §3.1), as a number that is not below it."""
    nu = n * U64
    return nu / (1 - nu) * (1 + _SLACK) if nu < 0.5 else inf


def up(rad: Tensor, n: float = 0) -> Tensor:
    """A radius, enlarged by what computing it, as a sum of ``n``, may have lost."""
    return (rad * (1 + _SLACK + 2 * gamma(n + 16))).nan_to_num_(nan=inf, posinf=inf)


def number(value: Any, like: Tensor) -> Ball:
    """A number written in Python. Where it has more digits than float32 it stands for a real number beside it."""
    if isinstance(value, complex):
        raise Unknown("complex numbers")
    mid = torch.tensor(float(value), dtype=torch.float64, device=like.device)
    digits = frexp(float(value))[0] * 2.0**24 if abs(float(value)) < inf else 0.0
    return Ball(mid) if digits == round(digits) else Ball(mid, (mid.abs() * _WRITTEN))


def elementwise(mid: Tensor, rad: Tensor, *given: Ball) -> Ball:
    """The ball of an elementwise result. An infinity that was given is exact; one that was not is an overflow."""
    rad = up(rad).expand(mid.shape)
    if not bool(mid.isfinite().all()):
        came: Any = False
        for x in given:
            came = came | ~x.mid.isfinite()
        rad = torch.where(mid.isfinite(), rad, torch.where(torch.as_tensor(came, device=mid.device), 0.0, inf))
    return Ball(mid, rad)


def summed(mid: Tensor, rad: Tensor, n: float) -> Ball:
    """The ball of a result that is a sum of ``n``."""
    return Ball(mid, torch.where(mid.isfinite(), up(rad, n), inf))


def gap(a: Tensor, b: Tensor) -> Tensor:
    """|a - b|; 0 where both are the same infinity or NaN."""
    if not a.is_floating_point():
        return torch.where(a == b, 0.0, inf).to(torch.float64)
    same = (a == b) | (a.isnan() & b.isnan())
    return torch.where(same, 0.0, up((a - b).abs()))


# -- arithmetic -------------------------------------------------------------------------------------------------------


def _both(x: Ball, y: Ball) -> Tensor | float:
    if x.rad is None and y.rad is None:
        return 0.0
    return y.radius if x.rad is None else x.rad if y.rad is None else x.rad + y.rad


def add(x: Ball, y: Ball) -> Ball:
    """x + y. What float64 lost is had exactly, by Knuth's two-sum (Higham §4.3)."""
    s = x.mid + y.mid
    part = s - x.mid
    lost = ((x.mid - (s - part)) + (y.mid - part)).abs_()
    return elementwise(s, lost + _both(x, y), x, y)


def neg(x: Ball) -> Ball:
    """-x."""
    return Ball(-x.mid, x.rad)


def sub(x: Ball, y: Ball) -> Ball:
    """x - y."""
    return add(x, neg(y))


def mul(x: Ball, y: Ball) -> Ball:
    """x y, for x and y that may be off independently."""
    p = x.mid * y.mid
    rad = p.abs() * U64
    if x.rad is not None:
        rad = rad + x.rad * y.mid.abs()
    if y.rad is not None:
        rad = rad + x.size * y.rad
    return elementwise(p, rad + TINY * ((x.size > 0) & (y.size > 0)), x, y)


def square(x: Ball) -> Ball:
    """x²."""
    p = x.mid.square()
    rad = p * U64 + TINY * (x.size > 0)
    if x.rad is not None:
        rad = rad + x.rad * (2 * x.mid.abs() + x.rad)
    return elementwise(p, rad, x)


def div(x: Ball, y: Ball) -> Ball:
    """x / y; nothing is known where y may be 0."""
    q = x.mid / y.mid
    rad = q.abs() * U64 + TINY * (x.size > 0)
    if x.rad is not None or y.rad is not None:
        least = y.mid.abs() - y.radius
        least = least - y.mid.abs() * (4 * U64)
        rad = rad + torch.where(least > 0, (x.radius + q.abs() * (1 + 4 * U64) * y.radius) / least, inf)
    return elementwise(q, rad, x, y)


def map_exact(x: Ball, move: Callable[[Tensor], Tensor]) -> Ball:
    """What moves numbers and computes none moves their radii likewise."""
    return Ball(move(x.mid), None if x.rad is None else move(x.rad))


def product(x: Ball, w: Ball, times: Callable[[Tensor, Tensor], Tensor], roundings: int, scale: float = 1.0) -> Ball:
    """Sums of products of x and w, as ``times`` computes them, each of at most ``roundings`` roundings.

    |Σ x w - Σ x̂ ŵ| <= γ |x||w| + r_x |w| + (|x| + r_x) r_w, each a sum of products again.
    """
    mid = times(x.mid, w.mid)
    first = x.mid.abs() * gamma(roundings)
    rad = times(first if x.rad is None else first + x.rad, w.mid.abs())
    if w.rad is not None:
        rad = rad + times(x.size, w.rad)
    return summed(mid, rad.clamp_min_(0) + roundings * TINY, roundings)


def total(x: Ball, dims: list[int], keep: bool = False) -> Ball:
    """The sum along ``dims``, in any order: γ_n Σ|x| (Higham §4.2)."""
    mid = x.mid.sum(dims, keep)
    n = x.mid.numel() / max(mid.numel(), 1)
    rad = (x.mid.abs() * gamma(n) + x.radius).sum(dims, keep)
    return summed(mid, rad, n)


def mean(x: Ball, dims: list[int], keep: bool = False) -> Ball:
    """The mean along ``dims``."""
    s = total(x, dims, keep)
    n = x.mid.numel() / max(s.mid.numel(), 1)
    return div(s, Ball(torch.tensor(float(n), dtype=torch.float64, device=x.mid.device)))


def largest(x: Ball, dims: list[int], keep: bool = False) -> Ball:
    """The largest along ``dims``: between the largest of the lower ends and that of the upper ends."""
    mid = x.mid.amax(dims, keep)
    if x.rad is None:
        return Ball(mid)
    kept = x.mid.amax(dims, True)
    above = (x.mid - kept).add_(x.rad).add_(x.mid.abs() * (2 * U64)).masked_fill_(x.rad == 0, 0.0)
    # The one at the top may fall by its own radius; another may rise above it.
    fall = torch.where(x.mid == kept, x.rad, inf).amin(dims, True)
    rad = torch.maximum(above.nan_to_num(nan=inf).amax(dims, True).clamp_min_(0), fall)
    return summed(mid, rad.reshape(mid.shape), 1)
