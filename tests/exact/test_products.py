from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from tests.exact.oracle import expected, rounded
from torch import Tensor

from roundoff import RoundoffError, exact
from roundoff.exact import products as inside
from roundoff.exact.rounding import lowest_bit, narrow, nearest, to_odd
from roundoff.formats import same_bits

SHORT = (torch.float32, torch.bfloat16, torch.float16)


def plain(k: int) -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(6, k), torch.randn(k, 5), torch.randn(5)


def few_digits(k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Values of bfloat16: many sums are exactly half way."""
    x, w, b = plain(k)
    return x.bfloat16().float(), w.bfloat16().float(), b.bfloat16().float()


def wide_range(k: int) -> tuple[Tensor, Tensor, Tensor]:
    x, w, b = plain(k)
    return x * torch.exp2(torch.randint(-40, 40, x.shape).float()), w, b


def subnormal(k: int) -> tuple[Tensor, Tensor, Tensor]:
    x, w, b = plain(k)
    return x * 2.0**-75, w * 2.0**-70, b * 2.0**-145


def overflowing(k: int) -> tuple[Tensor, Tensor, Tensor]:
    x, w, b = plain(k)
    return x * 2.0**64, w * 2.0**62, b


def cancelling(k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Products cancel in pairs, but for the last, at 1e-16 of them."""
    x, w, b = plain(k)
    half = (k - 1) // 2
    x[:, half : 2 * half] = x[:, :half]
    w[half : 2 * half] = -w[:half]
    w[2 * half :] *= 1e-16
    return x, w, b * 0


def half_way(k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Small whole numbers and a bias of half an ulp of them, so that every sum is a tie; the even one is to be taken."""
    x, w = torch.randint(-3, 4, (6, k)).float(), torch.randint(-3, 4, (k, 5)).float()
    x[:, 0], w[0] = 2.0**12, 2.0**12
    return x, w, torch.tensor([1.0, -1.0, 1 + 2.0**-23, 1 - 2.0**-24, -1 - 2.0**-23])


KINDS = [plain, few_digits, wide_range, subnormal, overflowing, cancelling, half_way]


@pytest.mark.parametrize("k", [1, 2, 3, 33, 256])
@pytest.mark.parametrize("kind", KINDS)
def test_sums_of_products_are_correctly_rounded(kind: object, k: int) -> None:
    x, w, b = kind(k)  # type: ignore[operator]
    assert same_bits(exact.linear(x, w.t(), b), expected(x, w, b))
    assert torch.equal(exact.matmul(x, w), expected(x, w))


def test_long_sums_are_correctly_rounded() -> None:
    for kind in (plain, cancelling):
        x, w, b = (t[:3] if i == 0 else t for i, t in enumerate(kind(8192)))
        assert same_bits(exact.linear(x, w.t(), b), expected(x, w, b))


@pytest.mark.parametrize("dtype", SHORT[1:])
def test_the_half_formats_are_rounded_once(dtype: torch.dtype) -> None:
    for kind in (plain, wide_range, half_way):
        x, w, b = (t.to(dtype).nan_to_num(0.0, 1.0, -1.0) for t in kind(40))
        assert torch.equal(exact.linear(x, w.t(), b), expected(x, w, b))


@pytest.mark.parametrize("kind", KINDS)
def test_every_way_of_deciding_gives_the_same(kind: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound settles nothing: all is decided by error-free additions; then these settle nothing either."""
    x, w, b = kind(17)  # type: ignore[operator]
    right = expected(x, w, b)
    monkeypatch.setattr(inside, "slack", lambda terms: 1.0)
    assert same_bits(exact.linear(x, w.t(), b), right)
    monkeypatch.setattr(inside, "U64", 1.0)
    assert same_bits(exact.linear(x, w.t(), b), right)


def test_a_bound_that_is_too_small_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w, b = cancelling(33)
    monkeypatch.setattr(inside, "slack", lambda terms: 0.0)
    assert not torch.equal(exact.linear(x, w.t(), b), expected(x, w, b))


def test_blocks_and_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = torch.randn(3, 70, 33), torch.randn(3, 33, 9)
    right = torch.stack([expected(a, b) for a, b in zip(x, w, strict=True)])
    assert torch.equal(exact.matmul(x, w), right)
    monkeypatch.setattr(inside, "BLOCK", 64)
    monkeypatch.setattr(inside, "TEST", 16)
    monkeypatch.setattr(inside, "PAIRS", 40)
    assert torch.equal(exact.matmul(x, w), right)


def test_zeros() -> None:
    """An exact zero is +0; a number that underflows keeps its sign."""
    zero, minus = torch.zeros(1, 2), torch.full((1, 2), -0.0)
    for x in (zero, minus):
        for w in (zero, minus):
            assert same_bits(exact.linear(x, w, minus[0, :1]), torch.zeros(1, 1))
    assert same_bits(exact.linear(torch.tensor([[1.0, -1.0]]), torch.ones(1, 2)), torch.zeros(1, 1))
    tiny = torch.tensor([[2.0**-80]])
    assert same_bits(exact.linear(tiny, -tiny), torch.tensor([[-0.0]]))


def test_not_finite() -> None:
    inf, nan = math.inf, math.nan
    x = torch.tensor([[inf, 1.0], [-inf, 1.0], [inf, -inf], [nan, 1.0], [1.0, 2.0], [inf, 0.0]])
    w = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    right = [[inf, nan], [-inf, nan], [nan, nan], [nan, nan], [3.0, 2.0], [inf, nan]]
    assert same_bits(exact.linear(x, w), torch.tensor(right))
    assert same_bits(exact.linear(w, x), torch.tensor(right).t().contiguous())
    assert same_bits(exact.matmul(w[None].expand(2, 2, 2), x.t()[None].expand(2, 2, 6))[1], torch.tensor(right).t())
    assert same_bits(exact.linear(x[4:5], w, torch.tensor([inf, 1.0])), torch.tensor([[inf, 3.0]]))


def test_nothing_to_add() -> None:
    assert same_bits(
        exact.linear(torch.zeros(2, 0), torch.zeros(3, 0), torch.arange(3.0)), torch.arange(3.0).expand(2, 3)
    )
    assert exact.linear(torch.zeros(0, 4), torch.zeros(3, 4)).shape == (0, 3)
    assert exact.matmul(torch.zeros(2, 0), torch.zeros(0, 3)).tolist() == [[0.0] * 3] * 2
    assert exact.sum(torch.zeros(2, 0), 1).tolist() == [0.0, 0.0]
    assert exact.mean(torch.zeros(2, 0), 1).isnan().all()


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (torch.zeros(2, 3, dtype=torch.float64), "float64"),
        (torch.zeros(2, 3, dtype=torch.int64), "int64"),
        (torch.zeros(2, 3).to_sparse(), "sparse"),
        (torch.quantize_per_tensor(torch.zeros(2, 3), 1.0, 0, torch.qint8), "quantised"),
        (torch.zeros(2, 3, dtype=torch.bfloat16), "bfloat16"),
        (torch.zeros(2, 4), r"\[2, 4\]"),
    ],
)
def test_what_is_refused(x: Tensor, says: str) -> None:
    with pytest.raises(RoundoffError, match=says):
        exact.linear(torch.zeros(4, 3), x) if x.dtype == torch.bfloat16 else exact.linear(x, torch.zeros(4, 3))


@pytest.mark.parametrize("dtype", SHORT)
def test_narrow_rounds_to_nearest(dtype: torch.dtype) -> None:
    numbers = torch.randint(0, 2**16 - 1, (300,), dtype=torch.int32).to(torch.int16).view(torch.bfloat16).double()
    numbers = numbers[numbers.isfinite() & (numbers.abs() < 2**60)]
    beside = torch.cat([numbers * (1 + n * 2.0**-m) for m in (8, 9, 11, 12, 24, 25, 40, 52) for n in (-1, 1)])
    near = narrow(beside, dtype)
    for value, found in zip(beside.tolist(), near.tolist(), strict=True):
        assert found == rounded(Fraction(value), dtype)
        assert float(nearest(Fraction(value), dtype)) == found


def test_to_odd_keeps_what_is_left() -> None:
    hi = torch.tensor([1.0, 1.0, 1.0, -1.0, 1 + 2.0**-52, 0.0, -0.0], dtype=torch.float64)
    lo = torch.tensor([0.0, 2.0**-90, -(2.0**-90), 2.0**-90, -(2.0**-90), 0.0, 0.0], dtype=torch.float64)
    right = [1.0, 1 + 2.0**-52, 1 - 2.0**-53, -1 + 2.0**-53, 1 + 2.0**-52, 0.0, 0.0]
    assert same_bits(to_odd(hi, lo), torch.tensor(right, dtype=torch.float64))


def test_the_lowest_bit() -> None:
    x = torch.tensor([1.0, -6.0, 0.0, 2.0**-149, 1 + 2.0**-23, 3 * 2.0**100], dtype=torch.float64)
    assert lowest_bit(x).tolist() == [1.0, 2.0, math.inf, 2.0**-149, 2.0**-23, 2.0**100]


@pytest.mark.parametrize("dtype", SHORT)
def test_sums_and_means(dtype: torch.dtype) -> None:
    for k in (1, 2, 3, 7, 200):
        for kind in (plain, few_digits, wide_range):
            x = kind(k)[0].to(dtype).nan_to_num(0.0, 1.0, -1.0)
            totals = [sum(map(Fraction, row), Fraction(0)) for row in x.tolist()]
            assert exact.sum(x, 1).tolist() == [rounded(t, dtype) for t in totals]
            assert exact.mean(x, 1).tolist() == [rounded(t / k, dtype) for t in totals]
            assert float(exact.sum(x)) == rounded(sum(totals, Fraction(0)), dtype)


def test_a_mean_that_is_half_way() -> None:
    """(3 + 3 · 2^-24) / 3 lies between 1 and 1 + 2^-23, which are equally near."""
    x = torch.tensor([1 + 2.0**-23, 1 + 2.0**-23, 1 - 2.0**-23 + 2.0**-24, 0.0, 0.0])[None]
    assert float(exact.mean(x[:, :3])) == rounded(sum(map(Fraction, x[0].tolist()), Fraction(0)) / 3) == 1.0


def test_sums_not_finite() -> None:
    inf = math.inf
    x = torch.tensor([[inf, 1.0], [inf, -inf], [math.nan, 1.0], [1.0, 2.0], [2.0**127, 2.0**127]])
    assert same_bits(exact.sum(x, 1), torch.tensor([inf, math.nan, math.nan, 3.0, inf]))
    assert same_bits(exact.mean(x, 1), torch.tensor([inf, math.nan, math.nan, 1.5, 2.0**127]))
