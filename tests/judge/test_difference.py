"""The size of the real difference in units of the wide round-off."""

from __future__ import annotations

from math import inf, nan

import pytest
import torch

from roundoff.formats import U64
from roundoff.judge.difference import Real, from_native, from_perturbed, pooled, real_difference, roundoff

U32 = 2.0**-24


def f64(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_the_real_difference_at_values_that_are_not_finite() -> None:
    a, b = f64(1, nan, inf, -inf, inf, 1, nan), f64(3, nan, inf, -inf, -inf, inf, 1)
    assert real_difference(a, b).tolist() == [2, 0, 0, 0, inf, inf, inf]


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64])
def test_the_real_difference_of_choices_is_a_number(dtype: torch.dtype) -> None:
    a, b = torch.tensor([0, 1, 1]).to(dtype), torch.tensor([0, 0, 1]).to(dtype)
    assert real_difference(a, b).tolist() == [0, 1, 0]
    assert roundoff(b, a).tolist() == [0, 1, 0]


def test_complex_differences_are_magnitudes() -> None:
    assert real_difference(torch.tensor([3 + 4j]).to(torch.complex128), torch.zeros(1, dtype=torch.complex128)) == 5


def test_roundoff_is_zero_where_a_value_is_not_finite() -> None:
    native, wide = torch.tensor([1.5, inf, nan]), f64(1.0, 1e39, nan)
    assert roundoff(native, wide).tolist() == [0.5, 0, 0]


def test_worst_and_where() -> None:
    real = Real(f64(0, 2, 3), f64(0, 1, 3))
    assert (real.worst, real.at) == (2, 2)
    assert Real(f64(0, 1e-30), f64(1, 0)).worst == inf
    assert Real(f64(0, 0), f64(0, 0)).worst == 0
    empty = Real(torch.empty(0, 3), torch.empty(0, 3))
    assert (empty.worst, empty.at) == (0, 0)


def test_pooling_gives_back_profiles_of_rows_and_columns() -> None:
    rows, columns, depth = torch.rand(5, 1, 1).double(), torch.rand(7, 1).double(), torch.rand(3).double()
    size = rows * columns * depth * 1e-6
    # Sums of a hundred positive numbers, a few products and a root: far fewer than 200 roundings of 2^-53.
    assert torch.allclose(pooled(size.square()), size, rtol=200 * U64, atol=0)


@pytest.mark.parametrize("squares", [torch.zeros(3, 4), torch.tensor(4.0), torch.ones(1, 1)])
def test_pooling_nothing_or_one_number_changes_nothing(squares: torch.Tensor) -> None:
    assert torch.equal(pooled(squares), squares.sqrt())


def test_a_lucky_element_is_held_against_its_neighbours() -> None:
    r = torch.full((20, 30), 1e-7, dtype=torch.float64)
    d = r * (U64 / U32)
    lucky = r.clone()
    lucky[3, 4] = 0.0
    assert Real(d, from_native(lucky, lucky, d, U32)).worst < 1


def test_outputs_of_several_scales_are_held_against_their_own() -> None:
    """d of a hundredth of the small ones is 10^7 of their E, and 10^-2 of the E of the large ones."""
    r = torch.full((20, 30), 1e-7, dtype=torch.float64)
    r[::2] *= 1e9
    fine = torch.full_like(r, 1e-7) * (U64 / U32)
    fine[::2] *= 1e9
    assert Real(fine, from_native(r, r, fine, U32)).worst < 1
    wrong = fine.clone()
    wrong[1::2] = 1e-8
    assert Real(wrong, from_native(r, r, wrong, U32)).worst > 1e6


def test_nothing_that_rounds_leaves_no_room() -> None:
    r = torch.ones(3, dtype=torch.float64)
    assert from_native(r, r, r, 0.0).tolist() == [0, 0, 0]


def test_perturbed_runs_are_counted_in_their_strength() -> None:
    base = f64(1, 2)
    runs = [(base + 2.0**-45, base, 32.0), (base, base - 2.0**-49, 1.0)]  # sums without rounding
    expected = ((2.0**-100 + 2.0**-98) / 2) ** 0.5
    assert from_perturbed(base, base, runs)[0].item() == pytest.approx(expected, rel=4 * U64)
    assert from_perturbed(base, base, []).tolist() == [0, 0]


def test_a_perturbed_run_that_overflows_is_no_room() -> None:
    base = f64(1.0)
    assert from_perturbed(base, base, [(f64(inf), base, 1.0)]).tolist() == [0]
