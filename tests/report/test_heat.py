"""Where an output differs, in few cells."""

from __future__ import annotations

from math import inf, nan

import numpy as np
import pytest
import torch
from tests.report.records import output

from roundoff.report.heat import heat_map, heat_of, most_different


def test_small_outputs_keep_each_element() -> None:
    a = torch.arange(24.0).reshape(2, 3, 4)
    b = a.clone()
    b[1, 2, 3] += 0.5
    heat = heat_map("x", a, b)
    assert (heat.name, heat.shape, heat.extent, heat.cells.shape) == ("x", (2, 3, 4), (6, 4), (6, 4))
    assert heat.cells[5, 3] == 0.5 and heat.cells.sum() == 0.5


@pytest.mark.parametrize("n", [129, 1000, 1024])
def test_one_element_of_many_is_not_lost(n: int) -> None:
    for i, j in ((0, 0), (n - 1, n - 1), (n // 2, 1)):
        a, b = torch.zeros(n, n), torch.zeros(n, n)
        b[i, j] = -3.0
        cells = heat_map("x", a, b).cells
        assert cells.shape == (128, 128) and cells.sum() == cells.max() == 3.0
        starts = np.arange(128) * n // 128
        assert np.argwhere(cells).tolist() == [[np.flatnonzero(starts <= k)[-1] for k in (i, j)]]


@pytest.mark.parametrize("shape", [(), (1,), (7,), (300,), (3, 0), (0,), (2, 3, 4, 500)])
def test_any_shape(shape: tuple[int, ...]) -> None:
    a = torch.randn(shape)
    heat = heat_map("x", a, a + 1)
    assert heat.cells.ndim == 2 and max(heat.cells.shape) <= 128
    assert heat.extent[0] * heat.extent[1] == a.numel()


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.bfloat16, torch.float8_e4m3fn, torch.complex64, torch.int64, torch.uint8, torch.bool]
)
def test_any_format(dtype: torch.dtype) -> None:
    a, b = torch.tensor([0, 1]).to(dtype), torch.tensor([1, 1]).to(dtype)
    assert heat_map("x", a, b).cells.tolist() == [[1.0, 0.0]]


def test_what_is_not_finite_on_one_side_only_is_infinite() -> None:
    a = torch.tensor([nan, inf, nan, inf, 1.0, -0.0])
    b = torch.tensor([nan, inf, 1.0, -inf, nan, 0.0])
    assert heat_map("x", a, b).cells.tolist() == [[0.0, 0.0, inf, inf, inf, 0.0]]


def test_sparse_outputs_and_those_that_need_gradients() -> None:
    a = torch.eye(3, requires_grad=True)
    assert heat_map("x", a, torch.zeros(3, 3).to_sparse()).cells.tolist() == torch.eye(3).tolist()


def test_the_output_that_differs_most_for_its_values() -> None:
    small, large = output(name="s", max_abs=1e-3, value_abs=1.0), output(name="l", max_abs=1.0, value_abs=1e6)
    odd = output(name="o", max_abs=nan)
    assert most_different([small, large]) is small
    assert most_different([small, odd, large]) is odd
    assert most_different([]) is None
    natives = {"s": (torch.ones(1), torch.zeros(1))}
    heat = heat_of([small, large], natives)
    assert heat is not None and heat.name == "s" and heat.cells.tolist() == [[1.0]]
    assert heat_of([large], natives) is None
