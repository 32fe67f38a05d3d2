"""Every point of a grid of layers is right, gradients too, or declined with a reason.

Some of its points; ``benchmarks/forms_grid.py`` goes through all of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from roundoff import compare
from roundoff.forms import rewrite

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def gradients(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """The gradients of a weighted sum of the output: by the input and by the parameters, the weight's as a matrix."""
    x = x.clone().requires_grad_()
    y = layer(x)
    weights = (torch.arange(y.numel()) % 3 - 1).reshape(y.shape).float()
    gx, gw, *gb = torch.autograd.grad((y * weights).sum(), [x, *layer.parameters()])
    return [gx, gw.flatten(1), *gb]


def step(layer: nn.Module, like: nn.Module) -> Callable[[Tensor], Any]:
    """The output and the gradients of the sum of its squares, each in the shape that it has in ``like``."""
    shapes = [p.shape for p in like.parameters()]

    def run(x: Tensor) -> Any:
        x = x.clone().requires_grad_()
        y = layer(x)
        gx, *gs = torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])
        return [y.detach(), gx, *(g.reshape(shape) for g, shape in zip(gs, shapes, strict=True))]

    return run


def whole(x: Tensor) -> Tensor:
    """Small whole numbers: every sum of their products is exact in float32, in any order."""
    return torch.randint(-3, 4, x.shape).float()


def is_right(layer: nn.Module, x: Tensor, to: str) -> bool:
    """True where the layer was converted and is the same, gradients too; False where it was declined with a reason."""
    done = rewrite(layer, (x,), {}, to)
    if done.declined:
        assert done.declined[0].reason and done.model is not layer and not done.converted
        return False
    c = compare(step(layer, layer), step(done.model, layer), x)
    assert c, f"{layer} on {list(x.shape)}: {c}"
    y, z = layer(x), done.model(x)
    assert y.shape == z.shape and y.dtype == z.dtype and y.stride() == z.stride()
    back = rewrite(done.model, (x,), {}, "linear" if to == "conv" else "conv").model
    assert type(back) is type(layer)
    assert all(torch.equal(p, q) for p, q in zip(layer.parameters(), back.parameters(), strict=True))
    assert torch.equal(y, back(x))
    exact = deepcopy(layer).float()
    for p in exact.parameters():
        p.data = whole(p)
    xs = whole(x)
    for g, h in zip(gradients(exact, xs), gradients(rewrite(exact, (xs,), {}, to).model, xs), strict=True):
        assert torch.equal(g, h)
    return True


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rank", [1, 2, 3, 4, 5])
def test_linear_to_conv(rank: int, bias: bool, dtype: torch.dtype) -> None:
    layer = nn.Linear(6, 4, bias=bias, dtype=dtype)
    assert is_right(layer, torch.randn([*[3, 2, 5, 2][: rank - 1], 6]).to(dtype), "conv")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_pointwise_to_linear(dims: int, groups: int, dtype: torch.dtype) -> None:
    points = itertools.product(
        (1, 2), (0, 1), ("zeros", "reflect", "replicate", "circular"), (1, 2), (True, False), (True, False)
    )
    start = {1: 0, 2: 1, 3: 2}[dims]
    for stride, padding, mode, dilation, bias, batched in itertools.islice(points, start, None, 11):
        if mode == "reflect" and dims == 3 and dtype == torch.bfloat16:
            continue  # PyTorch has no such padding
        if not padding and mode != "zeros":
            continue
        layer = CONVS[dims](4, 6, 1, stride, padding, dilation, groups, bias, mode, dtype=dtype)
        x = torch.randn([2] * batched + [4, 5, 4, 3][: dims + 1]).to(dtype)
        assert is_right(layer, x, "linear")


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_full_kernels_to_linear(dims: int, groups: int) -> None:
    for padding, dilation, bias in itertools.product((0, 1), (1, 2), (True, False)):
        kernel = [3, 2, 2][:dims]
        sizes = [dilation * (k - 1) + 1 - 2 * padding for k in kernel]
        layer = CONVS[dims](4, 6, kernel, 1, padding, dilation, groups, bias)
        if min(sizes) > 0:
            assert is_right(layer, torch.randn(2, 4, *sizes), "linear")
        assert not is_right(layer, torch.randn(2, 4, *(max(n, 1) + 1 for n in sizes)), "linear")


def test_same_padding_and_many_groups() -> None:
    assert is_right(nn.Conv2d(4, 6, 1, padding="same"), torch.randn(2, 4, 5, 5), "linear")
    assert not is_right(nn.Conv2d(80, 80, 1, groups=80), torch.randn(2, 80, 5, 5), "linear")


def test_channels_last_stays() -> None:
    layer = nn.Conv2d(4, 6, 1).to(memory_format=torch.channels_last)
    x = torch.randn(2, 4, 5, 5).to(memory_format=torch.channels_last)
    assert rewrite(layer, (x,), {}, "linear").model(x).stride() == layer(x).stride()


def test_other_ranks_and_sizes_than_those_of_the_run() -> None:
    linear = nn.Linear(6, 4)
    conv = rewrite(linear, (torch.randn(2, 3, 6),), {}, "conv").model
    for shape in ([6], [3, 6], [2, 3, 5, 6], [2, 1, 3, 2, 5, 6], [0, 6], [2, 0, 6]):
        x = torch.randn(shape)
        torch.testing.assert_close(conv(x), linear(x))
    full = nn.Conv2d(4, 6, 3)
    dense = rewrite(full, (torch.randn(2, 4, 3, 3),), {}, "linear").model
    x = torch.randn(2, 4, 5, 6)
    assert torch.equal(dense(x), full(x))
