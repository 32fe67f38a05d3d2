"""Attributes, containers and the way tensors lie are put back."""

from __future__ import annotations

import functools
from collections import deque
from typing import Any

import pytest
import torch
from tests.tape.snapshot import snapshot
from torch import Tensor, nn

from roundoff.errors import RoundoffError
from roundoff.tape.objects import Objects, holders

LAYER = nn.Linear(2, 2)


def calls_a_global(x: Tensor) -> Tensor:
    return LAYER(x)


def calls_a_function(x: Tensor) -> Tensor:
    return calls_a_global(x)


class Wrapper:
    """A callable that is no module."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.calls = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.module(x)

    def encode(self, x: Tensor) -> Tensor:
        return self.module(x)


def test_the_modules_of_a_network_are_found_wherever_it_keeps_them() -> None:
    inner = nn.Linear(2, 2)
    outer = nn.Sequential(inner)
    wrapper = Wrapper(inner)
    assert holders(outer) == [outer, inner]
    assert holders(lambda x: inner(x)) == [inner]
    assert holders(outer.forward) == [outer, inner]
    assert holders(functools.partial(lambda m, x: m(x), inner)) == [inner]
    assert holders(calls_a_global) == [LAYER]
    assert holders(calls_a_function) == [LAYER]
    assert holders(wrapper) == [wrapper, inner]
    assert holders(torch.sin) == []


def test_a_cell_that_is_empty_is_nothing() -> None:
    def make() -> Any:
        def network(x: Tensor) -> Tensor:
            return later(x)

        early = holders(network)
        later = nn.Linear(1, 1)
        return early, holders(network), later

    early, after, later = make()
    assert early == [] and after == [later]


class Stateful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("count", torch.zeros(3))
        self.calls, self.seen, self.cache = 0, [torch.zeros(1)], {"old": torch.ones(2)}


def attributes(model: Stateful) -> None:
    model.calls += 1
    model.extra = torch.ones(1)
    del model.norm
    model.added = nn.Linear(1, 1)


def containers(model: Stateful) -> None:
    model.seen.append(torch.ones(1))
    model.cache.pop("old")
    model.cache["new"] = torch.ones(1)


def flags(model: Stateful) -> None:
    model.eval()
    model.requires_grad_(False)


def buffers(model: Stateful) -> None:
    model.count = model.count + 1
    model.register_buffer("more", torch.ones(1))


def parameters(model: Stateful) -> None:
    model.layer.weight = nn.Parameter(torch.zeros(3, 3))
    model.layer.bias.data = torch.zeros(3)


def hooks(model: Stateful) -> None:
    model.layer.register_forward_hook(lambda module, args, out: out * 2)


def gradients(model: Stateful) -> None:
    model.layer(torch.ones(1, 3)).sum().backward()


def shapes(model: Stateful) -> None:
    with torch.no_grad():
        model.layer.weight.t_()
        model.count.unsqueeze_(0)


def history(model: Stateful) -> None:
    model.count.add_(model.layer.bias)  # from now on the buffer asks for a gradient


@pytest.mark.parametrize(
    "change", [attributes, containers, flags, buffers, parameters, hooks, gradients, shapes, history]
)
def test_a_module_is_put_back(change: Any) -> None:
    model = Stateful()
    before, content = snapshot(model, ()), model.count.clone()
    objects = Objects(model, ())
    with torch.random.fork_rng():
        change(model)
    assert snapshot(model, ()) != before
    objects.restore()
    model.count.detach().copy_(content)  # memory is not the business of Objects
    assert snapshot(model, ()) == before


class Box:
    def __init__(self) -> None:
        self.layers = [torch.ones(1)]


def test_inputs_are_put_back() -> None:
    x, box, batch = torch.zeros(2, 3), Box(), {"ids": torch.ones(1), "more": [torch.ones(2)], "last": deque([1, 2])}
    before = snapshot(None, (x, box, batch))
    objects = Objects(None, (x, box, batch))
    x.t_().requires_grad_()
    box.layers.append(torch.zeros(1))
    box.other = 3
    batch.pop("ids")
    batch["more"].clear()
    batch["last"].rotate()
    objects.restore()
    assert snapshot(None, (x, box, batch)) == before
    assert not hasattr(box, "other")


def test_an_input_that_grew_lies_as_before() -> None:
    x = torch.zeros(2, 3)
    objects = Objects(None, (x,))
    x.resize_(5, 5)
    objects.restore()
    assert x.shape == (2, 3)


def test_a_gradient_that_was_there_is_there_again() -> None:
    w = torch.ones(2, requires_grad=True)
    w.grad = old = torch.full((2,), 7.0)
    objects = Objects(None, (w,))
    w.grad = torch.zeros(2)
    objects.restore()
    assert w.grad is old


def test_what_did_not_change_is_left_alone() -> None:
    class Watched(dict):  # type: ignore[type-arg]
        def clear(self) -> None:
            raise AssertionError("cleared")

    Objects(None, {"inner": Watched(a=1)}).restore()


def test_lazy_layers_are_refused() -> None:
    with pytest.raises(RoundoffError, match="Call it once on an input"):
        Objects(nn.Sequential(nn.LazyLinear(2)), ())


def test_scripted_modules_are_taken_as_they_are() -> None:
    model = torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2))
    weight = model.weight
    objects = Objects(model, ())
    weight.requires_grad_(False)
    objects.restore()
    assert weight.requires_grad
