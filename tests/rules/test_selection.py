"""Rounding to so many decimals: not exact, and a jump of the last decimal only where it is a near-tie."""

from __future__ import annotations

import pytest
import torch
from tests.rules.trial import tried

import roundoff

FORMATS = (torch.float32, torch.bfloat16, torch.float16)


@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize("decimals", [-3, -1, 1, 2, 5, 40])
def test_every_kernel_is_within_the_rule(dtype: torch.dtype, decimals: int) -> None:
    ties = (torch.arange(-999, 999) + 0.5) * 10.0**-decimals
    x = torch.cat([torch.randn(999) * 100, ties, torch.randn(999) * 1e-4]).to(dtype)
    assert tried(torch.round, x, decimals=decimals).excess(0) <= 1


@pytest.mark.parametrize("decimals", [-1, 2])
def test_a_jump_away_from_a_tie_is_seen(decimals: int) -> None:
    step = 10.0**-decimals
    trial = tried(torch.round, torch.tensor([7.3, 7.5, 7.7]) * step, decimals=decimals)
    for i, tips in enumerate([False, True, False]):
        wrong = trial.native[0].clone()
        wrong[i] += step * (1 if float(wrong[i]) < 7.5 * step else -1)
        assert (trial.excess(0, wrong) <= 1) is tips


def test_a_network_that_rounds_decimals_is_not_accused() -> None:
    x = torch.randn(300)
    c = roundoff.compare(lambda x: torch.round(x, decimals=1) * 3, lambda x: 3 * torch.round(x * 10) / 10, x)
    assert c.verdict == "roundoff", c.reason
    assert c.findings == ()
