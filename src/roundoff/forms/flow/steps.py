"""What a program calls besides the network's own functions: the layers as they run on what is held."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from roundoff.forms.apply import CONV, blocks, every
from roundoff.forms.flow.values import Axes, inverse


def moved(x: Tensor, axes: Axes, order: Axes | None) -> Tensor:
    """``x`` with its axes in another order, and in memory in ``order`` where that is given."""
    y = x.permute(axes)
    return y if order is None else y.permute(order).contiguous().permute(inverse(order))


def aligned(x: Tensor, axes: Axes) -> Tensor:
    """A weight that broadcasts against values held in the order ``axes``: a view."""
    return x.reshape(*[1] * (len(axes) - x.dim()), *x.shape).permute(inverse(axes))


def convolved(layer: Any, x: Tensor) -> Tensor:
    """A linear layer in the form of a 1x1 convolution, on what is held with its channels at axis 1."""
    return CONV[x.dim() - 2](x, layer.viewed(), layer.bias)


def joined(layer: Any, x: Tensor) -> Tensor:
    """A 1x1 convolution in the form of a linear layer, on what is held with its channels last."""
    return blocks(every(x.contiguous(), (*layer.stride, 1)), layer.viewed(), layer.bias, layer.groups)


def layer_normed(norm: nn.LayerNorm, x: Tensor, axis: int) -> Tensor:
    """Layer norm over one axis, wherever it is held."""
    return layer_norm(x, axis, norm.weight, norm.bias, norm.eps)


def layer_norm(x: Tensor, axis: int, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """Layer norm over one axis; in float32 where ``x`` is shorter, as the kernel does."""
    if torch.is_autocast_enabled(x.device.type):  # whose dtypes only the function itself knows
        return F.layer_norm(x.movedim(axis, -1), [x.shape[axis]], weight, bias, eps).movedim(-1, axis)
    short = x.dtype in (torch.bfloat16, torch.float16)
    wide = x.float() if short else x
    variance, mean = torch.var_mean(wide, axis, correction=0, keepdim=True)
    y = (wide - mean) * torch.rsqrt(variance + eps)
    shape = [1] * x.dim()
    shape[axis] = -1
    if weight is not None:
        y = y * weight.reshape(shape)
    if bias is not None:
        y = y + bias.reshape(shape)
    return y.to(x.dtype) if short else y


def batch_normed(norm: nn.Module, x: Tensor, dims: int) -> Tensor:
    """Batch norm of what is held with its channels last: every position is a sample, as for the statistics it is."""
    y: Tensor = norm(x.reshape(-1, x.shape[-1], *[1] * dims))
    return y.reshape(x.shape)


def dropped(layer: nn.Dropout, x: Tensor, axes: Axes) -> Tensor:
    """Dropout with the draws that the network makes: in the order in which memory holds its own axes."""
    if not layer.training or layer.p == 0:
        return x
    ones = torch.ones([x.shape[a] for a in axes], dtype=x.dtype, device=x.device)
    return x * F.dropout(ones, layer.p, True).permute(inverse(axes))


def shape_of(x: Tensor, axes: Axes) -> torch.Size:
    """The shape as the network has it."""
    return torch.Size([x.shape[a] for a in axes])
