"""Run a kernel on masks, and count which units survive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from roundoff.errors import RoundoffError
from roundoff.order.build import NoTree, Pair
from roundoff.order.kernel import Kernel


class NotShared(Exception):
    """The outputs of one call do not all add in the same order."""


@dataclass(frozen=True)
class Masks:
    """The size of the masks, of the units between them, and how many units a result counts exactly.

    A unit must be lost beside a mask in whatever format the kernel adds, and so must the sum of ``most`` units.
    """

    mask: float
    unit: float
    most: int


def masks_for(dtype: torch.dtype, divided: bool) -> Masks:
    """float16 reaches from 2^-24 to 65504: its masks are 2^39 units, which float32, in which kernels add float16, loses
    (2^24). bfloat16 counts to 256, float16 to 2,048; a mean is divided by the length first, which costs digits."""
    if dtype == torch.float16:
        return Masks(2.0**15, 2.0**-14, 16) if divided else Masks(2.0**15, 2.0**-24, 2048)
    if dtype == torch.bfloat16:
        return Masks(2.0**100, 1.0, 32 if divided else 256)
    if dtype == torch.float32:
        return Masks(2.0**100, 1.0, 2**20)
    return Masks(2.0**500, 1.0, 2**40)


class Probe:
    """Measures where summands meet: many pairs in one call, or at one output element alone."""

    def __init__(self, kernel: Kernel, element: int | None = None) -> None:
        self.kernel = kernel
        self.element = element
        self.calls = 0
        self.masks = masks_for(kernel.dtype, kernel.divided)
        n, most = kernel.length, self.masks.most
        self._chunks = [range(at, min(at + most, n)) for at in range(0, n, most)]

    @property
    def by_columns(self) -> bool:
        """Whether the masks go into the weights: there are more of these, or the bias needs one for each."""
        return self.kernel.cols > 0 and (self.kernel.cols >= self.kernel.rows or self.kernel.bias)

    @property
    def slots(self) -> int:
        """How many vectors of summands go through one call."""
        return 1 if self.element is not None else self.kernel.cols if self.by_columns else self.kernel.rows

    def meetings(self, pairs: Sequence[Pair]) -> list[int]:
        """For each pair, how many summands are in the smallest part that has both."""
        found = []
        step = max(1, 2**24 // (self.kernel.length * len(self._chunks)) // self.slots) * self.slots
        for at in range(0, len(pairs), step):
            found += self._meetings(pairs[at : at + step])
        return found

    def _meetings(self, pairs: Sequence[Pair]) -> list[int]:
        n, masks = self.kernel.length, self.masks
        if not pairs:
            return []
        index = torch.tensor(pairs)
        vectors = []
        for chunk in self._chunks:
            v = torch.zeros(len(pairs), n, dtype=self.kernel.dtype)
            v[:, chunk.start : chunk.stop] = masks.unit
            v.scatter_(1, index[:, :1], masks.mask)
            v.scatter_(1, index[:, 1:], -masks.mask)
            vectors.append(v)
        counted = self.sums(torch.cat(vectors)).double() / masks.unit
        if self.kernel.divided:
            counted = counted * n
            rounded = counted.round()
            counted = torch.where((counted - rounded).abs() < 0.25, rounded, counted)
        survivors = counted.view(len(self._chunks), len(pairs)).sum(0)
        if not bool(survivors.isfinite().all()):
            raise RoundoffError(
                f"{self.kernel.name} overflows with masks of {masks.mask:.3g} and -{masks.mask:.3g} among its summands. It "
                "must add the values as they are given, neither squared nor scaled."
            )
        wrong = (survivors != survivors.round()) | (survivors < 0) | (survivors > n - 2)
        if bool(wrong.any()):
            at = int(wrong.nonzero()[0])
            i, j = pairs[at]
            raise NoTree(
                f"with +M at summand {i} and -M at summand {j}, {survivors[at]:.6g} of {n - 2} units survive, where a tree "
                "leaves a whole number of them"
            )
        return [n - int(s) for s in survivors.tolist()]

    def sums(self, vectors: Tensor) -> Tensor:
        """What the kernel gives for each vector of summands, [number, length] to [number]."""
        slots, results = self.slots, []
        for part in vectors.split(slots):
            many = len(part)
            if many < slots:
                part = torch.cat([part, part[-1:].expand(slots - many, -1)])
            y = self._call(part)
            if self.element is not None:
                results.append(y.flatten()[self.element : self.element + 1])
                continue
            along, across = (y[0], y) if self.by_columns else (y[:, 0], y.t())
            if not bool(((across == along) | (across.isnan() & along.isnan())).all()):
                raise NotShared
            results.append(along[:many])
        return torch.cat(results)

    def _call(self, part: Tensor) -> Tensor:
        if self.kernel.cols == 0:
            return self.run(part, None)
        ones = torch.ones(1, self.kernel.length, dtype=self.kernel.dtype)
        return self.run(ones, part) if self.by_columns else self.run(part, ones)

    def run(self, rows: Tensor, cols: Tensor | None) -> Tensor:
        """One call. A single row or column stands for all; the bias is the last of the summands of ``cols``."""
        kernel = self.kernel
        k = kernel.products
        self.calls += 1
        x = _own(rows[:, :k].expand(kernel.rows, -1))
        if cols is None:
            return kernel.run(x, None, None)
        cols = cols.expand(kernel.cols, -1)
        return kernel.run(x, _own(cols[:, :k]), _own(cols[:, k]) if kernel.bias else None)


def _own(x: Tensor) -> Tensor:
    """A copy that starts where an allocation starts: some kernels treat what is not aligned in another order."""
    return x.clone(memory_format=torch.contiguous_format)
