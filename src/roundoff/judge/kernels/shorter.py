"""The shorter arithmetics in which a sum of products may have been computed, each redone in float64.

The operands are rounded as that arithmetic rounds them, and their products added in float64: what is left between that and
the native result is the rounding of the sum alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import StrEnum

import torch
from torch import Tensor


class Hypothesis(StrEnum):
    """A shorter arithmetic that would explain a step's error."""

    TF32 = "TF32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    BF16X3 = "bf16x3"
    FLOAT16_SUMS = "sums in float16"
    BFLOAT16_SUMS = "sums in bfloat16"


#: The step on two other operands.
Redo = Callable[[Tensor, Tensor], Tensor]


def candidates(x: Tensor, w: Tensor, redo: Redo) -> Iterator[tuple[Hypothesis, Tensor]]:
    """Each hypothesis with the result that follows from it, from ``x`` and ``w`` in float64."""
    yield Hypothesis.BF16X3, _in_three(x, w, redo)
    for hypothesis, shorten in _FORMATS:
        yield hypothesis, redo(_real(shorten, x), _real(shorten, w))


def _in_three(x: Tensor, w: Tensor, redo: Redo) -> Tensor:
    """Each operand in two bfloat16 parts, of whose four products the smallest is left out."""
    (x1, x2), (w1, w2) = (
        (first, _real(_to_bfloat16, v - first)) for v in (x, w) for first in (_real(_to_bfloat16, v),)
    )
    nothing = torch.zeros_like(x)  # the summand alone, which would be there twice
    return redo(x1, w1 + w2) + redo(x2, w1) - redo(nothing, w1)


def _real(shorten: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``shorten`` applied to the parts of complex numbers."""
    return torch.view_as_complex(shorten(torch.view_as_real(x.resolve_conj()))) if x.is_complex() else shorten(x)


def _to_tf32(x: Tensor) -> Tensor:
    """Rounded to TF32's ten fraction bits, ties away from zero, as ``cvt.rna.tf32.f32`` does."""
    return _cut(_pattern(x) + (1 << 12))


def _to_tf32_even(x: Tensor) -> Tensor:
    """The same, ties to even, as is usual in software."""
    pattern = _pattern(x)
    return _cut(pattern + (1 << 12) - 1 + (pattern >> 13 & 1))


def _to_tf32_truncated(x: Tensor) -> Tensor:
    """The lower bits left away, as tensor cores do with float32 numbers that are handed to them as they are."""
    return _cut(_pattern(x))


def _pattern(x: Tensor) -> Tensor:
    return x.to(torch.float32).contiguous().view(torch.int32)


def _cut(pattern: Tensor) -> Tensor:
    return (pattern & ~((1 << 13) - 1)).view(torch.float32).to(torch.float64)


def _to_bfloat16(x: Tensor) -> Tensor:
    return x.to(torch.bfloat16).to(torch.float64)


def _to_float16(x: Tensor) -> Tensor:
    return x.to(torch.float16).to(torch.float64)


#: float16 has as many digits as TF32 and differs in its range only, so TF32 comes first.
_FORMATS: tuple[tuple[Hypothesis, Callable[[Tensor], Tensor]], ...] = (
    (Hypothesis.TF32, _to_tf32),
    (Hypothesis.TF32, _to_tf32_even),
    (Hypothesis.TF32, _to_tf32_truncated),
    (Hypothesis.FLOAT16, _to_float16),
    (Hypothesis.BFLOAT16, _to_bfloat16),
)
