"""What is made of several correctly rounded steps: each one written expression, in docs/exact.md.

Single additions, subtractions, multiplications and divisions are PyTorch's own, which IEEE arithmetic rounds once.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from roundoff.errors import RoundoffError
from roundoff.exact import ops
from roundoff.exact.contractions import expand, matmul, mean, sum
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
        return (grad - sum(grad * y, ctx.dim, keepdim=True)) * y, None


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
        return grad - ops.each(y, "exp") * sum(grad, ctx.dim, keepdim=True), None


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


class _Normalise(torch.autograd.Function):
    """(x - m) · rsqrt(v + eps) over the last dimension, with m = mean x and v = mean (x - m)²."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        away = x - mean(x, -1, keepdim=True)
        scale = ops.each(mean(away * away, -1, keepdim=True) + eps, "rsqrt")
        y = away * scale
        ctx.save_for_backward(y, scale)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        y, scale = ctx.saved_tensors
        level, tilt = mean(grad, -1, keepdim=True), mean(grad * y, -1, keepdim=True)
        return ((grad - level) - y * tilt) * scale, None


def normalise(x: Tensor, eps: float) -> Tensor:
    """(x - m) · rsqrt(v + eps) over the last dimension, with m = mean x and v = mean (x - m)², each step rounded once."""
    y: Tensor = _Normalise.apply(x, eps)  # type: ignore[no-untyped-call]
    return y


def affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """x · weight + bias, rounded after each; the gradients of weight and bias are sums rounded once."""
    if weight is not None:
        x = x * expand(weight, x.shape)
    return x if bias is None else x + expand(bias, x.shape)


def layer_norm(x: Tensor, normalized_shape: Any, weight: Tensor | None = None, bias: Tensor | None = None,
               eps: float = 1e-5) -> Tensor:  # fmt: skip
    """:func:`normalise` over the last dimensions, then · weight, then + bias."""
    short_dtype("layer_norm", x, weight, bias)
    count = 1 if isinstance(normalized_shape, int) else len(tuple(normalized_shape))
    return affine(normalise(x.flatten(-count), eps).reshape(x.shape), weight, bias)


def _by_channel(p: Tensor | None, x: Tensor) -> Tensor | None:
    return None if p is None else p.reshape(-1, *[1] * (x.dim() - 2))


def group_norm(x: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None,
               eps: float = 1e-5) -> Tensor:  # fmt: skip
    """:func:`normalise` over each group of channels and the positions, then · weight, then + bias."""
    short_dtype("group_norm", x, weight, bias)
    y = normalise(x.reshape(x.shape[0], num_groups, -1), eps).reshape(x.shape)
    return affine(y, _by_channel(weight, x), _by_channel(bias, x))


def batch_norm(x: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
               bias: Tensor | None = None, training: bool = False, momentum: float = 0.1,
               eps: float = 1e-5) -> Tensor:  # fmt: skip
    """(x - m) · rsqrt(v + eps), then · weight, then + bias; in training m and v are those of the batch."""
    short_dtype("batch_norm", x, weight, bias)
    if training or running_mean is None or running_var is None:
        rows = x.transpose(0, 1)
        flat = rows.reshape(x.shape[1], -1)
        y = normalise(flat, eps).reshape(rows.shape).transpose(0, 1)
        if training and running_mean is not None and running_var is not None:
            with torch.no_grad():
                m = mean(flat, 1)
                away = flat - m[:, None]
                v = sum(away * away, 1) / max(1, flat.shape[1] - 1)
                running_mean.copy_(running_mean * (1 - momentum) + m * momentum)
                running_var.copy_(running_var * (1 - momentum) + v * momentum)
    else:
        centre, spread = _by_channel(running_mean, x), _by_channel(running_var, x)
        assert centre is not None and spread is not None
        y = (x - centre) * ops.each(spread + eps, "rsqrt")
    return affine(y, _by_channel(weight, x), _by_channel(bias, x))


def elu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """x above zero, else alpha · expm1(x)."""
    below = ops.each(x.clamp(max=0), "expm1")
    return torch.where(x > 0, x, below if alpha == 1 else below * alpha)


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


def attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
              is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False) -> Tensor:  # fmt: skip
    """softmax(q kᵀ · scale + mask) v: each sum of products, each addition and multiplication rounded once."""
    if dropout_p or enable_gqa:
        raise RoundoffError("exact.attention takes no dropout and no grouped heads. Expand the heads first.")
    scores = matmul(q, k.transpose(-1, -2)) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, -math.inf)
        else:
            scores = scores + expand(attn_mask, torch.broadcast_shapes(scores.shape, attn_mask.shape))
    return matmul(softmax(scores, -1), v)


def mse_loss(x: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """(x - target)², then their mean or sum."""
    away = x - target
    return reduced(away * away, reduction)


def l1_loss(x: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """|x - target|, then their mean or sum."""
    return reduced((x - target).abs(), reduction)


class _Pick(torch.autograd.Function):
    """One element of each row; its gradient only moves data, where that of gather adds."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, target: Tensor) -> Tensor:
        ctx.save_for_backward(target)
        ctx.shape = x.shape
        return x.gather(1, target[:, None])[:, 0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (target,) = ctx.saved_tensors
        return grad.new_zeros(ctx.shape).scatter(1, target[:, None], grad[:, None]), None


def cross_entropy(x: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """-log_softmax(x) at the target, then their mean or sum; for class numbers [N] and x [N, C]."""
    if target.dtype.is_floating_point or x.dim() != 2:
        raise RoundoffError("exact.cross_entropy takes x [N, C] and class numbers [N].")
    if bool((target < 0).any()):
        raise RoundoffError("exact.cross_entropy takes class numbers from 0, and none that are to be ignored.")
    picked: Tensor = _Pick.apply(log_softmax(x, 1), target)  # type: ignore[no-untyped-call]
    return reduced(-picked, reduction)


def reduced(x: Tensor, reduction: str) -> Tensor:
    """The reduction of a loss."""
    return x if reduction == "none" else mean(x) if reduction == "mean" else sum(x)
