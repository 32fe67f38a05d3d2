"""Adjoints: by how much the target moves for a unit of each number that is alive.

They are kept by storage, as the twins are: the adjoint of a view is a view of the adjoint, so data movement costs
nothing and cannot lose anything. They are filled from the end of a run to its start (reverse accumulation: Griewank and
Walther, Evaluating Derivatives, 2008, chapter 3).
"""

from __future__ import annotations

import torch
from torch import Tensor

from roundoff.formats import is_inexact, wide_dtype
from roundoff.tape.record import Place


class Adjoints:
    """The adjoints of one target, by the number of the storage; float64, complex numbers as two of them."""

    def __init__(self) -> None:
        self._flat: dict[int, Tensor] = {}

    def __contains__(self, number: int) -> bool:
        return number in self._flat

    def take(self, place: Place, last: bool = False) -> Tensor | None:
        """The adjoint at ``place``, which from now on is zero: a step writes there, so what was before does not matter.

        ``last``: the storage is forgotten next, and nothing else is taken of it that overlaps.
        """
        if place.storage not in self._flat or not is_inexact(place.dtype):
            return None
        view = self._view(place)
        if last:
            return view
        taken = view.clone()
        view.zero_()
        return taken

    def read(self, place: Place) -> Tensor | None:
        """The adjoint at ``place``, or None where there is none."""
        if place.storage not in self._flat or not is_inexact(place.dtype):
            return None
        return self._view(place).clone()

    def add(self, place: Place, adjoint: Tensor, scale: float = 1.0) -> None:
        """Add ``adjoint`` times ``scale``, a power of two, to what is kept at ``place``.

        What lies in one number several times is added up there.
        """
        dims = [d for d, (n, stride) in enumerate(zip(place.size, place.stride, strict=True)) if stride == 0 and n > 1]
        if dims:
            adjoint = adjoint.sum(dims, keepdim=True, dtype=wide_dtype(adjoint.dtype))
            place = _thin(place, dims)
        if _overlaps(place):
            size = self._reach(place)
            at = torch.arange(size, device=adjoint.device).as_strided(place.size, place.stride, place.offset).flatten()
            flat = adjoint.resolve_conj().flatten()
            target = self._grown(place, adjoint.device)
            target = torch.view_as_complex(target.view(-1, 2)) if place.dtype.is_complex else target
            target.index_add_(0, at, flat.to(target.dtype), alpha=scale)
            return
        self._grown(place, adjoint.device)
        self._view(place).add_(adjoint, alpha=scale)

    def drop(self, number: int) -> None:
        """Forget a storage, at the step that made it."""
        self._flat.pop(number, None)

    def _reach(self, place: Place) -> int:
        """How many numbers from the start of the storage ``place`` reaches over."""
        if 0 in place.size:
            return 0
        return place.offset + 1 + sum((n - 1) * s for n, s in zip(place.size, place.stride, strict=True))

    def _grown(self, place: Place, device: torch.device) -> Tensor:
        size = self._reach(place) * (2 if place.dtype.is_complex else 1)
        size += size % 2  # so that it can be read as complex numbers
        flat = self._flat.get(place.storage)
        if flat is None or flat.numel() < size:
            grown = torch.zeros(size, dtype=torch.float64, device=device)
            if flat is not None:
                grown[: flat.numel()] = flat
            self._flat[place.storage] = flat = grown
        return flat

    def _view(self, place: Place) -> Tensor:
        flat = self._grown(place, self._flat[place.storage].device)
        if place.dtype.is_complex:
            flat = torch.view_as_complex(flat.view(-1, 2))
        view = torch.as_strided(flat, place.size, place.stride, place.offset)
        view = view.conj() if place.conj else view
        return torch._neg_view(view) if place.neg else view


def _thin(place: Place, dims: list[int]) -> Place:
    size = tuple(1 if d in dims else n for d, n in enumerate(place.size))
    return Place(place.storage, place.dtype, size, place.stride, place.offset, place.conj, place.neg)


def _overlaps(place: Place) -> bool:
    """True where two elements may lie in one number: sorted by stride, a stride within what smaller ones reach over."""
    reach = 0
    for stride, n in sorted((s, n) for n, s in zip(place.size, place.stride, strict=True) if n > 1):
        if stride <= reach:
            return True
        reach += stride * (n - 1)
    return False
