"""Radii that stand beside the tensors of a run, by storage: that of a view is a view of them.

As the twins are kept (see ``replay.twins``), except that what has no entry is exact: its radius is 0. With the radii of a
storage goes a bound of all its errors together, in the 2-norm.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot, inf

import torch
from torch import Tensor

from roundoff.replay.enclosure.ball import Ball, Unknown, gap, l2, tight, up
from roundoff.tape.storages import StorageMap, has_storage


@dataclass
class _Entry:
    flat: Tensor  # float64, one for each element of the storage
    itemsize: int
    norm: float


class Radii:
    """The radii of one run."""

    def __init__(self) -> None:
        self._of: StorageMap[_Entry] = StorageMap()

    def ball(self, x: Tensor, mid: Tensor) -> Ball:
        """``mid``, the wide value of ``x``, with its radius: infinite where bits are read in another format."""
        entry = self._of.get(x) if has_storage(x) else None
        if entry is None:
            return Ball(mid)
        if entry.itemsize != x.element_size():
            return Ball(mid, torch.full(x.shape, inf, dtype=torch.float64, device=x.device))
        view = self._view(x, entry)
        if not bool((view != 0).any()):
            return Ball(mid)
        return Ball(mid, view, entry.norm if _is_apart(x) else None)

    def set(self, x: Tensor, ball: Ball | None) -> None:
        """Give ``x`` the radius of ``ball``; None where it is exact."""
        if not has_storage(x):
            return
        entry = self._of.get(x)
        if entry is not None and entry.itemsize != x.element_size():
            entry.flat.fill_(inf)  # nothing is known of memory that is used in two formats
            entry.norm = inf
            return
        exact = ball is None or ball.rad is None
        if entry is None:
            if exact:
                return
            size = x.untyped_storage().nbytes() // x.element_size()
            entry = _Entry(torch.zeros(size, dtype=torch.float64, device=x.device), x.element_size(), 0.0)
            self._of.set(x, entry)
        view = self._view(x, entry)
        whole = x.numel() == entry.flat.numel() and _is_apart(x)
        if ball is None or ball.rad is None:
            view.zero_()
            entry.norm = 0.0 if whole else entry.norm
            return
        view.copy_(ball.rad)
        entry.norm = ball.far if whole else hypot(entry.norm, ball.far) * (1 + 2.0**-50)

    def _view(self, x: Tensor, entry: _Entry) -> Tensor:
        size = x.untyped_storage().nbytes() // entry.itemsize
        if size > entry.flat.numel():
            entry.flat = torch.cat([entry.flat, entry.flat.new_zeros(size - entry.flat.numel())])
        return torch.as_strided(entry.flat, x.size(), x.stride(), x.storage_offset())


def _is_apart(x: Tensor) -> bool:
    """True where no two elements of ``x`` are the same place in memory."""
    reach = 0
    for stride, size in sorted(zip(x.stride(), x.size(), strict=True)):
        if size > 1:
            if stride <= reach:
                return False
            reach += stride * (size - 1)
    return True


def around(x: Tensor, ball: Ball) -> Ball:
    """The ball of the same exact numbers around ``x``. Raises Unknown where its shape is another."""
    if ball.mid.shape != x.shape:
        raise Unknown(f"its enclosure has the shape {list(ball.mid.shape)}")
    apart = gap(x, ball.mid.to(x.dtype))
    if not bool((apart != 0).any()):
        return tight(Ball(x, ball.rad, ball.norm))
    norm = None if ball.rad is not None and ball.norm is None else ball.far + l2(apart)
    return tight(Ball(x, apart if ball.rad is None else up(apart + ball.rad), norm))
