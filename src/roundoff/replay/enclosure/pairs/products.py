"""Pairs through sums of products: x w of the midpoints without error, and what it makes of the tails as balls."""

from __future__ import annotations

from math import prod

import torch

from roundoff.replay.enclosure import ball as b
from roundoff.replay.enclosure.ball import Ball, Unknown
from roundoff.replay.enclosure.moving import full
from roundoff.replay.enclosure.pairs.pair import Pair, add, div, finished, moved, mul, rough
from roundoff.replay.enclosure.pairs.pair import number as written
from roundoff.replay.enclosure.pairs.registry import pair, real
from roundoff.replay.enclosure.pairs.slices import Scaled, multiplied
from roundoff.replay.enclosure.products import Sums, convolutions, matrices
from roundoff.replay.enclosure.products import product as on_balls
from roundoff.replay.enclosure.registry import Operation


def product(x: Pair, w: Pair, sums: Sums, scaled: Scaled) -> Pair:
    """x w = x̂ ŵ + t_x (ŵ + t_w) + x̂ t_w."""
    y = multiplied(x.mid, w.mid, sums, scaled)
    assert y.tail is not None
    tail = y.tail
    if x.tail is not None:
        tail = b.add(tail, on_balls(x.tail, rough(w), sums))
    if w.tail is not None:
        # What is known of the norm of x̂ is that of any x: for convolutions nothing, and then radii alone count.
        tail = b.add(tail, on_balls(Ball(x.mid), w.tail, sums))
    return finished(y.mid, tail, x, w)


def matmul(x: Pair, w: Pair) -> Pair:
    """x @ w, of any shapes."""
    if min(x.mid.dim(), w.mid.dim()) < 2:
        shape = torch.matmul(x.mid, w.mid).shape
        rows = x if x.mid.dim() > 1 else moved(x, lambda t: t[None])
        cols = w if w.mid.dim() > 1 else moved(w, lambda t: t[:, None])
        return moved(matmul(rows, cols), lambda t: t.reshape(shape))
    if x.mid.shape[:-2] != w.mid.shape[:-2] and (x.mid.dim() > 2 and w.mid.dim() > 2):
        batch = torch.broadcast_shapes(x.mid.shape[:-2], w.mid.shape[:-2])
        x, w = (moved(p, lambda t: t.expand(*batch, *t.shape[-2:]), once=False) for p in (x, w))
    return product(x, w, matrices(x.mid, w.mid), Scaled([-1], [-2]))


@pair("mm", "bmm", "mv", "dot", "matmul")
def _mm(o: Operation) -> Pair:
    return matmul(real(o.args[0]), real(o.args[1]))


@pair("addmm", "baddbmm", "addmv")
def _addmm(o: Operation) -> Pair:
    added, x, w = (real(v) for v in o.args[:3])
    y = matmul(x, w)
    beta, alpha = o.kwargs.get("beta", 1), o.kwargs.get("alpha", 1)
    y = y if alpha == 1 else mul(y, written(alpha, y.mid))
    if beta == 0:
        return y
    return add(y, added if beta == 1 else mul(added, written(beta, y.mid)))


@pair("linear")
def _linear(o: Operation) -> Pair:
    x, w, bias = real(o.args[0]), real(o.args[1]), o.arg(2, "bias")
    y = matmul(x, moved(w, lambda t: t.t()))
    return y if bias is None else add(y, real(bias))


@pair("convolution", "_convolution")
def _convolution(o: Operation) -> Pair:
    return convolved(o)


def convolved(o: Operation) -> Pair:
    """The convolution ``o``."""
    x, w, bias = real(o.args[0]), real(o.args[1]), o.args[2]
    dims, transposed = w.mid.dim() - 2, o.args[6]
    scaled = Scaled(list(range(1, dims + 2)), list(range(1, dims + 2)), ((-1, *(1,) * (dims + 1)), (-1, *(1,) * dims)))
    if transposed:
        everything = list(range(dims + 2))
        scaled = Scaled(everything, everything)
    y = product(x, w, convolutions(o, x.mid, w.mid), scaled)
    if bias is None:
        return y
    return add(y, moved(real(bias), lambda t: t.reshape(-1, *(1,) * dims)))


@pair("avg_pool2d", "avg_pool3d")
def _avg_pool(o: Operation) -> Pair:
    """A convolution with ones, over the size of the window."""
    x, dims = real(o.args[0]), 3 if "3d" in o.name else 2
    kernel = full(o.args[1], dims)
    stride, padding = full(o.arg(2, "stride") or kernel, dims), full(o.arg(3, "padding", 0), dims)
    uneven = bool(o.arg(4, "ceil_mode", False)) or (any(padding) and not o.arg(5, "count_include_pad", True))
    if uneven or o.arg(6, "divisor_override") is not None or x.mid.dim() != dims + 2:
        raise Unknown("windows of several sizes")
    shape = x.mid.shape
    images = moved(x, lambda t: t.reshape(-1, 1, *shape[2:]))
    ones = Pair(torch.ones((1, 1, *kernel), dtype=torch.float64, device=x.mid.device))
    args = (images, ones, None, stride, padding, [1] * dims, False, [0] * dims, 1)
    y = convolved(Operation(torch.ops.aten.convolution.default, args, {}, o.out))
    return moved(div(y, written(prod(kernel), y.mid)), lambda t: t.reshape(*shape[:2], *t.shape[2:]))
