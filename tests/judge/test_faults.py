"""The faults that kernels have: a tile, an edge, one element in a million, a block of a sum that is left out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.judge.pairs import kinds, told
from tests.suite.planted import Fault, Faulty, Kernel
from torch import Tensor, nn

import roundoff

Damage = Callable[[Kernel, tuple[Any, ...], dict[str, Any]], Any]
DTYPES = (torch.float32, torch.bfloat16)


def linear() -> tuple[nn.Module, Tensor]:
    return nn.Linear(320, 130), torch.randn(70, 320)


def convolution() -> tuple[nn.Module, Tensor]:
    return nn.Conv2d(32, 20, 3, padding=1), torch.randn(2, 32, 18, 17)


def million() -> tuple[nn.Module, Tensor]:
    return nn.Linear(32, 1024), torch.randn(1024, 32)


def million_pixels() -> tuple[nn.Module, Tensor]:
    return nn.Conv2d(3, 16, 3, padding=1), torch.randn(1, 3, 256, 256)


def changed(change: Callable[[Tensor], object]) -> Damage:
    """The right result, changed in place."""

    def damage(kernel: Kernel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        out = kernel(*args, **kwargs)
        change(out)
        return out

    return damage


def tile(out: Tensor) -> None:
    """A tile at the wrong place: all numbers are right somewhere."""
    out[..., 8:16, 0:8] = out[..., 0:8, 8:16].clone()


def edge(out: Tensor) -> None:
    """The last row, which is left over of the tiles, holds what the one before it does."""
    out[..., -1, :] = out[..., -2, :]


def element(out: Tensor) -> None:
    """One bit of one element: an eighth of it."""
    flat = out.view(-1)
    at = int(flat.abs().argmax())
    flat[at] *= 1.125


def of_linear(args: tuple[Any, ...]) -> tuple[Any, ...]:
    bias, x, w = args
    return bias, x[:, :-16].contiguous(), w[:-16].contiguous()


def of_convolution(args: tuple[Any, ...]) -> tuple[Any, ...]:
    x, w, *rest = args
    return x[:, :-2].contiguous(), w[:, :-2].contiguous(), *rest


def dropped(kernel: Kernel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The last products of every sum are forgotten: a twentieth of them."""
    return kernel(*(of_linear(args) if len(args) == 3 else of_convolution(args)), **kwargs)


def twice(kernel: Kernel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The last products of every sum are added twice."""
    out = kernel(*args, **kwargs)
    return out + (out - dropped(kernel, args, kwargs))


FAULTS = {
    "tile": (changed(tile), linear, convolution),
    "edge": (changed(edge), linear, convolution),
    "one in a million": (changed(element), million, million_pixels),
    "block left out": (dropped, linear, convolution),
    "block twice": (twice, linear, convolution),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", ["addmm", "convolution"])
@pytest.mark.parametrize("what", FAULTS)
def test_a_fault_is_found_and_its_layer_named(what: str, op: str, dtype: torch.dtype) -> None:
    damage, *nets = FAULTS[what]
    layer, x = nets[op == "convolution"]()
    net = nn.Sequential(layer, nn.LeakyReLU(0.25)).to(dtype)
    fault = Fault(op, 0, damage)
    for faulty_side in "AB":
        faulty, x = Faulty(net, fault), x.to(dtype)
        assert fault.aim(lambda faulty=faulty, x=x: faulty(x))
        with fault.planted():
            c = roundoff.compare(*((faulty, net) if faulty_side == "A" else (net, faulty)), x)
        assert c.verdict == "different", c
        assert kinds(c) == {"faulty-kernel"}
        assert told(c, "faulty-kernel").startswith(f"{faulty_side}: net.0")
        assert f"aten.{op}.default is off by" in told(c, "faulty-kernel")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("make", [linear, convolution, million, million_pixels])
def test_the_kernels_of_this_build_are_not_accused(
    make: Callable[[], tuple[nn.Module, Tensor]], dtype: torch.dtype
) -> None:
    layer, x = make()
    net = nn.Sequential(layer, nn.LeakyReLU(0.25)).to(dtype)
    c = roundoff.compare(net, lambda x: torch.cat([net(part) for part in x.split(1)]), x[:3].to(dtype))
    assert c and kinds(c) == set(), c
