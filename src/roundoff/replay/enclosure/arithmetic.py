"""Enclosures of sums, products, quotients and functions, element by element."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from roundoff.formats import U64, is_inexact
from roundoff.replay.enclosure.ball import Ball, Unknown, add, div, elementwise, mean, mul, number, square, sub, total
from roundoff.replay.enclosure.functions import (
    SMOOTH,
    clamped,
    exp,
    exp_of,
    log,
    no_steeper,
    power,
    reciprocal,
    rsqrt,
    smooth,
    sqrt_of,
)
from roundoff.replay.enclosure.registry import Operation, certain, enclose, real


def _value(value: Any, like: Tensor) -> Ball:
    return real(value) if isinstance(value, Ball) else number(value, like)


def _two(o: Operation) -> tuple[Ball, Ball]:
    return _value(o.args[0], o.out[0]), _value(o.args[1], o.out[0])


def _whole(o: Operation) -> Ball | None:
    """The result, where it is an integer or a boolean: exact if its operands are certain."""
    if is_inexact(o.out[0].dtype):
        return None
    return Ball(o.on(lambda b: certain(b).clone())[0])


@enclose("add", "sub", "rsub")
def _add(o: Operation) -> Ball:
    whole = _whole(o)
    if whole is not None:
        return whole
    x, y = _two(o)
    if o.name == "rsub":
        x, y = y, x
    alpha = o.arg(2, "alpha", 1)
    if alpha != 1:
        y = mul(y, number(alpha, y.mid))
    return add(x, y) if o.name == "add" else sub(x, y)


@enclose("mul")
def _mul(o: Operation) -> Ball:
    return _whole(o) or mul(*_two(o))


@enclose("div", "true_divide")
def _div(o: Operation) -> Ball:
    if o.kwargs.get("rounding_mode") is not None:
        whole = _whole(o)
        if whole is None:
            raise Unknown("a whole quotient of numbers with an error")
        return whole
    return div(*_two(o))


@enclose("floor_divide", "remainder", "fmod")
def _integers(o: Operation) -> Ball:
    whole = _whole(o)
    if whole is None:
        raise Unknown("a remainder of numbers with an error")
    return whole


@enclose("pow")
def _pow(o: Operation) -> Ball:
    whole = _whole(o)
    if whole is not None:
        return whole
    x, e = o.args[:2]
    if isinstance(x, Ball) and not isinstance(e, Ball):
        return square(real(x)) if e == 2 else power(real(x), float(e))
    if not isinstance(x, Ball):
        return exp(mul(real(e), log(number(x, o.out[0]))))
    if e.mid.dim() == 0 and e.rad is None:
        return power(real(x), float(e.mid))
    return exp(mul(real(e), log(real(x))))


@enclose("square")
def _square(o: Operation) -> Ball:
    return square(real(o.args[0]))


@enclose("addcmul", "addcdiv")
def _addc(o: Operation) -> Ball:
    start, x, y = (real(v) for v in o.args[:3])
    part = mul(x, y) if o.name == "addcmul" else div(x, y)
    value = o.kwargs.get("value", 1)
    return add(start, part if value == 1 else mul(part, number(value, part.mid)))


@enclose("lerp")
def _lerp(o: Operation) -> Ball:
    start, end = real(o.args[0]), real(o.args[1])
    return add(start, mul(_value(o.args[2], start.mid), sub(end, start)))


@enclose(*(set(SMOOTH) - {"gelu", "gelu_tanh", "softplus", "log_sigmoid_forward"}))
def _smooth(o: Operation) -> Ball:
    return smooth(o.name, real(o.args[0]))


@enclose("gelu")
def _gelu(o: Operation) -> Ball:
    return smooth("gelu_tanh" if o.kwargs.get("approximate") == "tanh" else "gelu", real(o.args[0]))


@enclose("softplus")
def _softplus(o: Operation) -> Ball:
    """log(1 + exp(βx)) / β; past the threshold x itself, which is less by exp(-threshold) / β at most."""
    x, beta, threshold = real(o.args[0]), o.arg(1, "beta", 1), float(o.arg(2, "threshold", 20))
    scaled = x if beta == 1 else mul(x, number(beta, x.mid))
    y = smooth("softplus", scaled)
    y = y if beta == 1 else div(y, number(beta, x.mid))
    straight = scaled.mid > threshold
    mid, rad = torch.where(straight, x.mid, y.mid), torch.where(straight, x.radius, y.radius)
    reach = scaled.radius + scaled.mid.abs() * (4 * U64)
    near = ((scaled.mid - threshold).abs() <= reach) & (reach > 0)
    either = torch.maximum(x.radius, y.radius) + (x.mid - y.mid).abs() * (1 + 2**-40)
    return elementwise(mid, torch.where(near, either, rad), x)


@enclose("log_sigmoid_forward")
def _log_sigmoid(o: Operation) -> tuple[Ball, ...]:
    return smooth("log_sigmoid_forward", real(o.args[0])), *(Ball(b, b.new_full(b.shape, torch.inf)) for b in o.out[1:])


@enclose("exp", "exp2", "expm1")
def _exp(o: Operation) -> Ball:
    return exp(real(o.args[0])) if o.name == "exp" else exp_of(o.name, real(o.args[0]))


@enclose("log", "log2", "log10", "log1p")
def _log(o: Operation) -> Ball:
    return log(real(o.args[0]), o.name)


@enclose("sqrt", "rsqrt", "reciprocal")
def _root(o: Operation) -> Ball:
    return {"sqrt": sqrt_of, "rsqrt": rsqrt, "reciprocal": reciprocal}[o.name](real(o.args[0]))


@enclose("leaky_relu")
def _leaky(o: Operation) -> Ball:
    slope, zero = number(o.arg(1, "negative_slope", 0.01), o.out[0]), number(0, o.out[0])

    def leaky(x: Ball) -> Ball:
        return add(clamped(x, zero, None), mul(clamped(x, None, zero), slope))

    return no_steeper(leaky, real(o.args[0]), max(1.0, float(slope.size)))


@enclose("_prelu_kernel")
def _prelu(o: Operation) -> Ball:
    x, slope, zero = real(o.args[0]), real(o.args[1]), number(0, o.out[0])
    return add(clamped(x, zero, None), mul(clamped(x, None, zero), slope))


@enclose("elu", "celu")
def _elu(o: Operation) -> Ball:
    """scale (max(x, 0) + α (exp(s min(x, 0)) - 1))."""
    x, zero = real(o.args[0]), number(0, o.out[0])
    alpha = o.arg(1, "alpha", 1)
    scale, inner = (1, 1) if o.name == "celu" else (o.arg(2, "scale", 1), o.arg(3, "input_scale", 1))

    def elu(x: Ball) -> Ball:
        low = clamped(x, None, zero)
        if o.name == "celu" and alpha != 1:
            low = div(low, number(alpha, x.mid))
        if inner != 1:
            low = mul(low, number(inner, x.mid))
        y = add(clamped(x, zero, None), mul(exp_of("expm1", low), number(alpha, x.mid)))
        return y if scale == 1 else mul(y, number(scale, x.mid))

    left = 1.0 if o.name == "celu" else abs(float(alpha) * float(inner))
    return no_steeper(elu, x, abs(float(scale)) * max(1.0, left))


@enclose("hardsigmoid", "hardswish")
def _hard(o: Operation) -> Ball:
    zero, three, six = (number(n, o.out[0]) for n in (0, 3, 6))

    def hard(x: Ball) -> Ball:
        ramp = clamped(add(x, three), zero, six)
        return div(ramp if o.name == "hardsigmoid" else mul(x, ramp), six)

    return no_steeper(hard, real(o.args[0]), 1 / 6 if o.name == "hardsigmoid" else 1.5)


@enclose("glu")
def _glu(o: Operation) -> Ball:
    x, dim = real(o.args[0]), int(o.arg(1, "dim", -1))
    (a, b), rads = x.mid.chunk(2, dim), (None, None) if x.rad is None else x.rad.chunk(2, dim)
    return mul(Ball(a, rads[0]), smooth("sigmoid", Ball(b, rads[1])))


@enclose("native_dropout", "_fused_dropout", "dropout")
def _dropout(o: Operation) -> tuple[Ball, ...] | Ball:
    """The native mask, applied: what is kept is divided by a number."""
    x, out = real(o.args[0]), o.out[0]
    p = float(o.args[1])
    if o.name == "dropout" or (o.name == "native_dropout" and (o.args[2] is False or p == 0)):
        if o.name == "dropout" and o.args[2] and p > 0:
            raise Unknown("dropout whose mask is not seen")
        return (x, *(Ball(b) for b in o.out[1:])) if len(o.out) > 1 else x
    keep = sub(number(1, out), number(p, out)) if o.name == "native_dropout" else number(p, out)
    kept = div(mul(x, Ball(o.out[1].to(torch.float64))), keep)
    return kept, Ball(o.out[1])


@enclose("mse_loss")
def _mse(o: Operation) -> Ball:
    gap, reduction = square(sub(real(o.args[0]), real(o.args[1]))), int(o.arg(2, "reduction", 1))
    dims = list(range(gap.mid.dim()))
    return gap if reduction == 0 else mean(gap, dims) if reduction == 1 else total(gap, dims)
