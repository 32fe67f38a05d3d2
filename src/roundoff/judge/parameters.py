"""Are the parameters of the two networks the same numbers?

What counts are the constants that a run used: floating-point tensors that no step made and that are not the input. They
are the same numbers when they agree as multisets, so reshaping, transposing, splitting, stacking and reordering
change nothing, and then nothing is allowed for them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from roundoff.formats import widen


@dataclass(frozen=True)
class Nearly:
    """A pair of constants that agree in most elements."""

    a: Tensor
    b: Tensor
    count: int
    largest_abs: float
    index: tuple[int, ...]


@dataclass(frozen=True)
class Matching:
    """The constants of both sides, matched as numbers. ``a`` and ``b`` are those left unmatched."""

    a: tuple[Tensor, ...]
    b: tuple[Tensor, ...]
    nearly: tuple[Nearly, ...]

    @property
    def complete(self) -> bool:
        """True when the two sides use the same numbers."""
        return not self.a and not self.b and not self.nearly


def match(met_a: list[Tensor], met_b: list[Tensor]) -> Matching:
    """Match the constants of two runs: first tensor by tensor, then what is left as one multiset of numbers."""
    left_a, left_b = _without_equals(met_a, met_b)
    if left_a and left_b and _multiset(left_a).equal(_multiset(left_b)):
        return Matching((), (), ())
    left_a, left_b = [x for x in left_a if not _trivial(x)], [x for x in left_b if not _trivial(x)]
    nearly: list[Nearly] = []
    for x in list(left_a):
        for y in left_b:
            found = _nearly(x, y)
            if found is not None:
                nearly.append(found)
                left_a = [z for z in left_a if z is not x]
                left_b = [z for z in left_b if z is not y]
                break
    return Matching(tuple(left_a), tuple(left_b), tuple(nearly))


def _without_equals(a: list[Tensor], b: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """The tensors that are left when each is paired with one of the other side that holds the same numbers."""
    waiting: dict[tuple[int, float], list[int]] = {}
    keys_b = [_key(x) for x in b]
    for i, key in enumerate(keys_b):
        waiting.setdefault(key, []).append(i)
    taken: set[int] = set()
    left_a: list[Tensor] = []
    for x in a:
        candidates = waiting.get(_key(x), [])
        partner = next((i for i in candidates if _multiset([x]).equal(_multiset([b[i]]))), None)
        if partner is None:
            left_a.append(x)
        else:
            candidates.remove(partner)
            taken.add(partner)
    return left_a, [x for i, x in enumerate(b) if i not in taken]


def _key(x: Tensor) -> tuple[int, float]:
    # The largest and smallest values do not depend on the order, as a sum would.
    wide = widen(x)
    if wide.is_complex():
        wide = torch.view_as_real(wide.resolve_conj())
    if wide.numel() == 0:
        return 0, 0.0
    return wide.numel(), float(wide.max()) * 3 + float(wide.min())


def _multiset(tensors: list[Tensor]) -> Tensor:
    flat = [widen(x).resolve_conj() for x in tensors]
    flat = [torch.view_as_real(x) if x.is_complex() else x for x in flat]
    return torch.cat([x.flatten().cpu() for x in flat]).sort().values


def _trivial(x: Tensor) -> bool:
    """Only zeros and ones: a missing bias of zeros or a scale of ones changes nothing that a real change would not show."""
    return bool(((x == 0) | (x == 1)).all())


def _nearly(x: Tensor, y: Tensor) -> Nearly | None:
    if x.numel() != y.numel() or x.numel() < 2 or x.is_complex() or y.is_complex():
        return None
    wide_x = widen(x).flatten()
    shapes = [widen(y)]
    if y.dim() >= 2:
        shapes.append(widen(y).squeeze().mT if y.squeeze().dim() == 2 else widen(y).transpose(0, 1))
    for candidate in shapes:
        flat = candidate.reshape(-1).to(wide_x.device)
        different = flat != wide_x
        count = int(different.sum())
        if 0 < count <= max(1, x.numel() // 10):
            gap = (flat - wide_x).abs()
            at = torch.unravel_index(gap.argmax(), x.shape)
            return Nearly(x, y, count, float(gap.max()), tuple(int(i) for i in at))
    return None
