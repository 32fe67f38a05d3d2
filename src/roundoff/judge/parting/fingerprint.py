"""The numbers of a tensor in a few numbers: which they are, whatever their order, and how they lie.

Two networks that compute the same hold the same numbers, up to rounding, in whatever layout suits them. So the numbers
are compared as a set (sums of powers do not ask where they are), and the places apart from it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from math import log2

import torch
from torch import Tensor

from roundoff.formats import U64

_GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class Fingerprint:
    """``counts`` (all, NaN, +Inf, -Inf) are exact. ``values`` say which numbers there are, each held against ``sizes``.

    ``places`` changes with how the numbers lie, and ``dims`` are the lengths of the dimensions, sorted, without those of
    length 1. Neither changes when dimensions are permuted: that is layout; so is ``joined``.
    """

    counts: tuple[int, int, int, int]
    values: tuple[float, ...]
    sizes: tuple[float, ...]
    places: float
    places_size: float
    dims: tuple[int, ...]
    joined: tuple[tuple[tuple[int, ...], float], ...] = ()  # (dims, places) with neighbouring dimensions joined

    @property
    def says_little(self) -> bool:
        """True for numbers that are all equal, or one that any network may hold: that others hold them means nothing."""
        if not self.values:
            return True
        largest, least = self.values[:2]
        return largest == least and (self.counts[0] > 1 or largest in (0.0, 1.0, -1.0))

    @property
    def is_mask(self) -> bool:
        """True for at most two different numbers (and infinities): the same mask is made in many ways."""
        if not self.values or self.sizes[0] == 0:
            return True
        n, high, low = self.counts[0], self.values[0] / self.sizes[0], self.values[1] / self.sizes[0]
        total, square = self.values[2:4]  # what is not finite counts as zero
        # The sum of (high - x)(x - low), none of which is negative.
        return abs((high + low) * total - square - n * high * low) <= self.floor * n

    @property
    def floor(self) -> float:
        """What adding up these numbers may itself be off by, relative: a few roundings on each level of the sum."""
        return 8 * U64 * (2 + log2(max(self.counts[0], 1)))

    def strays(self, moved: Fingerprint) -> tuple[float, float]:
        """How far the values and the places are from those of ``moved``, relative."""
        if self.counts != moved.counts:
            return 0.0, 0.0
        pairs = zip(self.values, moved.values, self.sizes, strict=True)
        values = max((abs(x - y) / size for x, y, size in pairs if size > 0), default=0.0)
        return values, abs(self.places - moved.places) / self.places_size if self.places_size > 0 else 0.0


#: The fingerprint of what nobody looked at.
UNKNOWN = Fingerprint((0, 0, 0, 0), (), (), 0.0, 0.0, ())


def fingerprint(y: Tensor) -> Fingerprint:
    """The fingerprint of a floating-point or complex tensor with at least one element."""
    t = _real(y)
    nan = plus = minus = 0
    finite = t.isfinite()
    if not bool(finite.all()):
        nan, plus, minus = int(t.isnan().sum()), int((t == torch.inf).sum()), int((t == -torch.inf).sum())
        t = torch.where(finite, t, 0.0)
    largest, least = float(t.max()), float(t.min())
    size = max(largest, -least)
    s = t / size if size > 0 else t
    square = s.square()
    low = t / (1 + t.abs())  # keeps the rest in sight where a mask holds -1e9
    near, cube = low.abs(), square * s
    sums = [s, square, cube, low, low * near, s.abs(), cube.abs(), near, low.square()]
    one, two, three, four, five, *others = torch.stack([x.sum() for x in sums]).tolist()
    values = (largest, least, one, two, three, four, five)
    sizes = (size, size, others[0], two, others[1], others[2], others[3])
    return Fingerprint(
        (t.numel(), nan, plus, minus), values, sizes, _placed(low), _placed(near), _dims(t), _joined(low)
    )


def relaid(print: Fingerprint, y: Tensor) -> Fingerprint:
    """The fingerprint of ``y``, which are the numbers of ``print`` in another layout."""
    t = _real(y)
    t = torch.where(t.isfinite(), t, 0.0) if any(print.counts[1:]) else t
    low = t / (1 + t.abs())
    joined = _joined(low)
    return replace(print, places=_placed(low), places_size=_placed(low.abs_()), dims=_dims(t), joined=joined)


def _real(y: Tensor) -> Tensor:
    y = y.detach()
    return (torch.view_as_real(y.resolve_conj()) if y.is_complex() else y).to(torch.float64)


def _dims(t: Tensor) -> tuple[int, ...]:
    return tuple(sorted(n for n in t.shape if n > 1))


def _joined(t: Tensor) -> tuple[tuple[tuple[int, ...], float], ...]:
    """Dims and places for every way to join neighbouring dimensions of ``t``, but not all of them."""
    t = t.squeeze()
    if not 3 <= t.dim() <= _MOST:
        return ()
    found = []
    for cuts in range(1, 2 ** (t.dim() - 1) - 1):
        shape = [t.shape[0]]
        for k, n in enumerate(t.shape[1:]):
            if cuts >> k & 1:
                shape.append(n)
            else:
                shape[-1] *= n
        found.append((tuple(sorted(shape)), _placed(t.reshape(shape))))
    return tuple(found)


#: Dimensions of tensors of more than so many are not joined.
_MOST = 5


def _placed(t: Tensor) -> float:
    """The sum of all elements, each times the weights of its indices. All dimensions have the same weights."""
    while t.dim():
        t = t @ _weights(t.shape[-1]).to(t.device)
    return float(t)


@cache
def _weights(n: int) -> Tensor:
    """n weights in [1, 2) without a pattern; the first is 1, so that a dimension of length 1 changes nothing."""
    return 1 + (torch.arange(n, dtype=torch.float64) * _GOLDEN).frac()
