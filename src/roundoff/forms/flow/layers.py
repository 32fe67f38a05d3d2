"""A rewritten layer runs on what is held, if that is in its order.

A linear layer in the form of a convolution takes [N, *S, C] held as [N, C, *S], and gives the same; a 1x1 convolution in the
form of a linear layer takes [N, C, *S] held as [N, *S, C]. So between two of them nothing is moved.

Requires: a layer over the last axis whose input has as many axes between as the convolution has dimensions; a 1x1 layer
over the channels without padding, on a batch.
Applies: where nobody's hooks are on the layer, for it is not called.
Ensures: the result held in the order of the form.
"""

from __future__ import annotations

from math import prod

from torch import fx

from roundoff.forms.flow.program import Module, has_hooks
from roundoff.forms.flow.push import Push
from roundoff.forms.flow.steps import convolved, joined
from roundoff.forms.flow.values import Value, channels_first, channels_last
from roundoff.forms.layers import ChannelLinear, OverLastAxis


def layers(push: Push, node: fx.Node) -> Value | None:
    """The rule."""
    if node.op != "call_module" or len(node.all_input_nodes) != 1:
        return None
    layer = push.module.get_submodule(str(node.target))
    x = push.tensor(node.all_input_nodes[0])
    if x is None or x.axes is None or has_hooks(layer):
        return None
    rank = len(x.axes)
    if isinstance(layer, OverLastAxis):
        dims = len(layer.view.after) - 2
        step, want, fits = convolved, channels_first(rank), rank == dims + 2
    elif isinstance(layer, ChannelLinear):
        dims = len(layer.kernel_size)
        fits = rank == dims + 2 and prod(layer.kernel_size) == 1 and not any(layer.pads)
        step, want = joined, channels_last(rank)
    else:
        return None
    return (
        push.made(node, push.line("function", step, Module(str(node.target)), push.at(x, want)), want) if fits else None
    )
