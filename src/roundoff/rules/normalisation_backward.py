"""The gradients of layer and weight normalisation.

Of layer normalisation, from the mean m and the reciprocal deviation r that the forward pass gave, with x̂ = (x - m) r and
h = g w, over the n numbers of a row and the rows i,

    g_x = r (h - mean(h) - x̂ mean(h x̂)),    g_w = Σ_i g x̂,    g_b = Σ_i g

x̂ is off by two roundings of itself, each mean by γ_{n+4} of the mean of absolute values, and each sum over the rows by γ of
their number; on bfloat16 and float16 some kernels store those sums in that format as they go.

Of weight normalisation w = g v / |v|, with s = Σ w' v for the gradient w' that comes in, over the n numbers that share
a norm,

    g_g = s / |v|,    g_v = g / |v| (w' - v s / |v|²)
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any

import torch

from roundoff.rules.registry import register
from roundoff.rules.rule import Call, Limit, Nature, Rule
from roundoff.rules.samples import Operands, given


def _layer_norm(call: Call) -> tuple[Limit, ...]:
    g, x, shape, mean, rstd, weight = call.args[:6]
    n = prod(shape)
    rows = max(x.numel() // n, 1) if n else 1
    g, x = g.reshape(rows, n), x.reshape(rows, n)
    mean, rstd = mean.reshape(rows, 1), rstd.reshape(rows, 1)
    normal = ((x - mean) * rstd).abs_()
    h = (g if weight is None else g * weight.reshape(1, n)).abs_()
    few = call.gamma(8) + (call.gamma_out(2) if call.u_out > call.u else 0.0)
    size = h + normal * (h * normal).mean(1, keepdim=True) * 2 + h.mean(1, keepdim=True)
    limit_x = size.mul_((call.gamma(n + 4) + few) * rstd.abs()).reshape(call.args[1].shape)
    summed = call.gamma_out(rows + 4)
    limits = (limit_x, (g.abs() * normal).sum(0).mul_(summed), g.abs().sum(0).mul_(summed))
    asked = [limit for limit, wanted in zip(limits, call.args[7], strict=True) if wanted]
    return tuple(limit.reshape(y.shape) for limit, y in zip(asked, call.out, strict=True))


def _samples(r: Operands) -> Iterable[Any]:
    for rows, n, shift, scale in ((5, 8, 0.0, 1.0), (300, 16, 0.0, 1.0), (28, 65, 3.0, 1.0), (2, 1000, 0.0, 1e-3)):
        x = r.normal(rows, n, shift=shift, scale=scale)
        w, b = r.normal(n, shift=1), r.normal(n)
        for weight in (w, None):
            bias = None if weight is None else b
            _, mean, rstd = torch.ops.aten.native_layer_norm(x, [n], weight, bias, 1e-5)
            wanted = weight is not None
            yield r.normal(rows, n), x, [n], mean, rstd, weight, bias, [True, wanted, wanted]
            yield r.normal(rows, n), x, [n], mean, rstd, weight, bias, [not wanted, wanted, False]


register(
    Rule(
        ("aten.native_layer_norm_backward",),
        Nature.ROUNDS,
        _layer_norm,
        source="Higham (2002), §3.1 and §4.2, for each product and sum",
        samples=given(_samples),
    )
)


def _weight_norm(call: Call) -> tuple[Limit, ...]:
    given_, v, g, norms, dim = call.args
    rest = [d for d in range(v.dim()) if d != dim % v.dim()]
    n = v.numel() // max(v.shape[dim], 1)
    norms = norms.abs().reshape(g.shape)
    s = (given_ * v).abs_().sum(rest, keepdim=True)
    of_v = (given_.abs() + v.abs() * s / norms.square()) * (g.abs() / norms)
    return of_v * call.gamma_out(n + 10), (s / norms) * call.gamma_out(n + 4)


def _weights(r: Operands) -> Iterable[Any]:
    for shape, dim in (((6, 40), 0), ((4, 3, 5, 5), 0), ((7, 30), 1)):
        v = r.normal(*shape)
        g = r.normal(*(n if d == dim else 1 for d, n in enumerate(shape)), shift=1)
        w, norms = torch.ops.aten._weight_norm_interface(v, g, dim)
        yield r.normal(*w.shape), v, g, norms, dim


register(
    Rule(
        ("aten._weight_norm_interface_backward",),
        Nature.ROUNDS,
        _weight_norm,
        source="Higham (2002), §3.1 and §4.2, for each product and sum",
        samples=given(_weights),
    )
)
