"""Where do two networks part? The first step whose values, and all that follows from them, the other side never has.

The wide results of the two runs are matched by value, up to layout: the same numbers in another order have the same
moments. No names and no matching graphs are needed. A step that has no match but leads to one that has is another way
to compute the same (a product whose bias is added later); where nothing that follows has a match, the networks differ.
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
from roundoff.tape.leaves import operands
from roundoff.tape.storages import StorageMap, has_storage

#: Moments of the same numbers in another order agree to the rounding of float64 sums; a change shows far above it.
_AGREE = 1e-12


@dataclass(frozen=True)
class Mark:
    """A computed step with the moments of its wide result and the marks from which its operands come."""

    where: str
    op: str
    count: int
    moments: tuple[float, ...]
    parents: tuple[int, ...]

    def matches(self, other: Mark) -> bool:
        """The same numbers, up to order and to the rounding of float64."""
        return self.count == other.count and all(
            abs(x - y) <= _AGREE * max(abs(x), abs(y)) for x, y in zip(self.moments, other.moments, strict=True)
        )


def find_parting(case: Case) -> None:
    """Add a finding that names, on each side, the first step that the other side does not have."""
    marks_a, outputs_a = _marks(case.a)
    marks_b, outputs_b = _marks(case.b)
    first_a = _first_alone(marks_a, outputs_a, marks_b)
    first_b = _first_alone(marks_b, outputs_b, marks_a)
    places = [f"{side}: {first.where}" for side, first in (("A", first_a), ("B", first_b)) if first is not None]
    if places:
        case.find(
            Kind.DIFFERENT_MATHEMATICS,
            "; ".join(places),
            f"Here the networks part: A {_goes_on(first_a)}, B {_goes_on(first_b)}; from here on their values differ.",
        )


def _goes_on(mark: Mark | None) -> str:
    return f"goes on with {mark.op}" if mark is not None else "has nothing that the other side has not"


def _first_alone(marks: list[Mark], outputs: set[int], others: list[Mark]) -> Mark | None:
    """The first step on the way to an output that has no match and leads to none."""
    by_count: dict[int, list[Mark]] = {}
    for other in others:
        by_count.setdefault(other.count, []).append(other)
    matched = [any(mark.matches(other) for other in by_count.get(mark.count, ())) for mark in marks]
    leads_on = set(outputs)  # steps on the way to an output
    common = set()  # steps that have a match or lead to one
    for i in range(len(marks) - 1, -1, -1):
        if matched[i]:
            common.add(i)
        if i in leads_on:
            leads_on.update(marks[i].parents)
        if i in common:
            common.update(marks[i].parents)
    alone = (i for i in range(len(marks)) if i in leads_on and i not in common)
    first = next(alone, None)
    return marks[first] if first is not None else None


def _marks(side: Side) -> tuple[list[Mark], set[int]]:
    """The computed steps of a wide run, and which of them made the outputs."""
    marks: list[Mark] = []
    made: StorageMap[int] = StorageMap()

    def source(x: Tensor) -> int | None:
        return made.get(x) if has_storage(x) else None

    def observe(executed: Executed) -> None:
        step, y = executed.step, executed.wide[0]
        if not is_inexact(y.dtype) or y.is_nested:
            return
        found = {source(x) for x in operands((step.args, step.kwargs))}
        parents = tuple(i for i in found if i is not None)
        marks.append(Mark(step.where, str(step.op), y.numel(), _moments(y), parents))
        for x in executed.outs:
            if has_storage(x):
                made.set(x, len(marks) - 1)

    ran, _ = run_wide(side, observe=observe)
    ends = {source(leaf.native) for leaf in ran.tensors.values()}
    return marks, {i for i in ends if i is not None}


def _moments(y: Tensor) -> tuple[float, ...]:
    if y.numel() == 0:
        return ()
    y = torch.view_as_real(y.resolve_conj()) if y.is_complex() else y
    y = torch.where(y.isfinite(), y, 0.0)
    square = y.square()
    return float(y.abs().sum()), float(square.sum()), float((square * y.abs()).sum()), float(y.max()), float(y.min())
