"""Functions of two numbers, and of complex ones: atan2, hypot, logaddexp, xlogy, polar, angle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from roundoff.rules.arithmetic import off, size
from roundoff.rules.registry import register
from roundoff.rules.rule import Call, Limit, Nature, Rule
from roundoff.rules.samples import Operands, given
from roundoff.rules.ulps import roundings

#: Functions of two numbers whose error is measured.
PAIRS = ("atan2", "hypot", "pow")

_SOURCE = "measured: benchmarks/measure_ulps.py"


def _measured(name: str) -> Callable[[Call], Limit]:
    def bound(call: Call) -> Limit:
        return call.out[0].abs() * call.gamma(roundings(name)) + call.tiny

    return bound


def _logaddexp(call: Call) -> Limit:
    """m + log(1 + exp(-|a - b|)): cancels where m is near minus the logarithm."""
    a, b, y = call.args[0], call.args[1], call.out[0]
    m: Tensor = torch.maximum(a, b)
    rest = (y - m).abs()
    limit: Tensor = (m.abs() + rest * (1 + (a - b).abs())) * call.gamma(roundings("softplus"))
    return limit.nan_to_num(0.0, posinf=0.0) + call.tiny


def _xlogy(call: Call) -> Limit:
    x, y = call.args[0], call.args[1]
    limit: Limit = call.out[0].abs() * (call.gamma(roundings("log") + roundings("log1p")) + call.gamma_out(2))
    error = off(call, y)
    if isinstance(error, Tensor) or error:
        limit = limit + error * size(x) / size(y)
    limit = limit + size(x) * call.tiny
    return limit


def _polar(call: Call) -> Limit:
    radius: Tensor = call.args[0].abs()
    return radius * call.gamma(roundings("cos"))


def _angle(call: Call) -> Limit:
    return call.out[0].abs() * call.gamma(roundings("atan2"))


def _sgn(call: Call) -> Limit:
    return call.gamma(6) if call.args[0].is_complex() else 0.0


def _glu(call: Call) -> Limit:
    """a sigmoid(b): b is the second half along the dimension."""
    dim = call.arg(1, "dim", -1)
    limit: Tensor = call.out[0].abs() * call.gamma(roundings("sigmoid") + 1)
    lost: Tensor = call.args[0].chunk(2, dim)[0].abs()
    return limit + lost * call.tiny


def _two(r: Operands) -> list[Any]:
    x, y = r.wild(3, 41, decades=3), r.wild(41, decades=3)
    return [(x, y), (r.strided(x), y), (x, x + r.normal(3, 41, scale=1e-2))]


def _near_zero(r: Operands) -> list[Any]:
    # log(exp(a) + exp(b)) = 0 where exp(a) + exp(b) = 1
    a = r.uniform(60, low=-3, high=-0.01)
    b = torch.log1p(-a.float().exp()).to(r.dtype)
    return [(a, b), *_two(r), (torch.full((3,), -float("inf"), dtype=r.dtype), r.normal(3))]


_SELF = "conditioning of the formula; ulp constants measured: benchmarks/measure_ulps.py"

for _names, _bound, _cases, _where in (
    (("atan2",), _measured("atan2"), _two, _SOURCE),
    (("hypot",), _measured("hypot"), _two, _SOURCE),
    (("logaddexp", "logaddexp2"), _logaddexp, _near_zero, _SELF),
    (("xlogy", "special_xlog1py"), _xlogy, lambda r: [(r.normal(3, 41), r.uniform(41, high=3))], _SELF),
    (("angle",), _angle, lambda r: [r.wild(40)], _SOURCE),
    (("sgn",), _sgn, lambda r: [r.wild(40)], _SOURCE),
    (("glu",), _glu, lambda r: [r.wild(3, 42, decades=1), (r.wild(4, 7), 0), r.strided(r.normal(2, 8) * 30)], _SELF),
):
    register(Rule(tuple(f"aten.{n}" for n in _names), Nature.ROUNDS, _bound, source=_where, samples=given(_cases)))

register(
    Rule(
        ("aten.polar",),
        Nature.ROUNDS,
        _polar,
        source=_SELF,
        samples=given(lambda r: [] if r.half else [(r.wild(40), r.normal(40, scale=9))]),
    )
)
register(Rule(("aten.complex",), Nature.EXACT, source="joins two numbers and computes none"))
register(
    Rule(
        ("aten.ldexp",),
        Nature.ROUNDS,
        lambda call: call.out[0].abs() * call.gamma(2) + call.tiny,
        source="a power of two, and one product",
        samples=given(lambda r: [(r.normal(9), r.integers(5, 9))]),
    )
)
