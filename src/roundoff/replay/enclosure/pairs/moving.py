"""Pairs through operators that move, select and combine them one by one."""

from __future__ import annotations

from collections.abc import Callable
from math import hypot, isfinite
from typing import Any

import torch
from torch import Tensor

from roundoff.formats import is_inexact
from roundoff.replay.enclosure import ball as b
from roundoff.replay.enclosure.ball import Ball, Unknown, copied
from roundoff.replay.enclosure.moving import ONCE, move, windows
from roundoff.replay.enclosure.pairs import pair as p
from roundoff.replay.enclosure.pairs.pair import Pair, finished
from roundoff.replay.enclosure.pairs.registry import on_balls, pair, real, value
from roundoff.replay.enclosure.registry import Operation, certain, enclosure_of
from roundoff.replay.enclosure.sums import dims_of
from roundoff.rules.movement import COPIES, VIEWS, WRITES


def _copied(x: Ball) -> Tensor:
    return x.mid.clone() if is_inexact(x.mid.dtype) else certain(x)


def _pairs(o: Operation) -> list[Pair]:
    found: list[Pair] = []

    def note(x: Pair) -> Ball:
        found.append(x)
        return Ball(x.mid)

    on_balls(o, note)
    return found


@pair(*(set(COPIES) | set(VIEWS)) - set(WRITES))
def _moved(o: Operation) -> Pair | tuple[Pair, ...]:
    """The tails go where the numbers go; indices and masks must be certain.

    Overloads that write a number, or add what meets, share a name with those that only move.
    """
    if enclosure_of(o.op) is not move:
        raise Unknown("more than moving")
    return _tails_moved(o)


@pair("index_put", "_index_put_impl", "_unsafe_index_put")
def _index_put(o: Operation) -> Pair | tuple[Pair, ...]:
    if bool(o.arg(3, "accumulate", False)):
        raise Unknown("numbers that are added where they meet")
    return _tails_moved(o)


def _tails_moved(o: Operation) -> tuple[Pair, ...]:
    given = _pairs(o)
    mids = on_balls(o, lambda x: Ball(x.mid)).on(_copied)
    if not mids or any(not is_inexact(m.dtype) for m in mids):
        raise Unknown("whole numbers that are moved")
    if all(x.tail is None for x in given):
        return tuple(Pair(m) for m in mids)
    lows = on_balls(o, lambda x: Ball(x.low)).on(_copied)
    rads = on_balls(o, lambda x: Ball(x.error)).on(_copied)
    norm = hypot(*(0.0 if x.tail is None else x.tail.far for x in given)) if o.name in ONCE else None
    norm = None if norm is None else norm * (1 + 2.0**-40)
    return tuple(Pair(m, Ball(low, r, norm)) for m, low, r in zip(mids, lows, rads, strict=True))


def where(condition: Tensor, x: Pair, y: Pair) -> Pair:
    """x where the condition is true, else y."""
    mid = torch.where(condition, x.mid, y.mid)
    if x.tail is None and y.tail is None:
        return Pair(mid)
    norm = sum(copied(t.tail, mid.shape) for t in (x, y) if t.tail is not None) * (1 + 2.0**-40)
    low, rad = torch.where(condition, x.low, y.low), torch.where(condition, x.error, y.error)
    return Pair(mid, Ball(low.expand(mid.shape), rad.expand(mid.shape), norm))


def _mask(x: Any) -> Tensor:
    if not isinstance(x, Ball):
        raise Unknown("numbers taken for booleans")
    return certain(x).to(torch.bool)


@pair("where")
def _where(o: Operation) -> Pair:
    if not is_inexact(o.out[0].dtype):
        raise Unknown("whole numbers")
    return where(_mask(o.args[0]), value(o.args[1], o.out[0]), value(o.args[2], o.out[0]))


@pair("masked_fill")
def _masked_fill(o: Operation) -> Pair:
    return where(_mask(o.args[1]), value(o.arg(2, "value"), o.out[0]), real(o.args[0]))


@pair("fill")
def _fill(o: Operation) -> Pair:
    _floats(o)
    return p.moved(value(o.args[1], o.out[0]), lambda t: t.expand(o.out[0].shape), once=False)


@pair("constant_pad_nd")
def _pad(o: Operation) -> Pair:
    """Zeros around the numbers, or any other number that is exact."""
    x, around, number = real(o.args[0]), o.args[1], o.arg(2, "value", 0)
    if isinstance(number, (Pair, Ball)) or p.number(number, x.mid).tail is not None:
        raise Unknown("a padding that is not exact")
    mid = torch.constant_pad_nd(x.mid, around, number)
    if x.tail is None:
        return Pair(mid)
    rad = None if x.tail.rad is None else torch.constant_pad_nd(x.tail.rad, around)
    return Pair(mid, Ball(torch.constant_pad_nd(x.tail.mid, around), rad, x.tail.norm))


@pair("copy", "_to_copy")
def _cast(o: Operation) -> Pair:
    """A wide run does not round in a cast between formats of floats."""
    out = o.out[0]
    if not is_inexact(out.dtype) or out.is_complex():
        raise Unknown("whole numbers")
    x = real(o.args[1] if o.name == "copy" else o.args[0])
    shape = o.args[0].mid.shape
    norm = None if x.tail is None else copied(x.tail, shape)
    y = p.moved(x, lambda t: t.expand(shape), once=False)
    return y if y.tail is None else Pair(y.mid, Ball(y.tail.mid, y.tail.rad, norm))


# -- one by one -------------------------------------------------------------------------------------------------------


@pair("add", "sub", "rsub")
def _add(o: Operation) -> Pair:
    _floats(o)
    x, y = value(o.args[0], o.out[0]), value(o.args[1], o.out[0])
    if o.name == "rsub":
        x, y = y, x
    alpha = o.arg(2, "alpha", 1)
    if alpha != 1:
        y = p.mul(y, p.number(alpha, y.mid))
    return p.add(x, y) if o.name == "add" else p.sub(x, y)


def _floats(o: Operation) -> None:
    if not is_inexact(o.out[0].dtype) or o.out[0].is_complex():
        raise Unknown("whole or complex numbers")


@pair("mul")
def _mul(o: Operation) -> Pair:
    _floats(o)
    return p.mul(value(o.args[0], o.out[0]), value(o.args[1], o.out[0]))


@pair("div", "true_divide")
def _div(o: Operation) -> Pair:
    _floats(o)
    if o.kwargs.get("rounding_mode") is not None:
        raise Unknown("a whole quotient")
    x, y = value(o.args[0], o.out[0]), value(o.args[1], o.out[0])
    return p.div(x, y)


_One = Callable[[Pair], Pair]


def _reciprocal(x: Pair) -> Pair:
    return p.div(p.number(1, x.mid), x)


_POWERS: dict[Any, _One] = {2: p.square, 0.5: p.sqrt, -0.5: p.rsqrt, -1: _reciprocal, 1: lambda x: x,
                            3: lambda x: p.mul(p.square(x), x)}  # fmt: skip


@pair("pow", "square")
def _power(o: Operation) -> Pair:
    _floats(o)
    exponent = 2 if o.name == "square" else o.args[1]
    if isinstance(exponent, (Pair, Ball)) or not isinstance(o.args[0], (Pair, Ball)):
        raise Unknown("a power")
    x = real(o.args[0])
    if exponent not in _POWERS:
        raise Unknown("a power")
    return _POWERS[exponent](x)


@pair("neg", "positive", "sqrt", "rsqrt", "reciprocal")
def _one(o: Operation) -> Pair:
    _floats(o)
    x = real(o.args[0])
    rules: dict[str, _One] = {"neg": p.neg, "positive": lambda t: t, "sqrt": p.sqrt, "rsqrt": p.rsqrt}
    return rules.get(o.name, _reciprocal)(x)


@pair("addcmul", "addcdiv")
def _addc(o: Operation) -> Pair:
    _floats(o)
    start, x, y = (real(v) for v in o.args[:3])
    part = p.mul(x, y) if o.name == "addcmul" else p.div(x, y)
    scale = o.kwargs.get("value", 1)
    return p.add(start, part if scale == 1 else p.mul(part, p.number(scale, part.mid)))


@pair("abs")
def _abs(o: Operation) -> Pair:
    x = p.normal(real(o.args[0]))
    if x.tail is None:
        return Pair(x.mid.abs())
    return Pair(x.mid.abs(), Ball(x.tail.mid * torch.where(x.mid < 0, -1.0, 1.0), x.tail.rad, x.tail.norm))


@pair("leaky_relu")
def _leaky(o: Operation) -> Pair:
    """x or a part of it, which moves by no more than the larger slope makes of x, and both are 0 at 0."""
    _floats(o)
    x, slope = p.normal(real(o.args[0])), o.arg(1, "negative_slope", 0.01)
    here = p.without_error(x)
    part = p.mul(here, p.number(slope, x.mid))
    y = where(x.mid >= 0, here, part)  # where mid is 0 so is low
    if x.tail is None or x.tail.rad is None:
        return y
    most = max(1.0, abs(float(slope))) * (1 + 2.0**-40)
    tail = Ball(torch.zeros_like(y.mid), x.tail.rad * most, b.grown(x.tail.far, most))
    return finished(y.mid, tail if y.tail is None else b.add(y.tail, tail), x)


# -- selection --------------------------------------------------------------------------------------------------------


@pair("relu", "relu6", "hardtanh", "clamp", "clamp_min", "clamp_max")
def _clamp(o: Operation) -> Pair:
    limits: list[Any]
    if o.name in ("relu", "relu6"):
        limits = [0, None if o.name == "relu" else 6]
    elif o.name == "hardtanh":
        limits = [o.arg(1, "min_val", -1), o.arg(2, "max_val", 1)]
    elif o.name == "clamp_max":
        limits = [None, o.arg(1, "max")]
    else:
        limits = [o.arg(1, "min"), None if o.name == "clamp_min" else o.arg(2, "max")]
    x = real(o.args[0])
    for limit in limits:
        if limit is not None and (
            isinstance(limit, (Pair, Ball)) or not isfinite(limit) or p.number(limit, x.mid).tail is not None
        ):
            raise Unknown("a limit that is not exact")
    return p.clamped(x, *limits)


@pair("amax", "amin")
def _amax(o: Operation) -> Pair:
    """The largest is one of them, and moves by no more than the one that moves most."""
    x, keep = p.normal(real(o.args[0])), bool(o.arg(2, "keepdim", False))
    dims = dims_of(o.arg(1, "dim"), x.mid)
    best = (torch.amax if o.name == "amax" else torch.amin)(x.mid, dims, True)
    if x.tail is None:
        return Pair(best if keep else best.squeeze(dims))
    at = x.mid == best
    # Of equal midpoints the lows decide.
    low = x.low.masked_fill(~at, -torch.inf).amax(dims, True) if o.name == "amax" else \
        x.low.masked_fill(~at, torch.inf).amin(dims, True)  # fmt: skip
    y = finished(best, Ball(low, x.error.amax(dims, True)))
    return y if keep else p.moved(y, lambda t: t.squeeze(dims))


@pair("max_pool2d_with_indices", "max_pool3d_with_indices")
def _max_pool(o: Operation) -> tuple[Pair | Ball, ...]:
    """The largest of each window: numbers are ranked, midpoint first, and their ranks are pooled."""
    x = p.normal(real(o.args[0]))
    if bool(x.mid.isnan().any()):
        raise Unknown("a NaN")
    flat, low = x.mid.flatten(), x.low.flatten()
    order = low.argsort(stable=True)
    order = order[flat[order].argsort(stable=True)]
    ranks = torch.empty_like(flat)
    ranks[order] = torch.arange(flat.numel(), dtype=torch.float64, device=flat.device)
    best = on_balls(o, lambda _: Ball(ranks.reshape(x.mid.shape))).on(lambda t: t.mid)[0].to(torch.int64)
    at = order[best]
    if x.tail is None:
        return Pair(flat[at]), Ball(o.out[1], torch.full(o.out[1].shape, torch.inf, dtype=torch.float64))
    rad = on_balls(o, lambda _: Ball(x.error)).on(lambda t: t.mid)[0]
    norm = b.grown(x.tail.far, windows(o) ** 0.5)
    choice = torch.full(o.out[1].shape, torch.inf, dtype=torch.float64, device=flat.device)
    return Pair(flat[at], Ball(low[at], rad, norm)), Ball(o.out[1], choice)


@pair("sum", "mean")
def _sum(o: Operation) -> Pair:
    _floats(o)
    x, keep = real(o.args[0]), bool(o.arg(2, "keepdim", False))
    return (p.total if o.name == "sum" else p.mean)(x, dims_of(o.arg(1, "dim"), x.mid), keep)
