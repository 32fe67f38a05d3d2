"""What a run uses without a step having made it, and the numbers that come from Python and go to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.tape.nets import Tied, cnn, encoder, mlp
from torch import Tensor, nn

from roundoff.formats import widen
from roundoff.replay.constants import Constants
from roundoff.replay.run import Ran, Side, run_wide
from roundoff.tape.trace import random_state


def run(model: Any, *args: Any) -> Ran:
    return run_wide(Side("A", model, args, {}, random_state()))[0]


def met(model: Any, *args: Any) -> list[Tensor]:
    return run(model, *args).constants.met


def wide(model: Any, *args: Any) -> Tensor:
    (leaf,) = run(model, *args).leaves
    assert leaf.wide is not None
    return leaf.wide


ONES = torch.ones(2)
TENTHS = torch.tensor([0.1, 0.2])


# -- parameters ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "x"),
    [
        (mlp(), torch.randn(5, 6)),
        (nn.LSTM(6, 5), torch.randn(4, 3, 6)),
        (Tied(), torch.tensor([1, 2])),
        (encoder(), torch.randn(2, 5, 8)),
        (nn.Sequential(*[nn.Linear(6, 6)] * 3), torch.randn(5, 6)),
    ],
)
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_each_parameter_is_met_once_and_the_input_is_not(model: nn.Module, x: Tensor, mode: Any) -> None:
    with mode():
        found = met(model, x)
    assert sorted(id(p) for p in found) == sorted(id(p) for p in model.parameters())


def test_buffers_are_met_and_integers_are_not() -> None:
    model = cnn().eval()
    names = {id(x): name for name, x in (*model.named_parameters(), *model.named_buffers())}
    found = {names[id(x)] for x in met(model, torch.randn(2, 3, 12, 12))}
    assert found == set(names.values()) - {"1.num_batches_tracked"}


def test_parameters_that_are_not_used_are_not_met() -> None:
    model = nn.ModuleDict({"used": nn.Linear(2, 2), "unused": nn.Linear(2, 2)})
    assert len(met(lambda x: model["used"](x), ONES)) == 2


def test_parameters_that_share_one_block_of_memory_are_met_each() -> None:
    model = mlp()
    flat = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    torch.nn.utils.vector_to_parameters(flat, model.parameters())
    assert len({p.untyped_storage()._cdata for p in model.parameters()}) == 1
    assert {id(p) for p in met(model, torch.randn(5, 6))} == {id(p) for p in model.parameters()}


def test_views_of_a_parameter_are_not_met_beside_it() -> None:
    w = nn.Parameter(torch.randn(4, 4))
    assert met(lambda x: (x @ w.t()) @ w[:2].t() + w.view(16)[:2] + w.detach()[0, :2], torch.ones(4)) == [w]


def test_parts_that_steps_make_of_a_parameter_are_not_met() -> None:
    w = nn.Parameter(torch.randn(6, 2))
    q, k, v = (lambda: w.chunk(3))()  # outside of the run: parameters like any other
    assert len(met(lambda x: x + sum(part.sum() for part in w.chunk(3)), ONES)) == 1
    assert len(met(lambda x: x + q.sum() + k.sum() + v.sum(), ONES)) == 3


def test_an_input_is_no_constant_however_it_is_given() -> None:
    class Batch:
        def __init__(self) -> None:
            self.ids = torch.ones(2)

    x = torch.ones(4)
    assert met(lambda b, d, t: b.ids + d["x"][:2] + t[0], Batch(), {"x": x}, (x[2:],)) == []


def test_a_tensor_that_a_network_makes_out_of_sight_is_a_constant() -> None:
    table = np.array([0.5, 0.25], dtype=np.float32)
    (found,) = met(lambda x: x * torch.from_numpy(table), ONES)
    assert found.tolist() == [0.5, 0.25]


def test_parameters_are_their_own_wide_values() -> None:
    layer = nn.Linear(3, 2)
    x = torch.randn(4, 3)
    expected = torch.addmm(widen(layer.bias), widen(x), widen(layer.weight).t())
    assert torch.equal(wide(layer, x), expected)


# -- numbers from Python ------------------------------------------------------------------------------------------------


def setting(value: Any) -> Callable[[Tensor], Tensor]:
    def network(x: Tensor) -> Tensor:
        y = x * 1.0
        y[0] = value
        y[x > 5] = value
        return y

    return network


@pytest.mark.parametrize(
    "network",
    [
        lambda x: x * 0.1,
        lambda x: x * torch.tensor(0.1),
        lambda x: x * torch.tensor(data=0.1),
        lambda x: x * torch.tensor([0.1, 0.1]),
        lambda x: x * torch.tensor(((0.1, 0.1),))[0],
        lambda x: x * torch.tensor(0.1, dtype=torch.float32, requires_grad=True).detach(),
        lambda x: x * torch.tensor(np.float64(0.1), dtype=torch.float32),
        lambda x: x * torch.as_tensor(0.1),
        lambda x: x * torch.as_tensor([0.1, 0.1]),
        lambda x: x * x.new_tensor(0.1),
        lambda x: x * x.new_tensor(data=[0.1, 0.1]),
        lambda x: x * torch.full((2,), 0.1),
        lambda x: x * torch.full_like(x, 0.1),
        lambda x: x * x.new_full((2,), 0.1),
        lambda x: torch.where(x > 5, x, 0.1),
        lambda x: x.clone().fill_(0.1),
        lambda x: x.masked_fill(x < 5, 0.1),
        lambda x: x * torch.arange(0.1, 0.15, 0.1),
        lambda x: x * (torch.ones(2, dtype=torch.long) / 10),
        lambda x: x * (torch.ones(2, dtype=torch.long) * 0.1),
        lambda x: x / 10,
    ],
)
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
def test_numbers_written_in_python_stay_double_and_are_no_parameters(network: Any, mode: Any) -> None:
    with mode():
        ran = run(network, ONES)
    assert ran.leaves[0].wide is not None
    assert ran.leaves[0].wide.tolist() == [0.1, 0.1]
    assert ran.leaves[0].native.tolist() == torch.tensor([0.1, 0.1]).tolist()
    assert ran.constants.met == [] and ran.constants.left_as_float == []


def test_a_number_is_remembered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What remembers it makes a tensor too, which is not to be remembered in turn."""
    seen: list[Any] = []
    remember = Constants.remember
    monkeypatch.setattr(Constants, "remember", lambda self, x, data: (seen.append(data), remember(self, x, data))[0])
    run(lambda x: x * torch.tensor(0.1), ONES)
    assert seen == [0.1]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.1, [0.1, 1.0]),
        (3, [3.0, 1.0]),
        (torch.tensor(0.1), [float(torch.tensor(0.1)), 1.0]),  # made before the run: a constant like any other
    ],
)
def test_numbers_written_to_a_part(value: Any, expected: list[float]) -> None:
    ran = run(setting(value), ONES)
    assert ran.leaves[0].wide is not None and ran.leaves[0].wide.tolist() == expected
    assert len(ran.constants.met) == int(isinstance(value, Tensor))


def test_a_complex_number_written_to_a_part() -> None:
    def network(z: Tensor) -> Tensor:
        z = z * 1
        z[0] = 0.1 + 0.2j
        return z

    assert wide(network, torch.ones(2, dtype=torch.complex64)).tolist() == [0.1 + 0.2j, 1.0]


def test_numbers_are_kept_through_views_and_writes() -> None:
    def network(x: Tensor) -> Tensor:
        table = torch.tensor([[0.1, 0.2], [0.3, 0.4]])
        table.t()[0].mul_(2)
        return table[1] * x

    assert wide(network, ONES).tolist() == [0.6, 0.4]


@pytest.mark.parametrize("name", ["tensor", "as_tensor"])
def test_tensors_among_the_numbers_keep_their_wide_values(name: str) -> None:
    """PyTorch reads them without a step that could be seen."""
    ran = run(lambda x: getattr(torch, name)([(x * 0.1).sum(), x[0], 0.3]), ONES)
    assert ran.leaves[0].wide is not None and ran.leaves[0].wide.tolist() == [0.2, 1.0, 0.3]
    assert ran.constants.met == [] and ran.constants.left_as_float == []


@pytest.mark.filterwarnings("ignore:To copy construct from a tensor")
def test_a_tensor_made_of_a_tensor_has_its_wide_value() -> None:
    assert wide(lambda x: torch.tensor(x * 0.1), ONES).tolist() == [0.1, 0.1]
    assert wide(lambda x: torch.as_tensor(x * 0.1), ONES).tolist() == [0.1, 0.1]


def test_numbers_are_remembered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    remembered = []
    remember = Constants.remember

    def counted(self: Constants, x: Tensor, data: Any) -> None:
        remembered.append(data)
        remember(self, x, data)

    monkeypatch.setattr(Constants, "remember", counted)
    run(lambda x: x * torch.tensor(0.1) + torch.as_tensor([0.2]), torch.ones(3))
    assert remembered == [0.1, [0.2]]


def test_numbers_of_another_format() -> None:
    assert wide(lambda x: x * torch.tensor(0.1, dtype=torch.bfloat16), ONES).tolist() == [0.1, 0.1]
    assert wide(lambda x: x + torch.tensor(1 + 0.1j), ONES).tolist() == [2 + 0.1j] * 2
    assert met(lambda x: x * torch.tensor(0.1, dtype=torch.float64), ONES) == []


def test_a_tensor_made_before_the_run_has_the_number_that_it_holds() -> None:
    tenth = torch.tensor(0.1)
    ran = run(lambda x: x * tenth, ONES)
    assert ran.leaves[0].wide is not None and ran.leaves[0].wide[0].item() == tenth.item() != 0.1
    assert ran.constants.met == [tenth]


def test_an_address_that_is_used_again_is_not_taken_for_an_old_number() -> None:
    def network(x: Tensor) -> Tensor:
        for i in range(100):
            x = x + torch.tensor([float(i), 0.1]) - torch.ones(2) * torch.tensor([float(i), 0.1])
        return x

    assert float((wide(network, ONES) - 1).abs().max()) < 1e-13


# -- numbers that leave -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "network",
    [
        lambda x: x * (x * 0.1).sum().item(),
        lambda x: x * float((x * 0.1)[0]),
        lambda x: x * (x * 0.1).tolist()[0],
        lambda x: torch.from_numpy((x * 0.1).numpy()) * 2,
        lambda x: x * float(np.asarray(x * 0.1).sum()),
        lambda x: x * torch.tensor([(x * 0.1).view(torch.int32)[0], 1.0]),
    ],
)
def test_numbers_that_leave_are_noticed(network: Any) -> None:
    assert run(network, ONES).constants.left_as_float


@pytest.mark.parametrize(
    "network",
    [
        lambda x: x * len(x),
        lambda x: x * (x > 0).sum().item(),
        lambda x: x * x[0].item(),  # an input is its own wide value
        lambda x: x if (x * 0.1).sum() > 0 else -x,
        lambda x: x * x.long().tolist()[0],
        lambda x: (repr(x * TENTHS), x)[1],  # a line that prints what is on its way
        lambda x: x * torch.ones(2, dtype=torch.long).numpy()[0],
    ],
)
def test_nothing_left(network: Any) -> None:
    assert run(network, ONES).constants.left_as_float == []


def test_a_line_says_where_a_number_left() -> None:
    (where,) = run(lambda x: x * (x * 0.1).sum().item(), ONES).constants.left_as_float
    assert "test_constants.py" in where and ".item()" in where


def test_the_functions_are_torchs_own_again_after_an_exception() -> None:
    functions = torch.tensor, torch.as_tensor
    methods = dict(vars(Tensor))

    def broken(x: Tensor) -> Tensor:
        assert torch.tensor is not functions[0]
        raise KeyError

    with pytest.raises(Exception, match="A raised KeyError"):
        run(broken, ONES)
    assert (torch.tensor, torch.as_tensor) == functions
    assert dict(vars(Tensor)) == methods


def test_a_run_inside_a_run_leaves_the_outer_one_as_it_was() -> None:
    def network(x: Tensor) -> Tensor:
        y = x * torch.tensor(0.1)
        run(torch.sin, x)
        return y + torch.tensor(0.3)

    assert wide(network, torch.zeros(2)).tolist() == [0.3, 0.3]


def test_values_by_part() -> None:
    """Parameters in one block of memory have each its own value."""
    block = torch.ones(4)
    a, b = block[:2], block[2:]
    values = (a, torch.full((2,), 0.1, dtype=torch.float64)), (b, torch.full((2,), 0.2, dtype=torch.float64))
    side = Side("A", lambda x: x * a + b, (ONES,), {}, random_state(), values=values)
    (leaf,) = run_wide(side)[0].leaves
    assert leaf.wide is not None
    assert leaf.wide.tolist() == [0.1 + 0.2] * 2
