"""The ways to compute a convolution: by rows, by images, by taps. Each gives the same bits, those of whole numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.exact import references
from torch import Tensor
from torch.nn import functional as F

from roundoff import exact
from roundoff.exact import convolutions
from roundoff.formats import same_bits

FORMS = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


def right(x: Tensor, w: Tensor, b: Tensor, groups: int) -> Tensor:
    """A convolution with padding 1, by whole numbers."""
    out = []
    for part, weight, bias in zip(x.chunk(groups, 1), w.chunk(groups), b.chunk(groups), strict=True):
        rows = F.unfold(part.float(), 3, padding=1).transpose(1, 2).flatten(0, 1)
        ones = torch.cat([rows, torch.ones(len(rows), 1)], 1)
        both = torch.cat([weight.float().flatten(1), bias.float()[:, None]], 1)
        sums, exponent = references.products(ones.numpy(), np.ascontiguousarray(both.t().numpy()))
        near = torch.from_numpy(references.rounded(sums, exponent, FORMS[x.dtype]))
        out.append(near.reshape(len(x), -1, len(weight)).transpose(1, 2))
    return torch.cat(out, 1).reshape(len(x), -1, *x.shape[2:]).to(x.dtype)


def operands(kind: str, groups: int, channels: int) -> tuple[Tensor, Tensor, Tensor]:
    x, w, b = torch.randn(2, 4, 7, 6), torch.randn(channels, 4 // groups, 3, 3), torch.randn(channels)
    if kind == "half way":
        x, w, b = x.bfloat16().float(), w.bfloat16().float(), b.bfloat16().float()
    if kind == "below":
        x, w, b = x * 2.0**-75, w * 2.0**-70, b * 2.0**-145
    if kind == "wide":
        x = x * 2.0 ** torch.randint(-40, 40, x.shape)
    if kind == "whole":
        x, w, b = x.round(), w.round(), b.round() + 0.5
    return x, w, b


@pytest.mark.parametrize("kind", ["plain", "half way", "below", "wide", "whole"])
@pytest.mark.parametrize(("groups", "channels"), [(1, 3), (2, 4), (4, 4), (4, 8)])
def test_every_way_is_correctly_rounded(kind: str, groups: int, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, w, b = operands(kind, groups, channels)
    for dtype in (torch.float32, torch.bfloat16) if kind != "below" else (torch.float32,):
        a, c, d = x.to(dtype), w.to(dtype), b.to(dtype)
        wanted = right(a, c, d, groups)
        for few in (0, 1 << 20):
            monkeypatch.setattr(convolutions, "FEW", few)
            assert same_bits(exact.conv2d(a, c, d, padding=1, groups=groups), wanted)
        monkeypatch.setattr(convolutions, "FEW", 0)
        for name, value in (("TAPS", 16), ("BLOCK", 200)):
            monkeypatch.setattr(convolutions, name, value)
            assert same_bits(exact.conv2d(a, c, d, padding=1, groups=groups), wanted)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_not_finite_in_every_way(groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, w, b = operands("plain", groups, 4)
    x[0, 0, 3, 3], x[0, 1, 0, 0], x[1, 2, 5, 5] = math.inf, -math.inf, math.nan
    w[1, 0, 1, 1] = 0.0
    wanted = F.conv2d(x.double(), w.double(), b.double(), padding=1, groups=groups).float()
    for few in (0, 1 << 20):
        monkeypatch.setattr(convolutions, "FEW", few)
        assert same_bits(exact.conv2d(x, w, b, padding=1, groups=groups), wanted)


def test_a_bound_that_is_too_small_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """1 + 2^-24 + 2^-60 is above what is half way; float64 loses the last."""
    x, w, b = torch.ones(1, 4, 7, 6), torch.zeros(4, 1, 3, 3), torch.zeros(4)
    w[:, 0, 0] = torch.tensor([1.0, 2.0**-24, 2.0**-60])
    wanted = right(x, w, b, 4)
    monkeypatch.setattr(convolutions, "FEW", 0)
    assert same_bits(exact.conv2d(x, w, b, padding=1, groups=4), wanted)
    monkeypatch.setattr(convolutions, "slack", lambda terms: 0.0)
    assert not same_bits(exact.conv2d(x, w, b, padding=1, groups=4), wanted)


def test_memory_that_is_kept_is_not_shared() -> None:
    """Results of one product are not written over by the next, in one thread or in two."""
    x, w = torch.randn(40, 600), torch.randn(30, 600)
    first = exact.linear(x, w)
    held = first.clone()
    exact.linear(-x, w)
    assert same_bits(first, held)
    with torch.inference_mode():
        assert same_bits(exact.linear(x, w), held)
    assert same_bits(exact.linear(x, w), held)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_the_same_bits_on_a_gpu() -> None:
    x, w, b = torch.randn(64, 300), torch.randn(50, 300), torch.randn(50)
    assert same_bits(exact.linear(x.cuda(), w.cuda(), b.cuda()).cpu(), exact.linear(x, w, b))
    for name in ("exp", "tanh", "gelu", "erf", "log1p"):
        f = getattr(exact, name)
        assert same_bits(f(x.cuda()).cpu(), f(x))
    image, kernel = torch.randn(2, 4, 20, 20), torch.randn(6, 2, 3, 3)
    found = exact.conv2d(image.cuda(), kernel.cuda(), None, 1, 1, 1, 2)
    assert same_bits(found.cpu(), exact.conv2d(image, kernel, None, 1, 1, 1, 2))
    assert same_bits(exact.softmax(x.cuda(), 1).cpu(), exact.softmax(x, 1))
    assert same_bits(exact.layer_norm(x.cuda(), 300).cpu(), exact.layer_norm(x, 300))


def test_the_float64_product_is_a_classical_one() -> None:
    """The bound is for sums of each row and column by themselves; fast matrix products mix in others."""
    x, w = torch.full((512, 512), 2.0**60, dtype=torch.float64), torch.ones(512, 512, dtype=torch.float64)
    x[0] = torch.rand(512, dtype=torch.float64)
    for y in (x @ w, torch.bmm(x[None].expand(2, 512, 512), w[None].expand(2, 512, 512))[0]):
        assert float((y[0] - math.fsum(x[0].tolist())).abs().max()) < 512 * 512 * 2.0**-53
