"""How far a native result is from its wide value, and how much of that the step itself made.

All of it is looked at in one go, a part at a time, so that what is computed on the way stays in the processor's cache.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from roundoff.formats import widen
from roundoff.replay.sizes import PART, finite, flat, largest, largest_at, lie_alike

#: Below and above this a float32 loses digits of a difference, so that it is kept in float64.
_SMALL, _LARGE = 2.0**-100, 2.0**120


@dataclass(frozen=True)
class Apart:
    """``local`` is native - reference, ``moved`` is native - wide; None where that is zero everywhere.

    ``local_abs`` is the largest local error, at ``at``; ``inherited_abs`` the largest of what the step inherited; the
    norms are those of native - wide and of the wide value, in the 2-norm.
    """

    local: Tensor | None
    moved: Tensor | None
    local_abs: float
    at: tuple[int, ...]
    inherited_abs: float
    moved_norm: float
    wide_norm: float


def apart(x: Tensor, reference: Tensor, wide: Tensor) -> Apart:
    """Hold the native ``x``, which is not empty, against the operator on native operands and its wide value."""
    if lie_alike(x, reference, wide):
        found = _in_parts(x, reference, wide)
        if found is not None:
            return found
    native = widen(x)
    error = finite(native - reference)
    off = error if reference is wide else finite(native - wide)
    local_abs, at = largest_at(error) if error.dim() else (largest(error), ())
    inherited = 0.0 if off is error else largest(off - error)
    local = shortened(error)
    return Apart(
        local,
        local if off is error else shortened(off),
        local_abs,
        at,
        inherited,
        float(torch.linalg.vector_norm(off)),
        float(torch.linalg.vector_norm(finite(wide))),
    )


def shortened(x: Tensor) -> Tensor | None:
    """``x`` as it is kept, in a shorter format where that loses no digits that matter; None where it is zero."""
    size = largest(x)
    if size == 0.0:
        return None
    return x if size < _SMALL or size > _LARGE else x.to(torch.complex64 if x.is_complex() else torch.float32)


def _in_parts(x: Tensor, reference: Tensor, wide: Tensor) -> Apart | None:
    """The same a part at a time; None where a number is not finite, or the differences do not fit float32."""
    clean, size = reference is wide, x.numel()
    native, ref, far = flat(x), flat(reference), flat(wide)
    local, moved = (torch.empty_like(x, dtype=torch.float32) for _ in range(2))
    kept, kept_moved = flat(local), flat(moved)
    errors, inherited, offs, squares, wide_squares = [], 0.0, 0.0, 0.0, 0.0
    buffers = [torch.empty(min(PART, size), dtype=torch.float64, device=x.device) for _ in range(3)]
    for start in range(0, size, PART):
        end = min(start + PART, size)
        n, w = native[start:end].double(), far[start:end]
        room = [buffer[: end - start] for buffer in buffers]
        error = torch.sub(n, ref[start:end], out=room[0])
        errors.append(largest(error))
        kept[start:end] = error
        off = error
        if not clean:
            off = torch.sub(n, w, out=room[1])
            offs = _more(offs, largest(off))
            inherited = _more(inherited, largest(torch.sub(off, error, out=room[2])))
            kept_moved[start:end] = off
        squares += float(torch.dot(off, off))
        wide_squares += float(torch.dot(w, w))
    most = max(errors)
    offs = most if clean else offs
    for value in (most, offs):
        if value and not _SMALL < value < _LARGE:
            return None
    if not squares + wide_squares + sum(errors) < float("inf"):
        return None
    start = PART * errors.index(most)
    part = native[start : start + PART].double() - ref[start : start + PART]
    at = _index(x, start + int(part.abs().argmax()))
    first = local if most else None
    second = first if clean else moved if offs else None
    return Apart(first, second, most, at, inherited, squares**0.5, wide_squares**0.5)


def _more(a: float, b: float) -> float:
    return a if a > b else b  # a NaN as ``b`` is taken


def _index(x: Tensor, position: int) -> tuple[int, ...]:
    """The index of the element that lies ``position`` behind the first in memory."""
    index = [0] * x.dim()
    strides = x.stride()
    for d in sorted((d for d in range(x.dim()) if x.shape[d] > 1), key=lambda d: strides[d], reverse=True):
        index[d], position = divmod(position, strides[d])
    return tuple(index)
