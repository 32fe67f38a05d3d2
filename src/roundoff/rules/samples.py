"""Operands on which rules are tried: plain ones, and those that hurt.

A rule keeps its sample operands beside it. They are drawn from a seeded generator, in any floating-point format, and
include wide ranges of magnitude, cancellation, subnormal numbers, lengths that leave a tail behind a vector register,
and layouts that are not contiguous.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from roundoff.rules.rule import Sample


@dataclass(frozen=True)
class Operands:
    """Makes operands of one format from one generator."""

    dtype: torch.dtype
    g: torch.Generator

    @property
    def half(self) -> bool:
        """True for the formats of two bytes."""
        return self.dtype in (torch.float16, torch.bfloat16)

    def normal(self, *shape: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
        """Normal numbers around ``shift``."""
        return (torch.randn(shape, generator=self.g) * scale + shift).to(self.dtype)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Uniform numbers in [low, high)."""
        return (torch.rand(shape, generator=self.g) * (high - low) + low).to(self.dtype)

    def wild(self, *shape: int, decades: float = 8.0) -> Tensor:
        """Normal numbers times powers of ten that reach over ``decades`` (at most three in float16) to either side."""
        reach = min(decades, 3.0) if self.dtype == torch.float16 else decades
        powers = (torch.rand(shape, generator=self.g) * 2 - 1) * reach
        return (torch.randn(shape, generator=self.g) * 10**powers).to(self.dtype)

    def integers(self, high: int, *shape: int) -> Tensor:
        """Whole numbers in [0, high), int64."""
        return torch.randint(high, shape, generator=self.g)

    def mask(self, *shape: int) -> Tensor:
        """Booleans, half of them true."""
        return torch.rand(shape, generator=self.g) < 0.5

    def line(self, low: float = -float("inf"), high: float = float("inf"), near: Iterable[float] = ()) -> Tensor:
        """Adversarial arguments of a function of one number in [low, high]: [n], with a vector tail.

        Every magnitude, both signs, zeros, subnormal numbers, and the neighbourhood of the points ``near``.
        """
        if self.half:  # all of them
            every = torch.arange(-(1 << 15), 1 << 15).to(torch.int16).view(self.dtype)
            every = every[every.isfinite()]
            return every[(every >= low) & (every <= high)]
        finfo = torch.finfo(self.dtype)
        x = [
            torch.randn(700, generator=self.g),
            torch.randn(400, generator=self.g) * 20,
            torch.exp2(torch.rand(500, generator=self.g) * 200 - 100) * torch.randn(500, generator=self.g).sign(),
            torch.tensor([0.0, -0.0, finfo.tiny, -finfo.tiny, finfo.tiny / 8, -finfo.tiny / 8, finfo.max, finfo.min]),
            torch.tensor([1.0, -1.0, 0.5, -0.5, 1 + finfo.eps, 1 - finfo.eps / 2, 88.7, -88.7, 103.9, -103.9]),
        ]
        for point in (1.0, *near):
            x.append(point + torch.randn(60, generator=self.g) * 10.0 ** (-6 * torch.rand(60, generator=self.g)))
        if low > -float("inf") and high < float("inf"):
            x.append(torch.rand(600, generator=self.g) * (high - low) + low)
        every = torch.cat(x).to(self.dtype)
        return every[(every >= low) & (every <= high)]

    def strided(self, x: Tensor) -> Tensor:
        """``x`` with the same values, every second element of a larger block of memory."""
        wide = torch.zeros(*x.shape[:-1], 2 * x.shape[-1], dtype=x.dtype)
        view = wide[..., ::2]
        return view.copy_(x)


Given = Callable[[Operands], Iterable[Any]]


def given(cases: Given) -> Sample:
    """A rule's ``samples`` from a function of :class:`Operands` that yields argument tuples.

    A dict at the end of a tuple holds keywords; a tensor alone is a tuple of one.
    """

    def samples(dtype: torch.dtype, g: torch.Generator) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
        for case in cases(Operands(dtype, g)):
            args = case if isinstance(case, tuple) else (case,)
            if args and isinstance(args[-1], dict):
                yield args[:-1], args[-1]
            else:
                yield args, {}

    return samples
