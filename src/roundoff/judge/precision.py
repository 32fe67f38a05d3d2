"""Reduced precision: did a product round its operands to a shorter format, and does the setting in force allow it?"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor

from roundoff.formats import widen
from roundoff.replay.wide import Executed, redo
from roundoff.tape.leaves import map_operands


class Hypothesis(StrEnum):
    """A shorter arithmetic that would explain a step's error."""

    TF32 = "TF32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    BF16X3 = "bf16x3"


def _to_tf32(x: Tensor) -> Tensor:
    """Rounded to TF32's ten fraction bits, ties away from zero, as ``cvt.rna.tf32.f32`` does."""
    return _cut(_pattern(x) + (1 << 12))


def _to_tf32_even(x: Tensor) -> Tensor:
    """The same, ties to even, as is usual in software."""
    pattern = _pattern(x)
    return _cut(pattern + (1 << 12) - 1 + (pattern >> 13 & 1))


def _to_tf32_truncated(x: Tensor) -> Tensor:
    return _cut(_pattern(x))


def _pattern(x: Tensor) -> Tensor:
    return x.to(torch.float32).contiguous().view(torch.int32)


def _cut(pattern: Tensor) -> Tensor:
    return (pattern & ~((1 << 13) - 1)).view(torch.float32).to(torch.float64)


def _to_bfloat16(x: Tensor) -> Tensor:
    return x.to(torch.bfloat16).to(torch.float64)


def _to_float16(x: Tensor) -> Tensor:
    return x.to(torch.float16).to(torch.float64)


def _to_bf16x3(x: Tensor) -> Tensor:
    """Two bfloat16 parts: three of the four partial products are kept, which leaves about 2^-16."""
    first = _to_bfloat16(x)
    return first + _to_bfloat16(x - first)


_HYPOTHESES: tuple[tuple[Hypothesis, Callable[[Tensor], Tensor]], ...] = (
    (Hypothesis.BF16X3, _to_bf16x3),
    (Hypothesis.TF32, _to_tf32),
    (Hypothesis.TF32, _to_tf32_even),
    (Hypothesis.TF32, _to_tf32_truncated),
    (Hypothesis.FLOAT16, _to_float16),
    (Hypothesis.BFLOAT16, _to_bfloat16),
)


def explain_error(executed: Executed, native: Tensor, reference: Tensor) -> Hypothesis | None:
    """The shorter arithmetic that leaves a much smaller remainder than the error itself, if there is one.

    The operands are rounded to each candidate format and the product redone in float64; the right one leaves only the
    rounding of the accumulation (float32's), which is far smaller.
    """
    rule = executed.rule
    if rule is None or rule.products is None or native.dtype != torch.float32:
        return None
    products = rule.products(executed.args, executed.kwargs)
    error = _size(widen(native) - reference)
    best: tuple[float, Hypothesis] | None = None
    for hypothesis, shorten in _HYPOTHESES:

        def operand(x: Any, shorten: Callable[[Tensor], Tensor] = shorten) -> Any:
            return shorten(x) if x is products.x or x is products.w else x

        args = tuple(map_operands(operand, a) for a in executed.args)
        shortened = rule.products(args, executed.kwargs)
        if shortened.x is products.x or shortened.w is products.w:
            return None  # the rule hands out views of its operands: nothing was shortened
        (y,) = redo(executed.step, rule, args, executed.kwargs, executed.outs)
        left = _size(widen(native) - y)
        # float16 has as many digits as TF32 and differs in its range only: a later one must be clearly better.
        if left < error / 8 and (best is None or left < best[0] / 2):
            best = (left, hypothesis)
    return best[1] if best is not None else None


def _size(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


def permitted(op: Any, device: str, hypothesis: Hypothesis) -> bool:
    """Does the setting in force allow a float32 ``op`` on ``device`` to compute so?"""
    return hypothesis.value in _allowed("convolution" in str(op), device)


def _allowed(convolution: bool, device: str) -> set[str]:
    if device == "cuda":
        setting = _precision("cudnn", "conv") if convolution else _precision("cuda", "matmul")
        return {"TF32"} if setting == "tf32" else set()
    setting = _precision("mkldnn", "conv" if convolution else "matmul")
    return {"tf32": {"TF32", "bf16x3"}, "bf16": {"bfloat16", "TF32", "bf16x3"}}.get(setting, set())


def _precision(backend: str, operator: str) -> str:
    """The value of ``torch.backends.<backend>.<operator>.fp32_precision``, as it is inherited."""
    owner = getattr(torch.backends, backend)
    value = str(getattr(getattr(owner, operator, None), "fp32_precision", "none"))
    if value == "none" and backend == "mkldnn" and operator == "matmul":
        return {"high": "tf32", "medium": "bf16"}.get(torch.get_float32_matmul_precision(), "ieee")
    return value
