"""Where a constant is a verified fold of the other side's, the networks part where they part otherwise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import roundoff
from roundoff.records import Kind


class Rotary(nn.Module):
    """Frequencies kept in float32, as ported models keep them."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", 1e4 ** (-torch.arange(0, 8, 2) / 8))

    def forward(self, x: Tensor) -> Tensor:
        angles = torch.arange(12)[:, None] * self.frequencies
        return x * torch.cat([angles.cos(), angles.sin()], 1) + 1e-5


def rotated(x: Tensor) -> Tensor:
    angles = torch.arange(12)[:, None] * 1e4 ** (-torch.arange(0, 8, 2).double() / 8)
    return x * torch.cat([angles.cos(), angles.sin()], 1).float()


@pytest.mark.parametrize("changed", [1e-6, 1.1e-5])
def test_the_later_step_is_named_and_not_the_constant(changed: float) -> None:
    c = roundoff.compare(Rotary(), lambda x: rotated(x) + changed, torch.randn(12, 8))
    assert c.verdict is roundoff.Verdict.DIFFERENT
    assert [f.kind for f in c.findings] == [Kind.WEIGHTS_REFOLDED, Kind.DIFFERENT_MATHEMATICS]
    assert "aten.add.Tensor" in c.findings[1].text and "aten.mul" not in c.findings[1].text


def test_the_difference_is_booked_with_the_constants_as_they_are() -> None:
    c = roundoff.compare(Rotary(), lambda x: rotated(x) + 1e-5, torch.randn(12, 8))
    assert c.verdict is roundoff.Verdict.ROUNDOFF
    assert abs(c.explain().booked - 1) < 1e-3
