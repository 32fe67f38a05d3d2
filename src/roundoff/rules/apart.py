"""Along which dimensions of its result does an operator work on each part by itself?

A step that falls apart can be looked at a part at a time, in pieces that fit the processor's cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from roundoff.rules.elementwise import FUNCTIONS
from roundoff.rules.registry import names_of

Dims = Sequence[int]

_EACH = {f.aten for f in FUNCTIONS if f.name != "log_sigmoid_forward"} | {
    "abs", "add", "addcdiv", "addcmul", "celu", "clamp", "clamp_max", "clamp_min", "div", "fmax", "fmin", "hardshrink",
    "hardtanh", "leaky_relu", "lerp", "maximum", "minimum", "mul", "neg", "pow", "relu", "rsub", "softshrink", "sub",
    "threshold", "where",
}  # fmt: skip


def _besides(args: tuple[Any, ...], y: Tensor) -> Dims:
    """All but the dimension that is added along."""
    return [d for d in range(y.dim()) if d != args[1] % y.dim()]


def _before(args: tuple[Any, ...], y: Tensor) -> Dims:
    return range(y.dim() - len(args[1]))


def _images(args: tuple[Any, ...], y: Tensor) -> Dims:
    """Images are normalised each by itself where the statistics are given."""
    return (0,) if len(args) > 5 and args[5] is False else ()


_OTHERS: dict[str, Callable[[tuple[Any, ...], Tensor], Dims]] = {
    "_log_softmax": _besides,
    "_softmax": _besides,
    "native_layer_norm": _before,
    "native_batch_norm": _images,
    "_native_batch_norm_legit": _images,
    "_native_batch_norm_legit_no_training": lambda args, y: (0,),
    "_scaled_dot_product_flash_attention_for_cpu": lambda args, y: (0, 1),  # sequences and heads
}


def works_on_each(op: Any) -> bool:
    """True for operators that compute each element from those at its place alone.

    >>> import torch
    >>> works_on_each(torch.ops.aten.relu_.default), works_on_each(torch.ops.aten.sum.default)
    (True, False)
    """
    return _name(op) in _EACH


def falls_apart_along(op: Any, args: tuple[Any, ...], y: Tensor) -> Dims:
    """The dimensions of the first result ``y`` along which parts of the operands give parts of all results."""
    name = _name(op)
    if name in _EACH:
        return range(y.dim())
    return _OTHERS[name](args, y) if name in _OTHERS else ()


def _name(op: Any) -> str:
    packet = names_of(op)[1].removeprefix("aten.")
    return packet if packet in _OTHERS else packet.removesuffix("_")
