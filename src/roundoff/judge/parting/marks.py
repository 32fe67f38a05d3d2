"""The values that one side's run holds, each with its fingerprint, and how far rounding alone moves it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from roundoff.formats import is_inexact, widen
from roundoff.judge.difference import SAME
from roundoff.judge.parting.fingerprint import UNKNOWN, Fingerprint, fingerprint, relaid
from roundoff.judge.parting.inside import values_inside
from roundoff.replay.noise import perturb
from roundoff.replay.run import Leaf, Side, run_wide
from roundoff.replay.twins import Twins
from roundoff.replay.wide import Executed
from roundoff.rules import Nature, lookup
from roundoff.tape.leaves import is_wrapper, operands, tensors
from roundoff.tape.storages import StorageMap, has_storage
from roundoff.tape.watch import Step


class Role(StrEnum):
    """How a value came to be."""

    INPUT = "input"  # given to the network
    GIVEN = "given"  # no step made it: a parameter, a buffer, a constant
    VIEW = "view"  # another look at the memory of another value
    STEP = "step"  # the result of a step
    INSIDE = "inside"  # what one step holds in between


@dataclass(frozen=True)
class Mark:
    """One value: the step that made it (index on the tape, operator, place, which of its results) and its fingerprint.

    ``operands`` are the positions of the marks that the step read, one for each floating-point tensor among its
    arguments, in their order. ``room`` and ``room_places`` are how far from it, relative, its values and places may be
    found on the other side, for rounding in float64 moves them so far.
    """

    role: Role
    step: int
    op: str
    where: str
    result: int
    shape: tuple[int, ...]
    operands: tuple[int, ...]
    print: Fingerprint
    room: float = 0.0
    room_places: float = 0.0


@dataclass(frozen=True)
class Marks:
    """The values of one run in the order in which they were made, and which of them are the outputs."""

    marks: tuple[Mark, ...]
    outputs: tuple[int, ...]

    def __getitem__(self, i: int) -> Mark:
        return self.marks[i]

    def __len__(self) -> int:
        return len(self.marks)

    def inside_of(self, step: int) -> tuple[int, ...]:
        """The marks of what this step holds in between."""
        return self._inside.get(step, ())

    @cached_property
    def _inside(self) -> dict[int, tuple[int, ...]]:
        found: dict[int, tuple[int, ...]] = {}
        for i, mark in enumerate(self.marks):
            if mark.role is Role.INSIDE:
                found[mark.step] = (*found.get(mark.step, ()), i)
        return found


class _Memory:
    """What is known of one storage: the looks at it, and which mark wrote what lies where."""

    def __init__(self, x: Tensor, writer: int) -> None:
        self.looks: dict[tuple[Any, ...], int] = {}
        self._writer = writer  # of all of it, -1 for none that is known
        self._owners: Tensor | None = None  # by element, once it was written to in parts
        self._size, self._dtype = x.untyped_storage().nbytes() // x.element_size(), x.dtype

    def writers(self, x: Tensor) -> tuple[int, ...]:
        """The marks that made what ``x`` sees."""
        if self._owners is None:
            return (self._writer,) if self._writer >= 0 else ()
        seen = self._seen(x)
        return tuple(i for i in (self._owners if seen is None else seen).unique().tolist() if i >= 0)

    def parts(self, x: Tensor) -> tuple[int, ...]:
        """The marks that made what ``x`` sees, where the memory was written to in parts; else nothing."""
        return () if self._owners is None else self.writers(x)

    def write(self, x: Tensor, mine: int) -> None:
        """Mark ``mine`` was written to what ``x`` sees: looks that see any of it are out of date."""
        if x.numel() >= self._size or x.dtype != self._dtype:
            self._writer, self._owners, self.looks = mine, None, {}
            return
        if self._owners is None:
            self._owners = torch.full((self._size,), self._writer)
        seen = self._seen(x)
        (self._owners if seen is None else seen).fill_(mine)
        for look in list(self.looks):
            at = _seen(self._owners, *look[:4]) if look[3] == self._dtype else None
            if at is None or bool((at == mine).any()):
                del self.looks[look]

    def _seen(self, x: Tensor) -> Tensor | None:
        return _seen(self._owners, *_look(x)[:4]) if x.dtype == self._dtype else None


def _seen(
    owners: Tensor | None, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], dtype: Any
) -> Tensor | None:
    if owners is None or offset + sum((n - 1) * step for n, step in zip(shape, stride, strict=True)) >= owners.numel():
        return None  # the storage has grown
    return owners.as_strided(shape, stride, offset)


class _Reader:
    """An observer of the wide run and a listener at once: keeps a mark for each value.

    ``perturbed``: only what steps make is of interest, for what was given does not move.
    """

    def __init__(self, inputs: Any = (), perturbed: bool = False) -> None:
        self.marks: list[Mark] = []
        self._perturbed = perturbed
        self._inputs = tensors(inputs)
        self._memory: StorageMap[_Memory] = StorageMap()
        self._twins: Twins | None = None
        self._found: list[int] = []

    def __call__(self, executed: Executed) -> None:
        self._twins = executed.twins
        if not self._perturbed:
            step = executed.step
            for y, sources in values_inside(executed):
                known = tuple(self._found[i] for i in sorted(sources) if self._found[i] >= 0)
                where = str(step.op), step.where
                mark = Mark(Role.INSIDE, step.index, *where, 0, tuple(y.shape), known, fingerprint(y))
                self.marks.append(mark)

    def before(self, step: Step) -> None:
        self._found = [self._read(x, step) for x in operands((step.args, step.kwargs))]

    def after(self, step: Step, out: Any) -> None:
        found = operands((step.args, step.kwargs))
        outs = operands(out) or step.overwritten
        read = {x.untyped_storage()._cdata for x in found if has_storage(x)}
        for i, x in enumerate(outs):
            if not _is_followed(x):
                continue
            looks = step.moves_only_shape or (not step.overwritten and x.untyped_storage()._cdata in read)
            self._add(x, step, i, Role.VIEW if looks else Role.STEP)

    def find(self, leaf: Leaf) -> int:
        """The mark of an output, -1 where it has none: that of its memory, or the last one with its numbers."""
        if not isinstance(leaf.native, Tensor) or leaf.wide is None or not _is_followed(leaf.native):
            return -1
        known = self._known(leaf.native)
        if known is not None:
            return known
        print = fingerprint(leaf.wide)
        same = [i for i, m in enumerate(self.marks) if m.role is not Role.INSIDE and m.print == print]
        return same[-1] if same else -1

    def _known(self, x: Tensor) -> int | None:
        memory = self._memory.get(x)
        return memory.looks.get(_look(x)) if memory is not None else None

    def _read(self, x: Tensor, step: Step) -> int:
        """The mark of an operand as it is read; a new one where no step made it, or where it was written to since."""
        if not _is_followed(x):
            return -1
        known = self._known(x)
        if known is not None:
            return known
        memory = self._memory.get(x)
        if memory is None:
            memory = _Memory(x, -1)
            self._memory.set(x, memory)
        writers = memory.writers(x)
        role = Role.VIEW if writers else Role.GIVEN
        if role is Role.GIVEN and any(x is y for y in self._inputs):
            role = Role.INPUT
        print = fingerprint(self._wide(x)) if not self._perturbed or role is Role.VIEW else UNKNOWN
        self.marks.append(Mark(role, step.index, str(step.op), step.where, 0, tuple(x.shape), writers, print))
        memory.looks[_look(x)] = len(self.marks) - 1
        return len(self.marks) - 1

    def _add(self, x: Tensor, step: Step, result: int, role: Role) -> None:
        memory = self._memory.get(x)
        print = None
        if role is Role.VIEW:
            source = self.marks[next(i for i in self._found if i >= 0)]
            whole = source.print.counts[0] == x.numel() and not x.is_complex() and str(step.op) not in _PICKS
            if source.print is UNKNOWN or str(step.op) in _SAME_LOOK or (whole and self._perturbed):
                print = source.print
            elif whole:
                print = relaid(source.print, self._wide(x))
        if role is Role.STEP and "empty" in str(step.op):
            print = UNKNOWN  # whatever the memory held
        print = print or fingerprint(self._wide(x))
        rule = lookup(step.op)
        made = rule is not None and rule.nature is Nature.MAKES and not step.overwritten
        known = () if made else tuple(self._found)  # new_zeros asks what it is given for its shape only
        if str(step.op) in _REPLACES:
            known = known[1:]
        elif role is Role.VIEW and memory is not None:
            known = memory.parts(x) or known
        self.marks.append(Mark(role, step.index, str(step.op), step.where, result, tuple(x.shape), known, print))
        mine = len(self.marks) - 1
        if memory is None:
            memory = _Memory(x, mine)
            self._memory.set(x, memory)
        elif role is not Role.VIEW:
            memory.write(x, mine)
        memory.looks[_look(x)] = mine

    def _wide(self, x: Tensor) -> Tensor:
        try:
            return widen(x) if self._twins is None else self._twins.wide(x)
        except ValueError:  # bits read as another format
            return widen(x)


_SAME_LOOK = {"aten.detach.default", "aten.alias.default"}


#: Operators that ask nothing of what they write to.
_REPLACES = {"aten.copy_.default", "aten.fill_.Scalar", "aten.fill_.Tensor", "aten.zero_.default"}
#: Looks that may take some numbers more than once and leave others out.
_PICKS = {"aten.as_strided.default", "aten.unfold.default"}


def _look(x: Tensor) -> tuple[Any, ...]:
    return x.storage_offset(), tuple(x.shape), x.stride(), x.dtype, x.is_conj(), x.is_neg()


def _is_followed(x: Tensor) -> bool:
    return (
        is_inexact(x.dtype)
        and not x.is_meta
        and not x.is_nested
        and has_storage(x)
        and not is_wrapper(x)
        and x.numel() > 0
    )


def read_marks(side: Side) -> Marks:
    """The values of ``side``, with the room that rounding needs: from runs whose every step is perturbed by its own."""
    reader = _Reader((side.args, side.kwargs))
    ran, _ = run_wide(side, observe=reader, also=[reader])
    outputs = tuple(i for i in map(reader.find, ran.tensors.values()) if i >= 0)
    made = [i for i, mark in enumerate(reader.marks) if mark.role is not Role.INSIDE]
    strays = [(0.0, 0.0)] * len(reader.marks)
    for together in (
        False,
        True,
    ):  # one by one; and all elements of a step alike, as equal errors of equal elements are
        moved = _perturbed(side, together)
        if len(moved) != len(made):
            continue  # it took another way
        for i, other in zip(made, moved, strict=True):
            source = next((j for j in reader.marks[i].operands if j >= 0), -1)
            if reader.marks[i].role is Role.VIEW and reader.marks[i].print.values == reader.marks[source].print.values:
                strays[i] = strays[source]  # the same numbers
            elif reader.marks[i].op == other.op:
                values, places = reader.marks[i].print.strays(other.print)
                strays[i] = max(strays[i][0], values), max(strays[i][1], places)
    of_step: dict[int, list[int]] = {}
    for i in made:
        of_step.setdefault(reader.marks[i].step, []).append(i)
    for i, mark in enumerate(reader.marks):
        if mark.role is Role.INSIDE:  # not perturbed itself: what goes in and what comes out says how far it moves
            near = [strays[j] for j in (*mark.operands, *of_step.get(mark.step, ()))]
            strays[i] = max((v for v, _ in near), default=0.0), max((p for _, p in near), default=0.0)
    return Marks(
        tuple(
            replace(mark, room=SAME * v + mark.print.floor, room_places=SAME * p + mark.print.floor)
            for mark, (v, p) in zip(reader.marks, strays, strict=True)
        ),
        outputs,
    )


def _perturbed(side: Side, together: bool) -> list[Mark]:
    reader = _Reader(perturbed=True)
    alter: Callable[[Executed], list[Tensor]] = perturb(int(together), together=together, shown=not together)
    run_wide(side, observe=reader, alter=alter, also=[reader])
    return reader.marks
