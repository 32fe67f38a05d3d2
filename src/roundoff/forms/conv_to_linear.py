"""A 1x1 convolution, or one whose kernel covers its whole input, is a fully connected layer over the channels.

1x1: y[n, o, p] = sum_c K[o, c, 0, ...] x[n, c, s p] + b[o]: a fully connected layer W[o, c] = K[o, c, 0, ...] at every
position that the stride s leaves. Padding first puts positions around the input (zeros, or mirrored, repeated or wrapped
values), as the convolution does; dilation moves nothing in a kernel of one. With g groups the weight is a block diagonal
of g blocks, and each block is a fully connected layer of its own.

Full kernel: where the padded input has the size d (k - 1) + 1 along each axis, the kernel fits once, and
y[n, o] = sum_{c,k} K[o, c, k] x[n, c, d k] + b[o] is a fully connected layer on the flattened input.

Requires: a Conv1d, Conv2d or Conv3d with the forward of PyTorch.
Applies: to kernels of one; to others where they cover every input that was seen; with at most 64 groups.
Ensures: weight [out, in / groups * kernel]; the output in the memory layout of the convolution's. An input that the
kernel does not cover takes the convolution.
"""

from __future__ import annotations

from math import prod
from typing import Any

from torch import nn

from roundoff.forms.apply import MOST_GROUPS
from roundoff.forms.layers import ChannelLinear
from roundoff.forms.rule import New, Rule, Site, move_parameters
from roundoff.maps import Map

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_KEPT = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")


def is_conv(module: nn.Module) -> bool:
    """True for a convolution whose forward is PyTorch's."""
    return any(isinstance(module, c) and type(module).forward is c.forward for c in _CONVS)


def declines(site: Site) -> str:
    """Why a convolution is left as it is."""
    conv: Any = site.module
    if conv.groups > MOST_GROUPS:
        return f"it has {conv.groups} groups, and one linear layer for each of more than {MOST_GROUPS} is no gain"
    if prod(conv.kernel_size) == 1:
        return ""
    dims = len(conv.kernel_size)
    pads = conv._reversed_padding_repeated_twice
    added = [pads[2 * i] + pads[2 * i + 1] for i in reversed(range(dims))]
    need = [d * (k - 1) + 1 for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
    for call in site.calls:
        got = [n + p for n, p in zip(call.shape[-dims:], added, strict=True)]
        if got != need:
            size, kernel = "x".join(map(str, got)), "x".join(map(str, conv.kernel_size))
            return f"its {kernel} kernel slides over a {size} input; only 1x1 and full kernels are linear layers"
    return ""


def rewrite(site: Site) -> New:
    """The fully connected layer."""
    conv: Any = site.module
    before = tuple(conv.weight.shape)
    way = Map(before, (before[0], prod(before[1:])))
    new = ChannelLinear(way.after[1], way.after[0], bias=False, device="meta")
    for name in _KEPT:
        setattr(new, name, getattr(conv, name))
    new.pads = tuple(conv._reversed_padding_repeated_twice)
    return move_parameters(conv, new, {"weight": way}, site.pinned)


def permutes(site: Site) -> int:
    """One before and one after each call of a 1x1 convolution; a flattened input needs none."""
    conv: Any = site.module
    return 2 * len(site.calls) if prod(conv.kernel_size) == 1 else 0


RULE = Rule("linear", "convolution to linear", is_conv, declines, rewrite, permutes, "weight [out, in * kernel]")
