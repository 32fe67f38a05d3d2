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
from roundoff.exact.rounding import narrow, nearest, same, to_odd, two_sum
from roundoff.exact.slow import SELU_ALPHA, SELU_SCALE, SLOW, value_of

#: Relative error that a float64 function is allowed. In the tails of GELU the argument's own rounding is multiplied.
ROOM = 2.0**-47
ROOM_TAIL = 2.0**-42

BLOCK = 1 << 18

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
        part = flat[i : i + BLOCK]
        target[i : i + BLOCK] = _part(part.to(torch.float64), name, function, room, x.dtype)
    if not dense:
        out.copy_(target.view(x.shape))
    return out


def _part(x: Tensor, name: str, function: Callable[[Tensor], Tensor], room: float, dtype: torch.dtype) -> Tensor:
    y = function(x)
    room_each = y.abs() * room
    low, high = narrow(y - room_each, dtype), narrow(y + room_each, dtype)
    apart = ~same(low, high)
    out = high
    if not bool(y.isfinite().all()):
        odd = ~y.isfinite()
        out = torch.where(odd, narrow(torch.where(y.isnan(), torch.nan, y), dtype), out)
        apart &= ~odd
    if bool((y == 0).any()):
        out = torch.where(y == 0, narrow(y, dtype), out)  # zeros keep their sign
        apart &= y != 0
    if bool(apart.any()):
        at = apart.nonzero()[:, 0]
        arguments, which = x[at].unique(return_inverse=True)
        values = [nearest(value_of(SLOW[name], v), dtype) for v in arguments.tolist()]
        out[at] = torch.stack(values).to(out.device)[which]
    return out


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
