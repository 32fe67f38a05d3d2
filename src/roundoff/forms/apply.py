"""The two forms of a linear map, as functions: a convolution over the last axis, and linear layers over the channels."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
MOST_GROUPS = 64  # one linear layer for each of more is no gain
_CHANNELS_LAST = {2: torch.channels_last, 3: torch.channels_last_3d}


def over_last_axis(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """A convolution with a kernel [out, in, 1, ...] over the last axis of ``x``: [..., in] to [..., out], of any rank
    from 1 on, contiguous."""
    dims, lead = kernel.dim() - 2, x.shape[:-1]
    if len(lead) == dims + 1 and 0 not in lead:
        x = x.movedim(-1, 1)
    elif len(lead) > dims + 1 and 0 not in lead:
        x = x.reshape(-1, *lead[-dims:], x.shape[-1]).movedim(-1, 1)
    else:  # fewer axes than the convolution has, or none of its positions: every position is a sample
        x = x.reshape(prod(lead), x.shape[-1], *[1] * dims)
    y = CONV[dims](x, kernel, bias)
    return y.movedim(1, -1).reshape(*lead, kernel.shape[0]).contiguous()


def dims_for(rank: int) -> int:
    """As many dimensions as an input of this rank has axes between its first and its last one: 1 to 3."""
    return min(max(rank - 2, 1), 3)


def over_channels(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    groups: int = 1,
) -> Tensor:
    """A linear layer [out, in / groups] over the channels of ``x``, [N, C, ...] or [C, ...], at every position that the
    stride leaves; in the memory layout of ``x``."""
    dims = len(stride)
    taken = every(x, stride)
    if taken is not x:  # a move of an axis in what has gaps makes torch.export assume sizes
        taken = taken.contiguous()
    y = blocks(taken.movedim(-dims - 1, -1), weight, bias, groups)
    return laid_out_like(x, y.movedim(-1, -dims - 1), dims)


def over_flattened(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: Sequence[int], groups: int = 1) -> Tensor:
    """A linear layer [out, in / groups * kernel] on the flattened ``x``, of which the kernel covers all."""
    dims = len(dilation)
    y = blocks(every(x, dilation).flatten(-dims - 1), weight, bias, groups)
    return y.reshape(*y.shape, *[1] * dims)


def blocks(x: Tensor, weight: Tensor, bias: Tensor | None, groups: int) -> Tensor:
    """A linear layer on each of ``groups`` blocks of the last axis of ``x``."""
    x = x.contiguous()  # linear would copy it too, and not add the bias in the same pass
    if groups == 1:
        return F.linear(x, weight, bias)
    if x.shape[-1] != groups * weight.shape[1]:
        raise RuntimeError(f"Expected {groups * weight.shape[1]} values in {groups} groups, got {list(x.shape)}")
    biases: Any = bias.chunk(groups) if bias is not None else [None] * groups
    parts = zip(x.chunk(groups, -1), weight.chunk(groups), biases, strict=True)
    return torch.cat([F.linear(part, w, b) for part, w, b in parts], -1)


def every(x: Tensor, steps: Sequence[int]) -> Tensor:
    """Every ``steps``-th position along each of the last axes."""
    index: Any = (..., *(slice(None, None, s) for s in steps))
    return x[index] if any(s > 1 for s in steps) else x


def laid_out_like(x: Tensor, y: Tensor, dims: int) -> Tensor:
    """``y`` in the memory layout in which a convolution of ``x`` would give it: what follows may take a view."""
    last = _CHANNELS_LAST.get(dims)
    if last is not None and x.dim() == dims + 2 and x.is_contiguous(memory_format=last) and not x.is_contiguous():
        return y.contiguous(memory_format=last)
    return y.contiguous()
