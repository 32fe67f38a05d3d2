"""``F.conv1d``, ``conv2d`` or ``conv3d`` with a weight, whose kernel is 1x1 or covers its input, is a linear layer.

As in ``conv_to_linear``: a kernel of one is a fully connected layer over the channels at every position that the stride
leaves; a kernel that covers the padded input is one on the flattened input.

Requires: a weight that is a parameter or is computed from parameters alone.
Applies: to kernels of one, and to those that fit their input once; with at most 64 groups.
Ensures: the parameter keeps its shape, for the linear layer uses a view of it; the memory layout of the convolution's.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from roundoff.forms.apply import MOST_GROUPS, laid_out_like, over_channels, over_flattened
from roundoff.forms.calls.given import CallRule, IsWeight, named, unusual

_NAMES = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


def apply(op: str, args: Any, kwargs: dict[str, Any], is_weight: IsWeight) -> Tensor | str:
    """The call as a linear layer."""
    given = named(_NAMES, args, kwargs)
    if isinstance(given, str):
        return given
    x, weight, bias = given["input"], given["weight"], given.get("bias")
    if not is_weight(weight):
        return ""
    if is_weight(x):
        return "its input is a parameter too"
    why = unusual(x, weight)
    if why:
        return why
    dims, groups = weight.dim() - 2, given.get("groups", 1)
    if groups > MOST_GROUPS:
        return f"it has {groups} groups, and one linear layer for each of more than {MOST_GROUPS} is no gain"
    kernel = tuple(weight.shape[2:])
    stride, dilation = _each(given.get("stride", 1), dims), _each(given.get("dilation", 1), dims)
    before, after = _padding(given.get("padding", 0), kernel, dilation)
    pads = [n for pair in zip(reversed(before), reversed(after), strict=True) for n in pair]
    padded = F.pad(x, pads) if any(pads) else x
    if prod(kernel) == 1:
        return laid_out_like(x, over_channels(padded, weight.flatten(1), bias, stride, groups), dims)
    covered = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    if list(padded.shape[-dims:]) != covered:
        size = "x".join(map(str, padded.shape[-dims:]))
        return f"its {'x'.join(map(str, kernel))} kernel slides over a {size} input"
    return over_flattened(padded, weight.flatten(1), bias, dilation, groups)


def _each(value: Any, dims: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * dims if len(values) == 1 else values


def _padding(padding: Any, kernel: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """Zeros before and after along each axis. "same" puts the odd one after, as PyTorch does."""
    if padding == "valid":
        padding = 0
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        return [n // 2 for n in total], [n - n // 2 for n in total]
    each = list(_each(padding, len(kernel)))
    return each, each


RULE = CallRule("linear", frozenset({"conv1d", "conv2d", "conv3d"}), apply, "linear, one for each group")
