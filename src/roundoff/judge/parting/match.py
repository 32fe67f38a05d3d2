"""Lay two runs beside each other by the values that they hold: no names, no matching graphs.

A value that the other side does not have, but that leads to one that it has, is another way to compute the same (a
product whose bias is added later, a fused product that is split afterwards). Where nothing that follows has a partner,
the networks have parted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from roundoff.judge.parting.marks import Mark, Marks, Role

#: Values that rounding moves by more than this, relative, are not held against others; those that come near it are no
#: place of parting, for the same values on the other side may be beyond it.
MOST, NEAR = 2.0**-10, 2.0**-20
#: How many comparisons of fingerprints are made at once.
_CHUNK = 2_000_000


@dataclass(frozen=True)
class Match:
    """Which marks of A and of B hold the same values: by mark, the partners on the other side."""

    a: tuple[tuple[int, ...], ...]
    b: tuple[tuple[int, ...], ...]

    def turned(self) -> Match:
        """The same with A and B exchanged."""
        return Match(self.b, self.a)


def match_values(a: Marks, b: Marks) -> Match:
    """Pair the values of both sides that are the same numbers, in whatever layout, up to rounding in float64."""
    groups: dict[tuple[int, ...], tuple[list[int], list[int]]] = {}
    for which, marks in enumerate((a, b)):
        for i, mark in enumerate(marks.marks):
            if is_known(mark):
                groups.setdefault(mark.print.counts, ([], []))[which].append(i)
    of_a: list[list[int]] = [[] for _ in a.marks]
    of_b: list[list[int]] = [[] for _ in b.marks]
    for ours, theirs in groups.values():
        for i, j in _agreeing(a, ours, b, theirs):
            of_a[i].append(j)
            of_b[j].append(i)
    return Match(tuple(map(tuple, of_a)), tuple(map(tuple, of_b)))


def is_known(mark: Mark, most: float = MOST) -> bool:
    """False for memory that nobody has written to, and for values that rounding has overrun."""
    return bool(mark.print.values) and mark.room <= most


def _agreeing(a: Marks, ours: list[int], b: Marks, theirs: list[int]) -> Iterator[tuple[int, int]]:
    if not ours or not theirs:
        return
    values_b, sizes_b, rooms_b = _table([b[j] for j in theirs])
    at_once = max(1, _CHUNK // values_b.numel())
    for start in range(0, len(ours), at_once):
        part = ours[start : start + at_once]
        values, sizes, rooms = _table([a[i] for i in part])
        room = torch.maximum(rooms[:, None], rooms_b[None]) * torch.maximum(sizes[:, None], sizes_b[None])
        agree = ((values[:, None] - values_b[None]).abs() <= room).all(-1)
        for i, j in agree.nonzero().tolist():
            yield part[i], theirs[j]


def _table(marks: list[Mark]) -> tuple[Tensor, Tensor, Tensor]:
    values = torch.tensor([m.print.values for m in marks], dtype=torch.float64)
    sizes = torch.tensor([m.print.sizes for m in marks], dtype=torch.float64)
    return values, sizes, torch.tensor([[m.room] for m in marks], dtype=torch.float64)


def same_places(x: Mark, y: Mark) -> bool:
    """True when two values that are the same numbers lie in the same way: dimensions permuted, some joined on one side."""
    room = max(x.room_places, y.room_places) * max(x.print.places_size, y.print.places_size)
    for one, two in ((x.print, y.print), (y.print, x.print)):
        for dims, places in ((two.dims, two.places), *two.joined):
            if one.dims == dims and abs(one.places - places) <= room * _JOINED:
                return True
    return False


#: The weights of joined dimensions, below 2, are no larger than the products of the weights of each, but may be smaller.
_JOINED = 4


def cone(marks: Marks, ends: Iterable[int]) -> list[int]:
    """The marks from which ``ends`` come, these included, in the order in which they were made."""
    found: set[int] = set()
    left = [i for i in ends if i >= 0]
    while left:
        i = left.pop()
        if i not in found:
            found.add(i)
            left += [j for j in marks[i].operands if j >= 0]
    return sorted(found)


def alone(marks: Marks, within: Sequence[int], has_partner: Callable[[int], bool]) -> list[int]:
    """Those of ``within``, in order, that have no partner and do not lead to one that has.

    What a step holds in between leads on as well: an operand is shared when something made of it inside one step is.
    """
    inside = [i for i, mark in enumerate(marks.marks) if mark.role is Role.INSIDE]
    shared: set[int] = set()
    for i in sorted({*within, *inside}, reverse=True):
        if has_partner(i) and not marks[i].print.says_little:
            shared.add(i)
        if i in shared:
            shared.update(j for j in marks[i].operands if j >= 0)
    return [i for i in within if i not in shared and not has_partner(i) and marks[i].role not in _NOT_MADE]


_NOT_MADE = (Role.GIVEN, Role.INPUT)


@dataclass(frozen=True)
class Places:
    """Where the sides part: a mark of each, or None on a side that has nothing which the other side has not."""

    a: int | None
    b: int | None


def find_places(a: Marks, b: Marks, match: Match) -> Places:
    """The first values on the way to an output that the other side never has, and that belong together."""
    alone_a, alone_b = _candidates(a, match.a), _candidates(b, match.b)
    if not alone_a or not alone_b:
        return Places(alone_a[0] if alone_a else None, alone_b[0] if alone_b else None)
    classes_a, classes_b = _classes(match)
    steps_a, steps_b = ([i for i in found if not _is_part(m, i)] for m, found in ((a, alone_a), (b, alone_b)))
    front_a = [(i, *_reads(a, i, classes_a, set(alone_a))) for i in steps_a]
    front_b = [(j, *_reads(b, j, classes_b, set(alone_b))) for j in steps_b]
    best: tuple[int, int, float, int] | None = None
    for j, classes_of_b, all_b in front_b:
        for i, classes_of_a, all_a in front_a:
            common = len(classes_of_a & classes_of_b)
            if not common:
                continue
            likeness = common / len(classes_of_a | classes_of_b)
            rank = (0 if all_a and all_b else 1, j, -likeness, i)
            if best is None or rank < best:
                best = rank
    i, j = (alone_a[0], alone_b[0]) if best is None else (best[3], best[1])
    i, j = _first(a, i, set(steps_a)), _first(b, j, set(steps_b))
    parts_a, parts_b = _parts(a, i, alone_a), _parts(b, j, alone_b)
    if parts_a and parts_b:
        return Places(parts_a[0], parts_b[0])
    return Places(_maker(a, i, classes_a), _maker(b, j, classes_b))


def _first(marks: Marks, i: int, lone: set[int]) -> int:
    """The first of those from which ``i`` comes that the other side does not have: all that it reads is shared."""
    return next((j for j in cone(marks, [i]) if j in lone), i)


def _parts(marks: Marks, i: int, lone: list[int]) -> list[int]:
    """The parts of other values that ``i`` reads and that the other side does not have."""
    return [j for j in cone(marks, [i]) if j in lone and j != i and _is_part(marks, j)]


def _is_part(marks: Marks, i: int) -> bool:
    """True for a look at a part of another value: many a correct network has looks that the other has no need of."""
    source = _source(marks, i)
    return source >= 0 and marks[i].print.counts[0] < marks[source].print.counts[0]


def _is_again(marks: Marks, i: int) -> bool:
    """True for another value once more, or each of its numbers so and so many times."""
    source = next((j for j in marks[i].operands if j >= 0), -1)
    if source < 0 or marks[i].role not in (Role.VIEW, Role.STEP):
        return False
    print, of = marks[i].print, marks[source].print
    times, rest = divmod(print.counts[0], of.counts[0]) if of.counts[0] else (0, 0)
    if times < 1 or rest or print.counts[1:] != tuple(n * times for n in of.counts[1:]):
        return False
    values = (*of.values[:2], *(times * v for v in of.values[2:]))
    room = max(marks[i].room, marks[source].room)
    return all(abs(x - y) <= room * size for x, y, size in zip(print.values, values, print.sizes, strict=True))


def _source(marks: Marks, i: int) -> int:
    """The mark at which ``i`` is a look; -1 where it is none."""
    return next((j for j in marks[i].operands if j >= 0), -1) if marks[i].role is Role.VIEW else -1


def _maker(marks: Marks, i: int, classes: list[int]) -> int:
    """The step that made what ``i`` is a look at, where the whole of it has no partner either."""
    while classes[i] < 0:
        source = _source(marks, i)
        if source < 0 or classes[source] >= 0 or marks[source].role in _NOT_MADE:
            break
        i = source
    return i


def _candidates(marks: Marks, partners: tuple[tuple[int, ...], ...]) -> list[int]:
    found = alone(marks, cone(marks, marks.outputs), lambda i: bool(partners[i]))
    lone = set(found)
    for i in found:  # in order: a value that is repeated and then repeated again is shared if the first is
        again = _is_again(marks, i) and not lone & set(marks[i].operands)
        if again or marks[i].print.is_mask or not is_known(marks[i], NEAR) or _looks_at_given(marks, i):
            lone.discard(i)
    return sorted(lone)


def _looks_at_given(marks: Marks, i: int) -> bool:
    """True for a look at a parameter: it is what reads it that parts."""
    while marks[i].role is Role.VIEW:
        i = _source(marks, i)
    return i >= 0 and marks[i].role is Role.GIVEN


def _reads(marks: Marks, i: int, classes: list[int], lone: set[int]) -> tuple[frozenset[int], bool]:
    """The classes of the values that a step reads, or holds in between, and whether all that it reads is shared."""
    read = [j for j in marks[i].operands if j >= 0]
    found = {classes[j] for j in marks.inside_of(marks[i].step)}
    left, seen = list(read), set()
    while left:  # a look, and what has no partner but is shared all the same, stand for what they come from
        j = left.pop()
        if j in seen or marks[j].print.says_little:
            continue
        seen.add(j)
        if classes[j] >= 0:
            found.add(classes[j])
        if (classes[j] < 0 and j not in lone) or marks[j].role is Role.VIEW:
            left += [k for k in marks[j].operands if k >= 0]
    return frozenset(found - {-1}), not any(j in lone and not _is_part(marks, j) for j in read)


def _classes(match: Match) -> tuple[list[int], list[int]]:
    """A number for each mark, the same for the same values; -1 for what has no partner."""
    of_a, of_b = [-1] * len(match.a), [-1] * len(match.b)
    count = 0
    for start in range(len(match.a)):
        if not match.a[start] or of_a[start] >= 0:
            continue
        left = [(True, start)]
        while left:
            is_a, i = left.pop()
            of, partners = (of_a, match.a) if is_a else (of_b, match.b)
            if of[i] < 0:
                of[i] = count
                left += [(not is_a, j) for j in partners[i]]
        count += 1
    return of_a, of_b
