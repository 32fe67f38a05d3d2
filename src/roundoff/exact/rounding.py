"""Rounding once: from a float64 number and what is left over to the nearest number of a shorter format."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

from roundoff.errors import RoundoffError
from roundoff.formats import U64

#: Formats of operands and results: their products are exact in float64.
SHORT = (torch.float32, torch.bfloat16, torch.float16)

_VIEW = {torch.float32: torch.int32, torch.bfloat16: torch.int16, torch.float16: torch.int16}


_SMALLEST, _ONE = 5e-324, 1.0


def subnormal_numbers() -> None:
    """Raises RoundoffError where this thread sets subnormal numbers to zero."""
    if _SMALLEST * _ONE == 0.0:
        raise RoundoffError("Subnormal numbers are set to zero here. Exact results need them: call "
                            "torch.set_flush_denormal(False) first.")  # fmt: skip


def short_dtype(what: str, *tensors: Tensor | None) -> torch.dtype:
    """The one format of the operands of ``what``.

    Raises RoundoffError for formats that have no wider product here, for mixed ones, and for tensors that are not dense.
    """
    found: torch.dtype | None = None
    for x in tensors:
        if x is None:
            continue
        # The layout may not be asked for where the gradient of a function is compiled.
        if not torch.compiler.is_compiling() and (x.layout is not torch.strided or x.is_quantized):
            layout = "quantised" if x.is_quantized else str(x.layout)
            raise RoundoffError(
                f"exact.{what} was given a {layout} tensor and takes dense ones. Call .to_dense() first."
            )
        if x.dtype not in SHORT:
            raise RoundoffError(
                f"exact.{what} was given {x.dtype}; it takes float32, bfloat16 and float16, whose products are exact in "
                "float64. Convert the operands first."
            )
        if found is not None and x.dtype != found:
            raise RoundoffError(f"exact.{what} was given {found} and {x.dtype}. Convert the operands to one format.")
        found = x.dtype
    assert found is not None
    return found


def two_sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """``a + b`` rounded, and its rounding error, exactly (Knuth, The Art of Computer Programming 2, §4.2.2)."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def to_odd(hi: Tensor, lo: Tensor) -> Tensor:
    """The float64 numbers hi + lo rounded to odd, for ``hi`` nearest to hi + lo.

    What is rounded to odd with two digits to spare can be rounded again to nearest as if at once (Boldo and Melquiond,
    Emulation of FMA and correctly rounded sums: proved algorithms using rounding to odd, 2008). An exact zero is +0.
    """
    hi = hi + 0.0
    number = hi.view(torch.int64)
    towards = torch.where((lo > 0) == (hi > 0), 1, -1)  # in sign and magnitude: away from zero, or towards it
    moves = (lo != 0) & (number & 1 == 0) & hi.isfinite() & (hi != 0)
    return torch.where(moves, number + towards, number).view(torch.float64)


def narrow(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Float64 numbers rounded once to the nearest of ``dtype``, ties to even."""
    near = x.to(torch.float32)
    if dtype is torch.float32:
        return near
    # PyTorch goes to the half formats by way of float32: so that it does not round twice, the first time is to odd.
    number = near.view(torch.int32)
    back = near.to(torch.float64)
    beyond = (back.abs() > x.abs()).to(torch.int32)  # rounded away from zero: one back
    odd = torch.where((back != x) & x.isfinite(), (number - beyond) | 1, number)
    return odd.view(torch.float32).to(dtype)


def narrow_into(x: Tensor, out: Tensor) -> None:
    """:func:`narrow` to the format of ``out``, into it."""
    out.copy_(x if out.dtype is torch.float32 else narrow(x, out.dtype))


def as_bits(x: Tensor) -> Tensor:
    """A view of the bits as whole numbers."""
    return x.view(_VIEW[x.dtype])


def same(a: Tensor, b: Tensor) -> Tensor:
    """Where two results have the same bits."""
    return as_bits(a) == as_bits(b)


def places(differ: Tensor) -> Tensor:
    """Where a flat tensor of booleans is True; eight at a time, for few are."""
    if len(differ) % 8 or not len(differ):
        return differ.nonzero()[:, 0]
    words = differ.view(torch.int64).nonzero()
    if not len(words):
        return words[:, 0]
    near = (words * 8 + torch.arange(8, device=differ.device)).view(-1)
    return near[differ[near]]


def lowest_bit(x: Tensor) -> Tensor:
    """The value of the last digit that is 1 of each float64 number, which is normal; infinite for 0.

    Every number is a multiple of it, so sums of multiples of a common one are exact while they stay below 2^53 of it.
    """
    number = x.contiguous().view(torch.int64)
    digits = (number & ((1 << 52) - 1)) | (1 << 52)
    exponent = (number >> 52) & 0x7FF
    low = (digits & -digits).to(torch.float64)
    scale = (exponent - 52).clamp(min=1) << 52
    value = low * scale.view(torch.float64)
    return torch.where(x == 0, torch.inf, value)


def nearest(value: Fraction, dtype: torch.dtype) -> Tensor:
    """The number of ``dtype`` nearest to a fraction, ties to even, as a tensor without dimensions."""
    hi = float(value)  # correctly rounded
    left = value - Fraction(hi)
    lo = (left > 0) - (left < 0)
    pair = torch.tensor([hi, float(lo)], dtype=torch.float64)
    if hi == 0 and lo:  # below float64's numbers: it keeps its sign
        pair = torch.tensor([lo * 2.0**-1070, 0.0], dtype=torch.float64)
    return narrow(to_odd(pair[:1], pair[1:]), dtype)[0]


def slack(terms: int) -> float:
    """A bound of the relative error, in Σ|p|, of a float64 sum of ``terms`` numbers in any order, ends rounded outwards.

    γ_n of Higham, Accuracy and Stability of Numerical Algorithms, §3.1, with four roundings to spare for the ends
    themselves, and a hundredth for the rounding of the norms.
    """
    return (terms + 4) * U64 * 1.01
