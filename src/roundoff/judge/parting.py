"""Where do two networks part? The first place after which their values have nothing in common.

The wide results of the two runs are matched by value, up to layout: the same numbers in another order have the same
moments. No names and no matching graphs are needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from roundoff.formats import is_inexact
from roundoff.judge.case import Case
from roundoff.records import Kind
from roundoff.replay.run import Side, run_wide
from roundoff.replay.wide import Executed

#: Moments of the same numbers in another order agree to the rounding of float64 sums; a change shows far above it.
_AGREE = 1e-9


@dataclass(frozen=True)
class Mark:
    """A computed step with the moments of its wide result."""

    where: str
    op: str
    count: int
    moments: tuple[float, ...]

    def matches(self, other: Mark) -> bool:
        """The same numbers, up to order and to the rounding of float64."""
        return self.count == other.count and all(
            abs(x - y) <= _AGREE * max(abs(x), abs(y)) for x, y in zip(self.moments, other.moments, strict=True)
        )


def find_parting(case: Case) -> None:
    """Add a finding that names the first step on each side after the last that they have in common."""
    marks_a, marks_b = _marks(case.a), _marks(case.b)
    if not marks_a or not marks_b:
        return
    last_a = _last_matched(marks_a, marks_b)
    last_b = _last_matched(marks_b, marks_a)
    first_a, first_b = _after(marks_a, last_a), _after(marks_b, last_b)
    since = f"after {marks_a[last_a].op} ({marks_a[last_a].where})" if last_a >= 0 else "from the first step on"
    places = [f"{side}: {first.where}" for side, first in (("A", first_a), ("B", first_b)) if first is not None]
    if not places:
        return
    case.find(
        Kind.DIFFERENT_MATHEMATICS,
        "; ".join(places),
        f"The networks part {since}: A {_goes_on(first_a)}, B {_goes_on(first_b)}.",
    )


def _goes_on(mark: Mark | None) -> str:
    return f"goes on with {mark.op}" if mark is not None else "ends there"


def _after(marks: list[Mark], last: int) -> Mark | None:
    return marks[last + 1] if last + 1 < len(marks) else None


def _last_matched(marks: list[Mark], others: list[Mark]) -> int:
    by_count: dict[int, list[Mark]] = {}
    for mark in others:
        by_count.setdefault(mark.count, []).append(mark)
    matched = [i for i, mark in enumerate(marks) if any(mark.matches(o) for o in by_count.get(mark.count, ()))]
    return matched[-1] if matched else -1


def _marks(side: Side) -> list[Mark]:
    marks: list[Mark] = []

    def observe(executed: Executed) -> None:
        y = executed.wide[0]
        if is_inexact(y.dtype) and y.numel() > 1:
            marks.append(Mark(executed.step.where, str(executed.step.op), y.numel(), _moments(y)))

    run_wide(side, observe=observe)
    return marks


def _moments(y: Tensor) -> tuple[float, ...]:
    y = torch.view_as_real(y.resolve_conj()) if y.is_complex() else y
    y = torch.where(y.isfinite(), y, 0.0)
    square = y.square()
    return float(y.abs().sum()), float(square.sum()), float((square * y.abs()).sum()), float(y.max()), float(y.min())
