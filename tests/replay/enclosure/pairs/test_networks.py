"""Whole networks in pairs against mpmath: every output lies where its pair says, and that is narrow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mpmath import matrix, mp, mpf
from tests.judge.test_proof import Transformer
from tests.replay.enclosure.pairs.test_run import enclosed
from torch import Tensor, nn


@pytest.fixture(autouse=True)
def digits() -> Iterator[None]:
    with mp.workdps(60):
        yield


def exact(x: Tensor) -> Any:
    return matrix(x.detach().double().tolist())


def linear(x: Any, layer: nn.Linear) -> Any:
    y = x * exact(layer.weight).T
    return rows(y, lambda row: [v + mpf(b) for v, b in zip(row, layer.bias.tolist(), strict=True)])


def rows(x: Any, f: Any) -> Any:
    return matrix([f([x[i, j] for j in range(x.cols)]) for i in range(x.rows)])


def each(x: Any, f: Any) -> Any:
    return rows(x, lambda row: [f(v) for v in row])


def layer_norm(x: Any, norm: nn.LayerNorm) -> Any:
    gain, shift = norm.weight.tolist(), norm.bias.tolist()

    def one(row: list[Any]) -> list[Any]:
        mean = mp.fsum(row) / len(row)
        rho = 1 / mp.sqrt(mp.fsum((v - mean) ** 2 for v in row) / len(row) + mpf("1e-5"))
        return [(v - mean) * rho * mpf(g) + mpf(s) for v, g, s in zip(row, gain, shift, strict=True)]

    return rows(x, one)


def softened(row: list[Any]) -> list[Any]:
    weights = [mp.exp(v) for v in row]
    return [w / mp.fsum(weights) for w in weights]


def gelu(x: Any) -> Any:
    return x * mp.erfc(-x / mp.sqrt(2)) / 2


def block(x: Any, net: Transformer) -> Any:
    heads, width = net.heads, x.cols
    each_head = width // heads
    qkv = linear(layer_norm(x, net.norm1), net.qkv)
    mixed = matrix(x.rows, width)
    for h in range(heads):
        q, k, v = (qkv[:, i * width + h * each_head : i * width + (h + 1) * each_head] for i in range(3))
        found = rows(q * k.T / mp.sqrt(each_head), softened) * v
        for i in range(x.rows):
            for j in range(each_head):
                mixed[i, h * each_head + j] = found[i, j]
    x = x + linear(mixed, net.out)
    return x + linear(each(linear(layer_norm(x, net.norm2), net.up), gelu), net.down)


@pytest.mark.parametrize("fused", [True, False])
def test_transformers(fused: bool) -> None:
    g = torch.Generator().manual_seed(0)
    net = nn.Sequential(Transformer(8, 2), Transformer(8, 2)).eval()
    for p in net.parameters():
        p.data = torch.randn(p.shape, generator=g) / 2
    for part in net:
        part.fused = fused
    x = torch.randn(1, 3, 8, generator=g)
    with torch.no_grad():
        found, enclosure = enclosed(net, x)
    assert enclosure.gaps == [] and enclosure.coarse == ""
    right = exact(x[0])
    for part in net:
        right = block(right, part)
    for i in range(3):
        for j in range(8):
            got = mpf(float(found.mid[0, i, j])) + mpf(float(found.low[0, i, j]))
            assert abs(got - right[i, j]) <= mpf(float(found.error[0, i, j])) < mpf(10) ** -18


def test_functions_one_after_the_other() -> None:
    g = torch.Generator().manual_seed(0)
    layers = [nn.Linear(6, 6) for _ in range(5)]
    for layer in layers:
        layer.weight.data = torch.randn(6, 6, generator=g) / 2
    pairs = [
        (torch.tanh, mp.tanh),
        (F.silu, lambda v: v / (1 + mp.exp(-v))),
        (torch.sigmoid, lambda v: 1 / (1 + mp.exp(-v))),
        (torch.relu, lambda v: max(v, mpf(0))),
        (lambda t: t * 0.1 - t.mean(-1, keepdim=True) / 3, None),
    ]

    def net(x: Tensor) -> Tensor:
        for layer, (f, _) in zip(layers, pairs, strict=True):
            x = f(layer(x))
        return x.exp()

    x = torch.randn(2, 6, generator=g)
    with torch.no_grad():
        found, enclosure = enclosed(net, x)
    assert enclosure.gaps == [] and enclosure.coarse == ""
    right = exact(x)
    for layer, (_, f) in zip(layers, pairs, strict=True):
        right = linear(right, layer)
        right = each(right, f) if f else rows(right, lambda row: [v / 10 - mp.fsum(row) / 6 / 3 for v in row])
    for i in range(2):
        for j in range(6):
            got = mpf(float(found.mid[i, j])) + mpf(float(found.low[i, j]))
            assert abs(got - mp.exp(right[i, j])) <= mpf(float(found.error[i, j])) < mpf(10) ** -24
