"""Steps of a run with their wide operands and results, kept to be tried again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from roundoff.formats import widen
from roundoff.judge.parting.inside import values_inside
from roundoff.replay.redo import redo
from roundoff.replay.run import Side, run_wide
from roundoff.replay.twins import Twins
from roundoff.replay.wide import Executed
from roundoff.rules import Rule, lookup
from roundoff.tape.leaves import map_operands, operands
from roundoff.tape.storages import has_storage
from roundoff.tape.watch import Step


@dataclass(frozen=True)
class Caught:
    """A step, what is known of its operator, its wide operands in place of the native ones, and its results."""

    step: Step
    rule: Rule | None
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    native: list[Tensor]
    wide: list[Tensor]
    inside: list[Tensor]  # what it holds in between

    @property
    def operands(self) -> list[Tensor]:
        """The wide operands in the order of the operator's arguments."""
        return operands((self.args, self.kwargs))

    def again(self, put: dict[int, Tensor]) -> list[Tensor] | None:
        """The results with other operands at these positions; None where the operator refuses them."""
        position = iter(range(len(self.operands)))

        def given(x: Any) -> Any:
            if not isinstance(x, Tensor):
                return x
            at = next(position)
            return put[at] if at in put else x.clone()

        args, kwargs = map_operands(given, self.args), map_operands(given, self.kwargs)
        try:
            return redo(self.step, self.rule, args, kwargs, self.native)
        except (RuntimeError, TypeError, ValueError, IndexError):
            return None


class _Catcher:
    """An observer of the wide run and a listener at once: keeps one step."""

    def __init__(self, index: int) -> None:
        self.caught: Caught | None = None
        self._index = index
        self._twins: Twins | None = None
        self._args: tuple[Any, ...] = ()
        self._kwargs: dict[str, Any] = {}
        self._inside: list[Tensor] = []

    def __call__(self, executed: Executed) -> None:
        self._twins = executed.twins
        if executed.step.index == self._index:
            self._inside = [y.clone() for y, _ in values_inside(executed)]

    def before(self, step: Step) -> None:
        if step.index == self._index:
            self._args, self._kwargs = map_operands(self._copy, step.args), map_operands(self._copy, step.kwargs)

    def after(self, step: Step, out: Any) -> None:
        outs = operands(out) or step.overwritten
        if step.index == self._index and all(has_storage(x) for x in outs):
            wide = [self._copy(x) for x in outs]
            self.caught = Caught(step, lookup(step.op), self._args, self._kwargs, outs, wide, self._inside)

    def _copy(self, x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        try:
            return (widen(x) if self._twins is None else self._twins.wide(x)).clone()
        except ValueError:  # bits read as another format
            return widen(x).clone()


def catch_step(side: Side, index: int) -> Caught | None:
    """Run ``side`` once more and keep the step with this index; None where its results cannot be kept."""
    catcher = _Catcher(index)
    run_wide(side, observe=catcher, also=[catcher])
    return catcher.caught
