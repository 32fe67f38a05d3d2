"""Pairs with an exact number in each, as fractions."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import torch
from torch import Tensor

from roundoff.replay.enclosure.ball import Ball
from roundoff.replay.enclosure.pairs.pair import Pair

Rows = list[list[Fraction]]


def spread(seed: int, shape: tuple[int, ...], error: float, low: float = 2.0**-54) -> tuple[Pair, Rows]:
    """A pair, and exact numbers at the ends of its radii: rows of what is left when all but the first is flattened."""
    g = torch.Generator().manual_seed(seed)
    mid = torch.randn(shape, generator=g, dtype=torch.float64)
    tail = Ball(mid * low * torch.rand(shape, generator=g, dtype=torch.float64), mid.abs() * error if error else None)
    ends = torch.randn(shape, generator=g, dtype=torch.float64).sign()
    rows = [[Fraction(m) + Fraction(t) + Fraction(r) * int(e) for m, t, r, e in zip(*parts, strict=True)]
            for parts in zip(*(p.flatten(1).tolist() for p in (mid, tail.mid, tail.radius, ends)), strict=True)]  # fmt: skip
    return Pair(mid, tail), rows


def inside(found: Pair, exact: Rows) -> bool:
    """True where every exact number lies in its pair."""
    return all(
        abs(Fraction(m) + Fraction(low) - e) <= Fraction(r)
        for rows in zip(found.mid.tolist(), found.low.tolist(), found.error.tolist(), exact, strict=True)
        for m, low, r, e in zip(*rows, strict=True)
    )


def convolved(x: Rows, w: Rows, x_like: Tensor, w_like: Tensor, stride: int, padding: int, dilation: int, groups: int,
              transposed: bool, out: Tensor) -> Rows:  # fmt: skip
    """A convolution of images, by its definition: rows of the results of each."""
    _, channels, high, wide = x_like.shape
    _, second, kh, kw = w_like.shape
    found = [[Fraction(0)] * out[0].numel() for _ in x]
    filters = second * groups if transposed else w_like.shape[0]
    per_in, per_out = channels // groups, filters // groups
    for n, c, i, j, o, a, b in product(
        range(len(x)), range(channels), range(high), range(wide), range(per_out), range(kh), range(kw)
    ):
        group = c // per_in
        if transposed:
            y, z = i * stride + a * dilation - padding, j * stride + b * dilation - padding
            tap = w[c][(o * kh + a) * kw + b]
        else:
            y, z = i + padding - a * dilation, j + padding - b * dilation
            if y % stride or z % stride:
                continue
            y, z = y // stride, z // stride
            tap = w[group * per_out + o][((c % per_in) * kh + a) * kw + b]
        if 0 <= y < out.shape[2] and 0 <= z < out.shape[3]:
            at = ((group * per_out + o) * out.shape[2] + y) * out.shape[3] + z
            found[n][at] += x[n][(c * high + i) * wide + j] * tap
    return found
