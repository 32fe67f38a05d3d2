"""Against exact fractions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roundoff.order.arithmetic import add_many, align_and_cut, fma64, half_rounder, two_product

singles = st.floats(-(2.0**60), 2.0**60, width=32).filter(lambda x: x == 0 or abs(x) > 2.0**-40)
doubles = st.floats(-(2.0**200), 2.0**200).filter(lambda x: x == 0 or abs(x) > 2.0**-200)


def nearest(x: Fraction, bits: int) -> float:
    """The number of ``bits`` bits nearest to x, ties to even; no limit of the exponent."""
    if x == 0:
        return 0.0
    scale = Fraction(1)
    while abs(x) * scale >= 2**bits:
        scale /= 2
    while abs(x) * scale < 2 ** (bits - 1):
        scale *= 2
    return float(Fraction(round(x * scale)) / scale)


@given(singles, singles, singles)
@settings(max_examples=300, deadline=None)
def test_float32_fma_is_correctly_rounded(a: float, b: float, c: float) -> None:
    product = np.array([a * b])
    got = add_many([(product, np.zeros(1)), (np.array([c]), np.zeros(1))], lambda x: x.astype(np.float32))
    assert float(got[0]) == nearest(Fraction(a) * Fraction(b) + Fraction(c), 24)


def test_rounding_twice_would_be_wrong() -> None:
    # a b + c is just above the middle of two float32 numbers; float64 rounds it to the middle, and from there to even.
    a, b, c = 1 + 2.0**-23, 2.0**-24 * (1 + 2.0**-23), 1.0
    tiny = 2.0**-60
    parts = [(np.array([v]), np.zeros(1)) for v in (1.0, 2.0**-24, tiny)]
    assert np.float32(1.0 + 2.0**-24 + tiny) == 1.0
    assert float(add_many(parts, lambda x: x.astype(np.float32))[0]) == 1 + 2.0**-23
    assert float(np.float32(a * b + c)) == nearest(Fraction(a) * Fraction(b) + 1, 24)


@given(doubles, doubles, doubles)
@settings(max_examples=300, deadline=None)
def test_float64_fma_is_correctly_rounded(a: float, b: float, c: float) -> None:
    p, e = two_product(np.array([a]), np.array([b]))
    assert float(fma64(p, e, np.array([c]))[0]) == nearest(Fraction(a) * Fraction(b) + Fraction(c), 53)


@pytest.mark.parametrize(("dtype", "bits"), [(torch.bfloat16, 8), (torch.float16, 11)])
@given(st.data())
@settings(max_examples=200, deadline=None)
def test_short_formats_are_rounded_once(dtype: torch.dtype, bits: int, data: st.DataObject) -> None:
    base = data.draw(st.integers(2 ** (bits - 1), 2**bits - 1))
    x = base + 0.5 + data.draw(st.sampled_from([0.0, 2.0**-30, -(2.0**-30), 2.0**-40]))
    assert float(half_rounder(dtype)(np.array([x]))[0]) == nearest(Fraction(x), bits)


def test_what_is_cut_off() -> None:
    def total(*parts: float, extra: int) -> float:
        return float(align_and_cut([np.array([p]) for p in parts], extra)[0])

    assert total(1.0, 2.0**-24, 2.0**-24, extra=0) == 1.0
    assert total(1.0, 2.0**-24, 2.0**-24, extra=1) == 1 + 2.0**-23
    assert total(1.0, 1.9 * 2.0**-23, extra=2) == 1 + 2.0**-23  # cut, not rounded
    assert total(2.0**30, -(2.0**30), 1.0, extra=3) == 0.0
