"""Dropout keeps its draws: they are made as the network makes them, and put in the order of what is held.

Dropout of x is x times a mask that is drawn in the order of memory. Dropout of ones, in the order in which memory holds the
network's axes, draws the same mask, which a view puts in the order that holds x.

Requires: an ``nn.Dropout`` of PyTorch, not in place, on a value that the network does not repeat (``expand``).
Applies: where nobody's hooks are on the module.
Ensures: the same draws in training mode, and nothing in the other.
"""

from __future__ import annotations

from torch import fx, nn

from roundoff.forms.flow.program import Module, has_hooks
from roundoff.forms.flow.push import Push
from roundoff.forms.flow.steps import dropped
from roundoff.forms.flow.values import Value, then


def draws(push: Push, node: fx.Node) -> Value | None:
    """The rule."""
    if node.op != "call_module" or len(node.all_input_nodes) != 1:
        return None
    module = push.module.get_submodule(str(node.target))
    x = push.tensor(node.all_input_nodes[0])
    if type(module) is not nn.Dropout or module.inplace or has_hooks(module) or x is None or x.axes is None:
        return None
    if x.order is None:
        return None
    return push.made(
        node, push.line("function", dropped, Module(str(node.target)), x.ref, then(x.axes, x.order)), x.axes
    )
