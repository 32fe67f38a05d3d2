"""Distances between all pairs of rows."""

from __future__ import annotations

from collections.abc import Iterable
from math import pow
from typing import Any

import torch
from torch import Tensor

from roundoff.rules.registry import register
from roundoff.rules.rule import Call, Limit, Nature, Rule
from roundoff.rules.samples import Operands, given
from roundoff.rules.ulps import roundings

_ROWS = 25  # from more rows than this on, Euclidean distances are had from a matrix product


def _direct(call: Call, p: float, n: int) -> Limit:
    """(Σ|a - b|^p)^(1/p): each difference rounded once, then as a norm."""
    y: Tensor = call.out[0]
    if p in (0.0, float("inf")):
        return y * call.gamma(2)
    if p in (1.0, 2.0):
        return y * call.gamma(n + 4) + pow(n * call.tiny, 1 / p)
    steep = y.log().abs_().nan_to_num_(posinf=0.0).add_(1).mul_(p + 1 / p)
    return y * call.gamma(n + roundings("exp") + 12) * steep + pow(n * call.tiny, min(1.0, 1 / p))


def expanded(call: Call, x: Tensor, z: Tensor, y: Tensor) -> Tensor:
    """√(|a|² + |b|² - 2 a·b) cancels: the square is off by e = γ_{n+6} (|a| + |b|)², so the root by min(√e, e / y).

    On short formats the squares and the sum are rounded to them as well.
    """
    n = x.shape[-1]
    sizes = (x.norm(dim=-1).unsqueeze(-1) + z.norm(dim=-1).unsqueeze(-2)).square_()
    error = sizes.mul_(call.gamma(n + 6) + (call.gamma_out(4) if call.u_out > call.u else 0.0))
    return torch.minimum(error.sqrt(), error / y)


def _cdist(call: Call) -> Limit:
    x, z, p = call.args[0], call.args[1], float(call.args[2])
    mode = call.arg(3, "compute_mode")
    product = p == 2 and (mode == 1 or (mode in (None, 0) and max(x.shape[-2], z.shape[-2]) > _ROWS))
    return expanded(call, x, z, call.out[0]) if product else _direct(call, p, x.shape[-1])


def _pdist(call: Call) -> Limit:
    return _direct(call, float(call.arg(1, "p", 2)), call.args[0].shape[-1])


def _rows(r: Operands) -> Iterable[Any]:
    if r.half:
        return
    for p in (2.0, 1.0, float("inf"), 3.0):
        yield r.normal(2, 7, 33), r.normal(2, 5, 33), p, None
    x = r.normal(40, 16, shift=5)
    yield x, x + r.normal(40, 16, scale=1e-3), 2.0, None
    yield x, x, 2.0, 1
    yield x, x + r.normal(40, 16, scale=1e-3), 2.0, 2


def _pairs_of_rows(r: Operands) -> Iterable[Any]:
    for scale in (0.01, 1.0, 4.0):
        for n in (4, 64):
            x = r.normal(9, n, scale=scale)
            yield x, torch.cat([r.normal(6, n, scale=scale), x[:1]])


register(
    Rule(
        ("aten._cdist_forward",),
        Nature.ROUNDS,
        _cdist,
        source="Higham (2002), §4.2; cancellation of the expanded square",
        samples=given(_rows),
    )
)
register(
    Rule(
        ("aten._pdist_forward",),
        Nature.ROUNDS,
        _pdist,
        source="Higham (2002), §4.2",
        samples=given(lambda r: [] if r.half else [(r.normal(7, 33), 2.0), (r.normal(7, 33), 1.0)]),
    )
)
register(
    Rule(
        ("aten._euclidean_dist",),
        Nature.ROUNDS,
        lambda call: expanded(call, call.args[0], call.args[1], call.out[0]),
        source="cancellation of the expanded square",
        samples=given(_pairs_of_rows),
    )
)
