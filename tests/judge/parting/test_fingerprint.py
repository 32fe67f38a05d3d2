"""Fingerprints: the same numbers in any layout, other numbers, the same numbers in other places."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from roundoff.judge.parting.arrangement import layouts
from roundoff.judge.parting.fingerprint import Fingerprint, fingerprint

Y = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def same_numbers(x: Fingerprint, y: Fingerprint) -> bool:
    return x.counts == y.counts and x.strays(y)[0] <= max(x.floor, y.floor)


def same_places(x: Fingerprint, y: Fingerprint) -> bool:
    return x.dims == y.dims and abs(x.places - y.places) <= x.floor * x.places_size


@pytest.mark.parametrize("y", [Y.permute(2, 0, 1), Y[:, None], Y.transpose(0, 2).contiguous()])
def test_layout_changes_nothing(y: Tensor) -> None:
    assert same_numbers(fingerprint(Y), fingerprint(y))
    assert same_places(fingerprint(Y), fingerprint(y))


@pytest.mark.parametrize("y", [Y.flip(1), Y[:, [1, 0, 2]], Y.reshape(3, 2, 4), Y.transpose(1, 2).reshape(2, 3, 4)])
def test_other_places_are_seen(y: Tensor) -> None:
    assert same_numbers(fingerprint(Y), fingerprint(y))
    assert not same_places(fingerprint(Y), fingerprint(y))


@pytest.mark.parametrize("change", [1e-3, 1e-9, 1e-12])
def test_one_other_number_is_seen(change: float) -> None:
    y = Y.clone()
    y[1, 1, 1] *= 1 + change
    assert not same_numbers(fingerprint(Y), fingerprint(y))


def test_a_sign_is_seen() -> None:
    y = Y.clone()
    y[0, 1] *= -1
    assert not same_numbers(fingerprint(Y), fingerprint(y))


@pytest.mark.parametrize("huge", [-1e9, -3.4e38, 1e300, -torch.inf])
def test_the_rest_stays_in_sight_beside_huge_numbers(huge: float) -> None:
    hidden = torch.arange(24).reshape(2, 3, 4) % 3 == 0
    x, y = Y.masked_fill(hidden, huge), (Y * 1.001).masked_fill(hidden, huge)
    assert not same_numbers(fingerprint(x), fingerprint(y))
    assert same_numbers(fingerprint(x), fingerprint(x.permute(1, 2, 0)))


def test_complex_numbers_are_pairs_of_real_ones() -> None:
    z = torch.view_as_complex(Y.reshape(2, 3, 2, 2))
    assert same_numbers(fingerprint(z), fingerprint(Y))
    assert not same_numbers(fingerprint(z.conj()), fingerprint(Y))


@pytest.mark.parametrize(
    ("y", "little", "mask"),
    [
        (torch.zeros(3, 3), True, True),
        (torch.ones(4), True, True),
        (torch.tensor(1.0), True, True),
        (torch.tensor(0.3), False, True),
        (torch.ones(4, 4).triu(), False, True),
        (torch.ones(4, 4).triu() * -1e9, False, True),
        (torch.full((4, 4), -torch.inf).triu(1), True, True),
        (Y, False, False),
        (Y * 1e-3 + 1, False, False),
    ],
)
def test_numbers_that_say_little(y: Tensor, little: bool, mask: bool) -> None:
    assert fingerprint(y).says_little is little
    assert fingerprint(y).is_mask is mask


@pytest.mark.parametrize(
    ("shape", "count"),
    [((2, 3, 4), 1), ((4, 2, 3), 1), ((6, 4), 2), ((4, 6), 2), ((2, 12), 2), ((2, 1, 3, 4), 1), ((5, 5), 0)],
)
def test_layouts(shape: tuple[int, ...], count: int) -> None:
    found = list(layouts(Y, shape))
    assert all(tuple(x.shape) == shape for x in found)
    assert all(same_numbers(fingerprint(x), fingerprint(Y)) for x in found)
    assert len(found) == count


def test_layouts_go_back() -> None:
    assert any(torch.equal(x, Y) for x in layouts(Y.permute(2, 0, 1).reshape(4, 6), (2, 3, 4)))
