"""Steps that are correct of a kind that loses digits: named where they do, and nothing hides behind them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.judge.pairs import kinds, told
from tests.suite.planted import Fault, Faulty, Kernel
from torch import Tensor, nn

import roundoff
from roundoff import Comparison

Damage = Callable[[Kernel, tuple[Any, ...], dict[str, Any]], Any]


def image(shift: float, dtype: torch.dtype = torch.float32) -> Tensor:
    return (torch.randn(2, 8, 33, 31) + shift).to(dtype)


class Grouped(nn.Module):
    """A group norm in one of two layouts."""

    def __init__(self, layout: torch.memory_format) -> None:
        super().__init__()
        self.norm, self.layout = nn.GroupNorm(2, 8), layout

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.contiguous(memory_format=self.layout))


@pytest.mark.parametrize(("shift", "loses"), [(0.0, False), (2.0, False), (50.0, True), (300.0, True)])
def test_group_norm_of_shifted_images_with_channels_last(shift: float, loses: bool) -> None:
    straight, last = Grouped(torch.contiguous_format), Grouped(torch.channels_last)
    for a, b, side in ((straight, last, "B"), (last, straight, "A")):
        c = roundoff.compare(a, b, image(shift))
        assert c.verdict == "roundoff", c.reason
        assert kinds(c) == ({"unstable-algorithm"} if loses else set())
        if loses:
            assert told(c, "unstable-algorithm").startswith(f"{side}: norm")
            assert "aten.native_group_norm.default is off by" in told(c, "unstable-algorithm")


def statistics(x: Tensor, dims: tuple[int, ...], eps: float) -> tuple[Tensor, Tensor]:
    """Mean and 1/σ in one pass, in float32."""
    mean = x.mean(dims, keepdim=True)
    return mean, ((x * x).mean(dims, keepdim=True) - mean * mean).clamp_min(0).add(eps).rsqrt()


def layer(kernel: Kernel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    x, shape, gain, shift, eps = args
    mean, rho = statistics(x, tuple(range(-len(shape), 0)), eps)
    return (x - mean) * rho * gain + shift, mean, rho


def batch(kernel: Kernel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    x, gain, shift = args[:3]
    mean, rho = statistics(x, (0, 2, 3), args[-1])
    y = (x - mean) * rho * gain[:, None, None] + shift[:, None, None]
    return y, mean.flatten(), rho.flatten()


def group(kernel: Kernel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    x, gain, shift, *_, groups, eps = args
    parts = x.reshape(len(x), groups, -1)
    mean, rho = statistics(parts, (2,), eps)
    y = ((parts - mean) * rho).reshape(x.shape) * gain[:, None, None] + shift[:, None, None]
    return y, mean[..., 0], rho[..., 0]


CASES = {
    "native_layer_norm": (layer, lambda: nn.LayerNorm(31)),
    "native_batch_norm": (batch, lambda: nn.BatchNorm2d(8, track_running_stats=False)),
    "native_group_norm": (group, lambda: nn.GroupNorm(2, 8)),
}


def drawn(net: nn.Module) -> nn.Module:
    with torch.no_grad():
        for p in net.parameters():
            p.normal_(1)
    return net


def planted(op: str, damage: Damage, shift: float) -> Comparison:
    net, x = drawn(CASES[op][1]()), image(shift)
    fault = Fault(op, 0, damage)
    faulty = Faulty(net, fault)
    assert fault.aim(lambda: faulty(x))
    with fault.planted():
        c = roundoff.compare(net, faulty, x)
        assert fault.fired
    return c


@pytest.mark.parametrize("op", CASES)
def test_a_variance_in_one_pass_is_roundoff_and_named(op: str) -> None:
    c = planted(op, CASES[op][0], 300.0)
    assert c.verdict == "roundoff", c.reason
    assert kinds(c) == {"unstable-algorithm"}
    assert told(c, "unstable-algorithm").startswith("B: net") and f"aten.{op}.default" in told(c, "unstable-algorithm")


@pytest.mark.parametrize("op", CASES)
def test_a_variance_in_one_pass_that_loses_nothing_is_not_named(op: str) -> None:
    c = planted(op, CASES[op][0], 0.0)
    assert c and kinds(c) == set(), c


def one_wrong(damage: Damage) -> Damage:
    def also(kernel: Kernel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        y, mean, rho = damage(kernel, args, kwargs)
        y[1, 3, 7, 5] += 0.01
        return y, mean, rho

    return also


def stretched(kernel: Kernel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The result off by what a variance in one pass would make, with statistics that are right."""
    y, mean, rho = kernel(*args, **kwargs)
    return y * 1.05, mean, rho


@pytest.mark.parametrize("op", CASES)
@pytest.mark.parametrize("what", ["element", "stretch"])
def test_nothing_else_hides_behind_the_larger_bound(op: str, what: str) -> None:
    c = planted(op, one_wrong(CASES[op][0]) if what == "element" else stretched, 300.0)
    assert c.verdict == "different"
    assert kinds(c) == {"faulty-kernel"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shift", [0.0, 3.0, 100.0])
@pytest.mark.parametrize("op", CASES)
def test_the_kernels_of_this_build_are_stable(op: str, shift: float, dtype: torch.dtype) -> None:
    net = drawn(CASES[op][1]()).to(dtype)
    for x in (image(shift, dtype), torch.full((2, 8, 9, 31), 0.1 + shift, dtype=dtype)):
        c = roundoff.compare(lambda x: net(x) * 3, lambda x: net(x) * 1.5 * 2, x)
        assert c and kinds(c) <= {"magnitude"}, c


def test_evaluation_computes_no_statistics() -> None:
    net = drawn(nn.BatchNorm2d(8)).eval()
    c = roundoff.compare(net, lambda x: net(x.flip(0)).flip(0), image(1e4))
    assert c and kinds(c) <= {"magnitude"}, c
