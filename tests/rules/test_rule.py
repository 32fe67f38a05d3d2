"""What a rule is told about a call."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from roundoff.formats import U64
from roundoff.rules import Call

U = 2.0**-24


def call(u: float = U, typical: bool = False, u_out: float = 0.0) -> Call:
    return Call(None, (1, 2), {"dim": 3}, (), u, typical, u_out)


def test_gamma() -> None:
    assert call().gamma(10) == 10 * U / (1 - 10 * U)
    assert call().gamma(2**24) == float("inf")
    assert call(typical=True).gamma(1000) == U


def test_roundings_to_a_coarser_output() -> None:
    assert call(u_out=2.0**-8).gamma_out(1) == 2.0**-8 / (1 - 2.0**-8)
    assert call(u_out=2.0**-8).gamma(1) == U / (1 - U)
    assert call().gamma_out(3) == call().gamma(3)


def test_arguments_by_place_or_by_name() -> None:
    assert call().arg(1, "x") == 2
    assert call().arg(2, "dim") == 3
    assert call().arg(5, "none", 7) == 7


@given(st.floats(-1e30, 1e30, allow_subnormal=False))
def test_a_number_that_float32_holds_is_exact(value: float) -> None:
    held = torch.tensor(value, dtype=torch.float64).float().item()
    if held == 0 or abs(held) > 2.0**-126:
        assert call().scalar(held) == 0.0
    assert abs(held - value) <= call().scalar(value) or abs(value) < 2.0**-126


@given(st.floats(-1e30, 1e30, allow_subnormal=False))
def test_float64_holds_every_number(value: float) -> None:
    assert call(U64).scalar(value) == 0.0


@pytest.mark.parametrize("value", [float("inf"), float("nan"), True, 0, None, torch.ones(1)])
def test_what_has_no_rounding(value: object) -> None:
    assert call().scalar(value) == 0.0


def test_a_complex_number_rounds_in_both_parts() -> None:
    assert call().scalar(0.5 + 0.1j) == call().scalar(0.1)


def test_limits_of_the_arithmetic() -> None:
    assert (call().tiny, call(U64).tiny) == (2.0**-126, 2.0**-1022)
    assert call(u_out=2.0**-11).underflow == 2.0**-25
    assert call().huge < torch.finfo(torch.float32).max < call(U64).huge
