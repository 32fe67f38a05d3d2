"""Where do two networks part? The first step whose values, and all that follows from them, the other side never has.

The wide results of the two runs are matched by value, up to layout. No names and no matching graphs are needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from roundoff.judge.case import Case
from roundoff.judge.parting.arrangement import first_misplaced, layouts, misplaced
from roundoff.judge.parting.caught import Caught, catch_step
from roundoff.judge.parting.marks import Mark, Marks, Role, read_marks
from roundoff.judge.parting.match import Match, Places, find_places, match_values
from roundoff.records import Kind
from roundoff.replay.run import Side


@dataclass(frozen=True)
class Aligned:
    """A step of one side: its index on the tape, its operator, module and source line, and the shape of its result."""

    step: int
    op: str
    where: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Alignment:
    """Two tapes laid beside each other by the values of their wide results.

    ``pairs`` are the steps (index on A's tape, index on B's) that hold the same values, up to layout; ``only_a`` and
    ``only_b`` the steps without a partner; all of them are described in ``steps_a`` and ``steps_b``. ``parting_a`` and
    ``parting_b`` are where the networks part: None on a side that has nothing which the other has not, and on both
    where they do not part. ``places_only``: the same numbers, in other places. ``apart`` is the largest difference
    there, None where the values cannot be held against each other, and ``size`` the largest of A's.
    """

    steps_a: tuple[Aligned, ...]
    steps_b: tuple[Aligned, ...]
    pairs: tuple[tuple[int, int], ...]
    only_a: tuple[int, ...]
    only_b: tuple[int, ...]
    parting_a: Aligned | None
    parting_b: Aligned | None
    places_only: bool = False
    apart: float | None = None
    size: float | None = None


def align(a: Side, b: Side) -> Alignment:
    """Run both sides wide and lay their steps beside each other. Raises RoundoffError when a network raises."""
    marks_a, marks_b = read_marks(a), read_marks(b)
    match = match_values(marks_a, marks_b)
    places = find_places(marks_a, marks_b, match)
    places_only, apart, size = False, None, None
    if places.a is None and places.b is None:
        places = first_misplaced(marks_a, marks_a.outputs, marks_b, marks_b.outputs, match)
        places_only = places.a is not None or places.b is not None
    elif places.a is not None and places.b is not None:
        caught_a = catch_step(a, marks_a[places.a].step)
        caught_b = catch_step(b, marks_b[places.b].step)
        if caught_a is not None and caught_b is not None:
            apart, size = _apart(marks_a[places.a], caught_a, marks_b[places.b], caught_b)
            moved = _rearranged(marks_a, caught_a, marks_b, caught_b, places, match)
            if moved is not None:
                places, places_only = moved, True
    pairs = _pairs(marks_a, marks_b, match)
    steps_a, steps_b = _steps(marks_a), _steps(marks_b)
    return Alignment(
        steps_a,
        steps_b,
        pairs,
        tuple(sorted({s.step for s in steps_a} - {i for i, _ in pairs})),
        tuple(sorted({s.step for s in steps_b} - {j for _, j in pairs})),
        None if places.a is None else _aligned(marks_a[places.a]),
        None if places.b is None else _aligned(marks_b[places.b]),
        places_only,
        apart,
        size,
    )


def _rearranged(a: Marks, caught_a: Caught, b: Marks, caught_b: Caught, places: Places, match: Match) -> Places | None:
    """Where numbers first lie in other places, if that is why the two steps part; else None."""
    assert places.a is not None and places.b is not None
    found = misplaced(b, places.b, caught_b, a, places.a, caught_a, match.turned())
    if found is None:
        turned = misplaced(a, places.a, caught_a, b, places.b, caught_b, match)
        found = None if turned is None else (turned[1], turned[0])
    if found is None:
        return None
    first = first_misplaced(a, [found[1]], b, [found[0]], match)
    if first.a is None and first.b is None:
        return None  # what this step reads was given so: its weights
    return Places(places.a if first.a is None else first.a, places.b if first.b is None else first.b)


def _apart(a: Mark, caught_a: Caught, b: Mark, caught_b: Caught) -> tuple[float | None, float | None]:
    """The largest difference of the two results, in the layout in which it is smallest, or both sorted; A's size."""
    x, y = caught_a.wide[a.result], caught_b.wide[b.result]
    if x.is_complex() != y.is_complex() or x.numel() != y.numel():
        return None, None
    size = _largest(x)
    if a.print.dims == b.print.dims:
        return min((_largest(x - z) for z in layouts(y, x.shape)), default=None), size
    if x.is_complex():
        return None, None
    return _largest(x.flatten().sort().values - y.flatten().sort().values), size


def _largest(x: Tensor) -> float:
    x = x.abs()
    return float(torch.where(x.isfinite(), x, 0.0).max())


def _pairs(a: Marks, b: Marks, match: Match) -> tuple[tuple[int, int], ...]:
    """Steps that hold the same values, each once, in order: where several do, the first with the first."""
    taken: set[int] = set()
    found: dict[int, int] = {}
    for i, mark in enumerate(a.marks):
        if mark.role is not Role.STEP or mark.step in found:
            continue
        partners = [b[j].step for j in match.a[i] if b[j].role is Role.STEP and b[j].step not in taken]
        if partners:
            found[mark.step] = partners[0]
            taken.add(partners[0])
    return tuple(sorted(found.items()))


def _steps(marks: Marks) -> tuple[Aligned, ...]:
    found: dict[int, Aligned] = {}
    for mark in marks.marks:
        if mark.role is Role.STEP:
            found.setdefault(mark.step, _aligned(mark))
    return tuple(found[i] for i in sorted(found))


def _aligned(mark: Mark) -> Aligned:
    return Aligned(mark.step, mark.op, mark.where, mark.shape)


def find_parting(case: Case) -> None:
    """Add a finding that names, on each side, the first step that the other side does not have."""
    found = align(case.a, case.b)
    sides = [(name, x) for name, x in (("A", found.parting_a), ("B", found.parting_b)) if x is not None]
    if sides:
        where = "; ".join(f"{name}: {x.where}" for name, x in sides)
        case.find(Kind.DIFFERENT_MATHEMATICS, where, describe_parting(found))


def describe_parting(found: Alignment) -> str:
    """What the step is on each side, and how far the values are apart."""
    a, b = _goes_on(found.parting_a), _goes_on(found.parting_b)
    text = f"Here the networks part: A {a}, B {b}; "
    if found.places_only:
        return text + "up to here both hold the same numbers, and from here on in other places."
    if found.apart is None or found.size is None:
        return text + "from here on their values differ."
    return text + f"their values are up to {found.apart:.3g} apart, where A's reach {found.size:.3g}."


def _goes_on(step: Aligned | None) -> str:
    if step is None:
        return "has nothing that the other side has not"
    return f"goes on with {step.op} of shape {list(step.shape)}"
