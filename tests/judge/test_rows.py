"""The numbers of an output: the largest difference, where it is, ulps, round-off of each side."""

from __future__ import annotations

from math import inf, nan

import pytest
import torch
from tests.judge.pairs import case

import roundoff
from roundoff.judge.rows import native_difference, rows
from roundoff.judge.settle import settle
from roundoff.records import Output


def outputs(a: object, b: object, *args: torch.Tensor) -> tuple[Output, ...]:
    opened = case(a, b, *args)  # type: ignore[arg-type]
    return rows(opened, settle(opened, opened.ran_a, opened.ran_b).real)


def test_the_native_difference_at_values_that_are_not_finite() -> None:
    x, y = torch.tensor([nan, inf, -inf, 1, nan]), torch.tensor([nan, inf, inf, 3, 1])
    assert native_difference(x, y).tolist() == [0, 0, inf, 2, inf]


def test_unsigned_integers_do_not_wrap_around() -> None:
    x, y = torch.tensor([1], dtype=torch.uint8), torch.tensor([2], dtype=torch.uint8)
    assert native_difference(x, y).tolist() == [1]


def test_where_the_difference_is_and_how_many_numbers_lie_between() -> None:
    """x is 1 + 2^-23: one number after 1; its double ends at 2^-22 after 2, one number of twice the distance."""
    x = torch.ones(2, 3)
    y = x.clone()
    y[1, 2] += 2**-23
    (o,) = outputs(lambda _: x * 2, lambda _: y * 2, x)
    assert (o.name, o.shape, o.dtype) == ("output", (2, 3), torch.float32)
    assert (o.max_abs, o.index, o.max_ulp) == (2**-22, (1, 2), 1)
    assert (o.real_abs, o.roundoff_a_abs, o.roundoff_b_abs) == (2**-22, 0, 0)
    assert (o.value_abs, o.identical) == (2, False)


def test_round_off_of_each_side() -> None:
    """1 + 2^-30 is 1 in float32: off by 2^-30. Added and taken off again in another order nothing is lost."""
    x, tiny = torch.ones(4), torch.full((4,), 2.0**-30)
    (o,) = outputs(lambda x, t: (x + t) - x, lambda x, t: (x - x) + t, x, tiny)
    assert (o.roundoff_a_abs, o.roundoff_b_abs) == (2**-30, 0)
    assert (o.max_abs, o.real_abs) == (2**-30, 0)


def test_the_floor_is_in_the_units_of_the_output() -> None:
    x = torch.randn(30, 40)
    (small,) = outputs(lambda x: x.sum(0), lambda x: x.flip(0).sum(0), x)
    (large,) = outputs(lambda x: x.sum(0), lambda x: x.flip(0).sum(0), x * 2**40)
    assert 0 < small.floor_abs < 1e-10
    assert large.floor_abs == pytest.approx(small.floor_abs * 2**40, rel=1e-12)  # scaled by a power of two: no rounding


@pytest.mark.parametrize("shape", [(0,), (3, 0, 2)])
def test_empty_outputs(shape: tuple[int, ...]) -> None:
    c = roundoff.compare(torch.sin, lambda x: x.cos(), torch.empty(shape))
    (o,) = c.outputs
    assert (c.verdict, o.shape, o.index, o.max_abs, o.max_ulp) == ("identical", shape, None, 0, 0)


def test_a_number_has_an_index_without_dimensions() -> None:
    (o,) = outputs(torch.sum, torch.mean, torch.arange(4.0))
    assert (o.shape, o.index, o.max_abs) == ((), (), 4.5)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64])
def test_integers_and_booleans_have_no_ulp(dtype: torch.dtype) -> None:
    x = torch.tensor([0, 1, 1])
    (o,) = outputs(lambda x: x.to(dtype), lambda x: (1 - x).to(dtype), x)
    assert (o.dtype, o.max_ulp, o.max_abs, o.real_abs) == (dtype, None, 1, 1)


def test_no_ulps_where_a_value_is_not_finite() -> None:
    (o,) = outputs(torch.log, lambda x: x.log() + 0, torch.tensor([-1.0, 2.0]))
    assert o.max_ulp is None


def test_complex_outputs() -> None:
    (o,) = outputs(lambda x: torch.complex(x, x), lambda x: torch.complex(x + 3, x + 4), torch.zeros(2))
    assert (o.dtype, o.max_abs, o.value_abs) == (torch.complex64, 5, 0)


def test_names_are_key_paths_in_order() -> None:
    def net(x: torch.Tensor) -> dict[str, object]:
        return {"b": (x, [x + 1]), "a": x}

    assert [o.name for o in outputs(net, net, torch.ones(2))] == ["['b'][0]", "['b'][1][0]", "['a']"]
