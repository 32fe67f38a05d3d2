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
        twin = self._twin(x) if has_storage(x) else None
        return widen(x) if twin is None else _view(twin, x)

    def adopt(self, x: Tensor, wide: Tensor) -> None:
        """Make ``wide`` the wide value of ``x``. Takes the memory of ``wide`` where it is laid out like ``x``."""
        if x.is_nested:
            self._nested.set(x, wide)
            return
        twin = self._twin(x)
        if twin is not None:
            try:
                _view(twin, x).copy_(wide)
                return
            except ValueError:
                pass
        size = _numel(x)
        same_layout = (
            wide.stride() == x.stride()
            and wide.storage_offset() == x.storage_offset()
            and _numel(wide) == size
            and not _is_lazy(wide)
            and not _is_lazy(x)
        )
        if same_layout:
            twin = _Twin(torch.as_strided(wide, (size,), (1,), 0), x.dtype)
        else:
            twin = _widened(x, x.dtype)
            _view(twin, x).copy_(wide)
        self._of.set(x, twin)

    def own(self, x: Tensor) -> None:
        """Give the storage of ``x``, which is about to be overwritten, a twin if it has none."""
        if x in self._of or x.is_nested:
            return
        self._of.set(x, _widened(x, x.dtype))

    def drop(self, x: Tensor) -> None:
        """From now on the native value of ``x`` is its wide value."""
        self._of.drop(x)
        self._nested.drop(x)

    def _twin(self, x: Tensor) -> _Twin | None:
        """The twin of the storage of ``x``, which has grown if the storage has."""
        twin = self._of.get(x)
        if twin is None or twin.flat.numel() >= x.untyped_storage().nbytes() // twin.native.itemsize:
            return twin
        grown = _widened(x, twin.native)
        grown.flat[: twin.flat.numel()] = twin.flat
        self._of.set(x, grown)
        return grown


def _widened(x: Tensor, native: torch.dtype) -> _Twin:
    """A twin of the storage of ``x``, seen as ``native``, with its own content."""
    whole = torch.empty(0, dtype=native, device=x.device).set_(x.untyped_storage())
    return _Twin(whole.to(wide_dtype(native), copy=True), native)


def _is_lazy(x: Tensor) -> bool:
    return x.is_conj() or x.is_neg()


def _numel(x: Tensor) -> int:
    return x.untyped_storage().nbytes() // x.element_size()


def _view(twin: _Twin, x: Tensor) -> Tensor:
    flat = twin.flat
    if x.dtype != twin.native:
        if x.is_complex() and x.dtype.to_real() == twin.native:
            flat = torch.view_as_complex(flat[: flat.numel() // 2 * 2].view(-1, 2))
        elif twin.native.is_complex and twin.native.to_real() == x.dtype:
            flat = torch.view_as_real(flat).view(-1)
        elif not is_inexact(x.dtype) and not is_inexact(twin.native):
            flat = flat.view(x.dtype)
        else:
            raise ValueError(f"the bits of {twin.native} read as {x.dtype}")
    view = torch.as_strided(flat, x.size(), x.stride(), x.storage_offset())
    if x.is_conj():
        view = view.conj()
    return torch._neg_view(view) if x.is_neg() else view
