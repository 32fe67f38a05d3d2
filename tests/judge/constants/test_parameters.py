"""Parameters as sets of numbers: what counts as the same, and what is named where they are not."""

from __future__ import annotations

from math import nan

import pytest
import torch
from torch import Tensor

from roundoff.judge.constants.parameters import Changed, match

W = torch.arange(24.0).reshape(4, 6).sin()
B = torch.arange(4.0).cos() + 0.1


@pytest.mark.parametrize(
    "other",
    [
        pytest.param([W.reshape(4, 6, 1, 1), B], id="reshaped"),
        pytest.param([W.t().contiguous(), B], id="transposed"),
        pytest.param([B, W], id="in another order"),
        pytest.param([W, B, W.clone()], id="tied"),
        pytest.param([*W.split(2), *B.split(2)], id="split"),
        pytest.param([torch.cat([W, B[:, None]], 1)], id="stacked"),
        pytest.param([W[[2, 0, 3, 1]], B[[2, 0, 3, 1]]], id="units permuted"),
        pytest.param([W.double(), B.double()], id="wider"),
        pytest.param([W, B, torch.zeros(7), torch.ones(7)], id="a bias of zeros and a scale of ones"),
        pytest.param([W, B, torch.tensor(nan)], id="a NaN"),
    ],
)
def test_the_same_numbers(other: list[Tensor]) -> None:
    for matching in (match([W, B], other), match(other, [W, B])):
        assert matching.complete
        assert not matching.a and not matching.b


def changed(w: Tensor, *at: tuple[int, int]) -> Tensor:
    w = w.clone()
    for index in at:
        w[index] = torch.nextafter(w[index], torch.tensor(9.0))
    return w


def test_one_ulp_is_found_with_its_place_on_both_sides() -> None:
    v = changed(W, (2, 5))
    matching = match([W, B], [v, B])
    assert not matching.complete and matching.few is not None
    (a,), (b,) = matching.few
    assert a == Changed(W, 1, W[2, 5].item(), (2, 5), v[2, 5].item())
    assert b == Changed(v, 1, v[2, 5].item(), (2, 5), W[2, 5].item())


def test_a_changed_element_is_found_through_a_transpose() -> None:
    matching = match([W], [changed(W, (1, 3)).t().contiguous()])
    assert matching.few is not None
    assert [c.index for side in matching.few for c in side] == [(1, 3), (3, 1)]


def test_a_tenth_of_the_elements_is_few_and_more_is_not() -> None:
    two, three = changed(W, (0, 1), (3, 3)), changed(W, (0, 1), (3, 3), (2, 2))
    matching = match([W], [two])
    assert matching.few is not None and [c.count for side in matching.few for c in side] == [2, 2]
    assert match([W], [three]).few is None


def test_a_missing_bias_is_not_a_few_changed_elements() -> None:
    matching = match([W, B], [W])
    assert (matching.a, matching.b, matching.few) == ((B,), (), None)


def test_parameters_that_were_drawn_apart() -> None:
    matching = match([W, B], [W.cos(), B.sin()])
    assert len(matching.a) == len(matching.b) == 2
    assert matching.few is None


def test_complex_parameters() -> None:
    z = torch.complex(W, W.cos())
    assert match([z], [z.reshape(-1)]).complete
    assert match([z], [z.real.clone(), z.imag.clone()]).complete
    assert not match([z], [z * 2]).complete


def test_nothing_and_empty_parameters() -> None:
    assert match([], []).complete
    assert match([torch.empty(0, 3)], []).complete
    assert not match([W], []).complete
