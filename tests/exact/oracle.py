"""Rounding by whole numbers alone: nothing here is shared with what is tested."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

# digits, the exponent of the smallest number, the exponent from which numbers are infinite
FORMATS = {torch.float32: (24, -149, 128), torch.bfloat16: (8, -133, 128), torch.float16: (11, -24, 16)}


def rounded(value: Fraction, dtype: torch.dtype = torch.float32) -> float:
    """The number of ``dtype`` nearest to ``value``, ties to even, as a float."""
    if not value:
        return 0.0
    digits, smallest, largest = FORMATS[dtype]
    size = abs(value)
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    if Fraction(2) ** exponent > size:
        exponent -= 1
    unit = Fraction(2) ** max(exponent - digits + 1, smallest)
    whole, left = divmod(size, unit)
    if 2 * left > unit or (2 * left == unit and whole % 2):
        whole += 1
    near = whole * unit
    found = float("inf") if near >= Fraction(2) ** largest else float(near)
    return -found if value < 0 else found


def sum_of_products(x: Tensor, w: Tensor, bias: Tensor | None = None) -> Fraction:
    """x · w + bias for two vectors."""
    total = Fraction(0) if bias is None else Fraction(float(bias))
    return sum((Fraction(a) * Fraction(b) for a, b in zip(x.tolist(), w.tolist(), strict=True)), total)


def expected(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """[m, k] times [k, n] plus bias [n]."""
    rows = [
        [rounded(sum_of_products(x, w, None if bias is None else bias[j]), left.dtype) for j, w in enumerate(right.t())]
        for x in left
    ]
    return torch.tensor(rows, dtype=torch.float64).reshape(len(left), right.shape[1]).to(left.dtype)
