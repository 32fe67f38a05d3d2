"""Two ways to the variance: one of them loses digits where the mean is large, and is told apart."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.rules.trial import tried
from torch import Tensor

from roundoff.formats import widen
from roundoff.rules import lookup

aten = torch.ops.aten


def image(shift: float, *, channels_last: bool) -> Tensor:
    x = torch.randn(2, 8, 33, 31) + shift
    return x.contiguous(memory_format=torch.channels_last) if channels_last else x


@pytest.mark.parametrize(
    ("channels_last", "stable"), [(False, True), (True, False)], ids=["contiguous", "channels last"]
)
def test_the_one_pass_variance_is_told_from_the_stable_one(channels_last: bool, stable: bool) -> None:
    x = image(300.0, channels_last=channels_last)
    t = tried(aten.native_group_norm, x, None, None, 2, 8, 33 * 31, 2, 1e-5)
    rule = lookup(t.call.op)
    assert rule is not None and rule.stable is not None
    assert t.excess(0) <= 1
    limits = rule.stable(t.call)
    assert isinstance(limits, tuple)
    held = replace(t, limits=[limits[0] + t.reference[0].abs() * 2**-24])
    assert (held.excess(0) <= 1) is stable


def test_both_agree_where_the_mean_is_small() -> None:
    t = tried(aten.native_group_norm, image(0.0, channels_last=True), None, None, 2, 8, 33 * 31, 2, 1e-5)
    rule = lookup(t.call.op)
    assert rule is not None and rule.stable is not None
    limits = rule.stable(t.call)
    assert isinstance(limits, tuple)
    assert ((widen(t.native[0]) - t.reference[0]).abs() <= limits[0] + t.reference[0].abs() * 2**-24).all()


def test_the_default_epsilon_of_fused_rms_norm_is_that_of_the_native_arithmetic() -> None:
    rule = lookup(aten._fused_rms_norm.default)
    assert rule is not None and rule.wide is not None
    x = torch.full((3, 4), 1e-4, dtype=torch.float64)
    for dtype in (torch.float32, torch.bfloat16):
        native = (x.to(dtype), torch.zeros(3, 1))
        y, rho = rule.wide(x, [4], None, None, native=native)
        expected = (x.square().mean(1, keepdim=True) + torch.finfo(torch.float32).eps).rsqrt()
        torch.testing.assert_close(rho, expected)
        torch.testing.assert_close(y, x * expected)


def test_the_running_statistics_of_a_batch_norm_are_used_in_evaluation() -> None:
    x = image(100.0, channels_last=False)
    mean, var = torch.full((8,), 100.0), torch.full((8,), 1e-3)
    t = tried(aten.native_batch_norm, x, None, None, mean, var, False, 0.1, 1e-5)
    assert t.excess(0) <= 1
    limit = torch.as_tensor(t.limits[0])
    wrong = t.native[0] * (1 + 2**-9)
    assert t.excess(0, wrong) > 1
    # the bound knows that x (ρ g) + (b - μ ρ g) cancels: about 16 roundings of μ ρ
    assert (limit.max() < 40 * 2**-24 * 100 / 1e-3**0.5).item()
