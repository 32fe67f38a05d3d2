"""Numbers that a kernel was given rounded stand for the other side's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import roundoff


def by_formula(norm: nn.RMSNorm, eps: float) -> nn.Module:
    class Formula(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x / torch.sqrt(x.square().mean(-1, keepdim=True) + eps) * norm.weight

    return Formula()


@pytest.mark.parametrize("eps", [1e-5, 1e-6, 0.1, 2**-17])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_eps_that_pytorch_rounds_is_no_difference(eps: float, dtype: torch.dtype) -> None:
    norm = nn.RMSNorm(8, eps=eps).to(dtype)
    c = roundoff.compare(norm, by_formula(norm, eps), torch.randn(5, 8).to(dtype))
    assert c, c
    assert roundoff.compare(by_formula(norm, eps), norm, torch.randn(5, 8).to(dtype))
    assert c.explain().booked == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("other", [1.0001e-5, 1e-6, 1.00000006e-5])
def test_another_eps_is_one(other: float) -> None:
    norm = nn.RMSNorm(8, eps=1e-5)
    assert roundoff.compare(norm, by_formula(norm, other), torch.randn(5, 8)).verdict == "different"


def test_it_is_said_which_number_stands_for_which() -> None:
    norm = nn.RMSNorm(8, eps=1e-5)
    c = roundoff.compare(norm, by_formula(norm, 1e-5), torch.randn(5, 8))
    (finding,) = [f for f in c.findings if f.kind == "weights-refolded"]
    assert finding.where == "A" and "1e-05 rounded to float32" in finding.text


def test_numbers_that_both_have_stay_what_they_are() -> None:
    rounded = float(torch.tensor(0.1))
    c = roundoff.compare(lambda x: x * rounded + x * 0.1, lambda x: x * 0.1 + x * 0.1, torch.rand(9))
    assert c.verdict in ("roundoff", "identical")
    c = roundoff.compare(lambda x: x * rounded + x * 0.1, lambda x: x * 0.1 + x * 0.1000001, torch.rand(9))
    assert c.verdict == "different"
