"""Watching shows what is executed, with its module and source line, and changes no bit of it."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.tape.cases import CASES, DRAWN, Case, each, image, ready
from tests.tape.nets import Tied, encoder, shift_
from tests.tape.seen import Seen, ops_of, steps_of
from torch import Tensor, nn

from roundoff.errors import RoundoffError
from roundoff.formats import same_bits
from roundoff.tape.leaves import tensors
from roundoff.tape.trace import random_state, set_random_state, untouched
from roundoff.tape.watch import ListenerFailed, Step, watch

# -- the same bits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("case", "mode"), each(*CASES, *DRAWN))
def test_no_bit_changes(case: Case, mode: str) -> None:
    network = ready(case, mode)
    randomness = random_state()
    with network.mode(), untouched(network.model, (network.args, network.kwargs)) as restore:
        watched = [(kind(x), x.clone()) for x in tensors(watch(network.model, network.args, network.kwargs, [restore]))]
        restore.undo()
        set_random_state(randomness)
        alone = tensors(network.model(*network.args, **network.kwargs))
        assert len(watched) == len(alone) > 0
        for (kind_of_x, x), y in zip(watched, alone, strict=True):
            assert kind_of_x == kind(y)
            assert same_bits(x, y)


def kind(x: Tensor) -> Any:
    return x.shape, x.stride(), x.dtype, x.requires_grad, x.is_leaf, x.is_inference(), x.is_conj(), x.is_neg()


def test_gradients_through_a_watched_run_are_the_same() -> None:
    model, x = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)), torch.randn(3, 4)
    watch(model, (x,), {}, [Seen()]).square().sum().backward()
    watched = [p.grad for p in model.parameters()]
    model.zero_grad()
    model(x).square().sum().backward()
    assert all(same_bits(a, p.grad) for a, p in zip(watched, model.parameters(), strict=True))


# -- what is seen -------------------------------------------------------------------------------------------------------


def test_steps_come_in_order_each_before_and_after() -> None:
    seen = Seen()
    watch(lambda x: (x + 1).sin(), (torch.ones(2),), {}, [seen])
    assert seen.told == ["before 0", "after 0", "before 1", "after 1"]
    assert seen.ops() == ["add.Tensor", "sin"]


def test_listeners_see_the_old_value_before_and_the_new_one_after() -> None:
    values = []

    class Values:
        def before(self, step: Step) -> None:
            values.append([x.tolist() for x in step.overwritten])

        def after(self, step: Step, out: Any) -> None:
            values.append([x.tolist() for x in step.overwritten])

    watch(lambda x: x.add_(1), (torch.zeros(2),), {}, [Values()])
    assert values == [[[0.0, 0.0]], [[1.0, 1.0]]]


def test_all_modes_show_the_same_kernels_of_a_linear_layer() -> None:
    layer, x = nn.Linear(3, 2), torch.randn(4, 3)
    with torch.no_grad():
        assert ops_of(layer, x) == ["t", "addmm"]
    with torch.inference_mode():
        assert ops_of(layer, x) == ["t", "addmm"]
    assert ops_of(layer, x) == ["t", "addmm"]


def test_inference_mode_is_opened() -> None:
    """``aten.linear``, ``aten.conv2d`` and what they call would be seen whole."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(400, 2)).eval()
    with torch.inference_mode():
        assert ops_of(model, image()) == ["convolution", "view", "t", "addmm"]


def test_tensors_of_inference_mode_are_opened_outside_of_it_too() -> None:
    with torch.inference_mode():
        x, w = torch.randn(4, 3), torch.randn(2, 3)
    with torch.no_grad():
        assert "linear" not in ops_of(F.linear, x, w)


def test_autocast_is_seen_as_casts() -> None:
    layer, x = nn.Linear(3, 2), torch.randn(4, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        steps = steps_of(layer, x)
    product = next(step for step in steps if "addmm" in str(step.op))
    assert [a.dtype for a in product.args] == [torch.bfloat16] * 3
    assert sum("_to_copy" in str(step.op) for step in steps) == 3


def test_the_fast_path_of_attention_stays() -> None:
    """Hooks on the user's own modules would switch it off."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    with torch.no_grad():
        assert ops_of(layer, torch.randn(2, 5, 8)) == ["_transformer_encoder_layer_fwd"]
    assert len(ops_of(layer, torch.randn(2, 5, 8))) > 10


def test_backward_inside_a_forward_is_seen() -> None:
    def gradient(x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        return torch.autograd.grad(x.sigmoid().sum(), x)[0]

    assert "sigmoid_backward" in ops_of(gradient, torch.ones(2))


def test_wrapper_tensors_are_looked_into() -> None:
    two_tensor = pytest.importorskip("torch.testing._internal.two_tensor")
    with torch.no_grad():
        ops = ops_of(lambda x: two_tensor.TwoTensor(x, x + 1).sin().a, torch.ones(2))
    assert ops.count("sin") == 2


# -- what is overwritten ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "op", "count"),
    [
        (lambda x: x.add_(1), "add_", 1),
        (lambda x: torch.add(x, 1, out=torch.empty(2)), "add.out", 1),
        (lambda x: torch.max(x, 0, out=(torch.empty(()), torch.empty((), dtype=torch.long))), "max.dim_max", 2),
        (lambda x: torch._foreach_add_([x, x + 1], 1.0), "_foreach_add_", 2),
        (lambda x: shift_(x, 1.0), "shift_", 1),
        (lambda x: x.transpose_(0, 0), "transpose_", 1),
        (lambda x: F.batch_norm(x[None].T, torch.zeros(1), torch.ones(1), training=True), "native_batch_norm", 2),
        (lambda x: x + 1, "add.Tensor", 0),
    ],
)
def test_overwritten_operands(call: Any, op: str, count: int) -> None:
    (step,) = [step for step in steps_of(call, torch.zeros(2)) if op in str(step.op)]
    assert len(step.overwritten) == count


# -- when something goes wrong ------------------------------------------------------------------------------------------


def test_what_the_network_raises_goes_through_and_the_hooks_go() -> None:
    def broken(x: Tensor) -> Tensor:
        x.sin()
        raise ZeroDivisionError("mine")

    seen = Seen()
    with pytest.raises(ZeroDivisionError, match="mine"):
        watch(broken, (torch.ones(1),), {}, [seen])
    assert seen.ops() == ["sin"]


def test_an_operator_that_raises_is_told_before_and_not_after() -> None:
    seen = Seen()
    with pytest.raises(RuntimeError, match="must match"):
        watch(lambda x: x + torch.ones(3), (torch.ones(2),), {}, [seen])
    assert seen.told[-1] == f"before {len(seen.steps)}"


@pytest.mark.parametrize("event", ["before", "after"])
def test_a_listeners_mistake_is_raised_when_the_run_is_over(event: str) -> None:
    """The network must not be able to catch it, nor be stopped by it."""

    class Broken(Seen):
        def told_of(self, step: Step) -> None:
            raise IndexError("a mistake")

    listener, finished = Broken(), []
    setattr(listener, event, lambda *what: listener.told_of(what[0]))

    def forgiving(x: Tensor) -> Tensor:
        try:
            x = x + 1
        except IndexError:
            raise AssertionError("the network saw it") from None
        finished.append(x * 2)
        return x

    with pytest.raises(ListenerFailed) as caught:
        watch(forgiving, (torch.ones(1),), {}, [listener])
    assert isinstance(caught.value.__cause__, IndexError)
    assert "watching failed at aten.add.Tensor, test_watch.py:" in str(caught.value)
    assert str(caught.value).endswith("IndexError: a mistake")
    assert finished[0].item() == 4.0


def test_a_listener_that_refuses_on_purpose_is_heard() -> None:
    class Refuses(Seen):
        def before(self, step: Step) -> None:
            raise RoundoffError("not this")

    with pytest.raises(RoundoffError, match="not this"):
        watch(torch.sin, (torch.ones(1),), {}, [Refuses()])


def test_a_result_may_be_replaced() -> None:
    out = watch(
        lambda x: x.sin() + 1, (torch.ones(2),), {}, [], lambda step, out: out * 0 if "sin" in str(step.op) else out
    )
    assert out.tolist() == [1.0, 1.0]


def test_watching_inside_a_watched_run() -> None:
    """A network may compare, record or watch others on its way, and a user may have a mode of his own around it."""
    inner, outer = Seen(), Seen()
    watch(lambda x: watch(torch.sin, (x,), {}, [inner]) + 1, (torch.ones(2),), {}, [outer])
    assert inner.ops() == ["sin"]
    assert outer.ops() == ["sin", "add.Tensor"]


def test_what_listeners_compute_is_no_step_of_an_outer_mode() -> None:
    class Computes(Seen):
        def after(self, step: Step, out: Any) -> None:
            (out * 2).cos()

    outer = Seen()
    watch(lambda x: watch(torch.sin, (x,), {}, [Computes()]), (torch.ones(2),), {}, [outer])
    assert outer.ops() == ["sin"]


def test_tied_weights_are_one_operand() -> None:
    steps = steps_of(Tied(), torch.tensor([1, 2]))
    tables = {x.untyped_storage()._cdata for s in steps for x in s.args if isinstance(x, Tensor) and x.shape == (9, 6)}
    assert len(tables) == 1


def test_a_nested_tensor_runs_through() -> None:
    mask = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    seen = Seen()
    with torch.no_grad():
        watch(encoder(), (torch.randn(2, 5, 8),), {"src_key_padding_mask": mask}, [seen])
    assert any(x.is_nested for step in seen.steps for x in tensors(step.args))


def test_no_step_is_of_the_watching_itself() -> None:
    """Listeners compute beside the run; nothing of it is a step."""

    class Computes(Seen):
        def after(self, step: Step, out: Any) -> None:
            super().after(step, out)
            (out.double() * 2).sum()

    seen = Computes()
    watch(torch.sin, (torch.ones(2),), {}, [seen])
    assert seen.ops() == ["sin"]


def test_the_interpreter_is_as_it_was() -> None:
    before = sys.getrecursionlimit(), sys.gettrace(), sys.getprofile()
    watch(torch.sin, (torch.ones(1),), {}, [Seen()])
    assert (sys.getrecursionlimit(), sys.gettrace(), sys.getprofile()) == before
