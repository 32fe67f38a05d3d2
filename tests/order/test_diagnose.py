"""What adds in no tree is recognised, and said."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from typing import Any

import pytest
import torch
from tests.order.planted import could_be_fused, kernel_that_adds, order_of
from tests.order.test_reveal import reveal_planted
from torch import Tensor
from torch.nn import functional as F

from roundoff import RoundoffError
from roundoff.order.arithmetic import SHORT
from roundoff.order.kernels import Shape
from roundoff.order.reveal import reveal
from roundoff.order.tree import SumTree

TO_TILE = torch.tensor([[1.0, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
TO_WEIGHTS = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
TO_OUTPUT = torch.tensor([[1.0, 1, 1, 0], [0, 1, -1, -1]])


def winograd(x: Tensor, w: Tensor, b: Tensor | None = None, *more: Any) -> Tensor:
    """A convolution of 3x3 without padding by F(2x2, 3x3): Lavin and Gray, 2016."""
    height, width = x.shape[2] - 2, x.shape[3] - 2
    x = F.pad(x, (0, width % 2, 0, height % 2))
    tiles = x.unfold(2, 4, 2).unfold(3, 4, 2)  # [batch, channels, down, across, 4, 4]
    d = TO_TILE @ tiles @ TO_TILE.T
    g = TO_WEIGHTS @ w @ TO_WEIGHTS.T
    m = (d[:, None] * g[None, :, :, None, None]).sum(2)
    y = (TO_OUTPUT @ m @ TO_OUTPUT.T).transpose(3, 4).flatten(4, 5).flatten(2, 3)[:, :, :height, :width]
    return y if b is None else y + b[:, None, None]


def by_fft(x: Tensor, w: Tensor, b: Tensor | None = None, *more: Any) -> Tensor:
    """The same by Fourier transforms of the whole image."""
    size = x.shape[2:]
    spectrum = torch.einsum("bchw,ochw->bohw", torch.fft.rfft2(x), torch.fft.rfft2(w, s=size).conj())
    y = torch.fft.irfft2(spectrum, s=size)[..., : size[0] - 2, : size[1] - 2]
    return y if b is None else y + b[:, None, None]


@pytest.mark.parametrize(
    ("convolve", "size", "said"),
    [(winograd, 24, "near by: Winograd"), (winograd, 7, "Winograd or FFT"), (by_fft, 24, "all over the image: FFT")],
)
def test_transforms_are_named(monkeypatch: pytest.MonkeyPatch, convolve: Any, size: int, said: str) -> None:
    x, w = torch.randn(2, 3, 9, 8), torch.randn(4, 3, 3, 3)
    torch.testing.assert_close(convolve(x, w), F.conv2d(x, w))
    monkeypatch.setattr(F, "conv2d", convolve)
    args = {"kernel_size": 3, "size": (size, size)}
    found = reveal("conv2d", Shape(27, True, 2, 4, torch.float32, "contiguous", args), None)
    assert found.tree is None and not found.certified
    assert said in found.reason and found.calls > 4


def test_a_function_that_transforms_has_no_tree() -> None:
    def add(values: Tensor) -> Tensor:  # one window by Winograd, whose weights are 1
        image = torch.zeros(1, 1, 4, 4)
        image[0, 0, :3, :3] = values.view(3, 3)
        return winograd(image, torch.ones(1, 1, 3, 3))[0, 0, 0, 0]

    found = reveal(add, Shape(9, False, 1, 1, torch.float32, "contiguous", {}), None)
    assert found.tree is None and "Winograd, FFT and Strassen" in found.reason


def strassen(x: Tensor, w: Tensor) -> Tensor:
    """x @ w.T by one step of Strassen's method."""
    (a, b), (c, d) = (t.chunk(2, 1) for t in x.chunk(2, 0))
    (e, f), (g, h) = (t.chunk(2, 1) for t in w.T.chunk(2, 0))
    p1, p2, p3, p4 = a @ (f - h), (a + b) @ h, (c + d) @ e, d @ (g - e)
    p5, p6, p7 = (a + d) @ (e + h), (b - d) @ (g + h), (a - c) @ (e + f)
    return torch.cat([torch.cat([p5 + p4 - p2 + p6, p1 + p2], 1), torch.cat([p3 + p4, p1 + p5 - p3 - p7], 1)])


def test_strassen_has_no_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "matmul", lambda x, w: strassen(x, w.T.contiguous()))
    found = reveal("matmul", Shape(16, False, 4, 6, torch.float32, "contiguous", {}), None)
    assert found.tree is None and "mixed with one another" in found.reason


def planted(shorter: Any) -> Any:
    tree = SumTree.from_nested(order_of("blocked", 24))
    kernel = kernel_that_adds(tree, could_be_fused(tree, 24))

    def run(x: Tensor, w: Tensor | None, b: Tensor | None) -> Tensor:
        assert w is not None
        return sum(kernel.run(s, t, b) for s, t in shorter(x, w))  # type: ignore[return-value]

    def draw(seed: int, cancel: bool) -> Any:
        operands, _ = kernel.draw(seed, cancel)
        return operands, run(*operands)

    return tree, replace(kernel, run=run, draw=draw)


@pytest.mark.parametrize("name", ["TF32", "TF32, cut off", "bfloat16"])
def test_operands_in_a_shorter_format_are_told_and_replayed(name: str) -> None:
    tree, kernel = planted(lambda x, w: [(SHORT[name](x), SHORT[name](w))])
    found = reveal_planted(kernel)
    assert found.tree == tree and found.certified
    assert f"operands rounded to {name}" in found.describe()


def test_split_operands_have_no_tree() -> None:
    def split(x: Tensor, w: Tensor) -> list[tuple[Tensor, Tensor]]:
        high = [t.bfloat16().float() for t in (x, w)]
        middle = [(t - h).bfloat16().float() for t, h in zip((x, w), high, strict=True)]
        low = [t - h - m for t, h, m in zip((x, w), high, middle, strict=True)]
        return [(high[0], low[1]), (low[0], high[1]), (middle[0], middle[1]), (high[0], middle[1]),
                (middle[0], high[1]), (high[0], high[1])]  # fmt: skip

    found = reveal_planted(planted(split)[1])
    assert found.tree is None and "split into shorter ones" in found.reason


def test_a_split_along_the_sum_is_a_tree() -> None:
    def in_parts(values: Tensor) -> Tensor:
        a, b, c, d = values.view(4, 4)
        return reduce(torch.add, a + b) + reduce(torch.add, c + d)

    found = reveal(in_parts, Shape(16, False, 1, 1, torch.float32, "contiguous", {}), None)
    assert found.certified and found.tree is not None and found.depth == 5


def test_all_groups_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    real = F.conv2d

    def last_group_differs(x: Tensor, w: Tensor, b: Tensor | None, *more: Any) -> Tensor:
        y = real(x, w, b, *more)
        last = x[:, -8:].double().mul(w[-1, :, 0, 0].double()[:, None, None]).sum(1).float()
        return torch.cat([y[:, :-1], last[:, None] + (0 if b is None else b[-1])], 1)

    shape = Shape(8, False, 2, 6, torch.float32, "contiguous", {"groups": 2})
    assert reveal("conv2d", shape, 1).certified
    monkeypatch.setattr(F, "conv2d", last_group_differs)
    found = reveal("conv2d", shape, 1)
    assert not (found.certified and found.shared)


def test_nothing_is_said_of_what_is_no_sum() -> None:
    with pytest.raises(RoundoffError, match="not a sum"):
        reveal(lambda v: v.prod(), Shape(8, False, 1, 1, torch.float32, "contiguous", {}), None)
