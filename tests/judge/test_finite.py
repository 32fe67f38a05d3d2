"""NaN and Inf: on which side they are, and which step made the first of them."""

from __future__ import annotations

import math

import pytest
import torch
from tests.judge.pairs import backwards, kinds, product, told
from torch import Tensor, nn

import roundoff
from roundoff.judge.finite import find_origins
from roundoff.replay.run import Side
from roundoff.tape.trace import random_state


class Odds(nn.Module):
    """A masked softmax, whose infinities leave no trace, and then a logarithm of what may be negative."""

    def __init__(self, shift: float = 0.0) -> None:
        super().__init__()
        self.shift = shift
        self.inner = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.zeros(6).masked_fill(torch.arange(6) > 3, -math.inf)  # no fault
        p = torch.softmax(self.inner(x) + mask, -1) - self.shift
        return torch.log(p[:, :4])  # here it is made


@pytest.fixture
def x() -> Tensor:
    return torch.randn(7, 6)


def test_the_step_is_named_on_the_side_that_has_it(x: Tensor) -> None:
    good, bad = Odds(), Odds(0.25)
    bad.load_state_dict(good.state_dict())
    for a, b, side in ((good, bad, "B"), (bad, good, "A")):
        c = roundoff.compare(a, b, x)
        assert c.verdict == "different"
        said = told(c, "not-finite")
        assert f"{side}: aten.log.default makes the first NaN (" in said and "# here it is made" in said
        assert said.count("makes the first") == 1 and "no fault" not in said
        assert f"NaN or Inf in {side} where the other side has another value" in c.reason


def test_the_module_is_named(x: Tensor) -> None:
    net = nn.Sequential(nn.Linear(6, 6), Odds(0.25))
    said = told(roundoff.compare(net, net, x), "not-finite")
    assert said.count("(1, test_finite.py:") == 2  # its path, then the line


def test_both_sides_at_the_same_places(x: Tensor) -> None:
    w = torch.randn(6, 4)
    c = roundoff.compare(lambda x: product(x, w).sqrt(), lambda x: backwards(x, w).sqrt(), x)
    assert c.verdict == "roundoff", c.reason
    said = told(c, "not-finite")
    assert "at the same places on both sides" in said
    assert "A: aten.sqrt.default makes the first NaN" in said and "B: aten.sqrt.default makes the first NaN" in said
    assert "format cannot hold" not in said


def test_identical_bits_are_told_too(x: Tensor) -> None:
    c = roundoff.compare(torch.log, torch.log, x)
    assert (c.verdict, kinds(c)) == ("identical", {"not-finite"})
    assert roundoff.compare(torch.exp, torch.exp, x).findings == ()


def test_infinities_on_the_way_that_leave_no_trace_are_not_told(x: Tensor) -> None:
    net = Odds()
    c = roundoff.compare(net, lambda x: net(x.flip(0)).flip(0), x)
    assert c and kinds(c) == set()


def test_overflow_of_the_format_is_told_from_mathematics(x: Tensor) -> None:
    c = roundoff.compare(lambda x: (x * 1e3).exp(), lambda x: (1e3 * x).exp() * 1, x.abs() / x.abs().max() * 0.5)
    said = told(c, "not-finite")
    assert "aten.exp.default makes the first Inf" in said
    assert "the format cannot hold them" in said


def test_what_was_given_is_not_blamed_on_a_step() -> None:
    x = torch.tensor([1.0, math.nan])
    origins = find_origins(Side("A", lambda x: (x, x + 1, x[:1] + 1), (x,), {}, random_state()))
    assert origins["[0]"] == "they were given"
    assert origins["[1]"].startswith("they were given, and aten.add.Tensor meets them first (")
    assert set(origins) == {"[0]", "[1]"}


def test_nan_of_infinities_is_made_by_the_step_that_meets_them() -> None:
    def apart(x: Tensor) -> Tensor:
        y = x.exp()
        return y - y

    origins = find_origins(Side("A", apart, (torch.tensor([1.0, 200.0]),), {}, random_state()))
    assert origins[""].startswith("aten.sub.Tensor makes the first NaN")


def test_written_in_place() -> None:
    def fill(x: Tensor) -> Tensor:
        y = torch.zeros(3)
        y[1:] = x.log_()
        return y * 2

    origins = find_origins(Side("A", fill, (-torch.ones(2),), {}, random_state()))
    assert origins[""].startswith("aten.log_.default makes the first NaN")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("number", [1e40, -1e40, 4e38])
def test_a_number_beyond_the_format_is_no_faulty_kernel(number: float, dtype: torch.dtype) -> None:
    """Zero times a number that is infinite in the format is NaN natively, and zero in exact arithmetic."""
    x = torch.tensor([0.0, 1.0, -2.0], dtype=dtype)
    c = roundoff.compare(lambda x: x * number, lambda x: x * 1, x)
    assert c.verdict == "different"
    assert "faulty-kernel" not in kinds(c) and "not-finite" in kinds(c)
    assert "A: aten.mul.Tensor makes the first NaN" in told(c, "not-finite")
    c = roundoff.compare(lambda x: x * number, lambda x: -(x * -number), x)
    assert c and kinds(c) == {"not-finite"}


def test_a_quotient_by_a_number_beyond_the_format() -> None:
    c = roundoff.compare(lambda x: x / 1e40, lambda x: x * 1e-40, torch.tensor([1e30, -1e25]))
    assert "faulty-kernel" not in kinds(c), c


def test_a_number_that_the_format_holds_is_judged() -> None:
    c = roundoff.compare(lambda x: x * 3e38, lambda x: x * 3.001e38, torch.tensor([0.0, 0.5, -1.0]))
    assert c.verdict == "different" and "not-finite" not in kinds(c)
