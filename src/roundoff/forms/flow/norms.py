"""Normalisation over the channels goes where the channels are held.

Layer norm over the last axis of the network: mean and variance of the axis that holds it, then the same
(x - mean) / sqrt(var + eps) weight + bias at every position. Batch norm over axis 1, held last: its statistics are over all
positions of all samples, so every position may be a sample, and the module itself runs on [positions, C, 1, ...].

Requires: an ``nn.LayerNorm`` or ``F.layer_norm`` over one axis, or an ``nn.BatchNorm`` of one to three dimensions.
Applies: where the channels are held elsewhere than the module takes them, and nobody's hooks are on the module.
Ensures: the order of the operand; the running statistics of batch norm as ever.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import fx, nn

from roundoff.forms.flow.program import Module, has_hooks
from roundoff.forms.flow.push import Push
from roundoff.forms.flow.steps import batch_normed, layer_norm, layer_normed
from roundoff.forms.flow.values import Value, channels_first, channels_last

_BATCH = {nn.BatchNorm1d: 1, nn.BatchNorm2d: 2, nn.BatchNorm3d: 3}


def norms(push: Push, node: fx.Node) -> Value | None:
    """The rule."""
    if node.target is F.layer_norm:
        return _functional(push, node)
    if node.op != "call_module" or len(node.all_input_nodes) != 1:
        return None
    module = push.module.get_submodule(str(node.target))
    x = push.tensor(node.all_input_nodes[0])
    if x is None or x.axes is None or has_hooks(module):
        return None
    rank, at = len(x.axes), Module(str(node.target))
    early = _early(push, x)
    if type(module) is nn.LayerNorm and len(module.normalized_shape) == 1 and (early or not x.plain):
        want = channels_first(rank) if early else x.axes
        return push.made(node, push.line("function", layer_normed, at, push.at(x, want), want[-1]), want)
    if x.plain:
        return None
    dims = _BATCH.get(type(module))  # type: ignore[arg-type]
    if dims is not None and rank == dims + 2 and x.axes == channels_last(rank):
        return push.made(node, push.line("function", batch_normed, at, x.ref, dims), x.axes)
    return None


def _early(push: Push, x: Value) -> bool:
    return x.plain and push.early and x.axes is not None and 3 <= len(x.axes) <= 5


def _functional(push: Push, node: fx.Node) -> Value | None:
    given: dict[str, Any] = dict(zip(("input", "normalized_shape", "weight", "bias", "eps"), node.args, strict=False))
    given |= node.kwargs
    x, shape = push.tensor(given["input"]), given["normalized_shape"]
    if x is None or x.axes is None or not isinstance(shape, (list, tuple)) or len(shape) != 1:
        return None
    early = _early(push, x)
    parameters = [given.get("weight"), given.get("bias")]
    known = [push.value(p) for p in parameters if isinstance(p, fx.Node)]
    if (not early and x.plain) or not all(v.weight for v in known) or isinstance(given.get("eps"), fx.Node):
        return None
    want = channels_first(len(x.axes)) if early else x.axes
    held = [push.value(p).ref if isinstance(p, fx.Node) else p for p in parameters]
    ref = push.line("function", layer_norm, push.at(x, want), want[-1], *held, given.get("eps", 1e-5))
    return push.made(node, ref, want)
