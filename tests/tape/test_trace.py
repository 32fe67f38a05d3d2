"""A run leaves no trace, whatever the network does and however it ends."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.tape.cases import CASES, DRAWN, Case, each, ready
from tests.tape.nets import shift_
from tests.tape.snapshot import process, snapshot
from torch import Tensor, nn

import roundoff
from roundoff.errors import RoundoffError
from roundoff.formats import same_bits
from roundoff.replay.run import Side, run_wide
from roundoff.tape.trace import Restore, drew, drew_elsewhere, random_state, set_random_state, untouched
from roundoff.tape.watch import watch


def side(model: Any, *args: Any, **kwargs: Any) -> Side:
    return Side("A", model, args, kwargs, random_state())


@pytest.mark.parametrize(("case", "mode"), each(*CASES, *DRAWN))
def test_no_network_leaves_a_trace(case: Case, mode: str) -> None:
    network = ready(case, mode)
    inputs = network.args, network.kwargs
    with network.mode():
        before = snapshot(network.model, inputs)
        run_wide(side(network.model, *network.args, **network.kwargs), repeat=True)
        assert snapshot(network.model, inputs) == before
        roundoff.record(network.model, network.args, network.kwargs)
        assert snapshot(network.model, inputs) == before


# -- networks that do to themselves, to their inputs and to the process what they can ------------------------------------


class Stateful(nn.Module):
    """Calls what it is given with itself and the input."""

    def __init__(self, does: Callable[..., Any]) -> None:
        super().__init__()
        self.does = does
        self.layer = nn.Linear(6, 6)
        self.norm = nn.BatchNorm1d(6)
        self.register_buffer("buffer", torch.zeros(6))
        self.calls, self.cache, self.history = 0, {}, []  # type: ignore[var-annotated]

    def forward(self, x: Tensor) -> Tensor:
        self.does(self, x)
        return self.layer(x) + self.buffer


def writes_a_buffer(model: Any, x: Tensor) -> None:
    model.buffer += 1
    model.norm(x)


def replaces_a_buffer(model: Any, x: Tensor) -> None:
    model.buffer = model.buffer + x.mean()


def writes_a_parameter(model: Any, x: Tensor) -> None:
    with torch.no_grad():
        model.layer.weight.fill_(3)
        model.layer.weight.t_()


def replaces_a_parameters_memory(model: Any, x: Tensor) -> None:
    model.layer.weight.data = model.layer.weight.data * 0.5


def sets_flags(model: Any, x: Tensor) -> None:
    model.eval()
    model.layer.requires_grad_(False)


def keeps_attributes(model: Any, x: Tensor) -> None:
    model.calls += 1
    model.extra = x
    model.cache["x"] = x
    model.history.append(x)


def adds_and_takes_modules(model: Any, x: Tensor) -> None:
    model.added = nn.Linear(2, 2)
    del model.norm


def hooks_itself(model: Any, x: Tensor) -> None:
    model.layer.register_forward_hook(lambda module, args, out: out * 2)


def goes_backward(model: Any, x: Tensor) -> None:
    model.layer(x).sum().backward()


def writes_its_input(model: Any, x: Tensor) -> None:
    x.mul_(0.1).add_(1)
    x[0] = 3.0


def writes_its_input_through_an_operator_of_its_own(model: Any, x: Tensor) -> None:
    shift_(x, 1.0)


def writes_its_input_through_numpy(model: Any, x: Tensor) -> None:
    x.numpy()[:] = 0


def turns_its_input(model: Any, x: Tensor) -> None:
    x.t_()


def asks_its_input_for_a_gradient(model: Any, x: Tensor) -> None:
    x.requires_grad_()
    torch.autograd.grad(model.layer(x).sum(), x)


def sets_the_process(model: Any, x: Tensor) -> None:
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(True)
    torch.set_float32_matmul_precision("medium")
    torch.backends.mkldnn.conv.fp32_precision = "bf16"
    torch.manual_seed(3)
    np.random.seed(1)
    random.seed(3)
    torch.set_default_dtype(torch.float32)


DEEDS = [
    writes_a_buffer,
    replaces_a_buffer,
    writes_a_parameter,
    replaces_a_parameters_memory,
    sets_flags,
    keeps_attributes,
    adds_and_takes_modules,
    hooks_itself,
    goes_backward,
    writes_its_input,
    writes_its_input_through_an_operator_of_its_own,
    writes_its_input_through_numpy,
    turns_its_input,
    asks_its_input_for_a_gradient,
    sets_the_process,
]


def whole() -> Tensor:
    return torch.randn(6, 6)


def part() -> Tensor:
    return torch.randn(9, 20)[2:8, 1:13:2]


@pytest.mark.parametrize("make", [whole, part])
@pytest.mark.parametrize("does", DEEDS)
def test_a_deed_is_undone(does: Callable[..., Any], make: Callable[[], Tensor]) -> None:
    model, x = Stateful(does), make()
    around = x if x._base is None else x._base
    before = snapshot(model, (x, around))
    ran, again = run_wide(side(model, x), repeat=True)
    assert snapshot(model, (x, around)) == before
    assert again is not None
    assert same_bits(ran.leaves[0].native, again[0].native), "the second run did not start as the first did"


@pytest.mark.parametrize("does", DEEDS)
def test_a_deed_is_undone_when_the_network_raises(does: Callable[..., Any]) -> None:
    def fails(model: Any, x: Tensor) -> None:
        does(model, x)
        raise OSError("mine")

    model, x = Stateful(fails), whole()
    before = snapshot(model, x)
    with pytest.raises(RoundoffError, match="A raised OSError: mine"):
        run_wide(side(model, x))
    assert snapshot(model, x) == before
    if does is not writes_its_input_through_numpy:  # a tape does not look at NumPy
        with pytest.raises(OSError, match="mine"):
            roundoff.record(model, x)
        assert snapshot(model, x) == before


@pytest.mark.parametrize("does", DEEDS)
def test_a_deed_of_a_function_is_undone_in_the_modules_that_it_uses(does: Callable[..., Any]) -> None:
    model, x = Stateful(lambda model, x: None), whole()

    def network(x: Tensor) -> Tensor:
        does(model, x)
        return model.layer(x)

    before = snapshot(model, x)
    run_wide(side(network, x), repeat=True)
    assert snapshot(model, x) == before


def test_a_network_that_is_interrupted_leaves_no_trace() -> None:
    def interrupted(model: Any, x: Tensor) -> None:
        model.buffer += 1
        x.zero_()
        raise KeyboardInterrupt

    model, x = Stateful(interrupted), whole()
    before = snapshot(model, x)
    with pytest.raises(KeyboardInterrupt):
        run_wide(side(model, x))
    assert snapshot(model, x) == before


def test_inputs_nested_in_containers_come_back() -> None:
    x = torch.ones(2)
    batch = {"ids": x, "more": [x]}

    def consumes(batch: dict[str, Any]) -> Tensor:
        ids = batch.pop("ids")
        batch["more"].append(1)
        return ids.mul_(2)

    run_wide(side(consumes, batch), repeat=True)
    assert list(batch) == ["ids", "more"] and len(batch["more"]) == 1 and batch["ids"] is x
    assert x.tolist() == [1.0, 1.0]


def test_a_network_that_is_given_comes_back() -> None:
    norm, x = nn.BatchNorm1d(6), whole()
    before = snapshot(norm, x)

    def apply(network: Any, x: Tensor) -> Tensor:
        network.eval()
        network.calls = 1
        return network.train()(x)

    run_wide(side(apply, norm, x), repeat=True)
    assert snapshot(norm, x) == before


def test_a_generator_of_the_networks_own_comes_back() -> None:
    generator = torch.Generator().manual_seed(5)
    ran, again = run_wide(side(lambda x: x + torch.rand(2, generator=generator), torch.zeros(2)), repeat=True)
    assert again is not None and same_bits(ran.leaves[0].native, again[0].native)
    assert torch.equal(generator.get_state(), torch.Generator().manual_seed(5).get_state())


def test_an_output_that_is_an_overwritten_input_keeps_what_the_network_gave() -> None:
    x = torch.zeros(2)
    ran, again = run_wide(side(lambda x: x.add_(1), x), repeat=True)
    assert again is not None
    assert ran.leaves[0].native.tolist() == again[0].native.tolist() == [1.0, 1.0]
    assert ran.leaves[0].wide is not None and ran.leaves[0].wide.tolist() == [1.0, 1.0]
    assert x.tolist() == [0.0, 0.0]


def test_runs_start_from_the_same_random_state() -> None:
    draw = side(lambda x: x + torch.rand(3) + random.random() + np.random.rand(), torch.zeros(3))
    torch.rand(7)
    first, again = run_wide(draw, repeat=True)
    torch.rand(11)
    second, _ = run_wide(draw)
    assert again is not None
    for other in (again, second.leaves):
        assert same_bits(first.leaves[0].native, other[0].native)
    assert first.drew_elsewhere


def test_casts_that_autocast_keeps_do_not_outlive_a_run() -> None:
    """Else the next run finds weights in bfloat16 that no step made, and takes them for parameters."""
    layer, x = nn.Linear(4, 3), torch.randn(2, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer(x)
        for _ in range(2):
            ran, _ = run_wide(side(layer, x), repeat=True)
            assert {m.dtype for m in ran.constants.met} == {torch.float32}
            assert len(ran.constants.met) == 2


def test_casts_of_weights_that_were_changed_meanwhile_do_not_stay() -> None:
    layer, x = nn.Linear(4, 3), torch.randn(2, 4)

    def doubles(x: Tensor) -> Tensor:
        with torch.no_grad():
            layer.weight.mul_(2)
        return layer(x)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = layer(x)
        torch.clear_autocast_cache()
        run_wide(side(doubles, x))
        assert same_bits(layer(x), expected)


def test_precision_that_was_set_by_backend_does_no_harm() -> None:
    """PyTorch then refuses to name the precision."""
    before = torch.backends.mkldnn.matmul.fp32_precision
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    try:
        run_wide(side(torch.sin, torch.ones(1)))
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before


# -- the parts ----------------------------------------------------------------------------------------------------------


def test_what_existed_is_told_from_what_the_run_made() -> None:
    x, parameter = torch.ones(2), nn.Parameter(torch.ones(2))
    restore = Restore(None, (x,))
    made = watch(lambda x: (x + 1, (x * parameter)[1:], x[1:]), (x,), {}, [restore])
    assert [restore.is_older(t) for t in (x, parameter, *made)] == [True, True, False, False, True]


def test_undoing_twice_undoes_two_runs() -> None:
    x = torch.zeros(2)
    with untouched(None, (x,)) as restore:
        watch(lambda x: x.add_(1), (x,), {}, [restore])
        restore.undo()
        assert x.tolist() == [0.0, 0.0]
        x.add_(1)  # not watched
    assert x.tolist() == [0.0, 0.0]


def test_memory_that_was_resized_comes_back() -> None:
    x = torch.arange(6.0)
    with untouched(None, (x,)) as restore:
        watch(lambda x: x.resize_(20).zero_(), (x,), {}, [restore])
    assert x.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert x.untyped_storage().nbytes() == 24


@pytest.mark.parametrize(
    ("draw", "shown", "elsewhere"),
    [
        (lambda: torch.rand(1), True, False),
        (random.random, True, True),
        (np.random.rand, True, True),
        (lambda: np.random.seed(4), True, True),
        (lambda: None, False, False),
    ],
)
def test_draws_are_noticed(draw: Callable[[], Any], shown: bool, elsewhere: bool) -> None:
    before = random_state()
    draw()
    after = random_state()
    assert (drew(before, after), drew_elsewhere(before, after)) == (shown, elsewhere)
    set_random_state(before)
    assert not drew(before, random_state())


def test_the_process_is_as_it_was() -> None:
    before = process()
    run_wide(side(lambda x: x * torch.tensor(0.1) + x.sum().item(), torch.ones(2)), repeat=True)
    assert process() == before
