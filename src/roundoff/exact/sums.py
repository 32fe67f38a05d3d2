"""Sums and means, correctly rounded."""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

from roundoff.exact.products import PAIRS, add_terms
from roundoff.exact.rounding import lowest_bit, narrow, nearest, same, slack
from roundoff.formats import U64

Divisor = int | Tensor  # one for all rows, or one for each, int64 [M]


def row_sums(x: Tensor, divisor: Divisor, dtype: torch.dtype) -> Tensor:
    """Σ_k x[m, k] / divisor, rounded once to ``dtype``: [M]. An empty sum is 0, its mean NaN."""
    terms = x.shape[1]
    if not terms or not len(x):
        empty = 0.0 if isinstance(divisor, int) and divisor == 1 else torch.nan
        return torch.full((len(x),), empty, dtype=dtype, device=x.device)
    y = x.sum(dim=1, dtype=torch.float64)
    size = torch.linalg.vector_norm(x, 1, dim=1, dtype=torch.float64) * 1.01
    radius = size * slack(terms)
    out = torch.empty_like(y, dtype=dtype)
    low, high = _ends(y, radius, divisor, dtype)
    todo = (~same(low, high) | ~radius.isfinite()).nonzero()[:, 0]
    out.copy_(high)
    some = max(1, PAIRS // terms)
    for at in todo.split(some):
        by = divisor if isinstance(divisor, int) else divisor[at]
        out[at] = _decide(x[at], y[at], size[at], by, dtype)
    return out


def _ends(y: Tensor, radius: Tensor, divisor: Divisor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    low, high = y - radius, y + radius
    if not isinstance(divisor, int) or divisor != 1:
        low, high = low / divisor, high / divisor
        low, high = low - low.abs() * (2 * U64), high + high.abs() * (2 * U64)
    return narrow(low, dtype), narrow(high, dtype)


def _decide(x: Tensor, y: Tensor, size: Tensor, divisor: Divisor, dtype: torch.dtype) -> Tensor:
    terms = x.to(torch.float64)
    out = narrow(torch.where(y.isnan(), torch.nan, y), dtype)
    finite = y.isfinite()
    exact = finite & (size <= lowest_bit(terms).amin(dim=1) * 2.0**52)
    if isinstance(divisor, int) and divisor == 1:
        out[exact] = narrow(y[exact] + 0.0, dtype)
        left = finite & ~exact
        if bool(left.any()):
            out[left] = add_terms(terms[left], dtype)
        return out
    for i in finite.nonzero()[:, 0].tolist():
        total = Fraction(float(y[i])) if bool(exact[i]) else sum(map(Fraction, terms[i].tolist()), Fraction(0))
        out[i] = nearest(total / (divisor if isinstance(divisor, int) else int(divisor[i])), dtype)
    return out
