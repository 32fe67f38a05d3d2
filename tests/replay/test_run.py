"""One side of a comparison: its outputs, native and wide, and what was met on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.tape.cases import CASES, DRAWN, Case, each, ready
from tests.tape.nets import mlp
from torch import Tensor, nn

from roundoff.errors import RoundoffError
from roundoff.formats import is_inexact, same_bits
from roundoff.replay.run import Ran, Side, coarsest_of, describe, describe_inputs, run_wide
from roundoff.tape.trace import random_state


def run(model: Any, *args: Any, **kwargs: Any) -> Ran:
    return run_wide(Side("A", model, args, kwargs, random_state()))[0]


def assert_wide(ran: Ran, oracle: list[Tensor]) -> None:
    """The wide outputs are those of a float64 run, to a few of its roundings.

    The networks add at most a few hundred numbers, none more than fifty times the largest output: 200 · 50 · 2^-53 is
    1e-12 of it. What stayed in float32 is off by 1e-9 and more.
    """
    found = [leaf.wide for leaf in ran.leaves if leaf.wide is not None]
    assert len(found) == len(oracle)
    for wide, x in zip(found, oracle, strict=True):
        assert wide.shape == x.shape and wide.dtype == x.dtype
        if is_inexact(x.dtype):
            largest = max(1.0, float(x.abs().max()))
            assert float((wide - x).abs().max()) <= 1e-12 * largest
        else:
            assert torch.equal(wide, x)


@pytest.mark.parametrize(("case", "mode"), each(*CASES))
def test_wide_outputs_are_those_of_a_float64_run(case: Case, mode: str) -> None:
    network = ready(case, mode)
    with network.mode():
        ran = run(network.model, *network.args, **network.kwargs)
    assert ran.wide.opaque == []
    assert ran.wide.crossings == []
    assert_wide(ran, ready(case, mode).oracle())


@pytest.mark.parametrize(("case", "mode"), each(*CASES, *DRAWN))
def test_a_second_run_alone_gives_the_same_bits(case: Case, mode: str) -> None:
    network = ready(case, mode)
    with network.mode():
        ran, again = run_wide(Side("A", network.model, network.args, network.kwargs, random_state()), repeat=True)
    assert again is not None and [x.name for x in again] == [x.name for x in ran.leaves]
    for watched, alone in zip(ran.leaves, again, strict=True):
        if isinstance(alone.native, Tensor):
            assert same_bits(watched.native, alone.native) and alone.wide is None


@pytest.mark.parametrize(("case", "mode"), each(*CASES, *DRAWN))
def test_nothing_is_kept_that_is_not_alive(case: Case, mode: str) -> None:
    """A twin goes with its memory. What a network's own objects hold on to, parameters' gradients say, may stay."""
    network = ready(case, mode)
    with network.mode():
        ran = run(network.model, *network.args, **network.kwargs)
    twins = ran.wide.twins
    constants = {x.untyped_storage()._cdata for x in ran.constants.met}
    del ran, network
    assert all(address in constants for address in twins._of._entries), "a twin outlived its memory"
    assert len(twins._nested) == 0


# -- leaves -------------------------------------------------------------------------------------------------------------


def test_leaves_are_named_by_their_places() -> None:
    ran = run(lambda x: {"a": (x, 3), "b": [x * 2, None]}, torch.ones(2))
    assert [leaf.name for leaf in ran.leaves] == ["['a'][0]", "['a'][1]", "['b'][0]", "['b'][1]"]
    assert [leaf.native for leaf in ran.leaves if leaf.wide is None] == [3, None]
    assert list(ran.tensors) == ["['a'][0]", "['b'][0]"]


def test_an_output_that_is_an_input_or_a_parameter_is_its_own_wide_value() -> None:
    layer, x = nn.Linear(2, 2), torch.randn(2)
    ran = run(lambda x: (x, layer.weight), x)
    for leaf, own in zip(ran.leaves, (x, layer.weight), strict=True):
        assert leaf.wide is not None
        assert torch.equal(leaf.native, own) and torch.equal(leaf.wide, own.double())


def test_an_output_without_elements() -> None:
    (leaf,) = run(lambda x: x[:0] * 2, torch.ones(2, 3)).leaves
    assert leaf.wide is not None and leaf.wide.shape == (0, 3) and leaf.wide.dtype == torch.float64


def test_outputs_of_integers_and_booleans() -> None:
    a, b = run(lambda x: ((x > 0).long(), x > 0), torch.tensor([1.0, -1.0])).leaves
    assert a.wide is not None and b.wide is not None
    assert a.wide.tolist() == [1, 0] and b.wide.tolist() == [True, False]


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (lambda x: (x * 0.1).view(torch.int32), "read as torch.int32"),
        (lambda x: (x * 0.1).view(torch.int32) + 1, "read as torch.int32"),
        (lambda x: (x * 0.1).to_sparse().to_dense(), "sparse"),
    ],
)
def test_what_cannot_be_followed_is_named(model: Callable[..., Any], why: str) -> None:
    ran = run(model, torch.eye(3))
    assert ran.wide.opaque and why in ran.wide.opaque[0].why


def test_an_output_of_a_kind_of_its_own_is_named() -> None:
    two_tensor = pytest.importorskip("torch.testing._internal.two_tensor")
    ran = run(lambda x: two_tensor.TwoTensor(x, x) * 0.1, torch.ones(2))
    assert ran.wide.opaque[-1].why == "a TwoTensor"


# -- what a run knows of itself -------------------------------------------------------------------------------------------


def test_coarsest_is_that_of_the_shortest_format_in_which_a_step_rounded() -> None:
    x = torch.ones(2)
    runs = [run(f, x) for f in (lambda x: x * 2, lambda x: x.half() * 2, lambda x: x.bfloat16().float() * 2)]
    assert [ran.coarsest for ran in runs] == [2**-24, 2**-11, 2**-8]
    assert coarsest_of(*runs) == 2**-8
    assert coarsest_of() == 0.0


def test_steps_are_counted() -> None:
    assert run(mlp(), torch.randn(5, 6)).steps == 6


def test_casts_that_shorten_are_kept_with_their_line() -> None:
    ran = run(lambda x: x.half().float().bfloat16().double(), torch.ones(2))
    assert set(ran.casts) == {torch.float16, torch.bfloat16}
    assert "test_run.py" in ran.casts[torch.float16]


def test_draws_are_the_native_ones() -> None:
    def draws(x: Tensor) -> Tensor:
        return nn.functional.dropout(x * 0.1, 0.5) / 3

    (leaf,) = run(draws, torch.randn(5, 6)).leaves
    dropped = leaf.native == 0
    assert 5 < int(dropped.sum()) < 25
    assert leaf.wide is not None and torch.equal(leaf.wide == 0, dropped)
    assert float((leaf.wide - leaf.native.double()).abs().max()) < 1e-7


def test_an_observer_is_told_of_each_computed_step() -> None:
    told = []
    side = Side("A", mlp(), (torch.randn(5, 6),), {}, random_state())
    run_wide(side, observe=lambda executed: told.append(str(executed.step.op)))
    assert told == ["aten.addmm.default", "aten.gelu.default", "aten.native_layer_norm.default", "aten.addmm.default"]


def test_an_alter_changes_the_wide_results_and_nothing_else() -> None:
    side = Side("A", lambda x: (x + 1) * 2, (torch.ones(2),), {}, random_state())
    ran, _ = run_wide(side, alter=lambda executed: [y + 1 for y in executed.wide])
    (leaf,) = ran.leaves
    assert leaf.wide is not None
    assert leaf.wide.tolist() == [7.0, 7.0] and leaf.native.tolist() == [4.0, 4.0]


def test_values_stand_in_for_parameters() -> None:
    layer = nn.Linear(2, 2, bias=False)
    value = torch.full((2, 2), 0.1, dtype=torch.float64)
    side = Side("A", layer, (torch.ones(1, 2),), {}, random_state(), values=((layer.weight, value),))
    ran, _ = run_wide(side)
    (leaf,) = ran.leaves
    assert leaf.wide is not None and leaf.wide.tolist() == [[0.2, 0.2]]
    assert torch.equal(leaf.native, layer(torch.ones(1, 2)))


# -- messages -----------------------------------------------------------------------------------------------------------


def test_an_error_names_the_side_the_network_and_its_inputs() -> None:
    with pytest.raises(RoundoffError) as caught:
        run(nn.Linear(3, 2), torch.ones(4, 5), scale={"a": 2})
    text = str(caught.value)
    assert text.startswith("A raised TypeError: ")
    assert "A is Linear, called with float32[4, 5], 2." in text
    assert "Check that it runs on this input by itself." in text
    assert caught.value.__cause__ is not None


def test_descriptions() -> None:
    assert describe(nn.Linear(1, 1)) == "Linear"
    assert describe(describe) == "describe"
    assert describe_inputs((torch.ones(2, dtype=torch.long), "text"), {"k": [1.5]}) == "int64[2], 'text', 1.5"
    assert describe_inputs((), {}) == "no arguments"
