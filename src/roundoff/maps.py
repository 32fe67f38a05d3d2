"""How a parameter of one form lies in the other: the same numbers, split, put in another order, and merged again.

before --reshape--> split --permute--> order --reshape--> after. Every step moves numbers and computes none, so the
way back gives the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from torch import Tensor


@dataclass(frozen=True)
class Map:
    """The way of one tensor from the shape ``before`` to the shape ``after``, and back."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    split: tuple[int, ...] = ()
    order: tuple[int, ...] = ()

    def to(self, x: Tensor) -> Tensor:
        """From ``before`` to ``after``; a view where one is possible."""
        if not self.split:
            return x.reshape(self.after)
        return x.reshape(self.split).permute(self.order).reshape(self.after)

    def back(self, x: Tensor) -> Tensor:
        """From ``after`` to ``before``."""
        if not self.split:
            return x.reshape(self.before)
        permuted = tuple(self.split[i] for i in self.order)
        inverse = tuple(sorted(range(len(self.order)), key=self.order.__getitem__))
        return x.reshape(permuted).permute(inverse).reshape(self.before)

    def inverse(self) -> Map:
        """The way from ``after`` to ``before``."""
        if not self.split:
            return Map(self.after, self.before)
        permuted = tuple(self.split[i] for i in self.order)
        inverse = tuple(sorted(range(len(self.order)), key=self.order.__getitem__))
        return Map(self.after, self.before, permuted, inverse)

    def __post_init__(self) -> None:
        sizes = {prod(self.before), prod(self.after), *([prod(self.split)] if self.split else [])}
        assert len(sizes) == 1, self
