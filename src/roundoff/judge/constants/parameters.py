"""Are the parameters of the two networks the same numbers?

What counts are the constants that a run used: floating-point tensors that no step made and that are not the input. They
are the same when each holds only numbers that the other side has too: reshaping, transposing, splitting, stacking,
tying and reordering change nothing, and then nothing is allowed for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from roundoff.formats import widen


@dataclass(frozen=True)
class Changed:
    """A constant that holds a few numbers which the other side does not have."""

    constant: Tensor
    count: int
    value: float  # the first of these numbers
    index: tuple[int, ...]  # where it is
    nearest: float  # the number of the other side that is nearest to it


@dataclass(frozen=True)
class Matching:
    """The constants of each side that hold numbers which the other side does not have."""

    a: tuple[Tensor, ...]
    b: tuple[Tensor, ...]
    #: The same, one by one, where it is a few elements of each: then they were changed, not folded.
    few: tuple[tuple[Changed, ...], tuple[Changed, ...]] | None

    @property
    def complete(self) -> bool:
        """True when the two sides use the same numbers."""
        return not self.a and not self.b


def match(met_a: Sequence[Tensor], met_b: Sequence[Tensor]) -> Matching:
    """Match the constants of two runs as numbers.

    >>> w = torch.randn(3, 4)
    >>> match([w], [w.t().clone(), w[0].clone()]).complete
    True
    >>> v = w.clone(); v[1, 2] += 1
    >>> [changed.index for side in match([w], [v]).few for changed in side]
    [(1, 2), (1, 2)]
    """
    if _equal(met_a, met_b):
        return Matching((), (), None)
    of_a, of_b = _alone(met_a, met_b), _alone(met_b, met_a)
    numbers_a, numbers_b = _Numbers(of_a, met_a), _Numbers(of_b, met_b)
    few_a = [(x, _changed(x, numbers_b)) for x in of_a if not numbers_b.hold(x)]
    few_b = [(x, _changed(x, numbers_a)) for x in of_b if not numbers_a.hold(x)]
    few = None
    if all(c is not None for _, c in few_a + few_b):
        few = tuple(c for _, c in few_a if c is not None), tuple(c for _, c in few_b if c is not None)
    return Matching(tuple(x for x, _ in few_a), tuple(x for x, _ in few_b), few)


def _equal(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    return len(a) == len(b) and all(
        x.shape == y.shape and x.dtype == y.dtype and x.device == y.device and torch.equal(x, y)
        for x, y in zip(a, b, strict=True)
    )


def _flat(x: Tensor) -> Tensor:
    wide = widen(x).resolve_conj().cpu()
    return (torch.view_as_real(wide) if wide.is_complex() else wide).flatten()


def _alone(mine: Sequence[Tensor], others: Sequence[Tensor]) -> list[Tensor]:
    """The constants that are not just another layout of one constant of the other side. Cheap where most are."""
    by_key: dict[tuple[int, float, float], list[Tensor]] = {}
    for other in others:
        by_key.setdefault(_key(other), []).append(other)
    return [
        x for x in mine if not _trivial(x) and not any(_same_numbers(x, other) for other in by_key.get(_key(x), ()))
    ]


def _key(x: Tensor) -> tuple[int, float, float]:
    flat = _flat(x)
    return (flat.numel(), float(flat.max()), float(flat.min())) if flat.numel() else (0, 0.0, 0.0)


def _same_numbers(x: Tensor, y: Tensor) -> bool:
    if x.shape == y.shape and x.device == y.device and torch.equal(x, y):
        return True
    return torch.equal(_flat(x).sort().values, _flat(y).sort().values)


class _Numbers:
    """The numbers of one side: first those of the constants without a partner, then, where they do not do, all."""

    def __init__(self, alone: Sequence[Tensor], every: Sequence[Tensor]) -> None:
        self._alone = _sorted(alone)
        self._constants = every

    @cached_property
    def all(self) -> Tensor:
        return _sorted(self._constants)

    def known(self, x: Tensor) -> Tensor:
        """Which elements of ``x`` are among them, flat."""
        flat = _flat(x)
        found = _among(flat, self._alone)
        missing = (~found).nonzero().flatten()
        # A sample tells weights that were drawn apart, which need no search of everything.
        if missing.numel() and bool(_among(flat[missing[:: missing.numel() // _SAMPLE + 1]], self.all).any()):
            found[missing] = _among(flat[missing], self.all)
        return found

    def hold(self, x: Tensor) -> bool:
        """True when every element of ``x`` is among them."""
        return bool(self.known(x).all())


_SAMPLE = 1024


def _sorted(constants: Sequence[Tensor]) -> Tensor:
    """All their numbers in order; with an infinity at the end so that a search always finds one."""
    parts = [_flat(x) for x in constants] + [torch.tensor([float("inf")], dtype=torch.float64)]
    return torch.cat(parts).sort().values


def _among(flat: Tensor, numbers: Tensor) -> Tensor:
    order = flat.argsort()  # searched in order, which keeps to the cache
    at = torch.searchsorted(numbers, flat[order]).clamp_max(numbers.numel() - 1)
    found = torch.empty(flat.shape, dtype=torch.bool)
    found[order] = numbers[at] == flat[order]
    return found | flat.isnan()


def _trivial(x: Tensor) -> bool:
    """Only zeros and ones: a bias of zeros or a scale of ones that is missing on one side changes nothing."""
    return bool(((x == 0) | (x == 1)).all())


def _changed(x: Tensor, numbers: _Numbers) -> Changed | None:
    """The unknown elements of ``x`` where they are few: one, or a tenth of them."""
    unknown = ~numbers.known(x)
    count = int(unknown.sum())
    if count > max(1, x.numel() // 10) or 2 * count > x.numel():
        return None
    at = int(unknown.nonzero()[0])
    value = float(_flat(x)[at])
    near = numbers.all[numbers.all.isfinite()]
    nearest = float(near[(near - value).abs().argmin()]) if near.numel() else 0.0
    index = torch.unravel_index(torch.tensor(at // 2 if x.is_complex() else at), x.shape)
    return Changed(x, count, value, tuple(int(i) for i in index), nearest)
