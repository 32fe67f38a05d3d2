"""``F.linear`` with a weight is a 1x1 convolution over the last axis.

y[..., o] = sum_i W[o, i] x[..., i] + b[o], as in ``linear_to_conv``: the kernel is K[o, i, 0, ...] = W[o, i].

Requires: a weight [out, in] that is a parameter or is computed from parameters alone.
Applies: to dense floating-point inputs of any rank.
Ensures: the parameter keeps its shape, for the kernel is a view of it; the output is contiguous.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from roundoff.forms.apply import dims_for, over_last_axis
from roundoff.forms.calls.given import CallRule, IsWeight, named, unusual


def apply(op: str, args: Any, kwargs: dict[str, Any], is_weight: IsWeight) -> Tensor | str:
    """The call as a convolution."""
    given = named(("input", "weight", "bias"), args, kwargs)
    if isinstance(given, str):
        return given
    x, weight, bias = given["input"], given["weight"], given.get("bias")
    if not is_weight(weight):
        return "its weight is not a parameter" if is_weight(x) else ""
    if is_weight(x):
        return "its input is a parameter too"
    if weight.dim() != 2:
        return f"its weight has {weight.dim()} axes"
    return unusual(x, weight) or last_axis(x, weight, bias)


def last_axis(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear`` with a weight [out, in], as a convolution."""
    kernel = weight.reshape(*weight.shape, *[1] * dims_for(x.dim()))
    if bias is None or tuple(bias.shape) == (weight.shape[0],):
        return over_last_axis(x, kernel, bias)
    y = over_last_axis(x, kernel, None)
    return y + bias.to(y.dtype)


RULE = CallRule("conv", frozenset({"linear"}), apply, "conv of the dimensions that the input has")
