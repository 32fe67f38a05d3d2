"""Softmax and its logarithm, and sums of exponentials.

Element i of a softmax is off, relative to itself, by at most (n + 2 c + |x_i - m| + Σ_j p_j |x_j - m|) u, where m is the
largest x and c the error of exp in ulp: the rounding of x_j - m is seen through exp, and the denominator averages it with
the weights p. (The mean and not the largest of |x_j - m|: beside a mask of -1e9 that would let every kernel pass.)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from roundoff.rules.registry import register
from roundoff.rules.rule import Call, Limit, Nature, Rule
from roundoff.rules.samples import Operands, given
from roundoff.rules.ulps import roundings

_SOURCE = "first-order error of exp(x - m) / Σ exp(x - m); ulp constants measured: benchmarks/measure_ulps.py"


def _below(x: Tensor, dim: int) -> Tensor:
    """m - x: how far each number is below the largest; 0 in rows without a finite number."""
    return x.amax(dim, keepdim=True).sub(x).nan_to_num_(nan=0.0, posinf=float("inf"))


def _weighted(p: Tensor, below: Tensor) -> Tensor:
    """p (m - x), where what has no weight adds nothing."""
    return below.mul(p).nan_to_num_(nan=0.0, posinf=0.0)


def _softmax(call: Call) -> Limit:
    x, dim, p = call.args[0], int(call.args[1]), call.out[0]
    if not x.dim():
        return 0.0
    # nothing of what is 1000 below the largest is left, masked elements included
    each: Tensor = x.amax(dim, keepdim=True).sub(x).clamp_max_(1000).mul_(p)
    average = each.sum(dim, keepdim=True)
    # on bfloat16 and float16 the exponentials and their sum are rounded to the format by some kernels
    fixed = call.gamma(x.shape[dim] + 2 * roundings("exp") + 2) + call.gamma_out(3)
    per_row = average.mul_(call.gamma(2)).add_(fixed)
    limit = each.mul_(call.gamma(2)).addcmul_(p, per_row).add_(call.tiny + 2 * call.underflow)
    return limit if bool(per_row.isfinite().all()) else limit.nan_to_num_(nan=0.0)  # rows without a finite number


def _log_softmax(call: Call) -> Limit:
    """x_i - m - log Σ: each difference is rounded, and the sum's relative error is the logarithm's absolute one."""
    x, dim, y = call.args[0], int(call.args[1]), call.out[0]
    if not x.dim():
        return 0.0
    below = _below(x, dim)
    average = _weighted(y.exp(), below).sum(dim, keepdim=True)
    log_sum = y.add(below).nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0).abs().amax(dim, keepdim=True)
    fixed = call.gamma(x.shape[dim] + roundings("exp")) + call.gamma_out(2)
    extra = (average + log_sum).mul_(call.gamma(roundings("log")) + call.gamma_out(1)).add_(fixed)
    return below.mul_(call.gamma(2) + call.gamma_out(1)).add_(extra)


def _logsumexp(call: Call) -> Limit:
    """m + log Σ exp(x - m); composed of single operators, which round to the format of the result."""
    x, dims, y = call.args[0], call.arg(1, "dim"), call.out[0]
    if not x.dim():
        return 0.0
    dims = [dims] if isinstance(dims, int) else list(dims)
    m = x.amax(dims, keepdim=True)
    keep = bool(call.arg(2, "keepdim", False))
    below = m.sub(x).nan_to_num_(nan=0.0, posinf=float("inf"))
    shape = m if keep else m.reshape(y.shape)
    log_sum = y.sub(shape).nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0).abs()
    weights = below.neg().sub_(log_sum.reshape(m.shape)).exp_()
    average = _weighted(weights, below).sum(dims, keep)
    n = x.numel() / max(y.numel(), 1)
    fixed = call.gamma(n + roundings("exp")) + call.gamma_out(3)
    rounded = (average + log_sum) * (call.gamma_out(2) + call.gamma(roundings("log")))
    return rounded.add_(fixed).add_(shape.abs().nan_to_num(posinf=0.0) * call.gamma_out(1))


def _logcumsumexp(call: Call) -> Limit:
    """Each step is log(exp(a) + exp(b)) = m + log1p(exp(-|a - b|)), off by a few u of m and of 1."""
    x, dim, y = call.args[0], int(call.args[1]), call.out[0]
    if not x.dim():
        return 0.0
    finite = y.abs().nan_to_num(nan=0.0, posinf=0.0)
    step = torch.cummax(finite, dim).values.add_(1)
    return step.mul_(call.gamma(2 * roundings("softplus") * x.shape[dim]))


def _logits(r: Operands) -> Iterable[Tensor]:
    yield r.normal(4, 1)
    yield r.normal(4, 10, scale=3)
    yield r.normal(3, 1000, scale=3)
    yield r.normal(3, 37, scale=5, shift=80)
    yield r.normal(3, 129, scale=200)
    yield r.normal(3, 33, scale=3).masked_fill(r.mask(3, 33), -1e9 if r.dtype != torch.float16 else -6e4)
    masked = r.normal(3, 33, scale=3).masked_fill(r.mask(3, 33), -float("inf"))
    masked[0, 0] = 0.5
    yield masked
    yield r.strided(r.normal(4, 65, scale=4))
    yield r.normal(17, 6, scale=4).t()


def _rows(r: Operands) -> Iterable[Any]:
    for x in _logits(r):
        yield x, -1, False
        yield x, 0, False
    yield r.normal(2, 3, 4, 5, scale=4), 1, False


def _kept(r: Operands) -> Iterable[Any]:
    for x in _logits(r):
        yield x, [-1]
        yield x, [0], True
    yield r.normal(2, 3, 4, 5, scale=4), [1, 3]


register(Rule(("aten._softmax",), Nature.ROUNDS, _softmax, source=_SOURCE, samples=given(_rows)))
register(
    Rule(
        ("aten._safe_softmax",),
        Nature.ROUNDS,
        _softmax,
        source=_SOURCE,
        samples=given(lambda r: [(x, -1) for x in _logits(r)]),
    )
)
register(Rule(("aten._log_softmax",), Nature.ROUNDS, _log_softmax, source=_SOURCE, samples=given(_rows)))
register(Rule(("aten.logsumexp",), Nature.ROUNDS, _logsumexp, source=_SOURCE, samples=given(_kept)))
register(
    Rule(
        ("aten.logcumsumexp", "aten._logcumsumexp"),
        Nature.ROUNDS,
        _logcumsumexp,
        source="n steps of log(exp(a) + exp(b)), each off by a few u of its size and of 1",
        samples=given(lambda r: [(x, -1) for x in _logits(r)]),
    )
)
