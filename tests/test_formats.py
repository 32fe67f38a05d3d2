"""Facts about number formats, held against PyTorch's own and against every number of the short formats."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from roundoff.formats import (
    U64,
    UNDERFLOW,
    UNIT_ROUNDOFF,
    bits,
    is_inexact,
    same_bits,
    ulps_between,
    unit_roundoff,
    wide_dtype,
    widen,
)

FLOATS = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2fnuz,
]
COMPLEX = {torch.complex32: torch.float16, torch.complex64: torch.float32, torch.complex128: torch.float64}
EXACT = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]


def every(dtype: torch.dtype) -> Tensor:
    """Every number of a format of two bytes, in the order of its bits."""
    return torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)


def test_the_tables_know_the_same_formats() -> None:
    assert UNIT_ROUNDOFF.keys() == UNDERFLOW.keys() == {*FLOATS, *COMPLEX}
    assert UNIT_ROUNDOFF[torch.float64] == U64


def numbers(dtype: torch.dtype) -> Tensor:
    """Positive numbers of a format in order, as float64: all of them, or the smallest and those next to one."""
    if dtype.itemsize <= 2:
        x = (every(dtype) if dtype.itemsize == 2 else torch.arange(256).to(torch.uint8).view(dtype)).double()
        return x[(x > 0) & x.isfinite()].unique()
    one = torch.tensor(1.0, dtype=dtype)
    return torch.stack([torch.nextafter(one * 0, one), one, torch.nextafter(one, one * 2)]).double()


@pytest.mark.parametrize("dtype", FLOATS)
def test_unit_roundoff_is_half_the_distance_from_one_to_the_next_number(dtype: torch.dtype) -> None:
    x = numbers(dtype)
    assert UNIT_ROUNDOFF[dtype] == (float(x[x > 1].min()) - 1) / 2


@pytest.mark.parametrize("dtype", FLOATS)
def test_underflow_is_half_the_smallest_number(dtype: torch.dtype) -> None:
    assert UNDERFLOW[dtype] == float(numbers(dtype).min()) / 2


@pytest.mark.parametrize("dtype", COMPLEX)
def test_complex_formats_are_those_of_their_parts(dtype: torch.dtype) -> None:
    assert UNIT_ROUNDOFF[dtype] == UNIT_ROUNDOFF[COMPLEX[dtype]]
    assert UNDERFLOW[dtype] == UNDERFLOW[COMPLEX[dtype]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounding_is_within_the_unit(dtype: torch.dtype) -> None:
    x = torch.cat([torch.linspace(-70, 70, 4001), torch.logspace(-12, 3, 4001)]).double()
    error = (x.to(dtype).double() - x).abs()
    assert bool((error <= UNIT_ROUNDOFF[dtype] * x.abs() + UNDERFLOW[dtype]).all())
    assert float((error / x.abs()).nan_to_num().max()) > 0.9 * UNIT_ROUNDOFF[dtype]


def test_integers_are_exact() -> None:
    for dtype in EXACT:
        assert not is_inexact(dtype) and unit_roundoff(dtype) == 0.0 and wide_dtype(dtype) == dtype


@pytest.mark.parametrize("dtype", [*FLOATS, *COMPLEX])
def test_the_wide_format(dtype: torch.dtype) -> None:
    assert is_inexact(dtype)
    assert wide_dtype(dtype) == (torch.complex128 if dtype.is_complex else torch.float64)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_widening_is_exact(dtype: torch.dtype) -> None:
    x = every(dtype)
    assert widen(x).dtype == torch.float64 and same_bits(widen(x).to(dtype), x)


def test_widening_detaches_and_copies_only_where_it_must() -> None:
    x = torch.ones(2, dtype=torch.float64, requires_grad=True)
    assert not widen(x).requires_grad and widen(x).data_ptr() == x.data_ptr()
    assert widen(torch.ones(2)).dtype == torch.float64
    assert widen(torch.tensor([1j], dtype=torch.complex64)).dtype == torch.complex128
    assert widen(torch.tensor([3])).dtype == torch.int64


# -- bits -------------------------------------------------------------------------------------------------------------------


def test_bits_tell_zeros_apart() -> None:
    assert bits(torch.tensor([0.0, -0.0, 1.0])).tolist() == [0, -(2**31), 0x3F800000]


def test_bits_of_complex_numbers_are_those_of_their_parts() -> None:
    z = torch.tensor([1 + 2j], dtype=torch.complex64)
    assert torch.equal(bits(z), bits(torch.tensor([[1.0, 2.0]])))
    assert torch.equal(bits(z.conj()), bits(torch.tensor([[1.0, -2.0]])))
    assert torch.equal(bits(z.conj().imag), bits(torch.tensor([-2.0])))


def test_bits_of_integers_are_the_integers() -> None:
    assert bits(torch.tensor([True, False])).tolist() == [True, False]
    assert bits(torch.tensor([3, -1], dtype=torch.int8)).tolist() == [3, -1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_number_has_the_same_bits_as_itself_alone(dtype: torch.dtype) -> None:
    x = every(dtype)
    x = x[~x.isnan()]
    assert same_bits(x, x.clone())
    assert len(bits(x).unique()) == len(x)


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (torch.tensor([0.0]), torch.tensor([-0.0]), False),
        (torch.tensor([math.nan]), torch.tensor([-math.nan]), True),
        (torch.tensor([math.nan]), torch.tensor([math.inf]), False),
        (torch.tensor([math.nan, 1.0]), torch.tensor([math.nan, 2.0]), False),
        (torch.tensor([math.inf]), torch.tensor([math.inf]), True),
        (torch.tensor([1.0]), torch.tensor([1.0], dtype=torch.float64), False),
        (torch.tensor([1.0]), torch.tensor([[1.0]]), False),
        (torch.tensor([1]), torch.tensor([1]), True),
        (torch.tensor([1]), torch.tensor([2]), False),
        (torch.tensor([True]), torch.tensor([True]), True),
        (torch.zeros(0, 3), torch.zeros(0, 3), True),
        (torch.zeros(0, 3), torch.zeros(0, 4), False),
        (torch.tensor([complex(math.nan, 1)]), torch.tensor([complex(math.nan, 1)]), True),
        (torch.tensor([complex(math.nan, 1)]), torch.tensor([complex(math.nan, 2)]), False),
        (torch.tensor([complex(0, 0.0)]), torch.tensor([complex(0, -0.0)]), False),
        (torch.tensor([1 + 1j]).conj(), torch.tensor([1 - 1j]), True),
        (torch.tensor([complex(1, math.nan)]).conj(), torch.tensor([complex(1, math.nan)]), True),
        (torch._neg_view(torch.tensor([complex(1, math.nan)])), torch.tensor([complex(-1, math.nan)]), True),
        (torch._neg_view(torch.tensor([1.0, math.nan])), torch.tensor([-1.0, math.nan]), True),
        (torch.ones(3, 4).t(), torch.ones(4, 3), True),
        (torch.ones(1).expand(5), torch.ones(5), True),
        (torch.ones(1, requires_grad=True), torch.ones(1), True),
        (torch.tensor([math.nan]).to(torch.float8_e5m2), torch.tensor([math.nan]).to(torch.float8_e5m2), True),
        (torch.tensor([1.0]).to(torch.float8_e4m3fn), torch.tensor([1.125]).to(torch.float8_e4m3fn), False),
    ],
)
def test_same_bits(a: Tensor, b: Tensor, same: bool) -> None:
    assert same_bits(a, b) is same_bits(b, a) is same


# -- distance ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_neighbours_are_one_apart(dtype: torch.dtype) -> None:
    x = every(dtype)
    x = x[x.isfinite()].double().unique().to(dtype)  # sorted; the two zeros are one number
    gaps = ulps_between(x[1:], x[:-1])
    assert gaps is not None and gaps.unique().tolist() == [1]


@pytest.mark.parametrize(
    ("a", "b", "distance"),
    [
        (1.0, 1.0, 0),
        (0.0, -0.0, 0),
        (2.0**-149, -(2.0**-149), 2),
        (1.0, math.nextafter(1.0, 2.0), 0),  # float32 does not see it
        (1.0, 1.0 + 2**-23, 1),
        (1.0, 2.0, 2**23),
        (-1.0, 1.0, 2 * 0x3F800000),
    ],
)
def test_distances(a: float, b: float, distance: int) -> None:
    for x, y in ((a, b), (b, a)):
        found = ulps_between(torch.tensor([x]), torch.tensor([y]))
        assert found is not None and found.tolist() == [distance]


def test_the_whole_range_fits() -> None:
    largest = torch.finfo(torch.float64).max
    found = ulps_between(torch.tensor([largest], dtype=torch.float64), torch.tensor([0.0], dtype=torch.float64))
    assert found is not None and found.item() == 0x7FEFFFFFFFFFFFFF


def test_a_distance_that_does_not_fit_is_the_largest_there_is() -> None:
    largest = torch.tensor([torch.finfo(torch.float64).max], dtype=torch.float64)
    for x, y in ((largest, -largest), (-largest, largest)):
        found = ulps_between(x, y)
        assert found is not None and found.item() == 2**63 - 1


def test_distances_of_complex_numbers_are_those_of_their_parts() -> None:
    found = ulps_between(torch.tensor([1 + 2j]), torch.tensor([1 + 2**-23 + 2j]))
    assert found is not None and found.tolist() == [[1, 0]]


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (torch.tensor([1]), torch.tensor([2])),
        (torch.tensor([1.0]), torch.tensor([1.0], dtype=torch.float64)),
        (torch.tensor([math.nan]), torch.tensor([1.0])),
        (torch.tensor([1.0, math.inf]), torch.tensor([1.0, 1.0])),
    ],
)
def test_where_there_is_no_distance(a: Tensor, b: Tensor) -> None:
    assert ulps_between(a, b) is None and ulps_between(b, a) is None
