"""Products of whole numbers, asked for without the kernel that made them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from roundoff.replay.enclosure.checked import convolutions_hold, matrices_hold, random

SHAPES = [((3, 5), (5, 4)), ((2, 3, 5), (5, 4)), ((2, 3, 5), (2, 5, 4)), ((3, 5), (2, 5, 4)), ((1, 1), (1, 1))]


def whole(seed: int, *shape: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randint(-(2**20), 2**20, shape, generator=g)


def test_random_numbers_are_odd_and_leave_no_trace() -> None:
    before = torch.random.get_rng_state()
    v = random(1000, torch.device("cpu"))
    assert torch.equal(before, torch.random.get_rng_state()) and torch.equal(v, random(1000, v.device))
    assert bool((v % 2 == 1).all()) and len(v.unique()) > 990


@pytest.mark.parametrize(("a", "b"), SHAPES)
def test_matrices(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    x, w = whole(0, *a), whole(1, *b)
    y = x @ w
    assert matrices_hold(x, w, y)
    for bit in (0, 52):
        off = y.clone()
        off.view(-1)[-1] += 1 << bit
        assert not matrices_hold(x, w, off)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 2])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dims", [1, 2])
def test_convolutions(stride: int, padding: int, dilation: int, groups: int, transposed: bool, dims: int) -> None:
    x = whole(0, 2, 6, *(9, 8)[:dims])
    w = whole(1, *((6, 12 // groups) if transposed else (12, 6 // groups)), *(3, 2)[:dims])
    how = [[v] * dims for v in (stride, padding, dilation)]
    extra = [stride - 1] * dims if transposed else [0] * dims
    y = torch.ops.aten.convolution(x.double(), w.double(), None, *how, transposed, extra, groups).long()
    assert convolutions_hold(x, w, y, *how, transposed, groups)
    assert not convolutions_hold(x, w, y.roll(1, -1), *how, transposed, groups)
    off = y.clone()
    off.view(-1)[-1] += 1 << 50
    assert not convolutions_hold(x, w, off, *how, transposed, groups)
