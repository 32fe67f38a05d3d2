"""What optimisers and scaled additions are made of. A number of Python is rounded to the operands' arithmetic first.

Kernels fuse a multiplication and an addition in some places and not in others; here both are rounded once, together.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from roundoff.exact import ops
from roundoff.exact.gradients import expand
from roundoff.exact.rounding import short_dtype

Number = float | Tensor


def _as_tensor(value: Number, like: Tensor) -> Tensor:
    if isinstance(value, Tensor):
        return value
    return torch.full((), value, dtype=torch.float32, device=like.device)


def _multiply_add(x: Tensor, a: Tensor, b: Number) -> Tensor:
    """x + a · b, rounded once; ``b`` a number or a tensor."""
    shape = torch.broadcast_shapes(x.shape, a.shape, b.shape if isinstance(b, Tensor) else ())
    b = expand(b, shape) if isinstance(b, Tensor) and b.dim() else _as_tensor(b, x)
    return ops.multiply_add(expand(x, shape), expand(a, shape), b)


def add(x: Any, other: Any, *, alpha: float = 1) -> Tensor:
    """x + alpha · other, rounded once."""
    if not isinstance(x, Tensor) or not isinstance(other, Tensor):
        return torch.add(x, other if alpha == 1 else other * alpha)
    short_dtype("add", x, other)
    if alpha in (1, -1):
        shape = torch.broadcast_shapes(x.shape, other.shape)
        return torch.add(expand(x, shape), expand(other, shape), alpha=alpha)
    return _multiply_add(x, other, alpha)


def sub(x: Any, other: Any, *, alpha: float = 1) -> Tensor:
    """x - alpha · other, rounded once."""
    return add(x, other, alpha=-alpha) if isinstance(other, Tensor) else torch.sub(x, other * alpha)


def addcmul(x: Tensor, a: Tensor, b: Tensor, *, value: float = 1) -> Tensor:
    """x + (value · a) · b: the product with value is rounded, the rest once."""
    short_dtype("addcmul", x, a, b)
    return _multiply_add(x, a if value == 1 else a * value, b)


def addcdiv(x: Tensor, a: Tensor, b: Tensor, *, value: float = 1) -> Tensor:
    """x + value · (a / b): the quotient is rounded, the rest once."""
    short_dtype("addcdiv", x, a, b)
    shape = torch.broadcast_shapes(a.shape, b.shape)
    return _multiply_add(x, expand(a, shape) / expand(b, shape), value)


def lerp(x: Tensor, end: Tensor, weight: Number) -> Tensor:
    """x + weight · (end - x): the difference is rounded, the rest once."""
    short_dtype("lerp", x, end)
    shape = torch.broadcast_shapes(x.shape, end.shape)
    x = expand(x, shape)
    return _multiply_add(x, expand(end, shape) - x, weight)
