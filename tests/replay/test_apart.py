"""What is measured in parts is what is measured in one go, and nothing that is looked at is written to."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from roundoff.replay import apart as module
from roundoff.replay.apart import Apart, apart
from roundoff.replay.sizes import PART, inner, largest, largest_at

LAYOUTS = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(1, 3),
    "with gaps": lambda x: torch.stack([x, x], -1)[..., 0],
}


def case(layout: str, dtype: torch.dtype, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(2)
    y = torch.randn(2, 5, 64, 107, generator=g, dtype=torch.float64) * scale
    assert y.numel() > 2 * PART
    x = y.to(dtype)
    reference, wide = y, y + torch.randn(y.shape, generator=g, dtype=torch.float64) * scale * 1e-6
    x, reference, wide = (LAYOUTS[layout](t) for t in (x, reference, wide))
    return x, reference, wide


def by_definition(x: Tensor, reference: Tensor, wide: Tensor) -> Apart:
    error, off = x.double() - reference, x.double() - wide
    at = tuple(int(i) for i in torch.unravel_index(error.abs().argmax(), error.shape))
    return Apart(error, off, float(error.abs().max()), at, float((reference - wide).abs().max()),
                 float(off.norm()), float(wide.norm()))  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 1e-33])
def test_it_is_what_the_definition_says(layout: str, dtype: torch.dtype, scale: float) -> None:
    x, reference, wide = case(layout, dtype, scale)
    before = [t.clone() for t in (x, reference, wide)]
    found, expected = apart(x, reference, wide), by_definition(x, reference, wide)
    assert all(torch.equal(t, was) for t, was in zip((x, reference, wide), before, strict=True))
    assert found.local_abs == expected.local_abs
    if expected.local_abs:
        assert found.at == expected.at
    # off - error is reference - wide to the rounding of the two differences.
    slack = 2.0**-52 * (expected.moved_norm + expected.local_abs + expected.wide_norm)
    assert abs(found.inherited_abs - expected.inherited_abs) <= slack
    assert found.moved_norm == pytest.approx(expected.moved_norm, rel=1e-12)
    assert found.wide_norm == pytest.approx(expected.wide_norm, rel=1e-12)
    for kept, whole in ((found.local, expected.local), (found.moved, expected.moved)):
        assert whole is not None
        if kept is None:
            assert not whole.any()
        else:  # one rounding to float32, or none
            assert bool(((kept.double() - whole).abs() <= 2.0**-24 * whole.abs()).all())


def test_what_is_not_finite_counts_as_nothing() -> None:
    x, reference, wide = case("contiguous", torch.float32)
    x[0, 0, 0, 0], wide[1, 2, 3, 4], reference[1, 2, 3, 4] = float("inf"), float("nan"), float("nan")
    found = apart(x, reference, wide)
    assert found.local is not None and found.moved is not None
    assert found.local[0, 0, 0, 0] == 0 and found.moved[1, 2, 3, 4] == 0
    assert 0 < found.local_abs < 1e-6


def test_a_clean_step_has_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    x, reference, _ = case("channels last", torch.float32)
    in_parts = apart(x, reference, reference)
    monkeypatch.setattr(module, "lie_alike", lambda *x: False)
    whole = apart(x, reference, reference)
    for found in (in_parts, whole):
        assert found.local is found.moved and found.inherited_abs == 0.0
    assert in_parts.local_abs == whole.local_abs and in_parts.at == whole.at


@pytest.mark.parametrize(
    "x", [torch.tensor(-3.0), torch.tensor([1.0, -4.0, 2.0]), torch.randn(7, 3, 5), torch.tensor(1 + 2j)]
)
def test_the_largest(x: Tensor) -> None:
    assert largest(x) == float(x.abs().max())
    if x.dim():
        size, at = largest_at(x)
        assert size == float(x.abs().max()) == float(x[at].abs())


def test_the_largest_of_nothing_and_of_nan() -> None:
    assert largest(torch.empty(0)) == 0.0
    assert str(largest(torch.tensor([1.0, float("nan"), 2.0]))) == "nan"


def test_the_inner_product_is_in_float64() -> None:
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(3, PART, generator=g), torch.randn(3, PART, generator=g)
    exact = float((x.double() * y.double()).sum())
    # Any order of adding n numbers in float64 is within n 2^-53 of the sum of their magnitudes (Higham 2002, §4.2).
    slack = x.numel() * 2.0**-53 * float((x.double() * y.double()).abs().sum())
    assert abs(inner(x, y) - exact) <= slack
    assert abs(inner(x, y.T.contiguous().T) - exact) <= slack
    assert inner(torch.tensor([1 + 1j]), torch.tensor([2 - 3j])) == -1.0
    assert inner(None, y) == 0.0
