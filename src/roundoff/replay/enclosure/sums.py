"""Enclosures of sums, means, variances, norms and pooling."""

from __future__ import annotations

from math import inf, prod
from typing import Any

from torch import Tensor

from roundoff.formats import is_inexact
from roundoff.replay.enclosure.ball import (
    Ball,
    Unknown,
    div,
    gamma,
    grown,
    l2,
    mean,
    mul,
    number,
    square,
    sub,
    summed,
    total,
    up,
)
from roundoff.replay.enclosure.functions import sqrt_of
from roundoff.replay.enclosure.moving import windows
from roundoff.replay.enclosure.registry import Operation, certain, enclose, real


def dims_of(dim: Any, x: Tensor) -> list[int]:
    """The dimensions that an operator reduces: all of them where none are given."""
    if dim is None or (isinstance(dim, (list, tuple)) and not dim):
        return list(range(x.dim()))
    return [dim] if isinstance(dim, int) else list(dim)


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
    return Ball(x.mid.reshape(like.shape), None if x.rad is None else x.rad.reshape(like.shape), x.norm)


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
    padded = any(p != 0 for p in o.arg(3, "padding", [0])) and not o.arg(5, "count_include_pad", True)
    uneven = bool(o.arg(4, "ceil_mode", False)) or padded or o.arg(6, "divisor_override") is not None
    return _averaged(o, x, window, inf if uneven else float(windows(o)) ** 0.5 * window**-0.5)


@enclose("_adaptive_avg_pool2d", "_adaptive_avg_pool3d")
def _adaptive(o: Operation) -> Ball:
    x, sizes = real(o.args[0]), o.args[1]
    space = list(zip(x.mid.shape[-len(sizes) :], sizes, strict=True))
    gain = 1.0
    for n, m in space:  # windows of n / m numbers; where m does not divide n, neighbours may share one
        gain *= (m / n) ** 0.5 if n % m == 0 else (2 / max(n // m, 1)) ** 0.5 if m < n else float(-(-m // n) + 1) ** 0.5
    return _averaged(o, x, prod(-(-n // m) + 1 for n, m in space), gain)


def _averaged(o: Operation, x: Ball, window: int, gain: float) -> Ball:
    """``gain``: how much all errors together can grow. A mean of k errors squared is at most the mean of their squares."""
    (mid,) = o.on(lambda b: b.mid)
    own = up(o.on(lambda b: b.mid.abs())[0] * gamma(window + 2), window + 2)
    rad = own if x.rad is None else own + o.on(lambda b: b.radius)[0]
    return summed(mid, rad, window + 2, grown(x.far, gain) + l2(own))
