"""Sums, products, quotients and powers, element by element.

Python numbers keep double precision in the wide run, and natively are rounded to the format they are used in: ``off``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf
from typing import Any

import torch
from torch import Tensor

from roundoff.rules.registry import register
from roundoff.rules.rule import Call, Limit, Nature, Rule
from roundoff.rules.samples import Operands, given
from roundoff.rules.ulps import roundings

_HIGHAM = "Higham, Accuracy and Stability of Numerical Algorithms (2002), §2.2: each operation is rounded once"


def off(call: Call, value: Any) -> Limit:
    """How far off an operand is once it is in the format of the computation: numbers, and integers among floats."""
    if not isinstance(value, Tensor):
        return inf if call.is_beyond(value) else call.scalar(value)
    if value.dim() == 0:  # may be a double among shorter formats: it then counts as a number
        return inf if call.is_beyond(value.item()) else call.scalar(value.item())
    if not value.is_floating_point() and not value.is_complex() and value.dtype != torch.bool:
        return value.abs().double() * max(call.u, call.u_out)
    return 0.0


def size(value: Any) -> Any:
    """|value| of a tensor or a number."""
    return value.abs() if isinstance(value, Tensor) else abs(value)


def _times(limit: Limit, factor: Any) -> Limit:
    """limit x factor, where nothing times infinity is nothing."""
    if isinstance(limit, float) and limit == 0.0:
        return 0.0
    scaled: Limit = limit * size(factor)
    return scaled


def _add(call: Call) -> Limit:
    x, y, alpha = call.args[0], call.args[1], call.arg(2, "alpha", 1)
    return _sum(call, x, y, alpha)


def _rsub(call: Call) -> Limit:
    return _sum(call, call.args[1], call.args[0], call.arg(2, "alpha", 1))


def _sum(call: Call, x: Any, y: Any, alpha: Any) -> Limit:
    limit = off(call, x) + _times(off(call, y), alpha)
    if alpha != 1:
        limit = limit + size(y) * (call.gamma_out(1) * abs(alpha) + call.scalar(alpha))
    return limit


def _mul(call: Call) -> Limit:
    x, y = call.args[0], call.args[1]
    limit = _times(off(call, x), y) + _times(off(call, y), x)
    if call.out[0].is_complex():
        limit = limit + size(x) * size(y) * call.gamma(3)
    return limit


def _quotient(call: Call, q: Tensor) -> Limit:
    """The quotient, perhaps by way of a rounded reciprocal; its operands off by a rounding."""
    x, y = call.args[0], call.args[1]
    limit: Limit = size(q) * call.gamma(16 if q.is_complex() else 2)
    for error in (off(call, x), _times(off(call, y), q)):
        if not isinstance(error, float) or error:
            limit = limit + error / size(y)
    return limit


def _div(call: Call) -> Limit:
    if call.kwargs.get("rounding_mode") is not None:
        return _floor_divide(call)
    return _quotient(call, call.out[0])


def _floor_divide(call: Call) -> Limit:
    """A whole number; off by one where the quotient is so near to one that rounding decides."""
    if not call.out[0].is_floating_point():
        return 0.0
    q = torch.true_divide(call.args[0], call.args[1])
    limit = _quotient(call, q) + q.abs() * call.gamma_out(2)
    return limit + ((q - q.round()).abs() <= limit)


def _remainder(call: Call) -> Limit:
    """fmod is exact; remainder then adds the divisor once. A divisor that is off shifts it, once per whole quotient."""
    x, y, r = call.args[0], call.args[1], call.out[0]
    if not r.is_floating_point():
        return 0.0
    limit: Limit = size(y) * call.gamma_out(2)
    shift = _times(off(call, y), torch.true_divide(x, y)) + off(call, x)
    if isinstance(shift, Tensor) or shift:
        limit = limit + shift
        limit = limit + (torch.minimum(r.abs(), (size(y) - r.abs()).abs()) <= limit) * size(y)
    return limit


def _divisor(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Limit:
    """A remainder jumps by as much as it is divided by."""
    by: Limit = size(args[1])
    return by


def _whole(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Limit:
    """A whole quotient jumps by one, and one that is not rounded does not jump."""
    return inf if "rounding_mode" in kwargs and kwargs["rounding_mode"] is None else 1.0


def _pow(call: Call) -> Limit:
    """A kernel's power is a few ulp off; an error of the exponent is multiplied by log|x|, one of the base by e / x."""
    x, e, y = call.args[0], call.args[1], call.out[0]
    if not y.is_floating_point() and not y.is_complex():
        return 0.0
    limit = y.abs() * (call.gamma(64 if y.is_complex() else roundings("pow")) + call.gamma_out(3))
    exponent, base = off(call, e), off(call, x)
    if isinstance(exponent, Tensor) or exponent:
        steep = x.abs().log().abs() if isinstance(x, Tensor) else torch.tensor(abs(x)).double().log().abs()
        limit = limit + (y.abs() * steep * exponent).nan_to_num(0.0)
    if isinstance(base, Tensor) or base:
        limit = limit + (y.abs() * size(e) * base / size(x)).nan_to_num(0.0)
    return (limit + call.tiny).masked_fill(y.abs() > call.huge, inf)


def _addcmul(call: Call) -> Limit:
    product: Tensor = call.args[1].abs() * call.args[2].abs()
    return product * (call.gamma_out(4) * float(abs(call.kwargs.get("value", 1))))


def _addcdiv(call: Call) -> Limit:
    quotient: Tensor = call.args[1].abs() / call.args[2].abs()
    return quotient * (call.gamma_out(4) * float(abs(call.kwargs.get("value", 1))))


def _lerp(call: Call) -> Limit:
    """start + w (end - start), or from the other end: three roundings of the step that is taken."""
    start, end, w = call.args[0], call.args[1], call.args[2]
    gap: Tensor = (end - start).abs()
    if not isinstance(w, Tensor):
        step = float(abs(w) if abs(w) < 0.5 else abs(1 - w))
        return gap * (step * call.gamma_out(4) + call.scalar(w))
    share = torch.where(w.abs() < 0.5, w.abs(), (1 - w).abs())
    return gap * share * call.gamma_out(4) + gap * off(call, w)


def _abs(call: Call) -> Limit:
    return call.out[0] * call.gamma(4) if call.args[0].is_complex() else 0.0


def _cross(call: Call) -> Limit:
    x, y, dim = call.args[0], call.args[1], call.kwargs.get("dim", -1)
    sizes: Tensor = x.abs().amax(dim, keepdim=True) * y.abs().amax(dim, keepdim=True)
    return sizes * (2 * call.gamma_out(3))


def _addr(call: Call) -> Limit:
    added, x, y = call.args[:3]
    beta, alpha = abs(call.kwargs.get("beta", 1)), abs(call.kwargs.get("alpha", 1))
    sizes: Tensor = torch.outer(x.abs(), y.abs()) * alpha + added.abs() * beta
    return sizes * call.gamma_out(3)


def _pairs(r: Operands) -> Iterable[Any]:
    x, y = r.wild(3, 41), r.wild(41)
    yield x, y
    yield r.strided(x), y
    yield x, -x + r.normal(3, 41, scale=1e-3)
    yield x, 0.1
    yield x, r.normal()


def _scaled(r: Operands) -> Iterable[Any]:
    yield from _pairs(r)
    yield r.wild(3, 41), r.wild(41), {"alpha": 0.3}


def _moded(r: Operands) -> Iterable[Any]:
    for mode in ("floor", "trunc", None):
        x = r.wild(3, 41, decades=2)
        yield x, r.wild(41, decades=2), {"rounding_mode": mode}
        yield x, 0.1, {"rounding_mode": mode}


def _moduli(r: Operands) -> Iterable[Any]:
    x = r.wild(3, 41, decades=3)
    yield x, r.uniform(41, low=0.1, high=3)
    yield x, -0.3
    yield x, 2


def _powers(r: Operands) -> Iterable[Any]:
    x = r.line(0)
    for e in (2, 3, 0.5, -0.5, -1, -2, 1 / 3, 2.7, 0.1):
        yield x, e
    yield r.strided(x), 1.7
    yield r.normal(40), 5
    yield r.uniform(40, low=0.1, high=9), r.normal(40, scale=5)


def _triples(r: Operands) -> Iterable[Any]:
    for value in (1, 0.3):
        yield r.wild(3, 41, decades=1), r.wild(3, 41, decades=1), r.wild(41, decades=1), {"value": value}
    yield r.strided(r.normal(3, 41)), r.normal(3, 41), r.normal(3, 41)


def _weighted(r: Operands) -> Iterable[Any]:
    x = r.wild(3, 41)
    for w in (0.1, 0.5, 0.9, 2.3):
        yield x, r.wild(3, 41), w
        yield x, x + r.normal(3, 41, scale=1e-3), w
    yield x, r.wild(3, 41), r.normal(41)


_RULES: tuple[tuple[tuple[str, ...], Any, Any], ...] = (
    (("add", "sub"), _add, _scaled),
    (("rsub",), _rsub, lambda r: [(r.wild(3, 41), 0.1), (r.wild(3, 41), r.wild(41), {"alpha": 2})]),
    (("mul",), _mul, _pairs),
    (("div",), _div, _pairs),
    (("pow",), _pow, _powers),
    (("addcmul",), _addcmul, _triples),
    (("addcdiv",), _addcdiv, _triples),
    (("lerp",), _lerp, _weighted),
    (("abs",), _abs, lambda r: [r.wild(3, 41), r.line()]),
    (("linalg_cross", "cross"), _cross, lambda r: [(r.wild(5, 3), r.wild(5, 3))]),
    (
        ("addr",),
        _addr,
        lambda r: [
            (r.normal(4, 5), r.normal(4), r.normal(5)),
            (r.normal(4, 5), r.normal(4), r.normal(5), {"alpha": 0.3}),
        ],
    ),
)

for _ops, _bound, _cases in _RULES:
    register(
        Rule(
            tuple(f"aten.{op}" for op in _ops),
            Nature.ROUNDS,
            _bound,
            source=_HIGHAM,
            samples=given(_cases),
            assumes="intermediate results overflow only where the result is within 2^-6 of it" if "pow" in _ops else "",
        )
    )

for _name, _bound, _cases in (
    ("div.Tensor_mode", _floor_divide, _moded),
    ("div.Scalar_mode", _floor_divide, lambda r: [(r.wild(3, 41, decades=2), 0.1, {"rounding_mode": "floor"})]),
    ("floor_divide", _floor_divide, lambda r: [(r.wild(3, 41, decades=2), r.wild(41, decades=2))]),
    ("remainder", _remainder, _moduli),
    ("fmod", _remainder, _moduli),
):
    register(
        Rule(
            (f"aten.{_name}",),
            Nature.ROUNDS,
            _div if "mode" in _name else _bound,
            source=_HIGHAM + "; a whole quotient jumps where it is within its rounding error of a whole number",
            samples=given(_cases),
            discrete=True,
            jump=_divisor if _bound is _remainder else _whole,
        )
    )
