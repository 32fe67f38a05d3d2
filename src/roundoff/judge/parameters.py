"""Are the parameters of the two networks the same numbers?

What counts are the constants that a run used: floating-point tensors that no step made and that are not the input. They
are the same when each holds only numbers that the other side has too: reshaping, transposing, splitting, stacking,
tying and reordering change nothing, and then nothing is allowed for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    numbers_a, numbers_b = _numbers(met_a), _numbers(met_b)
    of_a = [x for x in met_a if not _trivial(x) and not bool(_known(x, numbers_b).all())]
    of_b = [x for x in met_b if not _trivial(x) and not bool(_known(x, numbers_a).all())]
    few_a = [_changed(x, numbers_b) for x in of_a]
    few_b = [_changed(x, numbers_a) for x in of_b]
    few = None
    if all(c is not None for c in few_a + few_b):
        few = tuple(c for c in few_a if c is not None), tuple(c for c in few_b if c is not None)
    return Matching(tuple(of_a), tuple(of_b), few)


def _equal(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    return len(a) == len(b) and all(
        x.shape == y.shape and x.dtype == y.dtype and x.device == y.device and torch.equal(x, y)
        for x, y in zip(a, b, strict=True)
    )


def _flat(x: Tensor) -> Tensor:
    wide = widen(x).resolve_conj().cpu()
    return (torch.view_as_real(wide) if wide.is_complex() else wide).flatten()


def _numbers(constants: Sequence[Tensor]) -> Tensor:
    """All numbers of the constants, sorted; with an infinity at the end so that a search always finds one."""
    parts = [_flat(x) for x in constants] + [torch.tensor([float("inf")], dtype=torch.float64)]
    return torch.cat(parts).sort().values


def _known(x: Tensor, numbers: Tensor) -> Tensor:
    """Which elements of ``x`` are among ``numbers``, flat."""
    flat = _flat(x)
    at = torch.searchsorted(numbers, flat).clamp_max(numbers.numel() - 1)
    return (numbers[at] == flat) | flat.isnan()


def _trivial(x: Tensor) -> bool:
    """Only zeros and ones: a bias of zeros or a scale of ones that is missing on one side changes nothing."""
    return bool(((x == 0) | (x == 1)).all())


def _changed(x: Tensor, numbers: Tensor) -> Changed | None:
    """The unknown elements of ``x`` where they are few: one, or a tenth of them."""
    unknown = ~_known(x, numbers)
    count = int(unknown.sum())
    if count > max(1, x.numel() // 10):
        return None
    at = int(unknown.nonzero()[0])
    value = float(_flat(x)[at])
    near = numbers[numbers.isfinite()]
    nearest = float(near[(near - value).abs().argmin()]) if near.numel() else 0.0
    index = torch.unravel_index(torch.tensor(at // 2 if x.is_complex() else at), x.shape)
    return Changed(x, count, value, tuple(int(i) for i in index), nearest)
