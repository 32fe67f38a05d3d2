"""Activations: correctly rounded functions, and written expressions of single roundings."""

from __future__ import annotations

import torch
from torch import Tensor

from roundoff.errors import RoundoffError
from roundoff.exact import ops
from roundoff.exact.gradients import expand
from roundoff.exact.rounding import short_dtype


def elu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """x above zero, else alpha · expm1(x)."""
    below = ops.each(torch.where(x > 0, 0.0, x), "expm1")
    return torch.where(x > 0, x, below if alpha == 1 else below * alpha)


def celu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """x above zero, else alpha · expm1(x / alpha)."""
    if alpha == 1:
        return elu(x)
    return torch.where(x > 0, x, ops.each(divided(torch.where(x > 0, 0.0, x), alpha), "expm1") * alpha)


def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """x Φ(x), correctly rounded; or the function with tanh, correctly rounded."""
    short_dtype("gelu", x)
    return ops.each(x, "gelu_tanh" if approximate == "tanh" else "gelu")


def softplus(x: Tensor, beta: float = 1, threshold: float = 20) -> Tensor:
    """log(1 + e^x), correctly rounded, for any x: the threshold makes no difference to it."""
    if beta != 1 or threshold < 20:
        raise RoundoffError(f"exact.softplus takes beta=1 and a threshold of 20 or more, not {beta} and {threshold}.")
    short_dtype("softplus", x)
    return ops.each(x, "softplus")


def hardsigmoid(x: Tensor) -> Tensor:
    """min(max(x + 3, 0), 6) / 6."""
    return divided((x + 3).clamp(0, 6), 6)


def hardswish(x: Tensor) -> Tensor:
    """x · min(max(x + 3, 0), 6) / 6."""
    return divided(x * (x + 3).clamp(0, 6), 6)


def leaky_relu(x: Tensor, negative_slope: float = 0.01) -> Tensor:
    """x above zero, else slope · x."""
    return torch.where(x > 0, x, x * negative_slope)


def prelu(x: Tensor, weight: Tensor) -> Tensor:
    """x above zero, else weight · x, the weight being one number or one for each channel."""
    short_dtype("prelu", x, weight)
    if weight.numel() > 1 or x.dim() > 1:
        weight = weight.reshape(-1, *[1] * (x.dim() - 2)) if x.dim() > 1 else weight.reshape(-1)
    return torch.where(x > 0, x, expand(weight, x.shape) * x)


def glu(x: Tensor, dim: int = -1) -> Tensor:
    """The first half times the sigmoid of the second."""
    short_dtype("glu", x)
    first, second = x.chunk(2, dim)
    return first * ops.each(second, "sigmoid")


def softsign(x: Tensor) -> Tensor:
    """x / (1 + abs x)."""
    return x / (x.abs() + 1)


def tanhshrink(x: Tensor) -> Tensor:
    """x - tanh x."""
    return x - ops.each(x, "tanh")


def divided(x: Tensor, by: float) -> Tensor:
    """``x`` over a number, rounded once: some kernels multiply by its rounded inverse instead."""
    return quotient(x, by)


def quotient(x: Tensor | float, y: Tensor | float) -> Tensor:
    """x / y where one is a number: it is rounded to float32, and so is a quotient on its way to a shorter format."""
    like = x if isinstance(x, Tensor) else y
    assert isinstance(like, Tensor)
    a, b = (
        t.to(torch.float32) if isinstance(t, Tensor) else torch.full((), t, dtype=torch.float32, device=like.device)
        for t in (x, y)
    )
    return (a / b).to(like.dtype)
