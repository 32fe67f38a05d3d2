"""Enclosures of products of matrices, convolutions, sums, means, variances and pooling."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor

from roundoff.formats import is_inexact
from roundoff.replay.enclosure.ball import (
    Ball,
    Unknown,
    add,
    div,
    gamma,
    mean,
    mul,
    number,
    product,
    square,
    sub,
    summed,
    total,
)
from roundoff.replay.enclosure.functions import sqrt_of
from roundoff.replay.enclosure.registry import Operation, certain, enclose, real


def dims_of(dim: Any, x: Tensor) -> list[int]:
    """The dimensions that an operator reduces: all of them where none are given."""
    if dim is None or (isinstance(dim, (list, tuple)) and not dim):
        return list(range(x.dim()))
    return [dim] if isinstance(dim, int) else list(dim)


# -- products ---------------------------------------------------------------------------------------------------------


def matmul(x: Ball, w: Ball) -> Ball:
    """x @ w, of any shapes."""
    return product(x, w, torch.matmul, x.mid.shape[-1] + 1)


@enclose("mm", "bmm", "mv", "dot", "matmul")
def _mm(o: Operation) -> Ball:
    return matmul(real(o.args[0]), real(o.args[1]))


@enclose("addmm", "baddbmm", "addmv", "addbmm")
def _addmm(o: Operation) -> Ball:
    if o.name == "addbmm":
        raise Unknown("a sum over a batch of products")
    added, x, w = (real(v) for v in o.args[:3])
    y = matmul(x, w)
    beta, alpha = o.kwargs.get("beta", 1), o.kwargs.get("alpha", 1)
    y = y if alpha == 1 else mul(y, number(alpha, y.mid))
    if beta == 0:
        return y
    return add(y, added if beta == 1 else mul(added, number(beta, y.mid)))


def linear(x: Ball, w: Ball, bias: Ball | None) -> Ball:
    """x wᵀ + bias."""
    y = matmul(x, Ball(w.mid.t(), None if w.rad is None else w.rad.t()))
    return y if bias is None else add(y, bias)


@enclose("linear")
def _linear(o: Operation) -> Ball:
    bias = o.arg(2, "bias")
    return linear(real(o.args[0]), real(o.args[1]), None if bias is None else real(bias))


@enclose("convolution", "_convolution")
def _convolution(o: Operation) -> Ball:
    x, w, bias = real(o.args[0]), real(o.args[1]), o.args[2]
    stride, padding, dilation, transposed, extra, groups = o.args[3:9]

    def times(a: Tensor, b: Tensor) -> Tensor:
        y: Tensor = torch.ops.aten.convolution(a, b, None, stride, padding, dilation, transposed, extra, groups)
        return y

    channels = w.mid.shape[0] // groups if transposed else w.mid.shape[1]
    y = product(x, w, times, channels * prod(w.mid.shape[2:]) + 1)
    if bias is None:
        return y
    shape = (-1, *(1,) * (w.mid.dim() - 2))
    b = real(bias)
    return add(y, Ball(b.mid.reshape(shape), None if b.rad is None else b.rad.reshape(shape)))


# -- sums -------------------------------------------------------------------------------------------------------------


@enclose("sum", "mean")
def _sum(o: Operation) -> Ball:
    if not is_inexact(o.out[0].dtype):
        return Ball(o.on(certain)[0])
    x, keep = real(o.args[0]), bool(o.arg(2, "keepdim", False))
    return (total if o.name == "sum" else mean)(x, dims_of(o.arg(1, "dim"), x.mid), keep)


@enclose("cumsum")
def _cumsum(o: Operation) -> Ball:
    if not is_inexact(o.out[0].dtype):
        return Ball(o.on(certain)[0])
    x, dim = real(o.args[0]), int(o.arg(1, "dim"))
    n = x.mid.shape[dim] if x.mid.dim() else 1
    return summed(x.mid.cumsum(dim), (x.mid.abs() * gamma(n) + x.radius).cumsum(dim), n)


def moments(x: Ball, dims: list[int]) -> tuple[Ball, Ball, Ball]:
    """The mean, what is left of x without it, and the mean of the squares of that; dimensions are kept."""
    m = mean(x, dims, True)
    centred = sub(x, m)
    return m, centred, mean(square(centred), dims, True)


@enclose("var", "std", "var_mean", "std_mean")
def _var(o: Operation) -> Ball | tuple[Ball, ...]:
    x = real(o.args[0])
    second = o.arg(1, "dim")
    dims = dims_of(None if isinstance(second, bool) else second, x.mid)
    correction = o.kwargs.get("correction")
    if correction is None:
        unbiased = second if isinstance(second, bool) else o.arg(2, "unbiased", True)
        correction = 1 if unbiased else 0
    m, _, variance = moments(x, dims)
    n = x.mid.numel() / max(variance.mid.numel(), 1)
    if correction:
        variance = mul(variance, div(number(n, x.mid), number(n - float(correction), x.mid)))
    spread = sqrt_of(variance, known=True) if o.name.startswith("std") else variance
    spread, m = (_shaped(b, o.out[0]) for b in (spread, m))
    return (spread, m) if o.name.endswith("_mean") else spread


def _shaped(x: Ball, like: Tensor) -> Ball:
    return Ball(x.mid.reshape(like.shape), None if x.rad is None else x.rad.reshape(like.shape))


@enclose("linalg_vector_norm")
def _norm(o: Operation) -> Ball:
    x, p = real(o.args[0]), float(o.arg(1, "ord", 2))
    dims, keep = dims_of(o.arg(2, "dim"), x.mid), bool(o.arg(3, "keepdim", False))
    if p == 1:
        return total(Ball(x.mid.abs(), x.rad), dims, keep)
    if p != 2:
        raise Unknown(f"the norm of order {p:g}")
    return sqrt_of(total(square(x), dims, keep), known=True)


@enclose("avg_pool2d", "avg_pool3d")
def _avg_pool(o: Operation) -> Ball:
    """A mean over windows: the operator itself on the sizes bounds what it rounds."""
    x = real(o.args[0])
    size = o.args[1]
    window = prod(size) if len(size) > 1 else size[0] ** (len(o.out[0].shape) - 2)
    return _averaged(o, x, window)


@enclose("_adaptive_avg_pool2d", "_adaptive_avg_pool3d")
def _adaptive(o: Operation) -> Ball:
    x, sizes = real(o.args[0]), o.args[1]
    return _averaged(o, x, prod(-(-n // m) + 1 for n, m in zip(x.mid.shape[-len(sizes) :], sizes, strict=True)))


def _averaged(o: Operation, x: Ball, window: int) -> Ball:
    (mid,) = o.on(lambda b: b.mid)
    (rad,) = o.on(lambda b: b.mid.abs() * gamma(window + 2) + b.radius)
    return summed(mid, rad, window + 2)
