"""Radii that stand beside the tensors of a run, by storage: that of a view is a view of them.

As the twins are kept (see ``replay.twins``), except that what has no entry is exact: its radius is 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from roundoff.tape.storages import StorageMap, has_storage


@dataclass(frozen=True)
class _Entry:
    flat: Tensor  # float64, one for each element of the storage
    itemsize: int


class Radii:
    """The radii of one run."""

    def __init__(self) -> None:
        self._of: StorageMap[_Entry] = StorageMap()

    def get(self, x: Tensor) -> Tensor | None:
        """The radius of ``x``, of its shape; None where it is exact; infinite where its bits are read in another format."""
        entry = self._of.get(x) if has_storage(x) else None
        if entry is None:
            return None
        if entry.itemsize != x.element_size():
            return torch.full(x.shape, inf, dtype=torch.float64, device=x.device)
        view = torch.as_strided(self._grown(x, entry).flat, x.size(), x.stride(), x.storage_offset())
        return view if bool((view != 0).any()) else None

    def set(self, x: Tensor, radius: Tensor | None) -> None:
        """Give ``x`` the radius ``radius``; None where it is exact."""
        if not has_storage(x):
            return
        entry = self._of.get(x)
        if entry is not None and entry.itemsize != x.element_size():
            entry.flat.fill_(inf)  # nothing is known of memory that is used in two formats
            return
        if entry is None:
            if radius is None or not bool((radius != 0).any()):
                return
            size = x.untyped_storage().nbytes() // x.element_size()
            entry = _Entry(torch.zeros(size, dtype=torch.float64, device=x.device), x.element_size())
            self._of.set(x, entry)
        view = torch.as_strided(self._grown(x, entry).flat, x.size(), x.stride(), x.storage_offset())
        if radius is None:
            view.zero_()
        else:
            view.copy_(radius)

    def _grown(self, x: Tensor, entry: _Entry) -> _Entry:
        size = x.untyped_storage().nbytes() // entry.itemsize
        if size > entry.flat.numel():
            more = entry.flat.new_zeros(size - entry.flat.numel())
            entry = _Entry(torch.cat([entry.flat, more]), entry.itemsize)
            self._of.set(x, entry)
        return entry
