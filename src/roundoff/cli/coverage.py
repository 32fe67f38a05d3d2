"""Which steps of a network are covered by what is known of the operators."""

from __future__ import annotations

from collections import Counter
from typing import Any

from roundoff.judge.kernels import KernelCheck
from roundoff.replay.run import Side, run_wide
from roundoff.report.coverage import Coverage, Uncovered
from roundoff.tape.trace import random_state
from roundoff.tape.watch import Step


class _Count:
    """A listener that counts the steps of each operator."""

    def __init__(self) -> None:
        self.steps: Counter[str] = Counter()

    def before(self, step: Step) -> None:
        self.steps[str(step.op)] += 1

    def after(self, step: Step, out: Any) -> None:
        pass


def cover(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Coverage:
    """Run ``model`` as compare does, and count the steps of which nothing is known or that have no float64 side."""
    check, count = KernelCheck(), _Count()
    ran, _ = run_wide(Side("A", model, args, kwargs, random_state()), observe=check, also=[count])
    missing = {op: (where, "nothing is known of its error") for op, where in check.unknown.items()}
    missing |= {o.op: (o.where, o.why) for o in ran.wide.opaque}
    uncovered = [Uncovered(op, count.steps[op], where, why) for op, (where, why) in missing.items()]
    return Coverage(count.steps.total(), tuple(sorted(uncovered, key=lambda u: -u.steps)))
