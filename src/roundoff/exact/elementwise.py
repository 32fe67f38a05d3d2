"""Elementwise functions, correctly rounded.

A function is computed in float64. Its value is taken to be within ``ROOM`` of itself, relatively; where both ends of
that interval round to the same number, it is the correctly rounded one. The few others are computed to hundreds of
digits. ``ROOM`` is the one thing here that is assumed and not proved: no float64 function of PyTorch comes with a proof.
It is at least 16 times what was measured against 400 bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import torch
from torch import Tensor

from roundoff.errors import RoundoffError
from roundoff.exact.rounding import as_bits, narrow, narrow_into, nearest, places, same, to_odd, two_sum
from roundoff.exact.slow import SELU_ALPHA, SELU_SCALE, SLOW, value_of

#: Relative error that a float64 function is allowed. In the tails of GELU the argument's own rounding is multiplied.
ROOM = 2.0**-47
ROOM_TAIL = 2.0**-42

BLOCK = 1 << 16  # elements at once: what is made of them fits the cache

_TAILS = {"gelu", "gelu_tanh", "erfc"}


def _gelu(x: Tensor) -> Tensor:
    # x Φ(x), by the complement so that the left tail keeps its digits; infinite arguments have their limits
    y = 0.5 * x * torch.special.erfc(x * -math.sqrt(0.5))
    return torch.where(x == -math.inf, -0.0, y)


def _gelu_tanh(x: Tensor) -> Tensor:
    y = x * torch.sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))
    return torch.where(x == -math.inf, -0.0, y)


def _silu(x: Tensor) -> Tensor:
    return torch.where(x == -math.inf, -0.0, x * torch.sigmoid(x))


def _mish(x: Tensor) -> Tensor:
    return torch.where(x == -math.inf, -0.0, x * torch.tanh(_softplus(x)))


def _selu(x: Tensor) -> Tensor:
    return torch.where(x > 0, x * SELU_SCALE, torch.expm1(x) * (SELU_ALPHA * SELU_SCALE))


def _softplus(x: Tensor) -> Tensor:
    return x.clamp(min=0) + torch.log1p(torch.exp(-x.abs()))


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": torch.exp,
    "exp2": torch.exp2,
    "expm1": torch.expm1,
    "log": torch.log,
    "log1p": torch.log1p,
    "log2": torch.log2,
    "log10": torch.log10,
    "sqrt": torch.sqrt,
    "rsqrt": lambda x: 1 / torch.sqrt(x),
    "sin": torch.sin,
    "cos": torch.cos,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": _softplus,
    "logsigmoid": lambda x: -_softplus(-x),
    "silu": _silu,
    "mish": _mish,
    "selu": _selu,
    "erf": torch.erf,
    "erfc": torch.special.erfc,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
}


def each(x: Tensor, name: str) -> Tensor:
    """The function ``name`` at each element, correctly rounded to the format of ``x``; contiguous as ``x`` is.

    Raises RoundoffError for a function that is not known.
    """
    if name not in FUNCTIONS:
        raise RoundoffError(f"There is no exact.{name}. Known: {', '.join(FUNCTIONS)}.")
    function, room = FUNCTIONS[name], ROOM_TAIL if name in _TAILS else ROOM
    out = torch.empty_like(x)
    dense = out.is_contiguous() and x.is_contiguous()
    flat, target = (x.reshape(-1), out.reshape(-1)) if dense else (x.reshape(-1), x.new_empty(x.numel()))
    for i in range(0, len(flat), BLOCK):
        some = slice(i, i + BLOCK)
        _part(flat[some].to(torch.float64), name, function, room, target[some])
    if not dense:
        out.copy_(target.view(x.shape))
    return out


def _part(x: Tensor, name: str, function: Callable[[Tensor], Tensor], room: float, out: Tensor) -> None:
    y = function(x)
    wide = y * (1 - room)
    low = narrow(wide, out.dtype)
    narrow_into(torch.mul(y, 1 + room, out=wide), out)
    if math.isnan(float(out.sum())):
        out.masked_fill_(y.isnan(), torch.nan)  # one NaN, where processors have two
    at = places(as_bits(low) != as_bits(out))
    if len(at):
        at = at[y[at].isfinite()]
        arguments, which = x[at].unique(return_inverse=True)
        values = [nearest(value_of(SLOW[name], v), out.dtype) for v in arguments.tolist()]
        if values:
            out[at] = torch.stack(values).to(out.device)[which]


def power(x: Tensor, exponent: int) -> Tensor:
    """``x`` to a whole power, correctly rounded; a square or a cube takes no longer than its float64 product."""
    wide = x.to(torch.float64)
    if exponent == 0:
        return torch.ones_like(x)
    y = wide**exponent
    room = y.abs() * (abs(exponent) * 2.0**-50)
    if exponent == 2:
        return narrow(y, x.dtype)  # exact in float64
    low, high = narrow(y - room, x.dtype), narrow(y + room, x.dtype)
    out = torch.where(y.isfinite() & (y != 0), high, narrow(torch.where(y.isnan(), torch.nan, y), x.dtype))
    apart = ~same(low, high) & y.isfinite() & (y != 0)
    if bool(apart.any()):
        values = [nearest(Fraction(v) ** exponent, x.dtype) for v in wide[apart].tolist()]
        out[apart] = torch.stack(values).to(out.device)
    return out


def multiply_add(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``x + a · b``, correctly rounded: the product is exact in float64, the error of the addition is kept."""
    hi, lo = two_sum(x.to(torch.float64), a.to(torch.float64) * b.to(torch.float64))
    return narrow(to_odd(hi, torch.where(hi.isfinite(), lo, 0.0)), x.dtype).contiguous()
