"""Pairs: numbers in about twice the digits of float64, with a rigorous error.

A pair is an unevaluated sum, as in double-double arithmetic (Dekker, "A floating-point technique for extending the
available precision", Numer. Math. 18 (1971)): a float64 midpoint, and a tail that is itself a ball. The exact number is
within ``tail.rad`` of mid + tail.mid. What float64 loses in an operation on the midpoints is had by error-free
transformations (Ogita, Rump and Oishi, "Accurate sum and dot product", SIAM J. Sci. Comput. 26 (2005), algorithms 3.1 to
3.5) or as a residual; it goes into the tail, and so does what the operation makes of the operands' tails. All of that is
arithmetic on balls, whose radii are rigorous: no bound of a whole algorithm is needed. As the tails are smaller than the
midpoints by 2^-53, so are their rounding errors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from roundoff.replay.enclosure import ball as b
from roundoff.replay.enclosure.ball import TINY, Ball, given_infinite
from roundoff.replay.enclosure.functions import sqrt_of
from roundoff.replay.enclosure.pairs.written import meant


@dataclass(frozen=True)
class Pair:
    """Exact numbers within ``tail.rad`` of mid + tail.mid; they are ``mid`` where there is no tail.

    It has no radius of its own on purpose: code that is written for balls must not take it for one.
    """

    mid: Tensor
    tail: Ball | None = None

    @property
    def low(self) -> Tensor:
        """The tail's midpoint."""
        return torch.zeros_like(self.mid) if self.tail is None else self.tail.mid

    @property
    def error(self) -> Tensor:
        """How far mid + low can be from the exact number."""
        return torch.zeros_like(self.mid) if self.tail is None else self.tail.radius


def rough(x: Pair) -> Ball:
    """The ball around the midpoint in which the pair lies."""
    if x.tail is None:
        return Ball(x.mid)
    rad = b.up(x.tail.size)
    return Ball(x.mid, rad, (b.l2(x.tail.mid) + x.tail.far) * (1 + 2.0**-40))


def plain(x: Pair) -> Ball:
    """The same numbers as a ball around mid + low, rounded."""
    return Ball(x.mid) if x.tail is None else b.add(Ball(x.mid), x.tail)


def of_ball(x: Ball) -> Pair:
    """A ball as a pair."""
    return Pair(x.mid, None if x.rad is None else Ball(torch.zeros_like(x.mid), x.rad, x.norm))


def without_error(x: Pair) -> Pair:
    """The pair of mid + low itself."""
    return x if x.tail is None or x.tail.rad is None else Pair(x.mid, Ball(x.tail.mid))


def two_sum(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """x + y = s + e exactly (Knuth; algorithm 3.1)."""
    s = x + y
    part = s - x
    return s, (x - (s - part)) + (y - part)


_SPLITTER = 2.0**27 + 1


def _split(x: Tensor) -> tuple[Tensor, Tensor]:
    c = x * _SPLITTER
    high = c - (c - x)
    return high, x - high


def two_product(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x y = p + e within the last result: exactly, but for underflow (Dekker and Veltkamp; algorithm 3.3).

    Where a factor is above 2^996, e is not a number.
    """
    p = x * y
    x1, x2 = _split(x)
    y1, y2 = _split(y)
    e = x2 * y2 - (((p - x1 * y1) - x2 * y1) - x1 * y2)
    return p, e, ((x != 0) & (y != 0)).to(torch.float64) * TINY


def finished(mid: Tensor, tail: Ball, *given: Pair, signs: bool = False) -> Pair:
    """The result with the tail ``tail``. An infinity that was given is exact; one that was not is an overflow.

    ``signs``: the sign of each operand decides which infinity it is, as in a product.
    """
    fine = mid.isfinite() & tail.mid.isfinite()
    if bool(fine.all()):
        return Pair(mid, b.tight(tail))
    exact = ~mid.isfinite() & torch.as_tensor(given_infinite([rough(x) for x in given], signs), device=mid.device)
    rad = torch.where(fine, tail.radius, torch.where(exact, 0.0, inf)).expand(mid.shape)
    return Pair(mid, Ball(torch.where(fine, tail.mid, 0.0), rad))


def no_worse(x: Pair, ball: Ball) -> Pair:
    """``x``, or where it is smaller the radius of ``ball``, which holds the same exact numbers."""
    if x.tail is None:
        return x
    radius = b.up(b.gap(x.mid, ball.mid) + ball.radius)
    worse = ~(x.tail.radius <= radius)
    if not bool(worse.any()):
        return x
    return Pair(x.mid, Ball(torch.where(worse, 0.0, x.tail.mid), torch.where(worse, radius, x.tail.radius)))


def _joined(*tails: Ball | None) -> Ball:
    found = [t for t in tails if t is not None]
    total = found[0]
    for t in found[1:]:
        total = b.add(total, t)
    return total


def number(value: object, like: Tensor) -> Pair:
    """A number written in Python, see :func:`meant`."""
    high, low, error = meant(value)
    mid = torch.full((), high, dtype=torch.float64, device=like.device)
    if low == 0 and error == 0:
        return Pair(mid)
    return Pair(mid, Ball(torch.full_like(mid, low), torch.full_like(mid, error)))


def add(x: Pair, y: Pair) -> Pair:
    """x + y."""
    s, e = two_sum(x.mid, y.mid)
    return finished(s, _joined(Ball(e), x.tail, y.tail), x, y)


def neg(x: Pair) -> Pair:
    """-x."""
    return Pair(-x.mid, None if x.tail is None else b.neg(x.tail))


def sub(x: Pair, y: Pair) -> Pair:
    """x - y."""
    return add(x, neg(y))


def mul(x: Pair, y: Pair) -> Pair:
    """x y = p + e + x t_y + t_x (y + t_y)."""
    p, e, lost = two_product(x.mid, y.mid)
    first = None if y.tail is None else b.mul(Ball(x.mid), y.tail)
    second = None if x.tail is None else b.mul(x.tail, rough(y))
    return finished(p, _joined(Ball(e, lost), first, second), x, y, signs=True)


def square(x: Pair) -> Pair:
    """x² = p + e + t (2 x + t)."""
    p, e, lost = two_product(x.mid, x.mid)
    second = None if x.tail is None else b.mul(x.tail, b.add(Ball(x.mid), rough(x)))
    return finished(p, _joined(Ball(e, lost), second), x)


def div(x: Pair, y: Pair) -> Pair:
    """x / y = q + (x - q y) / y, where q is the quotient of the midpoints."""
    q = x.mid / y.mid
    p, e, lost = two_product(q, y.mid)
    of_y = None if y.tail is None else b.neg(b.mul(Ball(q), y.tail))
    left = _joined(b.sub(Ball(x.mid), Ball(p)), Ball(-e, lost), x.tail, of_y)
    return finished(q, b.div(left, rough(y)), x, y, signs=True)


def sqrt(x: Pair, known: bool = False) -> Pair:
    """√x = s + (x - s²) / (√x + s); ``known``: the exact number is not negative, whatever the pair reaches."""
    around = rough(x)
    root = sqrt_of(around, known)
    s = root.mid
    p, e, lost = two_product(s, s)
    left = _joined(b.sub(Ball(x.mid), Ball(p)), Ball(-e, lost), x.tail)
    tail = b.div(left, b.add(root, Ball(s)))
    nothing = (x.mid == 0) & (around.radius == 0)
    if bool(nothing.any()):
        tail = Ball(tail.mid.masked_fill(nothing, 0.0), tail.radius.masked_fill(nothing, 0.0))
    return no_worse(finished(s, tail, x), root)


def rsqrt(x: Pair) -> Pair:
    """1/√x = y + (1 - x y²) / (√x (1 + y √x)), where y is that of the midpoint."""
    y = x.mid.rsqrt()
    one = Pair(torch.ones((), dtype=torch.float64, device=y.device))
    left = plain(sub(one, mul(square(Pair(y)), x)))
    root = sqrt_of(rough(x))
    below = b.mul(root, b.add(Ball(one.mid), b.mul(Ball(y), root)))
    return finished(y, b.div(left, below), x)


def moved(x: Pair, move: Callable[[Tensor], Tensor], once: bool = True) -> Pair:
    """Numbers that are moved; ``once``: each to one place at most."""
    if x.tail is None:
        return Pair(move(x.mid))
    rad = None if x.tail.rad is None else move(x.tail.rad)
    return Pair(move(x.mid), Ball(move(x.tail.mid), rad, x.tail.norm if once else None))


def total(x: Pair, dims: list[int], keep: bool = False) -> Pair:
    """The sum along ``dims``, by halves; what each addition loses is had exactly, and summed itself."""
    dims = sorted(d % x.mid.dim() for d in dims) if x.mid.dim() else []
    rest = [d for d in range(x.mid.dim()) if d not in dims]
    shape = [1 if d in dims else n for d, n in enumerate(x.mid.shape)]
    shape = shape if keep else [x.mid.shape[d] for d in rest]
    s = x.mid.permute(*rest, *dims).reshape(*(x.mid.shape[d] for d in rest), -1)
    lost = []
    while s.shape[-1] > 1:
        half = s.shape[-1] // 2
        added, e = two_sum(s[..., :half], s[..., half : 2 * half])
        lost.append(e)
        s = torch.cat([added, s[..., 2 * half :]], -1)
    s = s.sum(-1).reshape(shape)  # of one number, or of none
    tail = Ball(torch.zeros_like(s))
    if lost:
        of_sums = b.total(Ball(torch.cat(lost, -1)), [-1])
        tail = b.map_exact(of_sums, lambda t: t.reshape(shape))
    return finished(s, _joined(tail, None if x.tail is None else b.total(x.tail, dims, keep)))


def mean(x: Pair, dims: list[int], keep: bool = False) -> Pair:
    """The mean along ``dims``."""
    s = total(x, dims, keep)
    n = x.mid.numel() / max(s.mid.numel(), 1)
    return div(s, Pair(torch.full((), float(n), dtype=torch.float64, device=x.mid.device)))


def normal(x: Pair) -> Pair:
    """The same numbers with a midpoint that is mid + low, rounded: then low decides no comparison but ties."""
    if x.tail is None:
        return x
    s, e = two_sum(x.mid, x.tail.mid)
    fine = s.isfinite() & e.isfinite()
    return Pair(torch.where(fine, s, x.mid), Ball(torch.where(fine, e, x.tail.mid), x.tail.rad, x.tail.norm))


def clamped(x: Pair, least: float | None, most: float | None) -> Pair:
    """x between two exact limits. It moves by no more than x does, and not at all where it is cut off for certain."""
    x = normal(x)
    s, e = x.mid, x.low
    rad = None if x.tail is None else x.tail.rad
    for limit, sign in ((least, 1.0), (most, -1.0)):
        if limit is None:
            continue
        # s is s + e rounded, so that e decides only where s is the limit itself
        cut = (sign * (s - limit) < 0) | ((s == limit) & (sign * e <= 0))
        if rad is not None:
            away = sign * (limit - s) - (e.abs() + rad) - (s.abs() + abs(limit)) * 2.0**-50
            rad = torch.where(away > 0, 0.0, rad)
        s, e = torch.where(cut, limit, s), torch.where(cut, 0.0, e)
    return Pair(s) if x.tail is None else finished(s, Ball(e, rad, x.tail.norm), x)
