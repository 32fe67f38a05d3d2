"""Sums, means, variances and norms.

A sum of n numbers in any order is off by at most γ_n Σ|x| (Higham, Accuracy and Stability of Numerical Algorithms, §4.2).
"""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt
from typing import Any

import torch
from torch import Tensor

from roundoff.rules.registry import register
from roundoff.rules.rule import Call, Limit, Nature, Rule
from roundoff.rules.samples import Operands, given
from roundoff.rules.ulps import roundings

_SUM = "Higham, Accuracy and Stability of Numerical Algorithms (2002), §4.2"


def _terms(x: Tensor, y: Tensor) -> float:
    """How many numbers went into each result."""
    return x.numel() / max(y.numel(), 1)


def _dims(dim: Any, x: Tensor) -> list[int]:
    if dim is None or (isinstance(dim, (list, tuple)) and not dim):
        return list(range(x.dim()))
    return [dim] if isinstance(dim, int) else list(dim)


def _float(x: Tensor) -> Tensor:
    return x if x.is_floating_point() or x.is_complex() else x.double()


def _sum(call: Call) -> Limit:
    x, y = _float(call.args[0]), call.out[0]
    if not y.is_floating_point() and not y.is_complex():
        return 0.0
    total = x.abs().sum(_dims(call.arg(1, "dim"), x), bool(call.arg(2, "keepdim", False)))
    return total.mul_(call.gamma(_terms(x, y)))


def _nansum(call: Call) -> Limit:
    x = _float(call.args[0]).nan_to_num(nan=0.0, posinf=float("inf"), neginf=-float("inf"))
    total = x.abs().sum(_dims(call.arg(1, "dim"), x), bool(call.arg(2, "keepdim", False)))
    return total.mul_(call.gamma(_terms(x, call.out[0])))


def _mean(call: Call) -> Limit:
    """A sum, stored in the format of the result, then divided."""
    x, y = _float(call.args[0]), call.out[0]
    n = _terms(x, y)
    total = x.abs().sum(_dims(call.arg(1, "dim"), x), bool(call.arg(2, "keepdim", False)))
    return total.mul_(call.gamma(n + 1) / n).add_(y.abs() * call.gamma_out(1))


def _prod(call: Call) -> Limit:
    y = call.out[0]
    return y.abs() * call.gamma_out(2 * _terms(call.args[0], y)) + call.tiny + 2 * call.underflow


def spread_error(call: Call, variance: Tensor, square: Tensor, n: float) -> Tensor:
    """How far off a variance of n numbers is, by Welford's or the two-pass method.

    |δ| <= γ_{n+5} σ √q + (γ_n √q)², where q is the mean square: the relative error n u κ of Chan, Golub and LeVeque,
    "Algorithms for computing the sample variance" (1983), with κ = √(q / σ²); then the square of the mean's own error.
    """
    error = variance.mul(square).sqrt_().mul_(call.gamma(n + 5))
    return error.add_(square.mul(call.gamma(n) ** 2))


def _moments(call: Call) -> tuple[Tensor, Tensor, float, list[int], bool]:
    """The variance in float64, the mean square in the same shape, and how many numbers went into each."""
    x = call.args[0]
    second = call.arg(1, "dim")
    dims = _dims(None if isinstance(second, bool) else second, x)
    keep = bool(call.kwargs.get("keepdim", call.args[3] if len(call.args) > 3 else False))
    correction = call.kwargs.get("correction", None)
    if correction is None:
        unbiased = second if isinstance(second, bool) else call.arg(2, "unbiased", True)
        correction = 1 if unbiased in (True, None) else 0
    y = call.out[0]
    n = _terms(x, y)
    variance = torch.var(x, dims, correction=correction, keepdim=keep)
    square = x.abs().square().sum(dims, keep).div_(max(n - float(correction), 1e-300))
    return variance, square, n, dims, keep


def _var(call: Call) -> Limit:
    variance, square, n, _, _ = _moments(call)
    return spread_error(call, variance, square, n)


def _std(call: Call) -> Limit:
    _, square, n, _, _ = _moments(call)
    return _root_error(call, square, n)


def _root_error(call: Call, square: Tensor, n: float) -> Tensor:
    # |√(v + δ) - √v| <= δ / √v <= γ_{n+5} √q, and <= √δ where the variance vanishes.
    return square.sqrt_().mul_(call.gamma(2 * n + 5))


def _with_mean(call: Call, spread: Any) -> tuple[Limit, ...]:
    x = call.args[0]
    _, _, n, dims, keep = _moments(call)
    return spread(call), x.abs().mean(dims, keep).mul_(call.gamma(n + 1))


def _norm_of(call: Call, x: Tensor, p: float, n: float) -> Limit:
    """(Σ|x|^p)^(1/p): the sum is off by γ, the root divides that by p. Squares may underflow to zero."""
    y: Tensor = call.out[0]
    if p in (float("inf"), -float("inf"), 0.0):
        return y.abs() * call.gamma(2) if x.is_complex() else 0.0
    if p == 1:
        return y * call.gamma(n + 2)
    if p == 2:
        return y * call.gamma(n / 2 + 3) + sqrt(n * call.tiny)
    # powers a few ulp off, and exponents p and 1/p that are rounded: seen through the logarithms
    reach = y.log().abs().nan_to_num(posinf=0.0) + x.abs().amax().clamp_min(1e-30).log().abs()
    limit = y * (call.gamma(n / abs(p) + roundings("exp") + 12) + reach * call.gamma(4) * (abs(p) + 1 / abs(p)))
    return limit + (n * call.tiny) ** min(1.0, 1 / abs(p)) if p > 0 else limit


def _vector_norm(call: Call) -> Limit:
    x = _float(call.args[0])
    return _norm_of(call, x, float(call.arg(1, "ord", 2)), _terms(x, call.out[0]))


def _norm(call: Call) -> Limit:
    p = call.arg(1, "p", 2)
    return _norm_of(call, call.args[0], 2.0 if p is None else float(p), _terms(call.args[0], call.out[0]))


def _dist(call: Call) -> Limit:
    gap = call.args[0] - call.args[1]
    p = float(call.arg(2, "p", 2))
    return _norm_of(call, gap, p, gap.numel()) + call.out[0] * call.gamma_out(2)


def _cumsum(call: Call) -> Limit:
    x = _float(call.args[0])
    dim = int(call.arg(1, "dim"))
    if not call.out[0].is_floating_point() and not call.out[0].is_complex():
        return 0.0
    n = x.shape[dim] if x.dim() else 1
    return x.abs().cumsum(dim).mul_(call.gamma(n))


def _cumprod(call: Call) -> Limit:
    x = call.args[0]
    n = x.shape[int(call.arg(1, "dim"))] if x.dim() else 1
    return call.out[0].abs() * call.gamma(n) + call.tiny


def _trace(call: Call) -> Limit:
    d = _float(call.args[0]).diagonal()
    return d.abs().sum() * call.gamma(d.numel())


def _data(r: Operands) -> Iterable[Tensor]:
    yield r.normal(3, 5, 1)
    yield r.normal(4, 1000)
    yield r.normal(3, 37, shift=100.0)
    yield r.wild(5, 129, decades=3 if r.half else 6)
    yield r.strided(r.normal(4, 333))
    yield r.normal(37, 6).t()
    x = r.normal(2, 500)
    yield torch.cat([x, -x, r.normal(2, 1, scale=1e-3)], 1)
    yield torch.full((2, 65), 0.1, dtype=r.dtype)


def _by_rows(r: Operands) -> Iterable[Any]:
    for x in _data(r):
        yield x, [-1]
        yield x, [0], True
    yield r.normal(2, 3, 7, 5).contiguous(memory_format=torch.channels_last), [2, 3]


def _spreads(r: Operands) -> Iterable[Any]:
    for x in _data(r):
        if x.shape[-1] > 1:
            yield x, [-1], {"correction": 1}
            yield x, [-1], {"correction": 0, "keepdim": True}


def _norms(r: Operands) -> Iterable[Any]:
    for x in _data(r):
        for p in (2, 1, float("inf"), 0, 3, 0.5):
            yield x, p, [-1]
    yield r.normal(9, scale=1e-5), 2, [0], True


def _along(r: Operands) -> Iterable[Any]:
    for x in _data(r):
        yield x, -1
    yield r.normal(40, 3), 0


def _factors(r: Operands) -> Iterable[Any]:
    yield r.uniform(5, 60, low=0.8, high=1.2), -1
    yield r.strided(r.uniform(5, 60, low=0.8, high=1.2)), 0
    yield r.normal(3, 7), 1


register(Rule(("aten.sum",), Nature.ROUNDS, _sum, source=_SUM, samples=given(_by_rows)))
register(Rule(("aten.nansum",), Nature.ROUNDS, _nansum, source=_SUM, samples=given(_by_rows)))
register(
    Rule(
        ("aten.mean",),
        Nature.ROUNDS,
        _mean,
        source=_SUM,
        samples=given(_by_rows),
        assumes="the sum may be stored in the format of the result before it is divided",
    )
)
register(
    Rule(
        ("aten.prod",),
        Nature.ROUNDS,
        _prod,
        source="Higham (2002), §3.1",
        samples=given(_factors),
        assumes="no partial product overflows",
    )
)
_CHAN = "Chan, Golub, LeVeque, Algorithms for computing the sample variance (1983): Welford's and the two-pass method"
register(Rule(("aten.var",), Nature.ROUNDS, _var, source=_CHAN, samples=given(_spreads)))
register(Rule(("aten.std",), Nature.ROUNDS, _std, source=_CHAN, samples=given(_spreads)))
register(
    Rule(("aten.var_mean",), Nature.ROUNDS, lambda call: _with_mean(call, _var), source=_CHAN, samples=given(_spreads))
)
register(
    Rule(("aten.std_mean",), Nature.ROUNDS, lambda call: _with_mean(call, _std), source=_CHAN, samples=given(_spreads))
)
register(
    Rule(
        ("aten.linalg_vector_norm",),
        Nature.ROUNDS,
        _vector_norm,
        source=_SUM + ", and the slope of the root",
        samples=given(_norms),
        assumes="no power overflows",
    )
)
register(
    Rule(
        ("aten.norm",),
        Nature.ROUNDS,
        _norm,
        source=_SUM,
        assumes="no power overflows",
        samples=given(lambda r: [(x, 2, [-1], True) for x in _data(r)]),
    )
)
register(
    Rule(
        ("aten.dist",),
        Nature.ROUNDS,
        _dist,
        source=_SUM,
        assumes="no power overflows",
        samples=given(lambda r: [(r.normal(40), r.normal(40), p) for p in (2, 1, float("inf"))]),
    )
)
register(Rule(("aten.cumsum",), Nature.ROUNDS, _cumsum, source=_SUM, samples=given(_along)))
register(
    Rule(
        ("aten.cumprod",),
        Nature.ROUNDS,
        _cumprod,
        source="Higham (2002), §3.1",
        samples=given(_factors),
        assumes="no partial product overflows",
    )
)
register(Rule(("aten.trace",), Nature.ROUNDS, _trace, source=_SUM, samples=given(lambda r: [r.normal(12, 9)])))
