"""Enclose a wide run: beside each wide value the radius within which the exact one lies.

Exact means: the network's operations in real arithmetic, on its inputs and parameters as they are, with the random draws
that the native run made. Errors start from zero at inputs and parameters and follow the steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any

import torch
from torch import Tensor

from roundoff.formats import is_inexact
from roundoff.replay.enclosure.ball import Ball, Uncertain, Unknown, tight
from roundoff.replay.enclosure.opened import balls_of
from roundoff.replay.enclosure.radii import Radii, around
from roundoff.replay.enclosure.registry import Operation
from roundoff.replay.wide import Executed, WideRun
from roundoff.rules import Nature
from roundoff.tape.leaves import map_operands, operands
from roundoff.tape.storages import has_storage
from roundoff.tape.watch import Step


@dataclass(frozen=True)
class Gap:
    """A step whose results have no rigorous bound, and why.

    ``steers``: it may decide what the network does next. ``near``: smaller radii might tell.
    """

    op: str
    where: str
    why: str
    steers: bool = False
    near: bool = False


class Enclosure:
    """A listener, told after the wide run, and the observer of that run."""

    def __init__(self) -> None:
        self.radii = Radii()
        self.gaps: list[Gap] = []
        self._wide = WideRun()
        self._old: dict[int, Any] = {}
        self._last: Step | None = None
        self._opaque = 0

    def follow(self, wide: WideRun) -> None:
        """``wide`` is the run whose values are enclosed."""
        self._wide = wide

    def value(self, x: Tensor) -> Tensor:
        """The radius of an output, of its shape."""
        return tight(self.radii.ball(x, x)).radius.clone()

    def correction(self, x: Tensor) -> Tensor | None:
        """What must be added to the wide value of an output, for the radius to hold: nothing."""
        return None

    # -- listener ---------------------------------------------------------------------------------------------------

    def before(self, step: Step) -> None:
        self._old = {}
        self._opaque = len(self._wide.opaque)
        if step.moves_only_shape or not step.overwritten:
            return
        found = [x for x in operands((step.args, step.kwargs)) if has_storage(x) and not x.is_meta]
        addresses = {x.untyped_storage()._cdata for x in step.overwritten if has_storage(x)}
        for x in found:
            if x.untyped_storage()._cdata in addresses:
                self._old[id(x)] = self._kept(x)

    def after(self, step: Step, out: Any) -> None:
        if self._last is step:
            return
        outs = operands(out)
        if len(self._wide.opaque) > self._opaque:
            self._lose(step, [*outs, *step.overwritten], self._wide.opaque[-1].why)
        elif not outs and not step.overwritten:
            self._left(step)
        elif not step.moves_only_shape:
            for x in step.overwritten:  # drawn, or whole numbers computed from whole numbers
                self.radii.set(x, None)

    def _left(self, step: Step) -> None:
        """A number leaves for Python: it must be certain, for it may steer what comes next."""
        for x in operands(step.args):
            if x.is_meta or not has_storage(x) or not self._wide.twins.has(x):
                continue
            same = not is_inexact(x.dtype) and torch.equal(x, self._wide.twins.wide(x))
            if not same or not self._is_exact(x):
                why = "a number that has an error steers what comes next"
                self.gaps.append(Gap(str(step.op), step.where, why, True, same))

    # -- observer ---------------------------------------------------------------------------------------------------

    def __call__(self, executed: Executed) -> None:
        step = executed.step
        self._last = step
        outs = executed.outs
        args, kwargs = self._balls(step.args), {k: self._balls(v) for k, v in step.kwargs.items()}
        nature = None if executed.rule is None else executed.rule.nature
        exact = nature is Nature.EXACT and all(self._is_exact(x) for x in operands((step.args, step.kwargs)))
        if exact or nature is Nature.MAKES:
            self._set(step, outs, [None] * len(outs))
            return
        try:
            radii = self._enclose(step, Operation(step.op, args, kwargs, tuple(executed.wide)))
        except (Unknown, RuntimeError, NotImplementedError, TypeError, ValueError, IndexError, AttributeError) as error:
            why = (str(error).splitlines() or [type(error).__name__])[0][:160]
            self._lose(step, outs, why, isinstance(error, Uncertain))
            return
        self._set(step, outs, radii)

    def _enclose(self, step: Step, operation: Operation) -> list[Any]:
        """What is kept of each result. Raises Unknown."""
        balls = balls_of(operation.op, operation)
        if len(balls) != len(operation.out):
            raise Unknown(f"its enclosure has {len(balls)} results")
        return [around(w, ball) for w, ball in zip(operation.out, balls, strict=True)]

    def _kept(self, x: Tensor) -> Any:
        """A copy of what is known of ``x``, which is about to be overwritten."""
        ball = self.radii.ball(x, self._wide.twins.wide(x))
        return Ball(ball.mid.clone(), None if ball.rad is None else ball.rad.clone(), ball.norm)

    def _is_exact(self, x: Tensor) -> bool:
        """True where ``x``, as the step found it, has no error."""
        old = self._old.get(id(x))
        return (old if old is not None else self.radii.ball(x, x)).rad is None

    def _set(self, step: Step, outs: list[Tensor], radii: list[Any]) -> None:
        results = {x.untyped_storage()._cdata for x in outs if has_storage(x)}
        for x in [] if _reads_only(step) else step.overwritten:  # such as running statistics, beside the results
            if has_storage(x) and x.untyped_storage()._cdata not in results and is_inexact(x.dtype):
                self.radii.set(x, _unknown(x))
        for x, radius in zip(outs, radii, strict=True):
            self.radii.set(x, radius)

    def _lose(self, step: Step, outs: list[Tensor], why: str, near: bool = False) -> None:
        self.gaps.append(Gap(str(step.op), step.where, why, near=near))
        for x in outs:
            if has_storage(x) and not x.is_meta:
                self.radii.set(x, _unknown(x))

    def _balls(self, value: Any) -> Any:
        return map_operands(lambda x: self._ball(x) if isinstance(x, Tensor) else x, value)

    def _ball(self, x: Tensor) -> Any:
        old = self._old.get(id(x))
        return old if old is not None else self.radii.ball(x, self._wide.twins.wide(x))


def _reads_only(step: Step) -> bool:
    """True for a normalisation in evaluation: it is taken to write to its statistics, and does so in training only."""
    names = [a.name for a in step.op._schema.arguments]
    at = names.index("training") if "training" in names else len(step.args)
    return (step.args[at] if at < len(step.args) else step.kwargs.get("training")) is False


def _unknown(x: Tensor) -> Ball:
    return Ball(x, torch.full(x.shape, inf, dtype=torch.float64, device=x.device))
