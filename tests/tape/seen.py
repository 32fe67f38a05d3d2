"""A listener for tests, and the steps of a network."""

from __future__ import annotations

from typing import Any

from roundoff.tape.watch import Step, watch


class Seen:
    """A listener that keeps what it is told."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.told: list[str] = []

    def before(self, step: Step) -> None:
        self.told.append(f"before {step.index}")

    def after(self, step: Step, out: Any) -> None:
        self.told.append(f"after {step.index}")
        self.steps.append(step)

    def ops(self) -> list[str]:
        return [str(step.op).removeprefix("aten.").removesuffix(".default") for step in self.steps]


def steps_of(model: Any, *args: Any, **kwargs: Any) -> list[Step]:
    seen = Seen()
    watch(model, args, kwargs, [seen])
    return seen.steps


def ops_of(model: Any, *args: Any) -> list[str]:
    seen = Seen()
    watch(model, args, {}, [seen])
    return seen.ops()
