"""The gradients of upsampling: each element is a sum of output gradients, weighted as the interpolation weighs it.

    g_x[p] = Σ_o w(c_o - p) g[o],    w the hat function in each dimension, or 1 for the nearest neighbour

Sums of n products with weights that are a few roundings off are off by γ_{n+12} Σ w |g|. A coordinate c that is off by δ
moves a weight by δ at most, and may move it to the next neighbour: δ |g[o]|, wherever p is within two of c_o. What an output
gives to all its neighbours adds up to g[o], so the same gradient of δ |g|, summed over the five nearest elements in each
dimension, is at least that. Where the nearest neighbour is taken, δ is 1 where rounding decides which that is.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil, prod
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from roundoff.rules.interpolation import coordinates, spread
from roundoff.rules.registry import register
from roundoff.rules.rule import Call, Limit, Nature, Rule
from roundoff.rules.samples import Operands, given

_SOURCE = "Higham (2002), §3.1, for the weighted sums; slope of the hat function times the rounding of the coordinate"
_NAMES = {1: ("scales",), 2: ("scales_h", "scales_w"), 3: ("scales_d", "scales_h", "scales_w")}
_AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _given(call: Call, first: int) -> tuple[list[int], list[int], list[Any]]:
    """The spatial sizes of output and input, and the factors that were asked for."""
    out, size = list(call.args[1]), list(call.args[2][2:])
    return out, size, [call.arg(first + i, name) for i, name in enumerate(_NAMES[len(out)])]


def _summed(call: Call, out: list[int], size: list[int], taps: int) -> float:
    """γ for as many outputs as an element takes part in, at most; added in the format of the result by some kernels."""
    most = prod(taps * ceil(o / s) + taps for o, s in zip(out, size, strict=True))
    return call.gamma_out(most + 12)


def _limit(call: Call, moved: Tensor, roundings: float) -> Limit:
    """``moved``: the share of each output's gradient that may go to another element."""
    g, dims = call.args[0].abs(), call.args[0].dim() - 2
    limit: Tensor = call.op(g, *call.args[1:], **call.kwargs).mul_(roundings)
    if bool(moved.any()):
        reached = call.op(g * moved, *call.args[1:], **call.kwargs)
        limit = limit + _AVERAGE[dims](F.pad(reached, [2] * (2 * dims)), 5, 1) * 5**dims
    return limit.add_(call.underflow * 16)


def _linear(call: Call) -> Limit:
    out, size, factors = _given(call, 4)
    _, error = coordinates(call, size, out, bool(call.args[3]), factors, 0.5)
    coarse = 2 * call.u_out if call.u_out > call.u else 0.0
    return _limit(call, spread([e + coarse for e in error]), _summed(call, out, size, 2))


def _nearest(shift: float) -> Any:
    def bound(call: Call) -> Limit:
        out, size, factors = _given(call, 3)
        where, error = coordinates(call, size, out, False, factors, shift)
        unsure = [((c - c.round()).abs() <= e) & (e > 0) & (c != 0) for c, e in zip(where, error, strict=True)]
        return _limit(call, (spread([t.double() for t in unsure]) > 0).double(), _summed(call, out, size, 1))

    return bound


def _samples(dims: int, align: bool) -> Any:
    def cases(r: Operands) -> Iterable[Any]:
        size = [2, 3, *(7, 9, 5)[:dims]]
        for out in ((14, 18, 10), (11, 5, 3), (21, 27, 15), (7, 9, 5)):
            g = r.normal(2, 3, *out[:dims])
            for aligned in (False, True) if align else (None,):
                yield g, list(out[:dims]), size, *(() if aligned is None else (aligned,))
        larger = [int(1.3 * s) for s in size[2:]]
        yield r.normal(2, 3, *larger), larger, size, *((False,) if align else ()), *[1.3] * dims

    return given(cases)


for _dims, _mode in {1: "linear", 2: "bilinear", 3: "trilinear"}.items():
    register(
        Rule(
            (f"aten.upsample_{_mode}{_dims}d_backward",),
            Nature.ROUNDS,
            _linear,
            source=_SOURCE,
            samples=_samples(_dims, align=True),
        )
    )
    for _name, _shift in (("upsample_nearest", 0.0), ("_upsample_nearest_exact", 0.5)):
        register(
            Rule(
                (f"aten.{_name}{_dims}d_backward",),
                Nature.ROUNDS,
                _nearest(_shift),
                source=_SOURCE,
                samples=_samples(_dims, align=False),
            )
        )
