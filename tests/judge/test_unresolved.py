"""Where the rounding of float64 is as large as the difference, nothing is claimed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import roundoff
from roundoff.records import Kind, Verdict

LOWEST = torch.finfo(torch.float32).min


def attention(masked: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """Attention whose scores pass through ``masked(scores, mask)`` before the softmax."""

    def call(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        return masked(q @ k.mT / 4, mask).softmax(-1) @ v

    return call


def padded(rows: int) -> tuple[Tensor, ...]:
    """Queries, keys and values, and a causal mask with the first ``rows`` keys hidden: their own rows are masked whole."""
    q, k, v = torch.randn(3, 2, 12, 16)
    mask = torch.ones(12, 12, dtype=torch.bool).tril()
    mask[:, :rows] = False
    return q, k, v, mask


added = attention(lambda s, mask: s + torch.where(mask, 0.0, LOWEST))


def filled(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """The same with a mask that hides nothing in rows that would be hidden whole, and sums that run backwards."""
    scores = (q.flip(-1) @ k.flip(-1).mT / 4).masked_fill(~mask & mask.any(-1, keepdim=True), float("-inf"))
    return scores.softmax(-1) @ v


def test_rows_that_are_masked_whole_are_not_called_rounding() -> None:
    q, k, v, mask = padded(4)
    c = roundoff.compare(added, filled, (q, k, v, mask))
    assert c.outputs[0].max_abs > 0.1
    assert c.verdict is Verdict.UNDECIDED
    assert "In 128 of 384 elements of output, the first at [0, 0, 0]" in c.reason
    (finding,) = [f for f in c.findings if f.kind is Kind.AMPLIFICATION]
    assert finding.where.startswith("A: ") and "softmax" in finding.where
    assert "3.4e+38 enter aten._softmax" in finding.text


def test_the_other_rows_are_the_same_function() -> None:
    q, k, v, mask = padded(4)

    def seen(f: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *args: f(*args)[:, 4:]

    assert roundoff.compare(seen(added), seen(filled), (q, k, v, mask)).verdict is Verdict.ROUNDOFF


def test_a_real_difference_in_the_other_rows_is_found() -> None:
    q, k, v, mask = padded(4)
    scale = torch.ones_like(v)
    scale[0, 7, 3] += 1e-6
    c = roundoff.compare(added, lambda q, k, v, mask: filled(q, k, v * scale, mask), (q, k, v, mask))
    assert c.verdict is Verdict.DIFFERENT


def test_the_same_absorption_on_both_sides_is_rounding() -> None:
    """Both sides absorb the scores in the rows that are masked whole, and differ there as they do elsewhere."""
    q, k, v, mask = padded(4)

    def fused(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, torch.where(mask, 0.0, LOWEST), scale=0.25)

    assert roundoff.compare(added, fused, (q, k, v, mask)).verdict in (Verdict.ROUNDOFF, Verdict.IDENTICAL)


@pytest.mark.parametrize("size", [1e17, 1e30])
def test_what_a_large_number_absorbs_cannot_be_told(size: float) -> None:
    x = torch.randn(20)
    c = roundoff.compare(lambda x: (x + size) - size, lambda x: x * 1.0, x)
    assert c.verdict is Verdict.UNDECIDED
    assert "keep large numbers from absorbing small ones" in c.reason
