"""Functions put together of pieces: clamps, shrinks, leaky ReLUs. Written numbers are rounded to the format once."""

from __future__ import annotations

from math import inf
from typing import Any

import torch
from torch import Tensor

from roundoff.rules.registry import register
from roundoff.rules.rule import Call, Limit, Nature, Rule
from roundoff.rules.samples import Operands, given

_SOURCE = "selects between its operand and numbers that are rounded to its format once"


def _jump(call: Call, x: Tensor, at: float, height: Tensor) -> Limit:
    """``height`` where x is so near to ``at`` that the rounding of ``at`` decides on which side it is."""
    error = call.scalar(at)
    return ((x - at).abs() <= error) * height if error else 0.0


def _threshold(call: Call) -> Limit:
    x, at, value = call.args[0], float(call.args[1]), float(call.args[2])
    return _jump(call, x, at, (x - value).abs())


def _hardshrink(call: Call) -> Limit:
    x, at = call.args[0], float(call.arg(1, "lambd", 0.5))
    return _jump(call, x.abs(), at, x.abs())


def _softshrink(call: Call) -> Limit:
    return call.scalar(float(call.arg(1, "lambd", 0.5)))


def _leaky(call: Call) -> Limit:
    error = call.scalar(float(call.arg(1, "negative_slope", 0.01)))
    return call.args[0].clamp_max(0).abs_() * error if error else 0.0


def _nan_to_num(
    x: Tensor,
    nan: float | None = None,
    posinf: float | None = None,
    neginf: float | None = None,
    *,
    native: tuple[Tensor, ...],
) -> Tensor:
    """The largest numbers that stand for infinities are those of the native format."""
    finfo = torch.finfo(native[0].dtype)
    return torch.nan_to_num(x, nan, finfo.max if posinf is None else posinf, finfo.min if neginf is None else neginf)


def _x(r: Operands) -> list[Any]:
    return [r.line(), r.strided(r.line()), r.wild(3, 4, 37)]


register(
    Rule(
        ("aten.clamp", "aten.hardtanh"),
        Nature.ROUNDS,
        source=_SOURCE,
        samples=given(lambda r: [(x, -0.1, 0.7) for x in _x(r)]),
    )
)
register(
    Rule(
        ("aten.clamp_min", "aten.clamp_max"),
        Nature.ROUNDS,
        source=_SOURCE,
        samples=given(lambda r: [(x, 0.1) for x in _x(r)]),
    )
)
register(
    Rule(
        ("aten.threshold",),
        Nature.ROUNDS,
        _threshold,
        source=_SOURCE,
        samples=given(lambda r: [(x, 0.1, 20.3) for x in _x(r)] + [(torch.tensor([0.1], dtype=r.dtype), 0.1, 5)]),
    )
)
register(
    Rule(
        ("aten.hardshrink",),
        Nature.ROUNDS,
        _hardshrink,
        source=_SOURCE,
        samples=given(lambda r: [(x, 0.1) for x in _x(r)] + [(torch.tensor([0.1, -0.1], dtype=r.dtype), 0.1)]),
    )
)
register(
    Rule(
        ("aten.softshrink",),
        Nature.ROUNDS,
        _softshrink,
        source=_SOURCE,
        samples=given(lambda r: [(x, 0.1) for x in _x(r)]),
    )
)
register(
    Rule(
        ("aten.leaky_relu",),
        Nature.ROUNDS,
        _leaky,
        source="one product with a slope that is rounded once",
        samples=given(lambda r: [(x, 0.01) for x in _x(r)]),
    )
)
register(
    Rule(
        ("aten._prelu_kernel",),
        Nature.ROUNDS,
        source="one product",
        samples=given(lambda r: [(r.wild(3, 4, 37), r.normal(1, 4, 1))]),
    )
)
register(
    Rule(
        ("aten.nan_to_num",),
        Nature.ROUNDS,
        source=_SOURCE,
        wide=_nan_to_num,
        samples=given(lambda r: [torch.tensor([inf, -inf, float("nan"), 1.5], dtype=r.dtype), r.line()]),
    )
)
register(
    Rule(
        ("aten.frac",), Nature.EXACT, source="x - trunc(x) is a number of the format", discrete=True, samples=given(_x)
    )
)
