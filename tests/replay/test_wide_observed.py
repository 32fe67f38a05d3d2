"""What an observer is told of a step: its operands as they were, and its result in float64 on them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from roundoff.formats import same_bits
from roundoff.replay.run import Ran, Side, run_wide
from roundoff.replay.wide import Executed
from roundoff.tape.trace import random_state

TENTH = 0.1


def run(model: Any, *args: Any, **options: Any) -> Ran:
    return run_wide(Side("A", model, args, {}, random_state()), **options)[0]


def executed(model: Any, *args: Any, op: str) -> Executed:
    """What an observer is told of the one step ``op``."""
    found: list[Executed] = []

    def observe(step: Executed) -> None:
        if op in str(step.step.op):
            _ = step.reference, step.args, step.kwargs  # while the operands are as they were
            found.append(step)

    run(model, *args, observe=observe)
    (one,) = found
    return one


def test_the_reference_is_the_step_on_its_native_operands() -> None:
    x, w = torch.randn(4, 8), torch.randn(8, 3)
    step = executed(lambda x: (x * TENTH) @ w, x, op="mm")
    native = x * TENTH
    assert torch.equal(step.reference[0], native.double() @ w.double())
    assert not torch.equal(step.wide[0], step.reference[0])
    assert not step.clean and torch.equal(step.args[0], native.double())


def test_a_step_on_inputs_and_parameters_inherits_nothing() -> None:
    step = executed(torch.sin, torch.randn(3), op="sin")
    assert step.clean and step.reference[0] is step.wide[0]


@pytest.mark.parametrize("clean", [True, False])
def test_the_operands_of_a_step_in_place_are_the_old_ones(clean: bool) -> None:
    def network(x: Tensor) -> Tensor:
        y = x.clone() if clean else x * 3
        return y.mul_(TENTH)

    step = executed(network, torch.ones(2), op="mul_")
    assert step.args[0].tolist() == [1.0 if clean else 3.0] * 2
    assert step.reference[0].tolist() == [TENTH if clean else 3 * TENTH] * 2


def test_an_operand_that_lies_in_the_memory_that_is_written_to_is_the_old_one_too() -> None:
    def network(x: Tensor) -> Tensor:
        y = x * 3
        return y.add_(y.detach())  # another tensor, the same memory

    step = executed(network, torch.ones(2), op="add_")
    assert [x.tolist() for x in step.args[:2]] == [[3.0, 3.0]] * 2
    assert step.reference[0].tolist() == [6.0, 6.0]


def test_the_reference_of_a_step_into_memory_that_is_given() -> None:
    def network(x: Tensor) -> Tensor:
        out = torch.zeros(2)
        torch.mul(x * 3, TENTH, out=out)
        return out

    assert executed(network, torch.ones(2), op="mul.out").reference[0].tolist() == [3 * TENTH] * 2


def test_observing_changes_no_result() -> None:
    model, x = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(inplace=True)), torch.randn(5, 4)
    watched, observed = run(model, x), run(model, x, observe=lambda step: step.reference and None)
    for a, b in zip(watched.leaves, observed.leaves, strict=True):
        assert a.wide is not None and b.wide is not None
        assert same_bits(a.native, b.native) and same_bits(a.wide, b.wide)
