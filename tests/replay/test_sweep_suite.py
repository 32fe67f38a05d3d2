"""Every network of the suite: its error is booked on its steps, but for kinks that rounding crossed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from tests.replay.test_sweep import sweep
from tests.suite import networks
from tests.suite.minilm import fused, separate, tokens
from torch import nn

#: Operators whose derivative jumps: where rounding crosses the jump, no derivative can book it.
KINKS = {
    "relu", "leaky_relu", "hardtanh", "clamp", "clamp_min", "clamp_max", "abs", "maximum", "minimum", "amax", "amin", "max",
    "min", "max_pool2d_with_indices", "sort", "topk", "where", "masked_fill", "floor", "round", "index", "gather",
    "embedding",
}  # fmt: skip
MODES = {"grad": torch.enable_grad, "no_grad": torch.no_grad, "inference": torch.inference_mode}


def assert_booked(model: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    whole, constants, steps = sweep(model, *args, **kwargs)
    booked = sum(part.local for _, part in steps) + constants
    kinks = sum(part.bend for step, part in steps if str(step.step.op).split(".")[1].strip("_") in KINKS)
    worst = sorted(steps, key=lambda pair: -abs(pair[1].bend))[:3]
    assert booked + kinks == pytest.approx(whole, rel=1e-3), [(str(k.step.op), p.bend / whole) for k, p in worst]


@pytest.mark.parametrize("network", networks.ALL, ids=lambda n: n.name)
def test_at_least_999_of_1000_is_booked(network: networks.Network) -> None:
    model, args, kwargs = network.make(0)
    assert_booked(model, args, kwargs)


@pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
@pytest.mark.parametrize("make", [fused, separate])
def test_a_trained_transformer(make: Callable[[], nn.Module], mode: Callable[[], AbstractContextManager[Any]]) -> None:
    with mode():
        assert_booked(make(), tokens(), {})


def test_twenty_convolutions() -> None:
    torch.manual_seed(0)
    layers = [m for _ in range(20) for m in (nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())]
    assert_booked(nn.Sequential(*layers), (torch.randn(2, 8, 12, 12),), {})
