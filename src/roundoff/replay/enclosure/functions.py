"""Functions of one number on balls.

A function whose second derivative is at most M in size moves by at most (|f'(x)| + M r) r over [x - r, x + r]. Where no
such M exists (exp, log, powers) the ends of the interval are used. What float64's own kernel is off by is what the rules
allow: the constants that were measured for float32, widened; that float64 keeps them too is assumed, and tested.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import e, inf, pi, sqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from roundoff.formats import U64
from roundoff.replay.enclosure.ball import SMALLEST, TINY, Ball, copied, elementwise, grown, l2, tight
from roundoff.rules.elementwise import FLUSHED, FUNCTIONS, error_size
from roundoff.rules.ulps import roundings

_BY_NAME = {f.name: f for f in FUNCTIONS}

#: The slope is computed in float64 from numbers of about 1: it is off by less than this.
SLOPE = 2.0**-44


def kernel_error(name: str, x: Tensor, y: Tensor) -> Tensor:
    """How far a float64 kernel of the function ``name`` may be from its exact value: float64 of the shape of y."""
    n = roundings(name) * U64
    return error_size(_BY_NAME[name], x, y).mul_(n / (1 - n)).add_(FLUSHED * 2.0**-1022)


@dataclass(frozen=True)
class Smooth:
    """A function with a bounded second derivative: its slope in size, and the bound."""

    value: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    bend: float


def _density(x: Tensor) -> Tensor:
    density: Tensor = (-x.square() / 2).exp() / sqrt(2 * pi)
    return density


def _gelu_slope(x: Tensor) -> Tensor:
    slope: Tensor = torch.special.ndtr(x) + x * _density(x)
    return slope.abs()


def _silu_slope(x: Tensor) -> Tensor:
    s = x.sigmoid()
    return (s * (1 + x * (1 - s))).abs()


_C = sqrt(2 / pi)


def _gelu_tanh_slope(x: Tensor) -> Tensor:
    x = x.clamp(-1e2, 1e2)
    t = (_C * (x + 0.044715 * x**3)).tanh()
    return ((1 + t) / 2 + x / 2 * (1 - t.square()) * _C * (1 + 3 * 0.044715 * x.square())).abs()


def _mish_slope(x: Tensor) -> Tensor:
    t = F.softplus(x).tanh()
    return (t + x * (1 - t.square()) * x.sigmoid()).abs()


def _decay(x: Tensor) -> Tensor:
    return (-x.square()).exp() * (2 / sqrt(pi))


#: The bounds of the second derivatives are rounded up; a test searches for larger ones.
SMOOTH: dict[str, Smooth] = {
    "tanh": Smooth(torch.tanh, lambda x: 1 - x.tanh().square(), 0.77),
    "sigmoid": Smooth(torch.sigmoid, lambda x: x.sigmoid() * (1 - x.sigmoid()), 0.0963),
    "erf": Smooth(torch.erf, _decay, 2 * sqrt(2) / sqrt(pi) * e**-0.5 * 1.001),
    "erfc": Smooth(torch.erfc, _decay, 2 * sqrt(2) / sqrt(pi) * e**-0.5 * 1.001),
    "gelu": Smooth(F.gelu, _gelu_slope, 0.7979),
    "gelu_tanh": Smooth(lambda x: F.gelu(x, approximate="tanh"), _gelu_tanh_slope, 0.81),
    "silu": Smooth(F.silu, _silu_slope, 0.5001),
    "mish": Smooth(F.mish, _mish_slope, 0.65),
    "softplus": Smooth(F.softplus, torch.sigmoid, 0.2501),
    "log_sigmoid_forward": Smooth(F.logsigmoid, lambda x: (-x).sigmoid(), 0.2501),
    "sin": Smooth(torch.sin, lambda x: x.cos().abs(), 1.0),
    "cos": Smooth(torch.cos, lambda x: x.sin().abs(), 1.0),
    "atan": Smooth(torch.atan, lambda x: 1 / (1 + x.square()), 0.6496),
    "asinh": Smooth(torch.asinh, lambda x: 1 / (1 + x.square()).sqrt(), 0.385),
}


def smooth(name: str, x: Ball) -> Ball:
    """One of :data:`SMOOTH`."""
    f = SMOOTH[name]
    y = f.value(x.mid)
    own = kernel_error(name, x.mid, y)
    if x.rad is None:
        return elementwise(y, own, x)
    steep = f.slope(x.mid).clamp_min(0) + SLOPE + f.bend * x.rad
    return elementwise(y, own + steep * x.rad, x, norm=grown(x.far, steep) + l2(own))


def exp(x: Ball) -> Ball:
    """exp: the ends are exp(x) exp(±r)."""
    y = x.mid.exp()
    own = kernel_error("exp", x.mid, y)
    if x.rad is None:
        return elementwise(y, own, x)
    low = (y * (1 + 64 * U64) + TINY) * (1 + 64 * U64)
    norm = grown(x.far, low * x.rad.exp()) + l2(own)
    return elementwise(y, own + low * x.rad.expm1(), x, norm=norm)


def exp_of(name: str, x: Ball) -> Ball:
    """exp2 and expm1 by way of exp's ends."""
    y = x.mid.exp2() if name == "exp2" else x.mid.expm1()
    own = kernel_error(name, x.mid, y)
    if x.rad is None:
        return elementwise(y, own, x)
    steep, reach = (y, x.rad * 0.6932) if name == "exp2" else (x.mid.exp(), x.rad)
    steep = (steep * (1 + 64 * U64) + TINY) * (1 + 64 * U64)
    return elementwise(y, own + steep * reach.expm1(), x, norm=grown(x.far, steep * reach.exp()) + l2(own))


def no_steeper(f: Callable[[Ball], Ball], x: Ball, most: float) -> Ball:
    """f(x), where ``most`` bounds the slope of f everywhere: what f itself rounds is what it does to exact numbers."""
    y = f(x)
    if x.rad is None:
        return y
    own = f(Ball(x.mid)).radius
    rad = torch.minimum(y.radius, x.rad * (most * (1 + 2.0**-40)) + own)
    return tight(Ball(y.mid, rad, grown(x.far, most) + l2(own)))


_UNIT = {"log": 1.0, "log2": 1.4427, "log10": 0.4343, "log1p": 1.0}


def log(x: Ball, name: str = "log") -> Ball:
    """Logarithms: the lower end is further, by -log(1 - r / x). Nothing is known where the argument may be 0."""
    y: Tensor = getattr(torch, name)(x.mid)
    rad = kernel_error(name, x.mid, y)
    if x.rad is not None:
        argument = 1 + x.mid if name == "log1p" else x.mid
        share = x.rad / argument * (1 + 16 * U64)
        inside = (argument > 0) & (share < 0.5)
        moved = torch.where(inside, -torch.log1p(-share.clamp(0, 0.5)) * _UNIT[name] * (1 + 64 * U64), inf)
        rad = rad + torch.where(x.rad == 0, 0.0, moved)
    return elementwise(y, rad, x)


def sqrt_of(x: Ball, known: bool = False) -> Ball:
    """√x; ``known``: the exact number is not negative, whatever the ball reaches."""
    y = x.mid.clamp_min(0).sqrt() if known else x.mid.sqrt()
    rad = kernel_error("sqrt", x.mid, y)
    if x.rad is not None:
        low = (x.mid - x.rad).clamp_min(0).sqrt()
        moved = torch.minimum(x.rad / (y + low) * (1 + 64 * U64), x.rad.sqrt() * (1 + 4 * U64))
        moved = torch.where(x.rad == 0, 0.0, torch.where(y + low > 0, moved, x.rad.sqrt() * (1 + 4 * U64)))
        if known:
            moved = torch.where(x.mid < 0, (x.rad - x.mid).clamp_min(0).sqrt() * (1 + 4 * U64), moved)
        else:
            moved = torch.where(x.mid < x.rad, inf, moved)
        rad = rad + moved
    return elementwise(y, rad, x)


def rsqrt(x: Ball) -> Ball:
    """1/√x. Nothing is known where x may be 0."""
    y = x.mid.rsqrt()
    rad = kernel_error("rsqrt", x.mid, y)
    if x.rad is not None:
        low = x.mid - x.rad - x.mid.abs() * (4 * U64)
        root, least = x.mid.sqrt(), low.clamp_min(0).sqrt()

        def per(t: Tensor) -> Tensor:  # one division after the other: the product may leave the range of float64
            return torch.where(low > 0, t / root / least / (root + least) * (1 + 64 * U64), inf)

        moved = rad + torch.where(x.rad == 0, 0.0, per(x.rad))
        steep = per(torch.ones_like(root)).clamp_min(SMALLEST)
        return elementwise(y, moved, x, norm=grown(x.far, steep) + l2(rad))
    return elementwise(y, rad, x)


def reciprocal(x: Ball) -> Ball:
    """1/x. Nothing is known where x may be 0."""
    y = x.mid.reciprocal()
    rad = kernel_error("reciprocal", x.mid, y)
    if x.rad is not None:
        least = x.mid.abs() * (1 - 4 * U64) - x.rad
        rad = rad + torch.where(least > 0, x.rad / x.mid.abs() / least * (1 + 16 * U64), inf)
    return elementwise(y, rad, x)


def power(x: Ball, exponent: float) -> Ball:
    """x to a power that is written in Python: its steepest end is one of the two."""
    special: dict[float, Callable[[Ball], Ball]] = {0.5: sqrt_of, -0.5: rsqrt, -1.0: reciprocal, 1.0: lambda b: b}
    y = x.mid.pow(exponent)
    if x.rad is None:
        pass
    elif exponent in special:
        return special[exponent](x)
    whole = exponent == round(exponent)
    n = roundings("pow") * U64
    rad = y.abs() * (n / (1 - n)) + FLUSHED * 2.0**-1022
    if not whole:
        rad = rad + y.abs() * (x.mid.abs().log().abs() * abs(exponent) * (4 * U64)).nan_to_num(posinf=0.0)
    if x.rad is not None:
        high = x.mid.abs() + x.rad * (1 + 4 * U64)
        low = x.mid.abs() * (1 - 4 * U64) - x.rad
        # x^e (r / x), for x^(e - 1) may underflow where that does not; at 0 nothing is lost by a power above 1
        ends = high.pow(exponent) * (x.rad / high)
        if not (whole and exponent > 0):
            ends = torch.maximum(ends, low.clamp_min(0).pow(exponent) * (x.rad / low.clamp_min(0)))
        moved = abs(exponent) * ends * (1 + 2**-30)
        known = torch.ones_like(y, dtype=torch.bool) if whole and exponent > 0 else low > 0
        rad = rad + torch.where(x.rad == 0, 0.0, torch.where(known & (whole | (x.mid > 0)), moved, inf))
    return elementwise(y, rad, x)


def clamped(x: Ball, low: Ball | None, high: Ball | None) -> Ball:
    """x between two limits: it moves by no more than they do, and not at all where it is cut off for certain."""
    y = x.mid
    least, most = x.mid - x.radius, x.mid + x.radius
    moved: Any = x.radius
    for limit, cut in ((low, torch.maximum), (high, torch.minimum)):
        if limit is not None:
            y = cut(y, limit.mid)
            least, most = cut(least, limit.mid), cut(most, limit.mid)
            if limit.rad is not None:
                moved = torch.maximum(moved, limit.rad)
    if (low is None or low.rad is None) and (high is None or high.rad is None):
        spread = torch.maximum(most - y, y - least)
        spread = spread + torch.where(spread > 0, x.mid.abs() * (4 * U64), 0.0)
        moved = torch.minimum(moved, spread)
    norm = x.far
    for limit in (low, high):
        norm += 0.0 if limit is None else copied(limit, y.shape)
    return elementwise(y, moved, x, norm=norm)


def stepped(x: Ball, jump: Callable[[Tensor], Tensor]) -> Ball:
    """A rising step function such as floor: exact, unless a step lies within reach."""
    y = jump(x.mid)
    if x.rad is None:
        return Ball(y)
    r = x.rad * (1 + 4 * U64) + torch.where(x.rad > 0, x.mid.abs() * (2 * U64), 0.0)
    rad = torch.maximum(jump(x.mid + r) - y, y - jump(x.mid - r))
    return elementwise(y, rad, x)
