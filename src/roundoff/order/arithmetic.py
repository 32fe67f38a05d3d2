"""Sums and products rounded once, as the hardware rounds them, in float64 with error-free transformations.

Sources: Knuth's TwoSum and Dekker's TwoProduct (Handbook of Floating-Point Arithmetic, 2nd edition, §4.3-4.4); rounding
to odd and the fused multiply-add made of it (Boldo and Melquiond, "Emulation of a FMA and correctly rounded sums: proved
algorithms using rounding to odd", IEEE Transactions on Computers 57(4), 2008).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """a + b, rounded, and what the rounding took: float64."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def two_product(a: Array, b: Array) -> tuple[Array, Array]:
    """a b, rounded, and what the rounding took: float64, below 2^996."""
    p = a * b
    (ah, al), (bh, bl) = _split(a), _split(b)
    return p, al * bl - (((p - ah * bh) - al * bh) - ah * bl)


def _split(a: Array) -> tuple[Array, Array]:
    c = a * 134217729.0  # 2^27 + 1: the halves have 26 bits
    high = c - (c - a)
    return high, a - high


def to_odd(s: Array, e: Array) -> Array:
    """s + e rounded to odd: s where e is 0, else of its two neighbours in float64 the one whose last bit is 1.

    Rounding the result again, to a format with at least two bits less, then is the correct rounding of s + e.
    """
    i = s.view(np.int64)
    away = np.where((e > 0) == (s > 0), 1, -1)  # the bits of a float count up with its magnitude
    odd: Array = np.where((e != 0) & (i & 1 == 0), i + away, i).view(np.float64)
    return odd


def half_rounder(dtype: torch.dtype) -> Callable[[Array], Array]:
    """Rounds float64 to bfloat16 or float16, through rounding to odd; the values are given as float32."""

    def rounded(x: Array) -> Array:
        wide = np.asarray(x, dtype=np.float64)
        single = wide.astype(np.float32)
        # to odd in float32, which has more than two bits more
        bits = single.view(np.int32)
        gone = wide - single.astype(np.float64)
        away = np.where((gone > 0) == (single > 0), 1, -1)
        odd = np.where((gone != 0) & (bits & 1 == 0), bits + away, bits).astype(np.int32).view(np.float32)
        odd = np.where(np.isfinite(single), odd, single)
        result: Array = torch.from_numpy(np.ascontiguousarray(odd)).to(dtype).float().numpy()
        return result

    return rounded


def add_many(parts: list[tuple[Array, Array]], rounder: Callable[[Array], Array]) -> Array:
    """The sum of several double-float64 numbers, rounded once by ``rounder`` (to 24 bits or fewer, or to float64)."""
    s, e = parts[0]
    for high, low in parts[1:]:
        s, t = two_sum(s, high)
        e = e + (low + t)
    s, e = two_sum(s, e)
    return rounder(to_odd(s, e))


def align_and_cut(parts: list[Array], extra: int) -> Array:
    """The sum as matrix units make it, to float32: all parts are aligned to the largest, what is more than ``extra`` bits
    below its last bit is cut off, and so is what the sum has below float32.

    Source: Fasi, Higham, Mikaitis and Pranesh, "Numerical behavior of NVIDIA tensor cores", PeerJ Computer Science 7:e330,
    2021.
    """
    stacked = np.stack(parts)
    _, exponents = np.frexp(np.abs(stacked).max(0))  # the largest is in [2^(e-1), 2^e)
    last = np.ldexp(1.0, exponents - 24 - extra)
    wide = (np.trunc(stacked / last) * last).sum(0)  # exact: a few bits more than 24
    single = wide.astype(np.float32)
    cut: Array = np.where(np.abs(single.astype(np.float64)) > np.abs(wide), np.nextafter(single, np.float32(0)), single)
    return cut


def fma64(p: Array, e: Array, c: Array) -> Array:
    """The float64 nearest to (p + e) + c, p + e being an exact product."""
    uh, ul = two_sum(c, e)
    th, tl = two_sum(p, uh)
    vs, ve = two_sum(tl, ul)
    return th + to_odd(vs, ve)


def _cut(bits: int) -> Callable[[Tensor], Tensor]:
    """Rounds float32 to the nearest number with ``bits`` fewer bits, ties to even."""

    def cut(x: Tensor) -> Tensor:
        i = x.contiguous().view(torch.int32)
        half = (1 << (bits - 1)) - 1 + ((i >> bits) & 1)
        return ((i + half) >> bits << bits).view(torch.float32)

    return cut


def _truncate(x: Tensor) -> Tensor:
    return (x.contiguous().view(torch.int32) >> 13 << 13).view(torch.float32)


#: Formats to which kernels round float32 operands.
SHORT: dict[str, Callable[[Tensor], Tensor]] = {
    "TF32": lambda x: _cut(13)(x) if x.dtype == torch.float32 else x,
    "TF32, cut off": lambda x: _truncate(x) if x.dtype == torch.float32 else x,
    "bfloat16": lambda x: x.to(torch.bfloat16).to(x.dtype),
    "float16": lambda x: x.to(torch.float16).to(x.dtype),
}
