"""Operators that take random numbers: the native draw is the truth for the wide run as well."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from roundoff.formats import widen
from roundoff.rules.registry import register
from roundoff.rules.rule import Call, Limit, Nature, Rule
from roundoff.rules.samples import given

DRAWS = (
    "bernoulli", "binomial", "cauchy", "exponential", "geometric", "log_normal", "multinomial", "normal",
    "normal_functional", "poisson", "rand", "rand_like", "randint", "randint_like", "randn", "randn_like", "randperm",
    "random", "uniform", "_sample_dirichlet", "_standard_gamma",
)  # fmt: skip

register(Rule(tuple(f"aten.{name}" for name in DRAWS), Nature.DRAWS, source="a random draw has no rounding to check"))


def _native_dropout(x: Tensor, p: float, train: bool | None, *, native: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """x mask / (1 - p) with the native mask."""
    mask = native[1]
    if train is False or p == 0:
        return x, mask
    return (x * mask) / (1 - p) if p < 1 else x * 0, mask


def _fused_dropout(x: Tensor, p: float, *, native: tuple[Tensor, ...], generator: Any = None) -> tuple[Tensor, Tensor]:
    """x mask / p with the native mask: here p is the probability to keep."""
    mask = native[1]
    return x * (mask != 0) / p, mask


def _dropout(x: Tensor, p: float, train: bool, *, native: tuple[Tensor, ...]) -> Tensor:
    """Dropout seen whole. Which elements were dropped can be read from the native result: they are zero."""
    if not train or p == 0:
        return x
    if p >= 1:
        return x * 0
    return torch.where(widen(native[0]) != 0, x / (1 - p), torch.zeros_like(x))


register(Rule(("aten.native_dropout",), Nature.DRAWS, source="the native mask, applied wide", wide=_native_dropout))
register(Rule(("aten._fused_dropout",), Nature.DRAWS, source="the native mask, applied wide", wide=_fused_dropout))
register(
    Rule(
        ("aten.dropout",),
        Nature.DRAWS,
        source="the native mask, applied wide",
        assumes="operands that are zero stay zero, kept or dropped; no kept element underflows",
        wide=_dropout,
    )
)


def _rrelu(
    x: Tensor,
    noise: Tensor,
    lower: float = 1 / 8,
    upper: float = 1 / 3,
    training: bool = False,
    generator: Any = None,
    *,
    native: tuple[Tensor, ...],
) -> Tensor:
    if training:
        raise RuntimeError("the slopes that rrelu draws in training cannot be had from its result")
    return torch.where(x >= 0, x, x * ((lower + upper) / 2))


def _rrelu_bound(call: Call) -> Limit:
    slope = (float(call.arg(2, "lower", 1 / 8)) + float(call.arg(3, "upper", 1 / 3))) / 2
    return call.out[0].abs() * call.gamma(1) if call.scalar(slope) else 0.0


register(
    Rule(
        ("aten.rrelu_with_noise",),
        Nature.ROUNDS,
        _rrelu_bound,
        source="in evaluation a leaky ReLU, its slope rounded once",
        assumes="evaluation; in training the draws are lost and the step cannot be followed",
        samples=given(lambda r: [(r.wild(3, 37), torch.empty(3, 37, dtype=r.dtype))]),
        wide=_rrelu,
    )
)
