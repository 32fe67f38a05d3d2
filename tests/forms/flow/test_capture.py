"""What a forward does is in its graph, or it runs as it did; and the moves that are counted are those that a run makes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from roundoff.forms import rewrite


class Net(nn.Module):
    """Two layers, a buffer, and what is done with them."""

    def __init__(self, does: Callable[[Any, Tensor], Tensor], dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4, dtype=dtype), nn.Linear(4, 4, dtype=dtype)
        self.mean, self.does = nn.Buffer(torch.ones(4)), does

    def forward(self, x: Tensor) -> Tensor:
        return self.does(self, x)


def into_a_view(net: Any, x: Tensor) -> Tensor:
    h = net.a(x)
    h[:, 0].add_(1)
    return net.b(h)  # type: ignore[no-any-return]


def into_moved_axes(net: Any, x: Tensor) -> Tensor:
    h = net.a(x)
    y = net.b(h)
    h.transpose(1, 2).mul_(2)
    return y + net.b(h)  # type: ignore[no-any-return]


def into_its_input(net: Any, x: Tensor) -> Tensor:
    h = net.a(x)
    x += h
    return net.b(x)  # type: ignore[no-any-return]


def into_its_input_by_relu(net: Any, x: Tensor) -> Tensor:
    return net.b(net.a(x.relu_()))  # type: ignore[no-any-return]


def into_a_buffer(net: Any, x: Tensor) -> Tensor:
    net.mean.mul_(0.5).add_(x.mean((0, 1)), alpha=0.5)
    return net.b(net.a(x))  # type: ignore[no-any-return]


def conjugated(net: Any, x: Tensor) -> Tensor:
    return net.b(net.a(x).adjoint() + net.a(x).mH)  # type: ignore[no-any-return]


def turned_round(net: Any, x: Tensor) -> Tensor:
    return net.b(net.a(x).T.permute(2, 0, 1))  # type: ignore[no-any-return]


WAYS = [into_a_view, into_moved_axes, into_its_input, into_its_input_by_relu, into_a_buffer, conjugated, turned_round]


@pytest.mark.filterwarnings("ignore:The use of `x.T`")
@pytest.mark.parametrize("does", WAYS)
def test_what_it_leaves_behind_is_the_same(does: Any) -> None:
    dtype = torch.complex64 if does is conjugated else torch.float32
    net, x = Net(does, dtype), torch.randn(2, 4, 4, dtype=dtype)
    with torch.no_grad():
        model = rewrite(net, (x,), {}, "conv", "flow").model
        assert torch.equal(net.mean, torch.ones(4)) and torch.equal(model.mean, torch.ones(4))
        mine, its = x.clone(), x.clone()
        for _ in range(2):
            torch.testing.assert_close(model(its), net(mine))
        torch.testing.assert_close(its, mine)
        torch.testing.assert_close(model.mean, net.mean)


def of_turned(net: Any, x: Tensor) -> Tensor:
    return net.b(net.drop(net.a(x).transpose(1, 2)).transpose(1, 2))  # type: ignore[no-any-return]


def of_copied(net: Any, x: Tensor) -> Tensor:
    return net.b(net.drop(net.a(x).transpose(1, 2).contiguous()).transpose(1, 2))  # type: ignore[no-any-return]


def of_noise(net: Any, x: Tensor) -> Tensor:
    y = torch.tanh(net.a(x)).transpose(1, 2)
    return net.b((y + torch.rand_like(y)).transpose(1, 2))  # type: ignore[no-any-return]


@pytest.mark.parametrize("does", [of_turned, of_copied, of_noise])
def test_random_numbers_are_drawn_as_they_were(does: Any) -> None:
    """Which elements of a tensor get which depends on the order in which memory holds its axes."""
    net, x = Net(does).train(), torch.randn(2, 3, 4)
    net.drop = nn.Dropout(0.5)
    done = rewrite(net, (x,), {}, "conv", "flow")
    assert done.permutes_left < 4
    found = []
    for model in (net, done.model):
        torch.manual_seed(0)
        found.append(model(x))
    torch.testing.assert_close(*found)


@dataclass
class Found:
    """What a network may return."""

    y: Tensor
    parts: dict[str, tuple[Tensor, int]]


def test_a_dataclass_is_returned() -> None:
    def does(net: Any, x: Tensor) -> Any:
        y = net.b(net.a(x))
        return Found(y, {"sum": (y.sum(), 3)})

    net, x = Net(does), torch.randn(2, 3, 4)
    done = rewrite(net, (x,), {}, "conv", "flow")
    found, want = done.model(x), net(x)
    assert done.permutes_left == 2 and type(found) is Found and type(found.parts) is dict
    torch.testing.assert_close(found.y, want.y)
    torch.testing.assert_close(found.parts["sum"], want.parts["sum"])


NAMES = [
    "t",
    "T",
    "dim",
    "size",
    "permute",
    "transpose",
    "flatten",
    "chunk",
    "cat",
    "mean",
    "softmax",
    "relu",
    "getattr",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_module_may_have_the_name_of_a_method(name: str) -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.add_module("a", nn.Linear(4, 5))
            self.add_module(name, nn.Softmax(-1))
            self.add_module("b", nn.Linear(5, 4))

        def forward(self, x: Tensor) -> Tensor:
            modules = self._modules.values()
            for module in modules:
                assert module is not None
                x = module(x)
            return x

    net, x = Named(), torch.randn(2, 3, 4)
    torch.testing.assert_close(rewrite(net, (x,), {}, "conv", "flow").model(x), net(x))


class Moves(TorchFunctionMode):
    """Counts the moves of axes of what is no weight in a run."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.weights, self.count = list[Any](model.parameters()), 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if args and any(args[0] is w for w in self.weights):
            self.weights.append(out)
        elif getattr(func, "__name__", "") in ("permute", "movedim", "transpose"):
            before, after = ([p for p in zip(x.shape, x.stride(), strict=True) if p[0] > 1] for x in (args[0], out))
            self.count += before != after
        return out


def several_times(net: Any, x: Tensor) -> Tensor:
    return net.b(net.a(net.a(torch.relu(net.a(x))))) + net.b(x.mean(1))[:, None]  # type: ignore[no-any-return]


def by_values(net: Any, x: Tensor) -> Tensor:
    for _ in range(2):
        x = net.within(x) if x.sum() < 1e9 else x
    return net.b(x)  # type: ignore[no-any-return]


def functional(net: Any, x: Tensor) -> Tensor:
    return torch.tanh(x @ net.a.weight) @ net.a.weight  # type: ignore[no-any-return]


@pytest.mark.parametrize("layout", ["keep", "flow"])
@pytest.mark.parametrize("does", [several_times, by_values, functional])
def test_the_moves_that_are_left(does: Any, layout: str) -> None:
    net, x = Net(does), torch.randn(2, 3, 4)
    net.within = Net(several_times)
    done = rewrite(net, (x,), {}, "conv", layout)
    with torch.no_grad(), Moves(copy.deepcopy(done.model)) as found:
        done.model(x)
    assert found.count == done.permutes_left > 0
