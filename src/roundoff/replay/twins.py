"""Twins: the wide values that stand beside the native tensors of a run.

A twin belongs to a storage, so the twin of a view is a view of the twin, and an operation in place on one view is seen
through every other. What has no twin is its own wide value: inputs, parameters and constants are widened where they
are used, one step at a time, and dropped again.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from roundoff.formats import is_inexact, wide_dtype, widen
from roundoff.tape.storages import StorageMap, has_storage


@dataclass(frozen=True)
class _Twin:
    flat: Tensor  # the whole storage, wide, one-dimensional
    native: torch.dtype  # the format in which the storage was seen when the twin was made


class Twins:
    """The twins of one run."""

    def __init__(self) -> None:
        self._of: StorageMap[_Twin] = StorageMap()
        self._nested: StorageMap[Tensor] = StorageMap()  # nested tensors have no strides: their twins are kept whole

    def has(self, x: Tensor) -> bool:
        """True when ``x`` has a twin; without one its wide value is its native value."""
        return has_storage(x) and (x in self._of or x in self._nested)

    def wide(self, x: Tensor) -> Tensor:
        """The wide value of ``x``: a view of its twin, or ``x`` widened. Raises ValueError where bits are reinterpreted."""
        if x.is_nested:
            kept = self._nested.get(x)
            return widen(x) if kept is None else kept
        twin = self._of.get(x) if has_storage(x) else None
        if twin is None:
            return widen(x)
        return _view(twin, x)

    def adopt(self, x: Tensor, wide: Tensor) -> None:
        """Make ``wide`` the wide value of ``x``. Takes the memory of ``wide`` where it is laid out like ``x``."""
        if x.is_nested:
            self._nested.set(x, wide)
            return
        twin = self._of.get(x)
        if twin is not None and twin.flat.numel() == _numel(x):
            try:
                _view(twin, x).copy_(wide)
                return
            except ValueError:
                pass
        if x.is_conj() or x.is_neg():
            raise ValueError("a result that is a lazy conjugate or negation")
        size = _numel(x)
        same_layout = (
            wide.stride() == x.stride()
            and wide.storage_offset() == x.storage_offset()
            and not wide.is_conj()
            and not wide.is_neg()
            and _numel(wide) == size
        )
        if same_layout:
            flat = torch.as_strided(wide, (size,), (1,), 0)
        else:
            flat = torch.empty(size, dtype=wide.dtype, device=wide.device)
            torch.as_strided(flat, x.size(), x.stride(), x.storage_offset()).copy_(wide)
        self._of.set(x, _Twin(flat, x.dtype))

    def own(self, x: Tensor) -> None:
        """Give the storage of ``x``, which is about to be overwritten, a twin if it has none."""
        if x in self._of or x.is_nested:
            return
        whole = torch.empty(0, dtype=x.dtype, device=x.device).set_(x.untyped_storage())
        flat = widen(whole)
        self._of.set(x, _Twin(flat.clone() if flat is whole or not is_inexact(x.dtype) else flat, x.dtype))

    def drop(self, x: Tensor) -> None:
        """From now on the native value of ``x`` is its wide value."""
        self._of.drop(x)
        self._nested.drop(x)


def _numel(x: Tensor) -> int:
    return x.untyped_storage().nbytes() // x.element_size()


def _view(twin: _Twin, x: Tensor) -> Tensor:
    flat = twin.flat
    if x.dtype != twin.native:
        if x.is_complex() and not twin.native.is_complex and wide_dtype(twin.native) == torch.float64:
            flat = torch.view_as_complex(flat.view(-1, 2))
        elif twin.native.is_complex and wide_dtype(x.dtype) == torch.float64:
            flat = torch.view_as_real(flat).view(-1)
        elif not is_inexact(x.dtype) and not is_inexact(twin.native):
            flat = flat.view(x.dtype)
        else:
            raise ValueError(f"the bits of {twin.native} read as {x.dtype}")
    if flat.numel() < _numel(x):
        raise ValueError("a storage that was resized")
    view = torch.as_strided(flat, x.size(), x.stride(), x.storage_offset())
    if x.is_conj():
        view = view.conj()
    return torch._neg_view(view) if x.is_neg() else view
