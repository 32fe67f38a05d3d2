"""A matrix product with a weight is a 1x1 convolution.

x W: y[..., n, o] = sum_i x[..., n, i] W[i, o] is a fully connected layer with the weight W^T over the last axis.
W x: y[..., o, n] = sum_i W[o, i] x[..., i, n] is one over the last axis but one, which is where a convolution has its
channels: nothing is moved. A vector is a matrix of one row or column. A weight with axes in front, W[e, i, o], is one
fully connected layer for each e: a convolution with as many groups.

Requires: one operand that is a parameter, or is computed from parameters alone, and one that is not.
Applies: to dense floating-point tensors.
Ensures: the shape that ``torch.matmul`` gives, contiguous; the parameter keeps its shape.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from roundoff.forms.calls.contraction import contraction
from roundoff.forms.calls.given import CallRule, IsWeight, named, unusual
from roundoff.forms.calls.linear import last_axis

_NAMES = {"mm": ("input", "mat2"), "bmm": ("input", "mat2"), "mv": ("input", "vec"), "dot": ("input", "tensor")}


def apply(op: str, args: Any, kwargs: dict[str, Any], is_weight: IsWeight) -> Tensor | str:
    """The call as a convolution."""
    names = _NAMES.get(op, ("input", "other"))
    given = named(names, args, kwargs)
    if isinstance(given, str):
        return given
    a, b = given[names[0]], given[names[1]]
    return product(b, a, is_weight) if op == "__rmatmul__" else product(a, b, is_weight)


def product(a: Tensor, b: Tensor, is_weight: IsWeight) -> Tensor | str:
    """``a @ b``, of which one is a weight."""
    if is_weight(a) and is_weight(b):
        return "both operands are parameters, and neither is its input"
    if not is_weight(a) and not is_weight(b):
        return ""
    x, weight = (b, a) if is_weight(a) else (a, b)
    why = unusual(x, weight)
    if why:
        return why
    if (a.dim() > 2 and weight is a) or (b.dim() > 2 and weight is b):
        return _each(a, b, weight is a)
    if weight is b:
        return last_axis(x, b.t()) if b.dim() == 2 else last_axis(x, b[None]).squeeze(-1)
    if x.dim() == 1:
        return last_axis(x, a) if a.dim() == 2 else last_axis(x, a[None]).squeeze(-1)
    y = F.conv1d(x.reshape(-1, *x.shape[-2:]), a[..., None] if a.dim() == 2 else a[None, :, None])
    y = y.reshape(*x.shape[:-2], *y.shape[-2:])
    return y if a.dim() == 2 else y.squeeze(-2)


def _each(a: Tensor, b: Tensor, left: bool) -> Tensor | str:
    """The product with a weight that has axes in front of its matrix."""
    row, column = a.dim() > 1, b.dim() > 1
    a, b = a if row else a[None], b if column else b[:, None]
    lead = max(a.dim(), b.dim()) - 2
    out: list[Any] = list(range(-lead, 0))
    (a, of_a), (b, of_b) = _led(a, b), _led(b, a)
    of_a, of_b, out = [*of_a, "n", "i"], [*of_b, "i", "o"], [*out, "n", "o"]
    y = contraction(b, of_b, a, of_a, out) if left else contraction(a, of_a, b, of_b, out)
    if isinstance(y, str):
        return y
    y = y if row else y.squeeze(-2)
    return y if column else y.squeeze(-1)


def _led(x: Tensor, other: Tensor) -> tuple[Tensor, list[Any]]:
    """``x`` without the axes in front that the product repeats, and labels for those that are left: their place from the
    matrix on."""
    mine, theirs = x.dim() - 2, other.dim() - 2
    repeated = [
        i for i in range(mine) if x.shape[i] == 1 and i - mine + theirs >= 0 and other.shape[i - mine + theirs] > 1
    ]
    for i in reversed(repeated):
        x = x.squeeze(i)
    return x, [i - mine for i in range(mine) if i not in repeated]


RULE = CallRule(
    "conv",
    frozenset({"matmul", "linalg_matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "mv", "dot"}),
    apply,
    "conv, grouped for each e",
)
