"""Normalisations: written expressions of single roundings."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from roundoff.errors import RoundoffError
from roundoff.exact import ops
from roundoff.exact.activations import divided
from roundoff.exact.contractions import mean, sum
from roundoff.exact.gradients import expand
from roundoff.exact.rounding import short_dtype


class _Normalise(torch.autograd.Function):
    """(x - m) · rsqrt(v + eps) over the last dimension, with m = mean x and v = mean (x - m)²."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        away = x - mean(x, -1, keepdim=True)
        scale = ops.each(mean(away * away, -1, keepdim=True) + eps, "rsqrt")
        y = away * scale
        ctx.save_for_backward(x, y, scale)
        ctx.eps = eps
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        x, y, scale = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient of this gradient is wanted: the same scale, as a function of x
            away = x - expand(mean(x, -1, keepdim=True), x.shape)
            scale = ops.each(mean(away * away, -1, keepdim=True) + ctx.eps, "rsqrt")
        level, tilt = mean(grad, -1, keepdim=True), mean(grad * y, -1, keepdim=True)
        level, tilt, scale = (expand(part, x.shape) for part in (level, tilt, scale))
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


def _last(what: str, x: Tensor, shape: Any) -> int:
    """How many dimensions ``shape`` has, which are the last of ``x``."""
    wanted = (shape,) if isinstance(shape, int) else tuple(shape)
    if tuple(x.shape[x.dim() - len(wanted) :]) != wanted:
        raise RoundoffError(f"exact.{what}: the last sizes of {list(x.shape)} are not {list(wanted)}.")
    return len(wanted)


def _several(what: str, count: int) -> None:
    if count == 1:
        raise RoundoffError(f"exact.{what}: one value alone has no variance. Give more, or use running statistics.")


def layer_norm(x: Tensor, normalized_shape: Any, weight: Tensor | None = None, bias: Tensor | None = None,
               eps: float = 1e-5) -> Tensor:  # fmt: skip
    """:func:`normalise` over the last dimensions, then · weight, then + bias."""
    short_dtype("layer_norm", x, weight, bias)
    count = _last("layer_norm", x, normalized_shape)
    return affine(normalise(x.flatten(-count), eps).reshape(x.shape), weight, bias)


def _by_channel(p: Tensor | None, x: Tensor) -> Tensor | None:
    return None if p is None else p.reshape(-1, *[1] * (x.dim() - 2))


def group_norm(x: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None,
               eps: float = 1e-5) -> Tensor:  # fmt: skip
    """:func:`normalise` over each group of channels and the positions, then · weight, then + bias."""
    short_dtype("group_norm", x, weight, bias)
    if x.shape[1] % num_groups:
        raise RoundoffError(f"exact.group_norm: {x.shape[1]} channels are not {num_groups} equal groups.")
    y = normalise(x.reshape(x.shape[0], num_groups, -1), eps).reshape(x.shape)
    return affine(y, _by_channel(weight, x), _by_channel(bias, x))


def batch_norm(x: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
               bias: Tensor | None = None, training: bool = False, momentum: float = 0.1,
               eps: float = 1e-5) -> Tensor:  # fmt: skip
    """(x - m) · rsqrt(v + eps), then · weight, then + bias; in training m and v are those of the batch."""
    short_dtype("batch_norm", x, weight, bias)
    if training or running_mean is None or running_var is None:
        if training:
            _several("batch_norm", x.numel() // max(1, x.shape[1]))
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


def instance_norm(x: Tensor, running_mean: Tensor | None = None, running_var: Tensor | None = None,
                  weight: Tensor | None = None, bias: Tensor | None = None, use_input_stats: bool = True,
                  momentum: float = 0.1, eps: float = 1e-5) -> Tensor:  # fmt: skip
    """:func:`normalise` over the positions of each channel of each image, then · weight, then + bias."""
    short_dtype("instance_norm", x, weight, bias)
    if not use_input_stats:
        return batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    if running_mean is not None:
        raise RoundoffError("exact.instance_norm keeps no running statistics. Set track_running_stats=False.")
    _several("instance_norm", x[0, 0].numel() if x.numel() else 0)
    return affine(normalise(x.flatten(2), eps).reshape(x.shape), _by_channel(weight, x), _by_channel(bias, x))


def rms_norm(x: Tensor, normalized_shape: Any, weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    """x · rsqrt(mean(x · x) + eps) over the last dimensions, then · weight."""
    short_dtype("rms_norm", x, weight)
    count = _last("rms_norm", x, normalized_shape)
    flat = x.flatten(-count)
    add = torch.finfo(x.dtype).eps if eps is None else eps
    scale = ops.each(mean(flat * flat, -1, keepdim=True) + add, "rsqrt")
    return affine((flat * expand(scale, flat.shape)).reshape(x.shape), weight, None)


class _Norm(torch.autograd.Function):
    """sqrt Σ x · x; its gradient at a norm of 0 is 0, as PyTorch's is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: Any) -> Tensor:
        y = ops.each(sum(x * x, dim, keepdim=True), "sqrt")
        ctx.save_for_backward(x, y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        x, y = ctx.saved_tensors
        y, grad = expand(y, x.shape), expand(grad, x.shape)
        return torch.where(y == 0, 0.0, x / y * grad), None


def norm(x: Tensor, p: Any = 2, dim: Any = None, keepdim: bool = False) -> Tensor:
    """sqrt Σ x · x for p = 2, Σ abs x for p = 1, and the largest abs x for an infinite p."""
    short_dtype("norm", x)
    which = list(range(x.dim())) if dim is None else [dim] if isinstance(dim, int) else list(dim)
    if p in (2, "fro"):
        y: Tensor = _Norm.apply(x, which)  # type: ignore[no-untyped-call]
    elif p == 1:
        y = sum(x.abs(), which, keepdim=True)
    elif p == math.inf:
        y = x.abs().amax(which, keepdim=True)
    else:
        raise RoundoffError(f"exact.norm takes p of 1, 2 and inf, and {p} was given.")
    return y if keepdim else y.reshape([n for d, n in enumerate(x.shape) if d not in {i % x.dim() for i in which}])


def normalize(x: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:
    """x / max(norm x, eps)."""
    return x / expand(norm(x, p, dim, keepdim=True).clamp_min(eps), x.shape)


def var(x: Tensor, dim: Any = None, correction: float = 1, keepdim: bool = False) -> Tensor:
    """a = x - mean x; Σ a · a / (n - correction)."""
    short_dtype("var", x)
    which = list(range(x.dim())) if dim is None else [dim] if isinstance(dim, int) else list(dim)
    away = x - expand(mean(x, which, keepdim=True), x.shape)
    count = math.prod([x.shape[d] for d in which])
    return divided(sum(away * away, which, keepdim), max(0, count - correction))


def std(x: Tensor, dim: Any = None, correction: float = 1, keepdim: bool = False) -> Tensor:
    """The root of :func:`var`."""
    return ops.each(var(x, dim, correction, keepdim), "sqrt")
