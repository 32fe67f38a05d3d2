"""A layer that was rewritten goes back to the PyTorch layer that it came from.

Its weight goes the way back: K[o, i, 0, ...] to W[o, i], W[o, (c, k)] to K[o, c, k]. No number is computed, so the
parameters have the bits from which they came.

Requires: a layer of this package.
Applies: to all, where nothing else reads their weight in its present shape.
Ensures: an ``nn.Linear``, or an ``nn.Conv1d``, ``Conv2d`` or ``Conv3d``, with no trace of the conversion.
"""

from __future__ import annotations

from math import prod

from torch import nn

from roundoff.forms.layers import ChannelLinear, FromFlat, OverLastAxis
from roundoff.forms.rule import New, Rule, Site, move_parameters
from roundoff.maps import Map

_CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def to_linear(site: Site) -> New:
    """The fully connected layer."""
    old = site.module
    assert isinstance(old, (OverLastAxis, FromFlat))
    out, inputs = old.view.after[0], prod(old.view.after[1:])
    new = nn.Linear(inputs, out, bias=False, device="meta")
    way = Map(old.view.after, (out, inputs))
    if isinstance(old, FromFlat) and old.last:  # C, H, W of the kernel to H, W, C of the flattened input
        rank = len(old.sizes) + 1
        way = Map(old.view.after, (out, inputs), old.view.after, (0, *range(2, rank), 1))
    return move_parameters(old, new, {"weight": way}, frozenset())


def to_conv(site: Site) -> New:
    """The convolution."""
    old = site.module
    assert isinstance(old, ChannelLinear)
    kernel, given = old.kernel_size, (old.in_channels, old.out_channels, old.kernel_size, old.stride, old.padding)
    more = (old.dilation, old.groups, False, old.padding_mode)
    new = _CONV[len(kernel)](*given, *more, device="meta")  # type: ignore[arg-type]
    way = Map(old.view.after, (old.out_channels, old.in_channels // old.groups, *kernel))
    return move_parameters(old, new, {"weight": way}, frozenset())


def declines(site: Site) -> str:
    """Why it stays: its weight is kept in the shape of another layer."""
    old = site.module
    assert isinstance(old, (OverLastAxis, FromFlat, ChannelLinear))
    parameter = old._parameters["weight"]
    assert parameter is not None
    if tuple(parameter.shape) == old.view.after and not site.pinned:
        return ""
    if isinstance(old, (OverLastAxis, FromFlat)) and parameter.dim() == 2 and _as_linear(old, parameter):
        return ""
    return "its weight is tied and kept in a shape that the PyTorch layer cannot hold"


def _as_linear(old: OverLastAxis | FromFlat, parameter: nn.Parameter) -> bool:
    """True where the weight already lies as a Linear has it."""
    return tuple(parameter.shape) == (old.view.after[0], prod(old.view.after[1:])) and not old.view.split


def _back_to_linear(site: Site) -> New:
    old = site.module
    assert isinstance(old, (OverLastAxis, FromFlat))
    parameter = old._parameters["weight"]
    assert parameter is not None
    if tuple(parameter.shape) == old.view.after:
        return to_linear(site)
    new = nn.Linear(parameter.shape[1], parameter.shape[0], bias=False, device="meta")
    new._parameters["weight"], new._parameters["bias"] = parameter, old._parameters["bias"]
    new.train(old.training)
    return New(new, {})


def _none(site: Site) -> int:
    return 0


TO_LINEAR = Rule("linear", "back to linear", lambda m: isinstance(m, (OverLastAxis, FromFlat)), declines,
                 _back_to_linear, _none, "nn.Linear")  # fmt: skip
TO_CONV = Rule(
    "conv", "back to convolution", lambda m: isinstance(m, ChannelLinear), declines, to_conv, _none, "nn.Conv"
)
