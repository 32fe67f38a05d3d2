"""The gradients of a convolution: each element of each is a sum of products, as in the convolution itself.

With the gradient g of the output y = K * x + b, groups apart:

    by the input    g_x[c, p] = sum over o, k of K[o, c, k] g[o, q], where y[o, q] takes x[c, p] with the tap k
    by the kernel   g_K[o, c, k] = sum over n, q of g[n, o, q] x[n, c, p]
    by the bias     g_b[o] = sum over n, q of g[n, o, q]

so the error of each is at most γ_n times the same sum of absolute values (Higham, Accuracy and Stability, §3.1), with n
the outputs of a group times the taps, or the samples times the places of the output. The sums of absolute values are the
gradients of the convolution of absolute values.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any

import torch
from torch import Tensor

from roundoff.formats import U64
from roundoff.rules.registry import register
from roundoff.rules.rule import Call, Limit, Nature, Rule


def _bound(call: Call) -> tuple[Limit, ...]:
    g, x, w, sizes, *rest, mask = call.args[:11]
    transposed, groups, taps = rest[3], rest[5], prod(w.shape[2:])
    outs = w.shape[1] if transposed else w.shape[0] // groups
    places = g.shape[0] * (prod(x.shape[2:]) if transposed else prod(g.shape[2:]))
    sums = torch.ops.aten.convolution_backward(g.abs(), x.abs(), w.abs(), sizes, *rest, mask)
    # A short format: a kernel may add to what is stored, for each tap in the image, for each sample in the kernel.
    terms = ((outs * taps, taps), (places, g.shape[0]), (g.shape[0] * prod(g.shape[2:]), g.shape[0]))
    return tuple(_limit(call, a, n, parts) for a, (n, parts), kept in zip(sums, terms, mask, strict=True) if kept)


def _limit(call: Call, absolute: Tensor, terms: int, parts: int) -> Limit:
    """γ of the roundings of one element, of which a complex product is two sums of two, and what underflows."""
    complex_ = any(isinstance(x, Tensor) and x.is_complex() for x in call.args[:3])
    roundings = terms * (2 if complex_ else 1) + 2
    limit = absolute * (call.gamma(roundings) * (2 if complex_ else 1))
    if call.u_out > call.u:
        limit = limit + absolute * (call.u_out * parts)
    return limit + roundings * (2.0**-1074 if call.u == U64 else 2.0**-150)


def _samples(dtype: torch.dtype, g: torch.Generator) -> Iterable[tuple[tuple[Any, ...], dict[str, Any]]]:
    def rand(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g).to(dtype)

    def case(x: Tensor, w: Tensor, mask: tuple[bool, bool, bool] = (True, True, True), stride: int = 1,
             padding: int = 0, dilation: int = 1, transposed: bool = False,
             groups: int = 1) -> tuple[tuple[Any, ...], dict[str, Any]]:  # fmt: skip
        dims = w.dim() - 2
        how = ([stride] * dims, [padding] * dims, [dilation] * dims, transposed, [0] * dims, groups)
        y = torch.ops.aten.convolution(x.double(), w.double(), None, *how)
        return (rand(*y.shape), x, w, [y.shape[1]] if mask[2] else None, *how, list(mask)), {}

    yield case(rand(2, 64, 5, 7), rand(8, 64, 1, 1))
    yield case(rand(2, 3, 9, 9) + 2, rand(4, 3, 3, 3), padding=1)
    yield case(rand(2, 6, 11, 9), rand(6, 2, 3, 3), stride=2, padding=2, dilation=2, groups=3)
    yield case(rand(2, 16, 12, 12).contiguous(memory_format=torch.channels_last), rand(16, 1, 3, 3), groups=16)
    yield case(rand(2, 4, 30), rand(5, 4, 7), (True, False, False), padding=3)
    yield case(rand(1, 3, 5, 6, 7), rand(4, 3, 2, 3, 2), (False, True, False), stride=2)
    yield case(rand(2, 6, 5, 5), rand(6, 4, 3, 3), stride=2, padding=1, transposed=True)
    yield case(rand(2, 6, 9), rand(6, 2, 4), stride=2, transposed=True, groups=2)
    yield case(rand(16, 4, 20, 20) + 1, rand(3, 4, 5, 5))


register(
    Rule(
        ("aten.convolution_backward",),
        Nature.ROUNDS,
        _bound,
        source="Higham, Accuracy and Stability of Numerical Algorithms (2002), §3.1; each gradient is a sum of products",
        assumes="no Winograd, no FFT; accumulated in float32 or wider; no overflow",
        samples=_samples,
    )
)
