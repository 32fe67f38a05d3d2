"""Functions of pairs: exp and Φ in double words, with the error of each bound beforehand; others are composed of these.

A function is evaluated at mid + low. What the radius adds is no more than its slope makes of it, as in ``functions`` for
balls. Relative and absolute errors below are sums of those of the operations (see ``words``), of the table and of the
remainder of Taylor's series, rounded up generously; the tests look for larger ones with mpmath.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf, log

import torch
from torch import Tensor

from roundoff.formats import is_inexact
from roundoff.replay.enclosure import ball as b
from roundoff.replay.enclosure.ball import TINY, Ball, Unknown
from roundoff.replay.enclosure.functions import SLOPE, SMOOTH
from roundoff.replay.enclosure.pairs import pair as p
from roundoff.replay.enclosure.pairs import tables
from roundoff.replay.enclosure.pairs.pair import Pair, finished, normal, rough, two_sum, without_error
from roundoff.replay.enclosure.pairs.registry import pair, real
from roundoff.replay.enclosure.pairs.slices import power_of_two
from roundoff.replay.enclosure.pairs.words import Words, plus, plus_one, quick, times
from roundoff.replay.enclosure.registry import Operation

#: exp is off by this part of itself, where it is no less than exp(_LOWEST).
_EXP = 2.0**-100

#: Below, exp is less than 2^-995, and float64's own is taken; what is lost is less than TINY.
_LOWEST, _HIGHEST = -690.0, 709.0

#: Φ is off by this at most.
_PHI = 2.0**-100

#: x Φ(x) for x below -REACH, and x (1 - Φ(x)) above, are no more than φ there, 2.2e-32.
_BEYOND = 2.0**-105


def exp_words(x: Words) -> Words:
    """exp(x) for x within _LOWEST and _HIGHEST, to _EXP.

    x = k ln 2 / 256 + r with |r| < 0.0014, and exp(x) is 2^(k/256) exp(r). k times the first two parts of ln 2 / 256 is
    exact, and the third leaves 2^-111 of its product. Of exp(r) - 1 = r + r²/2 + r³/6 + r⁴/24 + q the first four terms are
    had in double words, and q, below 2^-54, in float64 up to r⁹/9!: what is left is below 2^-116.
    """
    one, two, three = tables.steps_of_ln2()
    k = (x[0] * (tables.STEPS / log(2))).round_()
    s, e = two_sum(x[0], -k * one)
    s, f = two_sum(s, -k * two)
    s, g = two_sum(s, x[1])
    r = quick(s, ((e + f) + g) - k * three)
    t = r[0]
    q = t.square().square() * t * (1 / 120 + t * (1 / 720 + t * (1 / 5040 + t * (1 / 40320 + t / 362880))))
    a = plus_one(times(plus_one(times(plus_one(r, 4.0), r), 12.0), r), 24.0)
    less = plus_one(times(times(a, r), _part(24, t)), q)
    power = k.to(torch.int64)
    table = tables.powers_of_two(t.device)
    at = power.remainder(tables.STEPS)
    y = times((table[0][at], table[1][at]), plus_one(less, 1.0))
    scale = power_of_two((power - at) // tables.STEPS)
    return y[0] * scale, y[1] * scale


def _part(n: int, like: Tensor) -> Words:
    """1/n."""
    high = 1.0 / n
    low = float.fromhex("0x1.5555555555555p-59") if n == 24 else inf
    return like.new_full((), high), like.new_full((), low)


def exp(x: Pair) -> Pair:
    """exp(x); its radius by exp(x + r) - exp(x)."""
    x = normal(x)
    inside = (x.mid >= _LOWEST) & (x.mid <= _HIGHEST)
    high, low = exp_words((torch.where(inside, x.mid, 0.0), torch.where(inside, x.low, 0.0)))
    own = high * _EXP + TINY
    if not bool(inside.all()):
        plain = x.mid.exp()
        given = x.mid == -inf  # whose exp is 0, exactly
        high, low = torch.where(inside, high, plain), torch.where(inside, low, 0.0)
        own = torch.where(inside, own, torch.where(given, 0.0, plain * 2.0**-40 + TINY))
    if x.tail is None or x.tail.rad is None:
        return finished(high, Ball(low, own), x)
    steep = (high * (1 + 2.0**-40) + TINY) * (1 + 2.0**-40)
    rad = b.up(own + steep * x.tail.rad.expm1())
    norm = b.grown(x.tail.far, steep * x.tail.rad.exp()) + b.l2(own)
    return finished(high, Ball(low, rad, norm), x)


def phi_words(x: Words) -> Words:
    """Φ(x), the normal distribution, for |x| <= REACH, to _PHI.

    By Taylor's series at the nearest of the tabulated points, at h <= 2^-7 from it. By Cramér's inequality (Abramowitz and
    Stegun, 22.14.17) |He_n φ| is at most 0.434 √n!, so that what is left after h^12 is below 2^-109, and what the last
    coefficients, in float64, lose is below 2^-105.
    """
    values, long, short = tables.normal(x[0].device)
    at = (x[0] * tables.PER_UNIT).round_()
    s, e = two_sum(x[0], -at / tables.PER_UNIT)
    h = plus_one((s, e), x[1])
    i = at.to(torch.int64) + tables.REACH * tables.PER_UNIT
    t = h[0]
    rest = short[-1][i]
    for column in reversed(short[:-1]):
        rest = rest * t + column[i]
    total: Words = quick(long[-1][0][i], long[-1][1][i] + rest * t)
    for high, low in reversed(long[:-1]):
        total = plus(times(total, h), (high[i], low[i]))
    return plus(times(total, h), (values[0][i], values[1][i]))


def gelu(x: Pair) -> Pair:
    """x Φ(x)."""
    here = normal(without_error(x))
    inside = here.mid.abs() <= tables.REACH
    u = torch.where(inside, here.mid, 0.0), torch.where(inside, here.low, 0.0)
    y = times(u, phi_words(u))
    above = here.mid > tables.REACH
    high = torch.where(inside, y[0], torch.where(above, here.mid, 0.0))
    low = torch.where(inside, y[1], torch.where(above, here.low, 0.0))
    own = torch.where(inside, u[0].abs() * (_PHI * 2) + TINY, _BEYOND)
    high = torch.where(here.mid.isnan(), here.mid, high)
    return sloped("gelu", x, Pair(high, Ball(low, own)))


def erf_here(x: Pair) -> Pair:
    """2 Φ(√2 x) - 1. Beyond REACH it is ±1, to 2^-105."""
    z = normal(p.mul(x, p.number(2**0.5, x.mid)))
    inside = z.mid.abs() <= tables.REACH
    high, low = phi_words((torch.where(inside, z.mid, 0.0), torch.where(inside, z.low, 0.0)))
    high, low = plus_one((2 * high, 2 * low), -1.0)
    ends = torch.where(z.mid.isnan(), z.mid, z.mid.sign())
    own = torch.where(inside, 2 * _PHI + z.error, _BEYOND)  # Φ is nowhere steeper than 0.4
    return Pair(torch.where(inside, high, ends), Ball(torch.where(inside, low, 0.0), own))


def sloped(name: str, x: Pair, y: Pair) -> Pair:
    """y, the function ``name`` at mid + low, with what its slope makes of the radius of x."""
    if x.tail is None or x.tail.rad is None:
        return finished(y.mid, y.tail or Ball(y.low), x)
    f = SMOOTH[name]
    # The slope at mid is computed; on the way to the furthest number of the ball it changes by the bend times that way.
    steep = f.slope(x.mid).clamp_min(0) + SLOPE + f.bend * rough(x).radius
    rad = b.up(y.error + steep * x.tail.rad)
    return finished(y.mid, Ball(y.low, rad, b.grown(x.tail.far, steep) + b.l2(y.error)), x)


def _decaying(x: Pair) -> tuple[Pair, Pair]:
    """exp(-|x|), and 1 more."""
    t = exp(signed(x, torch.where(x.mid < 0, 1.0, -1.0)))
    return t, p.add(p.number(1, x.mid), t)


def signed(x: Pair, sign: Tensor) -> Pair:
    """x times 1 or -1."""
    return Pair(x.mid * sign, None if x.tail is None else Ball(x.tail.mid * sign, x.tail.rad, x.tail.norm))


def sigmoid_here(x: Pair) -> Pair:
    """1 / (1 + exp(-x)) of what has no error: with exp(-|x|), which does not overflow."""
    x = normal(x)
    t, more = _decaying(x)
    one = Pair(torch.ones_like(x.mid))
    above = x.mid >= 0
    top = Pair(
        torch.where(above, one.mid, t.mid), Ball(torch.where(above, 0.0, t.low), torch.where(above, 0.0, t.error))
    )
    return p.div(top, more)


def tanh_here(x: Pair) -> Pair:
    """(1 - exp(-2 |x|)) / (1 + exp(-2 |x|)) with the sign of x."""
    x = normal(x)
    t, more = _decaying(Pair(x.mid * 2, None if x.tail is None else Ball(x.tail.mid * 2)))
    y = p.div(p.sub(p.number(1, x.mid), t), more)
    return signed(y, torch.where(x.mid < 0, -1.0, 1.0))


def gelu_tanh_here(x: Pair) -> Pair:
    """x / (1 + exp(-2 √(2/π) (x + 0.044715 x³)))."""
    high, low = tables.root_of_two_over_pi()
    root = Pair(x.mid.new_full((), 2 * high), Ball(x.mid.new_full((), 2 * low), x.mid.new_full((), high * 2.0**-104)))
    inner = p.mul(x, p.add(p.number(1, x.mid), p.mul(p.number(0.044715, x.mid), p.square(x))))
    inner = p.mul(root, inner)
    return p.mul(x, sigmoid_of(inner))


def sigmoid_of(x: Pair) -> Pair:
    """The sigmoid of numbers that have an error."""
    return sloped("sigmoid", x, sigmoid_here(without_error(x)))


_HERE: dict[str, Callable[[Pair], Pair]] = {
    "sigmoid": sigmoid_here,
    "tanh": tanh_here,
    "erf": erf_here,
    "silu": lambda x: p.mul(x, sigmoid_here(x)),
    "gelu_tanh": gelu_tanh_here,
}


@pair("exp", "gelu", "tanh", "sigmoid", "silu", "erf")
def _function(o: Operation) -> Pair:
    if not is_inexact(o.out[0].dtype) or o.out[0].is_complex():
        raise Unknown("whole or complex numbers")
    x = real(o.args[0])
    if o.name == "exp":
        return exp(x)
    name = "gelu_tanh" if o.kwargs.get("approximate") == "tanh" else o.name
    return gelu(x) if name == "gelu" else sloped(name, x, _HERE[name](without_error(x)))
