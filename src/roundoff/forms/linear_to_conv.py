"""A fully connected layer is a 1x1 convolution over the last axis.

y[..., o] = sum_i W[o, i] x[..., i] + b[o]. With the last axis moved to the place of the channels, every other axis is a
position, and a convolution with the kernel K[o, i, 0, ...] = W[o, i] gives the same sum at every position.

Requires: a ``Linear`` with the forward of PyTorch, or the layer that GPT-2 models call ``Conv1D``, whose weight is
[in, out], so that K[o, i, 0, ...] = W[i, o].
Applies: where it was called with dense floating-point tensors.
Ensures: weight [out, in, 1, ...]; the same output up to the order of the additions, contiguous as before.
"""

from __future__ import annotations

from torch import nn

from roundoff.forms.apply import dims_for
from roundoff.forms.layers import POINTWISE
from roundoff.forms.rule import New, Rule, Site, move_parameters
from roundoff.maps import Map


def is_linear(module: nn.Module) -> bool:
    """True for a Linear whose forward is PyTorch's."""
    return isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward


def is_transposed(module: nn.Module) -> bool:
    """True for the layer with a transposed weight that GPT-2 models call Conv1D."""
    weight, outputs = getattr(module, "weight", None), getattr(module, "nf", None)
    if type(module).__name__ != "Conv1D" or isinstance(module, nn.Conv1d) or not isinstance(weight, nn.Parameter):
        return False
    return weight.dim() == 2 and weight.shape[1] == outputs


def dims_of(site: Site) -> int:
    """As many dimensions as the largest input has axes between its first and its last one: 1 to 3."""
    return dims_for(max(len(call.shape) for call in site.calls))


def weight_map(module: nn.Module, sizes: tuple[int, ...], last: bool = False) -> Map:
    """From the weight of a fully connected layer to a kernel [out, *sizes], where ``sizes`` are C, H, W."""
    weight = module.weight
    assert isinstance(weight, nn.Parameter)
    before = tuple(weight.shape)
    transposed = is_transposed(module)
    out = before[1] if transposed else before[0]
    inputs = (*sizes[1:], sizes[0]) if last else sizes
    channel_first = [len(inputs) - 1, *range(len(inputs) - 1)] if last else list(range(len(inputs)))
    split = (*inputs, out) if transposed else (out, *inputs)
    order = (len(inputs), *channel_first) if transposed else (0, *(i + 1 for i in channel_first))
    if order == tuple(range(len(order))):
        return Map(before, (out, *sizes))
    return Map(before, (out, *sizes), split, order)


def declines(site: Site) -> str:
    """Why a layer is left as it is."""
    return ""


def rewrite(site: Site) -> New:
    """The 1x1 convolution."""
    dims = dims_of(site)
    way = weight_map(site.module, (_inputs(site.module), *[1] * dims))
    out, inputs = way.after[:2]
    new = POINTWISE[dims](inputs, out, 1, bias=False, device="meta")
    vars(new).update(in_features=inputs, out_features=out)
    return move_parameters(site.module, new, {"weight": way}, site.pinned)


def _inputs(module: nn.Module) -> int:
    weight = module.weight
    assert isinstance(weight, nn.Parameter)
    return weight.shape[0 if is_transposed(module) else 1]


def permutes(site: Site) -> int:
    """One before and one after each call whose input has an axis besides samples and channels."""
    return 2 * sum(len(call.shape) > 2 for call in site.calls)


RULE = Rule(
    "conv",
    "linear to 1x1 convolution",
    lambda m: is_linear(m) or is_transposed(m),
    declines,
    rewrite,
    permutes,
    "weight [out, in, 1, ...]",
)
