"""Facts about number formats: unit round-off, widening, distance in representable numbers."""

from __future__ import annotations

import torch
from torch import Tensor

#: Unit round-off u of round-to-nearest: half the distance from 1 to the next number (IEEE 754-2019).
UNIT_ROUNDOFF: dict[torch.dtype, float] = {
    torch.float64: 2.0**-53,
    torch.float32: 2.0**-24,
    torch.float16: 2.0**-11,
    torch.bfloat16: 2.0**-8,
    torch.float8_e4m3fn: 2.0**-4,
    torch.float8_e4m3fnuz: 2.0**-4,
    torch.float8_e5m2: 2.0**-3,
    torch.float8_e5m2fnuz: 2.0**-3,
    torch.complex128: 2.0**-53,
    torch.complex64: 2.0**-24,
    torch.complex32: 2.0**-11,
}

#: Half the distance between neighbours around zero: the largest rounding error of a result that underflows.
UNDERFLOW: dict[torch.dtype, float] = {
    torch.float64: 2.0**-1075,
    torch.float32: 2.0**-150,
    torch.float16: 2.0**-25,
    torch.bfloat16: 2.0**-134,
    torch.float8_e4m3fn: 2.0**-10,
    torch.float8_e4m3fnuz: 2.0**-11,
    torch.float8_e5m2: 2.0**-17,
    torch.float8_e5m2fnuz: 2.0**-18,
    torch.complex128: 2.0**-1075,
    torch.complex64: 2.0**-150,
    torch.complex32: 2.0**-25,
}

U64 = UNIT_ROUNDOFF[torch.float64]

_COMPLEX = {torch.complex32, torch.complex64, torch.complex128}


def is_inexact(dtype: torch.dtype) -> bool:
    """True for the formats that round: floating point and complex."""
    return dtype.is_floating_point or dtype.is_complex


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """The format in which the wide run holds a value of ``dtype``; integers and booleans stay as they are.

    >>> wide_dtype(torch.bfloat16), wide_dtype(torch.complex64), wide_dtype(torch.int32)
    (torch.float64, torch.complex128, torch.int32)
    """
    if dtype.is_complex:
        return torch.complex128
    return torch.float64 if dtype.is_floating_point else dtype


def unit_roundoff(dtype: torch.dtype) -> float:
    """u of ``dtype``; 0 for integers and booleans, which are exact.

    >>> unit_roundoff(torch.float32) == 2**-24
    True
    """
    return UNIT_ROUNDOFF.get(dtype, 0.0)


def widen(x: Tensor) -> Tensor:
    """``x`` in its wide format: exact, detached, and ``x`` itself where it is wide already."""
    return x.detach().to(wide_dtype(x.dtype))


_INT_VIEW = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def bits(x: Tensor) -> Tensor:
    """The bits of ``x`` as integers, so that +0 and -0 differ. Complex numbers give their two parts."""
    x = x.detach().resolve_conj().resolve_neg()
    if x.is_complex():
        x = torch.view_as_real(x)
    if x.dtype == torch.bool or not x.is_floating_point():
        return x
    return x.contiguous().view(_INT_VIEW[x.element_size()])


def same_bits(a: Tensor, b: Tensor) -> bool:
    """True when every element has the same bits, NaN being equal to NaN and +0 not to -0.

    >>> same_bits(torch.tensor([0.0]), torch.tensor([-0.0]))
    False
    >>> same_bits(torch.tensor([float("nan")]), torch.tensor([float("nan")]))
    True
    """
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    equal = bits(a) == bits(b)
    if bool(equal.all()):
        return True
    if not is_inexact(a.dtype):
        return False
    if a.is_complex():
        a, b = torch.view_as_real(a.detach().resolve_conj()), torch.view_as_real(b.detach().resolve_conj())
    return bool((equal | (widen(a).isnan() & widen(b).isnan())).all())


def ulps_between(a: Tensor, b: Tensor) -> Tensor | None:
    """How many representable numbers lie between ``a`` and ``b``, element by element; +0 and -0 count as one number.

    Returns int64 of the shape of ``a`` (complex: the parts last), at most the largest int64; None for integers, and where
    a value is not finite.

    >>> ulps_between(torch.tensor([1.0]), torch.tensor([1.0 + 2**-23])).item()
    1
    """
    if not is_inexact(a.dtype) or a.dtype != b.dtype:
        return None
    if not bool((widen(a).isfinite() & widen(b).isfinite()).all()):  # float8 has no isfinite
        return None

    def rank(x: Tensor) -> Tensor:
        # A float's bits are sign and magnitude: negative ones count down from zero.
        n = bits(x).to(torch.int64)
        top = 1 << (8 * (x.element_size() // (2 if x.is_complex() else 1)) - 1)
        return torch.where(n < 0, -(n & (top - 1)), n)

    m, n = rank(a), rank(b)
    gap = m - n
    overflows = ((m ^ n) & (m ^ gap)) < 0  # the whole of float64's numbers is twice what int64 counts to
    return torch.where(overflows, torch.iinfo(torch.int64).max, gap.abs())
