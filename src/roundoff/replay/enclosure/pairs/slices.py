"""Sums of products without error, by slices (Ozaki, Ogita, Oishi and Rump, "Error-free transformations of matrix
multiplication by using fast routines of matrix multiplication", Numer. Algorithms 59 (2012)).

Each operand is cut into slices of so few digits that the products of slices, added n at a time, fit float64: a slice is a
whole multiple of a unit g, of size 2^β g at most, so a sum of n products is a whole multiple of g h of size n 2^(2β) g h at
most, and so is every part of that sum. With n 2^(2β) <= 2^53 all of them are float64 numbers: nothing is rounded, in any
order, fused or not. What is left of the operands after three slices is so small that its product may be rounded.

That the kernel adds products, in any order, is checked: each result must be a whole multiple of its unit, and the first is
held against whole-number arithmetic (``checked``). The others are the same call on operands of the same shape and layout.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from roundoff.replay.enclosure import ball as b
from roundoff.replay.enclosure.ball import Ball, Faulty, Unknown
from roundoff.replay.enclosure.pairs.pair import Pair, finished, two_sum
from roundoff.replay.enclosure.products import Sums, product

#: Sizes beyond 2^±300 are not cut up: their slices could leave the range of float64.
_RANGE = 300


@dataclass(frozen=True)
class Scaled:
    """How the operands are scaled: over which dimensions each has one unit, and the shape in which units meet."""

    x: list[int]
    w: list[int]
    meet: tuple[tuple[int, ...], tuple[int, ...]] | None = None  # None: as they are


def bits(n: int) -> int:
    """β: the digits of a slice, where n products are added."""
    return (53 - max(n - 1, 0).bit_length()) // 2


def power_of_two(exponent: Tensor) -> Tensor:
    """2 to whole numbers from -1022 to 1023, made of its bits."""
    return ((exponent.to(torch.int64) + 1023) << 52).view(torch.float64)


def cut(x: Tensor, dims: list[int], beta: int) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Three slices of ``x`` and their units, and what is left; the sum is x exactly.

    x / g is scaled by a power of 2 and rounded to a whole number, both without error. x and the slice are multiples of
    x's last place, and their difference is no larger than x: it is a float64 number too.
    """
    largest = x.abs().amax(dims, True) if x.numel() else x.abs().sum(dims, True)
    if not bool(largest.isfinite().all()):
        raise Unknown("a product of numbers that are not finite")
    exponent = torch.frexp(largest)[1].clamp_min(-_RANGE)
    if x.numel() and int(exponent.max()) > _RANGE:
        raise Unknown("a product of numbers that large")
    slices, units, left = [], [], x
    for i in range(3):
        unit = power_of_two(exponent - beta - i * (beta + 1))
        whole = (left / unit).round_()
        slices.append(whole * unit)
        units.append(unit)
        left = left - slices[-1]
    return slices, units, left


def multiplied(x: Tensor, w: Tensor, sums: Sums, scaled: Scaled) -> Pair:
    """x w: six products of slices without error, the rest rounded; all added by two-sums. Raises Unknown."""
    beta = bits(sums.roundings)
    if beta < 8:
        raise Unknown("sums of so many products")
    (xs, gx, x4), (ws, gw, w4) = cut(x, scaled.x, beta), cut(w, scaled.w, beta)
    own = gx, gw
    if scaled.meet is not None:
        gx, gw = [g.reshape(scaled.meet[0]) for g in gx], [g.reshape(scaled.meet[1]) for g in gw]
    parts: list[Tensor] = []
    x_none, w_none = [not bool(s.any()) for s in xs], [not bool(s.any()) for s in ws]
    for i, j in ((0, 0), (0, 1), (1, 0), (0, 2), (1, 1), (2, 0)):
        if x_none[i] or w_none[j]:
            continue
        part = sums.times(xs[i], ws[j])
        unit = gx[i] * gw[j]
        count = part / unit
        if not bool(((count == count.round()) & (count.abs() <= 2.0**53)).all()):
            raise Faulty("a kernel that does not add its products")
        if not parts and not sums.holds(*(t.to(torch.int64) for t in (xs[i] / own[0][i], ws[j] / own[1][j], count))):
            raise Faulty("a kernel in float64 whose product is another")
        parts.append(part)
    x3, w3 = xs[2] + x4, ws[2] + w4  # what was left after two slices: float64 numbers, see cut
    rest = [(xs[0], w4), (xs[1], w3), (x3, w - ws[0]), (x4, ws[0])]
    tail: Ball | None = None
    for left, right in rest:
        if bool(left.any()) and bool(right.any()):
            more = product(Ball(left), Ball(right), sums)
            tail = more if tail is None else b.add(tail, more)
    if not parts:
        parts = [sums.times(torch.zeros_like(x), torch.zeros_like(w))]
    total = parts[0]
    for part in parts[1:]:
        total, e = two_sum(total, part)
        tail = Ball(e) if tail is None else b.add(tail, Ball(e))
    return finished(total, Ball(torch.zeros_like(total)) if tail is None else tail)
