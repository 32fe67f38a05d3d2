"""Softmax and its logarithm: written expressions of single roundings.

Single additions, subtractions, multiplications and divisions are PyTorch's own, which IEEE arithmetic rounds once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from roundoff.exact import ops
from roundoff.exact.contractions import sum
from roundoff.exact.gradients import expand
from roundoff.exact.rounding import short_dtype


class _Softmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int) -> Tensor:
        y = _shares(x, dim)
        ctx.save_for_backward(y)
        ctx.dim = dim
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (y,) = ctx.saved_tensors
        return (grad - expand(sum(grad * y, ctx.dim, keepdim=True), y.shape)) * y, None


class _LogSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int) -> Tensor:
        below = x - x.amax(dim, keepdim=True)
        y = below - ops.each(sum(ops.each(below, "exp"), dim, keepdim=True), "log")
        ctx.save_for_backward(y)
        ctx.dim = dim
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (y,) = ctx.saved_tensors
        return grad - ops.each(y, "exp") * expand(sum(grad, ctx.dim, keepdim=True), y.shape), None


def _shares(x: Tensor, dim: int) -> Tensor:
    e = ops.each(x - x.amax(dim, keepdim=True), "exp")
    return e / sum(e, dim, keepdim=True)


def softmax(x: Tensor, dim: int) -> Tensor:
    """e / Σ e with e = exp(x - max x), each step rounded once.

    >>> import torch
    >>> softmax(torch.zeros(4), 0).tolist()
    [0.25, 0.25, 0.25, 0.25]
    """
    short_dtype("softmax", x)
    y: Tensor = _Softmax.apply(x, dim)  # type: ignore[no-untyped-call]
    return y


def log_softmax(x: Tensor, dim: int) -> Tensor:
    """(x - max x) - log Σ exp(x - max x), each step rounded once."""
    short_dtype("log_softmax", x)
    y: Tensor = _LogSoftmax.apply(x, dim)  # type: ignore[no-untyped-call]
    return y


def logsumexp(x: Tensor, dim: Any, keepdim: bool = False) -> Tensor:
    """max x + log Σ exp(x - max x), each step rounded once."""
    short_dtype("logsumexp", x)
    top = x.amax(dim, keepdim=True).detach()
    top = torch.where(top.isfinite(), top, 0.0)
    y = top + ops.each(sum(ops.each(x - expand(top, x.shape), "exp"), dim, keepdim=True), "log")
    which = {d % x.dim() for d in ([dim] if isinstance(dim, int) else dim)}
    return y if keepdim else y.reshape([n for d, n in enumerate(x.shape) if d not in which])
