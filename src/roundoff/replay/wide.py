"""The wide run: beside each step of a native run, the same operation in float64 on wide operands.

Native values steer only what cannot be recomputed: Python control flow, shapes that depend on data, and random draws.
Masks, indices and rounded integers that are data are recomputed wide, so that two correct networks take the same
branches. See the design for why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from roundoff.formats import is_inexact, wide_dtype, widen
from roundoff.replay.constants import Constants
from roundoff.replay.products import corrected, is_large_product, work_of
from roundoff.replay.redo import redo
from roundoff.replay.sizes import largest
from roundoff.replay.twins import Twins
from roundoff.rules import Nature, Rule, lookup
from roundoff.tape.leaves import map_operands, operands
from roundoff.tape.storages import has_storage
from roundoff.tape.trace import drew, random_state
from roundoff.tape.watch import Step


@dataclass(frozen=True)
class Crossing:
    """A step at which the wide and the native run choose differently, and for how many elements.

    ``mark`` is a number that changes with which elements these are and with what they choose.
    """

    step: int
    op: str
    where: str
    count: int
    mark: float = 0.0


@dataclass(frozen=True)
class Opaque:
    """A step that could not be followed in float64: from here on its native result stands for the wide one."""

    op: str
    where: str
    why: str


@dataclass(frozen=True)
class Executed:
    """One step with its native and its wide side, as the check of the kernels sees it."""

    step: Step
    rule: Rule | None
    old: dict[int, Tensor]  # by id: the widened old values of the operands that were overwritten
    clean: bool  # no operand carries an inherited error
    outs: list[Tensor]  # native results
    wide: list[Tensor]  # wide results
    twins: Twins
    old_wide: dict[int, Tensor] = field(default_factory=dict)  # by id: their old wide values, where they are asked for
    numbers: Mapping[float, float] = field(default_factory=dict)  # what Python numbers stand for, see Constants

    def operand(self, x: Any) -> Any:
        """``x`` as the step found it, widened; a number as what it stands for; anything else as it is."""
        if not isinstance(x, Tensor):
            return self.numbers.get(x, x) if type(x) is float else x
        old = self.old.get(id(x))
        return old if old is not None else widen(x)

    @cached_property
    def args(self) -> tuple[Any, ...]:
        """The operator's arguments, native operands widened."""
        return tuple(map_operands(self.operand, a) for a in self.step.args)

    @cached_property
    def kwargs(self) -> dict[str, Any]:
        """The operator's keywords, native operands widened."""
        return {k: map_operands(self.operand, v) for k, v in self.step.kwargs.items()}

    @cached_property
    def reference(self) -> list[Tensor]:
        """The operator in float64 on the native operands."""
        if self.clean:
            return self.wide
        inherited = self._inherited()
        if inherited is not None:
            return [inherited.add_(self.wide[0])]
        args, kwargs = self.args, self.kwargs
        if self.step.overwritten:  # the operator will write to them: let it write to copies
            args = tuple(map_operands(lambda x: x.clone() if isinstance(x, Tensor) else x, a) for a in args)
            kwargs = {
                k: map_operands(lambda x: x.clone() if isinstance(x, Tensor) else x, v) for k, v in kwargs.items()
            }
        return redo(self.step, self.rule, args, kwargs, self.outs)

    def _inherited(self) -> Tensor | None:
        """What a large product makes of the error of its one operand that has one; None where it is not that simple."""
        step, rule = self.step, self.rule
        if rule is None or rule.products is None or step.overwritten or len(self.outs) != 1:
            return None
        products = rule.products(step.args, step.kwargs)
        if not is_large_product(rule, self.outs[0].dtype, work_of(products, self.outs[0])):
            return None
        given = operands((step.args, step.kwargs))
        off = [x for x in given if self.twins.has(x)]
        if len(off) != 1 or not (off[0] is products.x or off[0] is products.w) or sum(x is off[0] for x in given) != 1:
            return None
        moved = off[0] - self.twins.wide(off[0])  # in float64
        size = largest(moved)
        return corrected(step, products, moved, size, off[0]) if size < torch.inf else None


class Observer(Protocol):
    """Told of each step that was computed on both sides, before the wide results are taken over."""

    def __call__(self, executed: Executed) -> None: ...


class WideRun:
    """A listener that keeps the wide value of every tensor that is alive.

    ``observe`` is told of each computed step; ``alter`` may change the wide results of a step (to perturb them);
    ``constants`` says what wide value a tensor that no step made has, where that is not simply its own; ``keep_old`` has
    the old wide values of what is overwritten kept for ``observe``.
    """

    def __init__(
        self,
        observe: Observer | None = None,
        alter: Callable[[Executed], list[Tensor]] | None = None,
        constants: Constants | None = None,
        neutral: bool = False,
        keep_old: bool = False,
    ) -> None:
        self.twins = Twins()
        self.crossings: list[Crossing] = []
        self.opaque: list[Opaque] = []
        self.draws: list[tuple[str, tuple[int, ...]]] = []
        self.chosen: list[Tensor] = []
        self._observe = observe
        self._alter = alter
        self._constants = constants or Constants()
        self._neutral = neutral
        self._keeps_old = keep_old
        self._old: dict[int, Tensor] = {}
        self._old_wide: dict[int, Tensor] = {}
        self._moved = False
        self._randomness: dict[str, Any] | None = None

    # -- listener ---------------------------------------------------------------------------------------------------

    def before(self, step: Step) -> None:
        self._old, self._old_wide = {}, {}
        if step.moves_only_shape:
            return
        found = operands((step.args, step.kwargs))
        if any(x.is_meta for x in found):
            return
        for x in found:
            self._constants.meet(x, self.twins)
        self._moved = any(self.twins.has(x) for x in found)
        self._randomness = random_state() if lookup(step.op) is None else None
        overwritten = [x for x in step.overwritten if has_storage(x)]
        for x in overwritten:
            if self._moved or is_inexact(x.dtype):
                self.twins.own(x)
        if overwritten and (self._observe is not None or self._alter is not None):
            self._keep_old(found, {x.untyped_storage()._cdata for x in overwritten})

    def _keep_old(self, found: list[Tensor], addresses: set[int]) -> None:
        for x in found:  # also those that are only read, in memory that is written to
            if has_storage(x) and x.untyped_storage()._cdata in addresses:
                self._old[id(x)] = x.detach().to(wide_dtype(x.dtype), copy=True)
                if self._keeps_old:
                    self._old_wide[id(x)] = self.twins.wide(x).clone()

    def after(self, step: Step, out: Any) -> None:
        with torch.no_grad():
            self._after(step, out)

    def _after(self, step: Step, out: Any) -> None:
        outs = operands(out) or step.overwritten
        found = operands((step.args, step.kwargs))
        if any(x.is_meta for x in outs + found):
            return  # it has no values: forward-mode derivatives are made ready so
        for x in outs:
            self._constants.made(x)
        if not outs:
            self._constants.left(step, self.twins)
            return
        if not all(has_storage(x) for x in outs + found):
            self._give_up(step, outs, "a sparse or nested tensor")
            return
        if step.moves_only_shape or (not step.overwritten and _is_view(outs, found)):
            return
        rule = lookup(step.op)
        if rule is None and self._randomness is not None and drew(self._randomness, random_state()):
            self._give_up(step, outs, "it draws random numbers")
            return
        if rule is not None:
            if rule.nature is Nature.DRAWS and rule.wide is None:
                self._draw(step, outs)
                return
            if rule.nature is Nature.MAKES and not step.overwritten:
                return
            if rule.nature is Nature.EXACT and not self._moved and not step.overwritten:
                if not (rule.discrete and _rounds_a_number(step)):
                    return
                self._moved = True  # natively the choice is between rounded numbers
        if step.overwritten and not self._moved and not any(is_inexact(x.dtype) for x in step.overwritten):
            return
        self._compute(step, rule, outs)

    def value(self, x: Tensor) -> Tensor:
        """The wide value of an output. Raises ValueError where bits were reinterpreted."""
        self._constants.meet(x, self.twins)
        return self.twins.wide(x)

    # -- the wide side of a step --------------------------------------------------------------------------------------

    def _compute(self, step: Step, rule: Rule | None, outs: list[Tensor]) -> None:
        try:
            wide = self._redo_wide(step, rule, outs)
        except (RuntimeError, NotImplementedError, TypeError, ValueError, IndexError) as error:
            self._give_up(step, outs, f"float64: {(str(error).splitlines() or [type(error).__name__])[0][:120]}")
            return
        if rule is not None and rule.nature is Nature.DRAWS:
            self.draws.append((str(step.op), tuple(outs[0].shape)))
        executed = Executed(
            step, rule, self._old, not self._moved, outs, wide, self.twins, self._old_wide, self._constants.numbers
        )
        self._note_choices(executed)
        if self._observe is not None:
            self._observe(executed)
        if self._alter is not None:
            wide = self._alter(executed)
        for x, w in zip(outs, wide, strict=True):
            if w is not x and x.numel() and self._differs_from_native(x):
                self.twins.adopt(x, w)

    def _differs_from_native(self, x: Tensor) -> bool:
        # Integers computed from integers alone are their own wide value.
        return is_inexact(x.dtype) or self._moved

    def _redo_wide(self, step: Step, rule: Rule | None, outs: list[Tensor]) -> list[Tensor]:
        try:
            wide = self._redo_on(step, rule, outs, self._wide_operand)
            if _same_shapes(wide, outs):
                return wide
        except (RuntimeError, IndexError):
            if not self._is_steered(step):
                raise
        # Once more with native masks and indices: the shapes depend on them.
        self.crossings.append(Crossing(step.index, str(step.op), step.where, 1))
        wide = self._redo_on(step, rule, outs, lambda x: x if _is_index(x) else self._wide_operand(x))
        if not _same_shapes(wide, outs):
            raise RuntimeError("its shape depends on values that differ natively and in float64")
        return wide

    def _redo_on(
        self, step: Step, rule: Rule | None, outs: list[Tensor], operand: Callable[[Any], Any]
    ) -> list[Tensor]:
        args = tuple(map_operands(operand, a) for a in step.args)
        kwargs = {k: map_operands(operand, v) for k, v in step.kwargs.items()}
        return redo(step, rule, args, kwargs, outs)

    def _wide_operand(self, x: Any) -> Any:
        if isinstance(x, Tensor):
            return self.twins.wide(x)
        return self._constants.numbers.get(x, x) if type(x) is float else x

    def _is_steered(self, step: Step) -> bool:
        """True when a mask or an index of the step was recomputed wide."""
        return any(_is_index(x) and self.twins.has(x) for x in operands((step.args, step.kwargs)))

    def _draw(self, step: Step, outs: list[Tensor]) -> None:
        self.draws.append((str(step.op), tuple(outs[0].shape)))
        for x in outs:
            if step.overwritten or self._neutral:
                value = widen(x)
                if self._neutral:
                    value = torch.full_like(value, 0.5) if is_inexact(x.dtype) else torch.zeros_like(value)
                self.twins.adopt(x, value)

    def _give_up(self, step: Step, outs: list[Tensor], why: str) -> None:
        self.opaque.append(Opaque(str(step.op), step.where, why))
        for x in outs + step.overwritten:
            if has_storage(x) and self.twins.has(x):
                self.twins.drop(x)

    def _note_choices(self, executed: Executed) -> None:
        """Booleans, integers and steps that jump: where do wide and native choose differently?"""
        rule, step = executed.rule, executed.step
        if not self._moved:
            return
        jumps, least = rule is not None and rule.discrete, _jump(executed)
        for x, w in zip(executed.outs, executed.wide, strict=True):
            if x.numel() == 0 or (x.dim() == 0 and not jumps and is_inexact(x.dtype)):
                continue
            chosen = w
            if not is_inexact(x.dtype):
                other = x != w
            elif jumps:
                other, chosen = (widen(x) - w).abs() >= least / 2, w / least
            else:
                continue
            if bool(other.any()) and "pool" not in str(step.op):
                mark = _mark(other, chosen)
                self.crossings.append(Crossing(step.index, str(step.op), step.where, int(other.sum()), mark))


def _jump(executed: Executed) -> Any:
    """The least by which the results of a step jump."""
    rule = executed.rule
    return 1 if rule is None or rule.jump is None else rule.jump(executed.args, executed.kwargs)


def _mark(other: Tensor, w: Tensor) -> float:
    places = other.flatten().nonzero().flatten()
    chosen = w.flatten()[places].to(torch.float64).round().nan_to_num()
    return float((chosen.add_(0.5) * places.add(1).to(torch.float64).sqrt()).sum())


def _same_shapes(wide: list[Tensor], native: list[Tensor]) -> bool:
    # The shape of a nested tensor cannot be asked for.
    return all(x.is_nested or w.shape == x.shape for w, x in zip(wide, native, strict=True))


def _is_index(x: Any) -> bool:
    return isinstance(x, Tensor) and not is_inexact(x.dtype)


def _is_view(outs: list[Tensor], found: list[Tensor]) -> bool:
    addresses = {x.untyped_storage()._cdata for x in found}
    return all(x.untyped_storage()._cdata in addresses for x in outs)


def _rounds_a_number(step: Step) -> bool:
    """True when a Python number of the step cannot be held by the format of its operands."""
    (dtype, *_) = [x.dtype for x in operands((step.args, step.kwargs)) if is_inexact(x.dtype)] or [torch.float64]
    numbers = [value for value in (*step.args, *step.kwargs.values()) if isinstance(value, float)]
    return any(torch.tensor(n, dtype=torch.float64) != torch.tensor(n, dtype=dtype) for n in numbers)
