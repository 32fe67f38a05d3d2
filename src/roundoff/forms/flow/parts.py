"""Joining along an axis, and taking apart along one, run along the axis that holds it.

Requires: an axis and sizes given as numbers.
Applies: to cat of values of one rank, the others moved to the order of one; to chunk and split, and to their parts.
Ensures: each in the order of the operand.
"""

from __future__ import annotations

import operator

import torch
from torch import fx

from roundoff.forms.flow.capture import called
from roundoff.forms.flow.push import Push
from roundoff.forms.flow.values import Value

_CAT = {"cat", "concat", "concatenate"}


def parts(push: Push, node: fx.Node) -> Value | None:
    """The rule."""
    name = called(node)
    if node.target is operator.getitem and isinstance(node.args[0], fx.Node):
        whole = push.value(node.args[0])
        if whole.parts is None or not isinstance(node.args[1], int):
            return None
        return push.made(node, push.line("function", operator.getitem, whole.ref, node.args[1]), whole.parts)
    if name in _CAT and node.args and isinstance(node.args[0], (list, tuple)):
        return _joined(push, node)
    if name not in ("chunk", "split") or set(node.kwargs) - {"dim"} or len(node.args) not in (2, 3):
        return None
    x, dim = push.tensor(node.args[0]), (*node.args[2:], node.kwargs.get("dim", 0))[0]
    used = all(user.target is operator.getitem and isinstance(user.args[1], int) for user in node.users)
    if (
        x is None
        or x.axes is None
        or x.plain
        or not isinstance(dim, int)
        or isinstance(node.args[1], fx.Node)
        or not used
    ):
        return None
    return push.made(node, push.line("method", str(name), x.ref, node.args[1], x.axes[dim]), x.axes)


def _joined(push: Push, node: fx.Node) -> Value | None:
    items = node.args[0]
    assert isinstance(items, (list, tuple))
    values = [push.tensor(n) for n in items]
    dim = (*node.args[1:], node.kwargs.get("dim", 0))[0]
    axes = [v.axes for v in values if v is not None and v.axes is not None]
    if len(axes) < len(values) or len({len(a) for a in axes}) != 1 or not isinstance(dim, int):
        return None
    want = axes[0 if push.keep else -1]
    held = [push.at(v, want) for v in values if v is not None]
    return push.made(node, push.line("function", torch.cat, held, want[dim]), want)
