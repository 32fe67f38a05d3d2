"""Numbers with a rigorous error: a ball is a float64 midpoint and a radius within which the exact number lies.

Midpoints are computed in float64 as they are; radii bound what their operands' radii become and what float64 rounded on
the way (Rump, "Verification methods", Acta Numerica 2010, §9; running error analysis: Higham, Accuracy and Stability of
Numerical Algorithms (2002), §3.3). Radii are themselves computed in float64, from terms that are not negative, so each
is off by at most a few u of itself: it is enlarged by 2^-40, and by its γ_n where it is a sum of n.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import frexp, inf, prod
from typing import Any

import torch
from torch import Tensor

from roundoff.formats import U64

#: Added wherever a product may underflow: more than all that can be lost, and nothing beside any number that matters.
TINY = 2.0**-1000

#: Stands for slopes that underflow.
SMALLEST = 2.0**-1022

_SLACK = 2.0**-40

#: How far a number written in Python may be from the one that was meant: two roundings, as in ``1 / math.sqrt(d)``.
_WRITTEN = 2 * U64


class Unknown(Exception):
    """Nothing rigorous is known of what this step does to errors."""


class Uncertain(Unknown):
    """It hangs on radii: smaller ones may tell."""


class Faulty(Unknown):
    """A kernel in float64 did not give what it is there for: no other bound of the same kernel will do."""


@dataclass(frozen=True)
class Ball:
    """Exact numbers within ``rad`` of ``mid``; ``rad`` has its shape, and is None where ``mid`` is exact.

    ``norm``, where it is known, bounds the error of all numbers together, in the 2-norm: a matrix turns errors of many
    signs into each other, and its norm says how far they can grow, where radii, which have no signs, grow by the sum of
    its magnitudes. The radius of an integer or a boolean is 0, or infinite where it may be another.
    """

    mid: Tensor
    rad: Tensor | None = None
    norm: float | None = None

    @property
    def radius(self) -> Tensor:
        """The radius as a tensor."""
        return torch.zeros_like(self.mid, dtype=torch.float64) if self.rad is None else self.rad

    @property
    def far(self) -> float:
        """How far all numbers together can be off, in the 2-norm."""
        if self.rad is None:
            return 0.0
        own = l2(self.rad)
        return own if self.norm is None else min(own, self.norm)

    @property
    def size(self) -> Tensor:
        """The largest that its magnitude can be."""
        size = self.mid.abs()
        return size if self.rad is None else size + self.rad


def gamma(n: float) -> float:
    """γ_n in float64 (Higham §3.1), as a number that is not below it."""
    nu = n * U64
    return nu / (1 - nu) * (1 + _SLACK) if nu < 0.5 else inf


def l2(x: Tensor) -> float:
    """‖x‖₂ of all its numbers, rounded up; they are scaled, so that no square that matters underflows."""
    largest = float(x.abs().max()) if x.numel() else 0.0
    if largest == 0:
        return 0.0
    if not largest < inf:
        return inf
    return float((x / largest).square().sum().sqrt()) * largest * (1 + _SLACK + gamma(x.numel() + 8)) + TINY


def grown(norm: float, factor: Tensor | float) -> float:
    """``norm`` times the largest of ``factor``; nothing times anything is nothing."""
    if norm in (0, inf) or (isinstance(factor, Tensor) and not factor.numel()):
        return norm  # nothing is known of what is unknown, even where it is multiplied by nothing
    largest = float(factor.max()) if isinstance(factor, Tensor) else factor
    if largest != largest:
        return inf
    return norm * largest * (1 + _SLACK) if largest else 0.0


def copied(x: Ball, shape: torch.Size) -> float:
    """``x.far`` once it is broadcast to ``shape``: each copy counts."""
    return grown(x.far, (prod(shape) / max(x.mid.numel(), 1)) ** 0.5)


def tight(x: Ball) -> Ball:
    """No number is further off than all of them together."""
    if x.rad is None or x.norm is None:
        return x
    return Ball(x.mid, x.rad.clamp_max(x.norm), min(x.norm, l2(x.rad)))


def up(rad: Tensor, n: float = 0) -> Tensor:
    """A radius, enlarged by what computing it, as a sum of ``n``, may have lost."""
    return (rad * (1 + _SLACK + 2 * gamma(n + 16))).nan_to_num_(nan=inf, posinf=inf)


def number(value: Any, like: Tensor) -> Ball:
    """A number written in Python. Where it has more digits than float32 it stands for a real number beside it."""
    if isinstance(value, complex):
        raise Unknown("complex numbers")
    mid = torch.full((), float(value), dtype=torch.float64, device=like.device)
    digits = frexp(float(value))[0] * 2.0**24 if abs(float(value)) < inf else 0.0
    return Ball(mid) if digits == round(digits) else Ball(mid, (mid.abs() * _WRITTEN))


def given_infinite(given: Sequence[Ball], signs: bool) -> Any:
    """Where a result that is not finite is exact: an operand was infinite or NaN, exactly, and none is unknown.

    ``signs``: the sign of each operand decides too, as in a product.
    """
    came: Any = False
    unsure: Any = False
    for x in given:
        odd = ~x.mid.isfinite()
        came = came | odd
        if x.rad is not None:
            unsure = unsure | (odd & (x.rad != 0))
            if signs:
                unsure = unsure | (~odd & (x.rad != 0) & ~(x.mid.abs() > x.rad))
    return came & ~torch.as_tensor(unsure)


def elementwise(mid: Tensor, rad: Tensor, *given: Ball, norm: float | None = None, signs: bool = False) -> Ball:
    """The ball of an elementwise result. An infinity that was given is exact; one that was not is an overflow."""
    rad = up(rad).expand(mid.shape)
    if not bool(mid.isfinite().all()):
        rad = torch.where(mid.isfinite(), rad, torch.where(given_infinite(given, signs), 0.0, inf))
        norm = None
    return Ball(mid, rad, norm if norm is None else norm * (1 + _SLACK))


def summed(mid: Tensor, rad: Tensor, n: float, norm: float | None = None) -> Ball:
    """The ball of a result that is a sum of ``n``."""
    rad = torch.where(mid.isfinite(), up(rad, n), inf)
    return Ball(mid, rad, norm if norm is None else norm * (1 + _SLACK))


def gap(a: Tensor, b: Tensor) -> Tensor:
    """|a - b|; 0 where both are the same infinity or NaN."""
    if not a.is_floating_point():
        return torch.where(a == b, 0.0, inf).to(torch.float64)
    same = (a == b) | (a.isnan() & b.isnan())
    return torch.where(same, 0.0, up((a - b).abs()))


def _tiny(where: Tensor) -> Tensor:
    """What a product may lose where it underflows."""
    return where.to(torch.float64) * TINY


# -- arithmetic -------------------------------------------------------------------------------------------------------


def add(x: Ball, y: Ball) -> Ball:
    """x + y. What float64 lost is had exactly, by Knuth's two-sum (Higham §4.3)."""
    s = x.mid + y.mid
    part = s - x.mid
    own = ((x.mid - (s - part)) + (y.mid - part)).abs_()
    norm = copied(x, s.shape) + copied(y, s.shape) + l2(own)
    return elementwise(s, own + x.radius + y.radius, x, y, norm=norm)


def neg(x: Ball) -> Ball:
    """-x."""
    return Ball(-x.mid, x.rad, x.norm)


def sub(x: Ball, y: Ball) -> Ball:
    """x - y."""
    return add(x, neg(y))


def mul(x: Ball, y: Ball) -> Ball:
    """x y, for x and y that may be off independently."""
    p = x.mid * y.mid
    rad = own = p.abs() * U64 + _tiny((x.size > 0) & (y.size > 0))
    if x.rad is not None:
        rad = rad + x.rad * y.mid.abs()
    if y.rad is not None:
        rad = rad + x.size * y.rad
    norm = grown(copied(x, p.shape), y.mid.abs()) + grown(copied(y, p.shape), x.size) + l2(own)
    return elementwise(p, rad, x, y, norm=norm, signs=True)


def square(x: Ball) -> Ball:
    """x²."""
    p = x.mid.square()
    own = p * U64 + _tiny(x.size > 0)
    steep = 2 * x.mid.abs() + x.radius
    return elementwise(p, own + x.radius * steep, x, norm=grown(x.far, steep) + l2(own))


def div(x: Ball, y: Ball) -> Ball:
    """x / y; nothing is known where y may be 0."""
    q = x.mid / y.mid
    own = q.abs() * U64 + _tiny(x.size > 0)
    if x.rad is None and y.rad is None:
        return elementwise(q, own, x, y, signs=True)
    least = y.mid.abs() * (1 - 4 * U64) - y.radius
    inverse = torch.where(least > 0, 1 / least, inf) * (1 + 4 * U64)
    # r / y first, which is no number that can underflow beside q
    rad = own + x.radius * inverse + torch.where(y.radius > 0, q.abs() * (inverse * y.radius), 0.0)
    steep = (inverse * q.abs() * (1 + 4 * U64)).clamp_min(SMALLEST)
    norm = grown(copied(x, q.shape), inverse.clamp_min(SMALLEST)) + grown(copied(y, q.shape), steep) + l2(own)
    return elementwise(q, rad, x, y, norm=norm, signs=True)


def map_exact(x: Ball, move: Callable[[Tensor], Tensor]) -> Ball:
    """What moves numbers, each to one place at most, and computes none moves their radii likewise."""
    return Ball(move(x.mid), None if x.rad is None else move(x.rad), x.norm)


def total(x: Ball, dims: list[int], keep: bool = False) -> Ball:
    """The sum along ``dims``, in any order: γ_n Σ|x| (Higham §4.2)."""
    mid = x.mid.sum(dims, keep)
    n = x.mid.numel() / max(mid.numel(), 1)
    own = up((x.mid.abs() * gamma(n)).sum(dims, keep), n)
    norm = grown(x.far, n**0.5) + l2(own)
    return summed(mid, own if x.rad is None else own + x.rad.sum(dims, keep), n, norm)


def mean(x: Ball, dims: list[int], keep: bool = False) -> Ball:
    """The mean along ``dims``."""
    s = total(x, dims, keep)
    n = x.mid.numel() / max(s.mid.numel(), 1)
    return div(s, Ball(torch.full((), float(n), dtype=torch.float64, device=x.mid.device)))


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
