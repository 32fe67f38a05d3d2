"""Proofs in pairs of numbers: when they are used, how deep they reach, and that a tiny change is not lost in them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.judge.pairs import Perceptron, backwards, product
from tests.judge.test_proof import Residual, Reversed, Transformer, W, X, compared, unproved
from torch import Tensor, nn

from roundoff.replay.enclosure.pairs import PairEnclosure


def dense(depth: int, gain: float = 1.0, width: int = 16) -> nn.Sequential:
    """Layers that neither damp nor amplify at a gain of 1, so that a change in the first is seen in the last."""
    net = nn.Sequential(*(m for _ in range(depth) for m in (nn.Linear(width, width), nn.ReLU())))
    for m in net:
        if isinstance(m, nn.Linear):
            nn.init.kaiming_normal_(m.weight, nonlinearity="relu").data.mul_(gain)
    return net


def from_the_last(net: nn.Sequential) -> Callable[[Tensor], Tensor]:
    """The same, each sum from the last addend to the first."""

    def run(x: Tensor) -> Tensor:
        for m in net:
            x = x.flip(-1) @ m.weight.flip(-1).t() + m.bias if isinstance(m, nn.Linear) else m(x)
        return x

    return run


def convolutions(depth: int, width: int = 4) -> nn.Sequential:
    layers = [
        [nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()] for _ in range(depth)
    ]
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), *(m for layer in layers for m in layer))


def in_use(net: nn.Module, x: Tensor) -> nn.Module:
    """In evaluation, with the statistics of ``x``."""
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.momentum = 1.0
    with torch.no_grad():
        net.train()(x)
    return net.eval()


def channels_last(net: nn.Module) -> Callable[[Tensor], Tensor]:
    last = copy.deepcopy(net).to(memory_format=torch.channels_last)
    return lambda x: last(x.contiguous(memory_format=torch.channels_last))


def deep_dense(depth: int = 60, gain: float = 0.75) -> tuple[Any, Any, Tensor]:
    net = dense(depth, gain)
    return net, from_the_last(net), torch.randn(4, 16)


def deep_convolutions() -> tuple[Any, Any, Tensor]:
    x = torch.randn(2, 3, 6, 6)
    net = in_use(convolutions(20), x)
    return net, channels_last(net), x


def deep_residual() -> tuple[Any, Any, Tensor]:
    x = torch.randn(2, 3, 12, 12)
    net = in_use(Residual(4, 6), x)
    return net, channels_last(net), x


def deep_transformer() -> tuple[Any, Any, Tensor]:
    fused = nn.Sequential(*(Transformer(16, 2) for _ in range(4))).eval()
    apart = copy.deepcopy(fused)
    for block in apart:
        block.fused = False
    return fused, apart, torch.randn(1, 6, 16)


DEEP = {
    "transformer": deep_transformer,
    "dense": deep_dense,
    "convolutions": deep_convolutions,
    "residual": deep_residual,
}


@pytest.mark.parametrize("name", DEEP)
def test_deep_networks_are_proved_in_pairs(name: str, told: list[str]) -> None:
    a, b, x = DEEP[name]()
    c = compared(a, b, x, progress=lambda done, total, text: told.append(f"{done}/{total} {text}"))
    assert (c.verdict, c.evidence) == ("roundoff", "proved"), c.reason
    assert told[-2:] == ["0/2 enclosing A in pairs of numbers", "1/2 enclosing B in pairs of numbers"]
    share = float(c.reason.split(" at most, ")[1].split(" of the native")[0])
    assert share < 2.0**-24


@pytest.fixture
def told() -> list[str]:
    """What the progress was told."""
    return []


def test_pairs_are_not_used_where_float64_is_enough(told: list[str]) -> None:
    net = Perceptron()
    c = compared(
        net, Reversed(net), torch.randn(9, 16), progress=lambda *what: told.append(f"{what[0]}/{what[1]} {what[2]}")
    )
    assert c.evidence == "proved" and told[-2:] == ["0/2 enclosing A", "1/2 enclosing B"]


def with_scale(net: nn.Module, by: float) -> Callable[[Tensor], Tensor]:
    return lambda x: net(x) * by


def changed_weight(net: nn.Module) -> nn.Module:
    """The largest weight of the first layer moved by one ulp of float32."""
    other = copy.deepcopy(net)
    weight = next(p for p in other.parameters() if p.dim() > 1).data.view(-1)
    i = int(weight.abs().argmax())
    weight[i] = torch.nextafter(weight[i], torch.tensor(9.0))
    return other


def changed_eps(net: nn.Module) -> nn.Module:
    other = copy.deepcopy(net)
    norm = next(m for m in other.modules() if isinstance(m, (nn.BatchNorm2d, nn.LayerNorm)))
    assert norm.eps == 1e-5
    norm.eps = 1.000000001e-5
    return other


CHANGES = {
    "a weight": (lambda: deep_dense(20, 1.0), changed_weight),
    "a scale": (lambda: deep_dense(20, 1.0), lambda net: with_scale(net, 1 + 1e-12)),
    "an epsilon": (deep_residual, changed_eps),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_tiny_change_is_never_proved_to_be_roundoff(name: str) -> None:
    """In a deep network, where the radii of float64 are larger than what the change makes."""
    make, change = CHANGES[name]
    a, b, x = make()
    c = compared(change(a), b, x)
    assert (c.verdict, c.evidence) != ("roundoff", "proved"), c.reason
    if "epsilon" not in name:  # which moves the outputs by hardly more than the wide round-off
        assert (c.verdict, c.evidence) == ("different", "proved"), c.reason


def test_what_stands_in_the_way_in_pairs_is_told() -> None:
    """An operator that is known in float64 only makes radii of that size, and enough layers make them too large."""
    w = torch.linalg.qr(torch.randn(16, 16))[0] * 1.0

    def net(f: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def run(x: Tensor) -> Tensor:
            x = f(x, w).asinh()
            for _ in range(25):
                x = f(x, w) * 3 - f(x, w) * 2
            return x

        return run

    said = unproved(net(product), net(backwards), torch.randn(4, 16))
    assert "times the native round-off somewhere; 0.0625 would do" in said
    assert "Radii are of the size of float64's rounding in A, from aten.asinh.default (" in said


def test_subnormal_numbers_that_are_flushed_are_no_proof() -> None:
    torch.set_flush_denormal(True)
    try:
        said = unproved(product, backwards, X, W)
    finally:
        torch.set_flush_denormal(False)
    assert "numbers below 2^-1022 are flushed to zero" in said


def test_a_correction_that_is_left_out_is_no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: without the tails two orders of addition differ by more than their radii."""
    monkeypatch.setattr(PairEnclosure, "correction", lambda self, x: torch.zeros(x.shape, dtype=torch.float64))
    a, b, x = deep_dense(20, 1.0)
    c = compared(a, b, x)
    assert c.evidence == "statistical" and "differ by more than rounding" in c.reason
