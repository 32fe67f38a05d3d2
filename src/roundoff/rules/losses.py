"""Losses: an elementwise function, then nothing, a sum or a mean of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from roundoff.rules.registry import register
from roundoff.rules.rule import Call, Limit, Nature, Rule
from roundoff.rules.samples import Operands, given
from roundoff.rules.ulps import roundings

_NONE, _MEAN, _SUM = 0, 1, 2
#: The sums are kept in the format of the operand, in at most eight levels of at most sixteen terms each.
_CASCADE = 8 * 16 + 8

_SOURCE = "a few roundings of each term, all of one sign, and Higham (2002), §4.2 for their sum"


def _reduced(call: Call, each: Tensor, reduction: int, terms: float) -> Limit:
    """The bound of a reduction of positive terms, each off by ``terms`` roundings of its size ``each``."""
    if reduction == _NONE:
        return each * (call.gamma(terms) + call.gamma_out(terms)) + terms * call.underflow
    n = each.numel()
    total = each.mean() if reduction == _MEAN else each.sum()
    return total * (call.gamma(n + terms) + call.gamma_out(terms + 1))


def _positive(name: str, scale: int = 2) -> Any:
    """A loss whose terms are positive and continuous: each is off by a few roundings of itself."""

    def bound(call: Call) -> Limit:
        if name == "mse":
            each = (call.args[0] - call.args[1]).square_()
            return _reduced(call, each, int(call.arg(2, "reduction", _MEAN)), 3)
        # the pieces quadratic and linear meet where d = beta, and d - beta / 2 >= d / 2 beyond it
        width = float(call.arg(3, "beta" if name == "smooth_l1" else "delta", 1.0))
        gap = (call.args[0] - call.args[1]).abs()
        each = torch.where(gap < width, 0.5 * gap.square(), width * (gap - 0.5 * width))
        if name == "smooth_l1":
            each = each / width if width else gap
        return _reduced(call, each, int(call.arg(2, "reduction", _MEAN)), 4 * scale)

    return bound


def _cross_entropy(call: Call) -> Limit:
    """-w (t log x + (1 - t) log(1 - x)), logarithms cut off at -100."""
    x, t, w = call.args[0], call.args[1], call.arg(2, "weight")
    one = x.log().clamp_min_(-100).abs_().mul_(t.abs())
    other = torch.log1p(-x).clamp_min_(-100).abs_().mul_((1 - t).abs())
    each = one.add_(other)
    if w is not None:
        each = each * w.abs()
    terms = roundings("log") + 4
    return _reduced(call, each, int(call.arg(3, "reduction", _MEAN)), terms)


def _with_logits(call: Call) -> Limit:
    """(1 - t) x + (1 + (p - 1) t) softplus(-x), in a chain of single operators."""
    x, t = call.args[0], call.args[1]
    w, p = call.arg(2, "weight"), call.arg(3, "pos_weight")
    each = ((1 - t) * x).abs_()
    part = F.softplus(-x) + x.abs()  # cancels to softplus(-x) where it is written as softplus(x) - x
    if p is not None:
        part = part * (1 + (p - 1).abs() * t.abs())
    each = each.add_(part)
    if w is not None:
        each = each * w.abs()
    return _reduced(call, each, int(call.arg(4, "reduction", _MEAN)), roundings("softplus") + 6)


def _nll(call: Call) -> tuple[Limit, ...]:
    """A weighted mean of entries: the operator itself on sizes gives Σ w |x| / Σ w."""
    x, weight = call.args[0], call.arg(2, "weight")
    args = [-x.abs(), call.args[1], None if weight is None else weight.abs(), *call.args[3:]]
    sizes, total = call.op(*args, **call.kwargs)
    n = min(call.args[1].numel(), _CASCADE)
    return sizes.abs() * call.gamma_out(2 * n + 3), total.abs() * call.gamma_out(n)


def _pair(r: Operands) -> Iterable[tuple[Tensor, Tensor]]:
    yield r.normal(4, 37), r.normal(4, 37)
    x = r.normal(4, 37)
    yield x, x + r.normal(4, 37, scale=1e-2)
    yield r.strided(r.normal(300)), r.normal(300)


def _pairs(extra: float | None = None) -> Any:
    def cases(r: Operands) -> Iterable[Any]:
        for x, t in _pair(r):
            for reduction in (_NONE, _MEAN, _SUM):
                yield (x, t, reduction) if extra is None else (x, t, reduction, extra)

    return given(cases)


def _probabilities(r: Operands) -> Iterable[Any]:
    for reduction in (_NONE, _MEAN, _SUM):
        yield r.uniform(5, 37), r.uniform(5, 37), None, reduction
        yield r.uniform(5, 37).round(), r.mask(5, 37).to(r.dtype), r.uniform(37), reduction


def _logits(r: Operands) -> Iterable[Any]:
    for reduction in (_NONE, _MEAN, _SUM):
        yield r.normal(5, 37, scale=5), r.uniform(5, 37), None, None, reduction
        yield r.normal(5, 37, scale=30), r.mask(5, 37).to(r.dtype), r.uniform(37), r.uniform(37, high=3), reduction


def _classes(r: Operands) -> Iterable[Any]:
    for reduction in (_NONE, _MEAN, _SUM):
        yield -r.uniform(30, 7, high=9), r.integers(7, 30), None, reduction, -100
        yield -r.uniform(30, 7, high=9), r.integers(7, 30), r.uniform(7), reduction, 2


def _maps(r: Operands) -> Iterable[Any]:
    for reduction in (_NONE, _MEAN, _SUM):
        yield -r.uniform(2, 7, 5, 6, high=9), r.integers(7, 2, 5, 6), None, reduction, -100


for _name, _bound, _given in (
    ("mse_loss", _positive("mse"), _pairs()),
    ("smooth_l1_loss", _positive("smooth_l1"), _pairs(0.3)),
    ("huber_loss", _positive("huber"), _pairs(0.3)),
    ("binary_cross_entropy", _cross_entropy, given(_probabilities)),
    ("binary_cross_entropy_with_logits", _with_logits, given(_logits)),
    ("nll_loss_forward", _nll, given(_classes)),
    ("nll_loss2d_forward", _nll, given(_maps)),
):
    register(Rule((f"aten.{_name}",), Nature.ROUNDS, _bound, source=_SOURCE, samples=_given))
