"""How large are the numbers of a tensor, in as few passes over the memory as that takes."""

from __future__ import annotations

import torch
from torch import Tensor

#: Elements that are looked at together: in float64 a quarter of a megabyte, which stays in the cache.
PART = 1 << 15


def largest(x: Tensor) -> float:
    """The largest magnitude in ``x``; NaN where there is one, 0 where it is empty."""
    if x.numel() == 0:
        return 0.0
    if x.is_complex():
        return float(torch.linalg.vector_norm(x, float("inf")))
    least, most = torch.aminmax(x)  # four times as fast as the norm
    return float(torch.maximum(-least, most))


def largest_at(x: Tensor) -> tuple[float, tuple[int, ...]]:
    """The largest magnitude in ``x``, which is not empty and has no NaN, and where it is."""
    size = x.abs() if x.is_complex() else x
    rows = size.reshape(-1, size.shape[-1]) if size.dim() > 1 else size.reshape(1, -1)
    most, least = rows.amax(1), -rows.amin(1)
    row = int(torch.maximum(most, least).argmax())
    column = int(rows[row].abs().argmax())
    at = torch.unravel_index(torch.tensor(row * rows.shape[1] + column), size.shape)
    return float(rows[row, column].abs()), tuple(int(i) for i in at)


def finite(x: Tensor) -> Tensor:
    """``x``, zero where it is NaN or infinite."""
    if bool(x.sum().isfinite()):  # one pass, where nothing needs to be done
        return x
    return torch.where(x.isfinite(), x, 0.0)


def inner(g: Tensor | None, x: Tensor | None) -> float:
    """⟨g, x⟩ in float64, real: of complex numbers the real part of conj(g) x; 0 where one is None.

    >>> inner(torch.ones(3, dtype=torch.float64), torch.tensor([1.0, 2.0, 3.0]))
    6.0
    """
    if g is None or x is None:
        return 0.0
    if g.is_complex() or x.is_complex():
        return float((g.conj() * x).real.sum())
    if not lie_alike(g, x):
        return float(torch.mul(g, x.double()).sum())
    a, b = flat(g), flat(x)
    total = torch.zeros((), dtype=torch.float64, device=a.device)
    for start in range(0, a.numel(), PART):
        total += torch.dot(a[start : start + PART].double(), b[start : start + PART].double())
    return float(total)


def lie_alike(x: Tensor, *others: Tensor) -> bool:
    """True when all fill one block of memory each, in the same order, and are real."""
    alike = all(y.shape == x.shape and y.stride() == x.stride() and not y.is_neg() for y in others)
    return alike and x.dtype.is_floating_point and not x.is_neg() and torch.ops.aten.is_non_overlapping_and_dense(x)


def flat(x: Tensor) -> Tensor:
    """The numbers of ``x``, which fills one block of memory, in the order in which they lie there."""
    return x.as_strided((x.numel(),), (1,), x.storage_offset())
