"""An operator along axes of the network runs along the axes that hold them.

softmax and its logarithm keep the order; sums, means and extrema over axes leave the others in the order that they had.
Average pooling to one place is the mean over the axes between.

Requires: axes given as numbers.
Applies: where the value is not held as the network has it.
Ensures: the same elements are taken together.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

from roundoff.forms.flow.capture import called
from roundoff.forms.flow.program import has_hooks
from roundoff.forms.flow.push import Push
from roundoff.forms.flow.values import Value, identity, squeezed

_SOFT = {"softmax", "log_softmax"}
_OVER = {"mean", "sum", "amax", "amin"}
_POOLS = {nn.AdaptiveAvgPool1d: 1, nn.AdaptiveAvgPool2d: 2, nn.AdaptiveAvgPool3d: 3}


def reductions(push: Push, node: fx.Node) -> Value | None:
    """The rule."""
    x = push.tensor(node.args[0]) if node.args else None
    if x is None or x.axes is None or x.plain:
        return None
    rank = len(x.axes)
    if node.op == "call_module":
        return _module(push, node, x)
    name = called(node)
    given = dict(zip(("dim", "keepdim"), node.args[1:], strict=False)) | dict(node.kwargs)
    if name in _SOFT:
        rest = {key: value for key, value in node.kwargs.items() if key not in ("dim", "_stacklevel")}
        dim = given.get("dim")
        if not isinstance(dim, int) or len(node.args) > 2 or set(rest) - {"dtype"} or rest.get("dtype") is not None:
            return None
        return push.made(node, push.line("function", getattr(torch, name), x.ref, x.axes[dim]), x.axes)
    dims = given.get("dim")
    dims = [dims] if isinstance(dims, int) else dims
    if name not in _OVER or not isinstance(dims, (list, tuple)) or set(given) - {"dim", "keepdim"} or not dims:
        return None
    keepdim: Any = given.get("keepdim", False)
    if not all(isinstance(d, int) for d in dims) or not isinstance(keepdim, bool) or len(node.args) > 3:
        return None
    gone = frozenset(int(d) % rank for d in dims)
    ref = push.line("function", getattr(torch, name), x.ref, tuple(x.axes[d] for d in sorted(gone)), keepdim)
    return push.made(node, ref, x.axes if keepdim else squeezed(x.axes, gone))


def _module(push: Push, node: fx.Node, x: Value) -> Value | None:
    module: Any = push.module.get_submodule(str(node.target))
    assert x.axes is not None
    dims = _POOLS.get(type(module))
    if dims is None or has_hooks(module) or len(x.axes) != dims + 2:
        return None
    size = module.output_size
    if any(n != 1 for n in ([size] if isinstance(size, int) else size)):
        return None
    ref = push.line("function", torch.mean, x.ref, tuple(x.axes[i] for i in identity(dims + 2)[2:]), True)
    return push.made(node, ref, x.axes)
