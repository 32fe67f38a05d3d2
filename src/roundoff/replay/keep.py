"""Keep of a run what going backwards through it needs: operands, local errors and inherited ones.

What is kept of a float operand is its native value and how far that is from the wide one; both are small formats. Over
the budget the earliest steps are let go, and the run is watched again for them: recomputed rather than stored.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from roundoff.formats import is_inexact, widen
from roundoff.replay.apart import Apart, apart, shortened
from roundoff.replay.products import work_of
from roundoff.replay.sizes import finite
from roundoff.replay.wide import Executed
from roundoff.rules import Rule
from roundoff.tape.leaves import map_operands, operands
from roundoff.tape.record import Place
from roundoff.tape.storages import StorageMap, has_storage
from roundoff.tape.watch import Step


@dataclass(frozen=True)
class Operand:
    """A tensor as a step found it; ``moved`` is native - wide, None where they are the same."""

    place: Place
    native: Tensor
    moved: Tensor | None


@dataclass(frozen=True)
class Measured:
    """What the ledger says of a step apart from its share."""

    local_abs: float = 0.0
    bound_abs: float | None = 0.0
    inherited_abs: float = 0.0
    error_rel: float = 0.0
    value_rms: float = 0.0


@dataclass(frozen=True)
class Kept:
    """One step, without the memory of the run: its tensors are :class:`Operand` in ``args`` and ``kwargs``."""

    step: Step
    rule: Rule | None = None
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    natives: tuple[Tensor, ...] = ()  # of steps that a rule redoes by their native results
    results: tuple[Place, ...] = ()
    local: tuple[Tensor | None, ...] = ()
    moved: tuple[Tensor | None, ...] = ()
    made: frozenset[int] = frozenset()  # storages that the step made: nothing came before it there
    measured: Measured = Measured()
    work: float = 0.0  # multiplications, of a step that sums products


@dataclass(frozen=True)
class Constant:
    """A tensor that no step made and whose wide value is not its own: a number such as 0.1, or a fold."""

    place: Place
    moved: Tensor
    step: Step  # the first that uses it


Bound = Callable[[Executed, int, tuple[int, ...]], float | None]


class Keeper:
    """A listener, and the observer of the wide run beside it, that keeps the last steps before ``until``.

    ``budget`` is how many bytes it may keep; ``bound(executed, result, index)`` gives the bound at one element. A step
    that moves data only, or that the wide run did not need to redo, is kept as a line with zeros.
    """

    def __init__(self, bound: Bound, budget: float, until: int | None = None) -> None:
        self.kept: deque[Kept] = deque()
        self.constants: dict[int, Constant] = {}
        self.bytes = 0.0
        self._bound = bound
        self._budget = budget
        self._until = until
        self._sizes: deque[float] = deque()
        self._numbers: StorageMap[int] = StorageMap()
        self._count = 0
        self._written: set[int] = set()  # numbers of the storages that a step made or wrote to
        self._operands: StorageMap[dict[tuple[Any, ...], Operand]] = StorageMap()
        self._seen: dict[int, Operand] = {}
        self._last: Step | None = None
        self._new = 0.0

    @property
    def first(self) -> int:
        """The index of the first step that is kept; of none, where the run was not as long."""
        return self.kept[0].step.index if self.kept else 0

    def place(self, x: Tensor) -> Place | None:
        """Where ``x`` lies; None for a tensor that has no storage."""
        if not has_storage(x) or x.is_nested:
            return None
        number = self._numbers.get(x)
        if number is None:
            number, self._count = self._count, self._count + 1
            self._numbers.set(x, number)
        return Place(
            number, x.dtype, tuple(x.size()), tuple(x.stride()), int(x.storage_offset()), x.is_conj(), x.is_neg()
        )

    # -- listener ---------------------------------------------------------------------------------------------------

    def before(self, step: Step) -> None:
        self._new = 0.0
        for x in operands((step.args, step.kwargs)):
            self.place(x)  # numbered in the order in which they are met, also where nothing is kept

    def after(self, step: Step, out: Any) -> None:
        places = [p for x in operands(out) if (p := self.place(x)) is not None]
        written = [p for x in step.overwritten if (p := self.place(x)) is not None]
        found = {p.storage for x in operands((step.args, step.kwargs)) if (p := self.place(x)) is not None}
        is_view = not step.overwritten and all(p.storage in found for p in places)
        results = () if step.moves_only_shape or is_view else tuple(written or places)
        if self._keeps(step) and self._last is not step:
            made = frozenset(p.storage for p in results) - self._written - found
            self._keep(Kept(_bare(step), results=results, made=made))
        self._written |= {p.storage for p in results}
        for x in step.overwritten:
            self._operands.drop(x)

    # -- observer ---------------------------------------------------------------------------------------------------

    def __call__(self, executed: Executed) -> None:
        step = executed.step
        self._last = step
        places = [self.place(x) for x in executed.outs]
        if not self._keeps(step) or any(p is None for p in places):
            return
        reference = executed.reference
        local: list[Tensor | None] = []
        moved: list[Tensor | None] = []
        measured = Measured()
        for i, (x, y, w) in enumerate(zip(executed.outs, reference, executed.wide, strict=True)):
            if not is_inexact(x.dtype) or x.numel() == 0:
                local.append(None)
                moved.append(None)
                continue
            found = apart(x, y, w)
            measured = _larger(measured, self._measure(executed, i, found))
            local.append(self._counted(found.local))
            moved.append(found.moved if found.moved is found.local else self._counted(found.moved))
        rule = executed.rule
        old = {p.storage for x in step.overwritten if (p := self.place(x)) is not None}
        self._seen = {}
        args: tuple[Any, ...] = ()  # of nested tensors nothing is kept, so what they brought in is booked as the bend
        kwargs: dict[str, Any] = {}
        if all(self.place(x) is not None for x in operands((step.args, step.kwargs))):
            args = tuple(map_operands(lambda x: self._operand(x, executed), a) for a in step.args)
            kwargs = {k: map_operands(lambda x: self._operand(x, executed), v) for k, v in step.kwargs.items()}
        natives = tuple(x.clone() for x in executed.outs) if rule is not None and rule.wide is not None else ()
        made = frozenset(p.storage for p in places if p is not None and p.storage not in old)
        self._new += sum(_size(x) for x in natives)
        results = tuple(p for p in places if p is not None)
        self._keep(
            Kept(
                _bare(step),
                rule,
                args,
                kwargs,
                natives,
                results,
                tuple(local),
                tuple(moved),
                made - self._written,
                measured,
                0.0
                if rule is None or rule.products is None
                else work_of(rule.products(step.args, step.kwargs), executed.outs[0]),
            )
        )

    def _keeps(self, step: Step) -> bool:
        return self._until is None or step.index < self._until

    def _keep(self, kept: Kept) -> None:
        self.kept.append(kept)
        self._sizes.append(self._new)
        self.bytes += self._new
        while self.bytes > self._budget and len(self.kept) > 1:
            self.kept.popleft()
            self.bytes -= self._sizes.popleft()

    def _operand(self, x: Any, executed: Executed) -> Any:
        if not isinstance(x, Tensor):
            return executed.operand(x)
        if id(x) not in self._seen:
            self._seen[id(x)] = self._taken(x, executed)
        return self._seen[id(x)]

    def _taken(self, x: Tensor, executed: Executed) -> Operand:
        place = self.place(x)
        assert place is not None
        old = executed.old.get(id(x))
        key = (place.dtype, place.size, place.stride, place.offset, place.conj, place.neg)
        known = self._operands.get(x) or {}
        if old is None and key in known:
            return known[key]
        moved = None
        if is_inexact(x.dtype) and executed.twins.has(x):
            if old is None:
                moved = self._counted(self._moved(x, place, executed))
            else:
                moved = self._counted(shortened(finite(old - executed.old_wide[id(x)])))
            if place.storage not in self._written and place.storage not in self.constants:
                self._enter(x, executed)
        native = x.detach() if old is None else old
        if old is None and (moved is not None or place.storage in self._written):
            native = native.clone()
        if native is not x:
            self._new += _size(native)
        operand = Operand(place, native, moved)
        if old is None:
            self._operands.set(x, {**known, key: operand})
        return operand

    def _moved(self, x: Tensor, place: Place, executed: Executed) -> Tensor | None:
        if x.numel() == 0:
            return None
        wide = executed.twins.wide(x)
        return apart(x, wide, wide).moved

    def _enter(self, x: Tensor, executed: Executed) -> None:
        """A constant, all of its storage."""
        whole = torch.empty(0, dtype=x.dtype, device=x.device).set_(x.detach().untyped_storage())
        place = self.place(whole)
        assert place is not None
        moved = self._counted(shortened(finite(widen(whole) - executed.twins.wide(whole))))
        if moved is not None:
            self.constants[place.storage] = Constant(place, moved, _bare(executed.step))

    def _counted(self, x: Tensor | None) -> Tensor | None:
        self._new += 0.0 if x is None else _size(x)
        return x

    def _measure(self, executed: Executed, result: int, found: Apart) -> Measured:
        return Measured(
            found.local_abs,
            self._bound(executed, result, found.at),
            found.inherited_abs,
            found.moved_norm / found.wide_norm if found.wide_norm else 0.0,
            found.wide_norm / executed.wide[result].numel() ** 0.5,
        )


def _larger(a: Measured, b: Measured) -> Measured:
    """Of the results of a step the one that is said: with the larger local error."""
    return b if b.local_abs > a.local_abs or a == Measured() else a


def _bare(step: Step) -> Step:
    """``step`` without its tensors."""
    return replace(step, args=(), kwargs={})


def _size(x: Tensor) -> float:
    return float(x.numel() * x.element_size())
