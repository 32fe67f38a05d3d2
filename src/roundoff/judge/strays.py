"""What no step shows: numbers that leave for Python and come back, and random draws that cannot be matched."""

from __future__ import annotations

from typing import Any

from roundoff.judge.case import Case
from roundoff.judge.settle import State, settle
from roundoff.records import Kind
from roundoff.replay.run import Ran, Side, run_wide
from roundoff.tape.trace import set_random_state, untouched
from roundoff.tape.watch import Step, watch


def neutral_draws_agree(case: Case) -> str:
    """Both sides draw random numbers: would they agree if every draw were the same constant?

    Draws of other shapes or in another order cannot be matched. If nothing but the draws differs, that is said, and
    the verdict is undecided; if the networks differ with constant draws as well, the difference is real.
    """
    if not case.ran_a.wide.draws and not case.ran_b.wide.draws:
        return ""
    a, _ = run_wide(case.a, neutral=True)
    b, _ = run_wide(case.b, neutral=True)
    if settle(case, a, b, neutral=True).state is not State.SAME:
        return ""
    text = (
        "The networks differ by their random draws alone, which cannot be matched (other shapes, or another order). "
        "Compare in eval mode, or let both draw the same."
    )
    case.find(Kind.NOT_DETERMINISTIC, "random draws", text)
    return text


def numbers_come_back(side: Side, ran: Ran) -> list[str]:
    """Where a floating-point number left the tensors for Python and then entered a step again.

    ``if h.max().item() > 3`` is control flow and harmless; ``h * scale.item()`` is not. The two are told apart by
    handing out slightly different numbers: does any later step see another number?
    """
    left = ran.constants.left_as_float
    if not left:
        return []
    if any(where.startswith("Tensor.") for where in left):
        return [where for where in left if where.startswith("Tensor.")][:1]
    return left[:1] if _numbers(side, 1.0) != _numbers(side, 1.0 + 2.0**-16) else []


def _numbers(side: Side, factor: float) -> list[Any]:
    """Every Python number that a step or a new tensor gets in a run where floats that leave are multiplied by ``factor``."""
    seen: list[Any] = []

    class Log:
        def before(self, step: Step) -> None:
            seen.append(str(step.op))
            _floats((step.args, step.kwargs), seen)
            if str(step.op) == "aten.lift_fresh.default":
                seen.append(step.args[0].tolist())

        def after(self, step: Step, out: Any) -> None:
            pass

    def replace(step: Step, out: Any) -> Any:
        if str(step.op) == "aten._local_scalar_dense.default" and isinstance(out, float):
            return out * factor
        return out

    with untouched(side.model, (side.args, side.kwargs)) as restore:
        set_random_state(side.randomness)
        watch(side.model, side.args, side.kwargs, [restore, Log()], replace)
    return seen


def _floats(value: Any, seen: list[Any]) -> None:
    if isinstance(value, (int, float)):  # also as a whole number: int(h.item() * 100)
        seen.append(value)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _floats(item, seen)
    elif isinstance(value, dict):
        for item in value.values():
            _floats(item, seen)
