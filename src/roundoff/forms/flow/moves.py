"""A move of axes in the network changes the order in which it thinks of what is held, and moves nothing.

permute, transpose, swapaxes, movedim, t, mT and the T of a matrix give the order of the result. Flattening axes that are
held side by side in the network's order flattens what is held.

Requires: axes given as numbers.
Applies: to values that are held anywhere.
Ensures: no line but a flatten.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from roundoff.forms.flow.capture import Like, called
from roundoff.forms.flow.push import Push
from roundoff.forms.flow.steps import shape_of
from roundoff.forms.flow.values import Axes, Value, identity, then

_NAMES = {"permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t"}


def moves(push: Push, node: fx.Node) -> Value | None:
    """The rule."""
    name = called(node)
    x = push.tensor(node.args[0]) if node.args else None
    if x is None or x.axes is None:
        return None
    rank, rest = len(x.axes), _axes_given(node)
    if name == "getattr" and (rest == ["mT"] or (rest == ["T"] and rank == 2)):
        push.own += 1
        return push.made(node, x.ref, then(x.axes, (*range(rank - 2), *range(rank - 2, rank)[::-1])))
    if name in ("size", "dim", "getattr"):
        return _asked(push, node, name, x, rest)
    if name == "flatten":
        return _flattened(push, node, x, rest)
    if name not in _NAMES or rest is None:
        return None
    order = torch.empty([1] * rank, device="meta")
    tags = order.as_strided([1] * rank, list(range(rank)))  # the strides tell the axes apart
    asked: torch.Tensor = getattr(tags, name)(*node.args[1:], **node.kwargs)
    push.own += 1
    return push.made(node, x.ref, then(x.axes, tuple(asked.stride())))


def _axes_given(node: fx.Node) -> list[Any] | None:
    """The arguments after the tensor, where they are given as numbers."""
    rest = [*node.args[1:], *node.kwargs.values()]
    return None if any(isinstance(leaf, fx.Node) for leaf in rest) else rest


def _asked(push: Push, node: fx.Node, name: Any, x: Value, rest: list[Any] | None) -> Value | None:
    """The shape, the rank, the dtype or the device."""
    if x.plain or rest is None:
        return None
    assert x.axes is not None
    if name == "dim" or (name == "getattr" and rest in (["ndim"], ["dtype"], ["device"])):
        kind = "method" if node.op == "call_method" else "function"
        return Value(push.line(kind, node.target, x.ref, *rest))
    if name == "size" and len(rest) == 1 and isinstance(rest[0], int):
        return Value(push.line("method", "size", x.ref, x.axes[rest[0]]))
    if (name == "size" and not rest) or (name == "getattr" and rest == ["shape"]):
        return Value(push.line("function", shape_of, x.ref, x.axes))
    return None


def _flattened(push: Push, node: fx.Node, x: Value, rest: list[Any] | None) -> Value | None:
    like = node.meta.get("like")
    if x.plain or rest is None or node.kwargs or x.axes is None or not isinstance(like, Like):
        return None
    rank = len(x.axes)
    start, end = (*[a % rank for a in rest], rank - 1)[:2] if rest else (0, rank - 1)
    held = x.axes[start : end + 1]
    if held != tuple(range(held[0], held[0] + len(held))):
        return None
    gone = len(held) - 1
    axes: Axes = tuple(a - gone if a > held[-1] else a for a in (*x.axes[: start + 1], *x.axes[end + 1 :]))
    assert sorted(axes) == list(identity(rank - gone))
    return push.made(node, push.line("method", "flatten", x.ref, held[0], held[-1]), axes)
