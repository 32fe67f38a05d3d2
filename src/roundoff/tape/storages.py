"""A map from storages to values that lets the storages die.

A tensor's Python object comes and goes while the memory under it lives, and views share memory; so what is known of
a value is kept with the storage. The key is the address of the storage's C++ object, held only as long as a weak
reference says that the storage lives: an address that is used again never finds the old entry.
"""

from __future__ import annotations

import weakref
from typing import Generic, TypeVar

from torch import Tensor

V = TypeVar("V")


class StorageMap(Generic[V]):
    """Values kept for storages; an entry goes when its storage does."""

    def __init__(self) -> None:
        self._entries: dict[int, tuple[weakref.ref[object], V]] = {}

    def get(self, x: Tensor) -> V | None:
        """The value kept for the storage of ``x``, or None."""
        entry = self._entries.get(_address(x))
        return entry[1] if entry is not None else None

    def set(self, x: Tensor, value: V) -> None:
        """Keep ``value`` for the storage of ``x`` as long as that storage lives."""
        address = _address(x)
        entries = self._entries

        def forget(gone: weakref.ref[object]) -> None:
            entry = entries.get(address)
            if entry is not None and entry[0] is gone:
                del entries[address]

        entries[address] = (weakref.ref(x.untyped_storage(), forget), value)

    def drop(self, x: Tensor) -> None:
        """Forget the storage of ``x``."""
        self._entries.pop(_address(x), None)

    def __contains__(self, x: Tensor) -> bool:
        return _address(x) in self._entries

    def __len__(self) -> int:
        return len(self._entries)


def _address(x: Tensor) -> int:
    return int(x.untyped_storage()._cdata)


def has_storage(x: Tensor) -> bool:
    """False for sparse, nested and other tensors that are not one strided block of memory."""
    try:
        x.untyped_storage()
    except (NotImplementedError, RuntimeError):
        return False
    return True
