"""Slices are exact, and so are their products."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from roundoff.replay.enclosure.ball import Faulty, Unknown
from roundoff.replay.enclosure.pairs.slices import Scaled, bits, cut, multiplied, power_of_two
from roundoff.replay.enclosure.products import matrices


def drawn(seed: int, *shape: int, decades: float = 0.0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    powers = 10 ** ((torch.rand(shape, generator=g, dtype=torch.float64) - 0.5) * decades)
    return torch.randn(shape, generator=g, dtype=torch.float64) * powers


def test_powers_of_two() -> None:
    exponents = torch.arange(-1022, 1024)
    assert power_of_two(exponents).tolist() == [2.0**k for k in range(-1022, 1024)]


@pytest.mark.parametrize("n", [1, 2, 3, 64, 65, 4096, 1 << 20])
def test_sums_of_slices_fit(n: int) -> None:
    assert n * 4 ** bits(n) <= 2**53 < n * 4 ** (bits(n) + 2)


@pytest.mark.parametrize("decades", [0, 30, 500])
def test_slices_add_up(decades: float) -> None:
    x = drawn(1, 5, 40, decades=decades).clamp(-1e80, 1e80)
    x[0] = 0
    slices, units, left = cut(x, [1], 20)
    for s, unit in zip(slices, units, strict=True):
        whole = s / unit
        assert bool((whole == whole.round()).all()) and float(whole.abs().max()) <= 2**20
    for i in range(5):
        for k in range(40):
            parts = [Fraction(float(s[i, k])) for s in (*slices, left)]
            assert sum(parts) == Fraction(float(x[i, k]))
    size = x.abs().amax(1, True).clamp_min(2.0**-300)
    assert bool((left.abs() <= size * 2.0**-62).all())


def test_numbers_that_cannot_be_cut() -> None:
    for worst in (float("inf"), float("nan"), 1e200):
        with pytest.raises(Unknown):
            cut(torch.tensor([[1.0, worst]], dtype=torch.float64), [1], 20)


@pytest.mark.parametrize("decades", [0, 20, 400])
@pytest.mark.parametrize("n", [1, 7, 130])
def test_products_of_matrices(n: int, decades: float) -> None:
    x, w = (drawn(s, *shape, decades=decades).clamp(-1e80, 1e80) for s, shape in ((n, (3, n)), (n + 1, (n, 4))))
    x[0] = 1.0
    found = multiplied(x, w, matrices(x, w), Scaled([-1], [-2]))
    for i in range(3):
        for j in range(4):
            terms = [Fraction(float(a)) * Fraction(float(b)) for a, b in zip(x[i], w[:, j], strict=True)]
            got = Fraction(float(found.mid[i, j])) + Fraction(float(found.low[i, j]))
            assert abs(got - sum(terms)) <= Fraction(float(found.error[i, j]))
            if decades < 400:  # further apart, what meets lies below what is cut up, down to where squares underflow
                most = float(x[i].norm() * w[:, j].norm())
                assert float(found.error[i, j]) <= (n + 4) * 2.0**-104 * most + 1e-290


def test_products_of_float32_have_hardly_an_error() -> None:
    x, w = (drawn(s, 16, 16).float().double() for s in (0, 1))
    found = multiplied(x, w, matrices(x, w), Scaled([-1], [-2]))
    assert float(found.error.max()) < 2.0**-100


def test_a_kernel_that_does_not_add_its_products_is_found() -> None:
    """Such as one that goes through a Fourier transform: it makes numbers that are no multiples of the unit."""
    x, w = drawn(0, 4, 16), drawn(1, 16, 4)
    of = matrices(x, w)
    off = replace(of, times=lambda a, b: a @ b + 1e-15)
    with pytest.raises(Faulty, match="does not add its products"):
        multiplied(x, w, off, Scaled([-1], [-2]))


FAULTS = {
    "float32 inside": lambda a, b: (a.float() @ b.float()).double(),
    "the last product is dropped": lambda a, b: a[..., :-1] @ b[:-1],
    "one number": lambda a, b: (a @ b).index_put((torch.tensor(1), torch.tensor(2)), (a @ b)[1, 2] * 2),
    "two rows swapped": lambda a, b: (a @ b)[[1, 0, *range(2, len(a))]],
    "another sign": lambda a, b: -(a @ b),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_kernel_is_found(name: str) -> None:
    """All of these give whole multiples of the unit, and nothing that the wide run does would be another."""
    x, w = drawn(0, 4, 16), drawn(1, 16, 4)
    of = matrices(x, w)
    with pytest.raises(Faulty, match=r"whose product is another|does not add its products"):
        multiplied(x, w, replace(of, times=FAULTS[name]), Scaled([-1], [-2]))


def test_too_few_slices_for_their_length_are_found() -> None:
    """Planted: a length that is told too small makes slices whose sums are rounded."""
    x, w = drawn(0, 8, 4096), drawn(1, 4096, 8)
    of = matrices(x, w)
    short = replace(of, roundings=1)
    exact = multiplied(x, w, of, Scaled([-1], [-2]))
    try:
        found = multiplied(x, w, short, Scaled([-1], [-2]))
    except Unknown:
        return
    apart = (found.mid - exact.mid) + (found.low - exact.low)
    assert bool((apart.abs() > found.error + exact.error).any())
