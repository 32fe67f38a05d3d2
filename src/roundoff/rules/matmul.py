"""Matrix products.

Each element is a dot product of length n, added in an order that is not known, with or without fused multiply-add:
|ŝ - s| <= γ_n |x|ᵀ|y| (Higham, Accuracy and Stability of Numerical Algorithms, §3.1 and §3.5), one rounding more for a
summand and one for each scale. Here |x|ᵀ|y| <= ‖x‖‖y‖, which costs no second product.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.linalg import vector_norm

from roundoff.formats import U64
from roundoff.rules.registry import register
from roundoff.rules.rule import Call, Limit, Nature, Products, Rule

_SOURCE = "Higham, Accuracy and Stability of Numerical Algorithms (2002), §3.1, §3.5"
_ASSUMES = "a classical product (no Strassen, no Winograd), accumulated in float32 or wider; no overflow"


def norm(x: Tensor, dim: int) -> Tensor:
    """‖x‖₂ along ``dim``, accumulated in float64, where squares of float32 numbers neither overflow nor underflow.

    Of float32 numbers whose squares are far from either in float32 as well; then it is at most ‖x‖₂.
    """
    if x.stride(dim) == 1 and x.dtype == torch.float32 and x.numel():
        short: Tensor = vector_norm(x, dim=dim)
        least, most = short.aminmax()
        if least > 2.0**-50 and most < 2.0**50:
            return short.to(torch.float64).mul_(1 - (x.shape[dim] + 4) * 2.0**-24)
    if x.stride(dim) == 1 and not x.is_complex():
        along: Tensor = vector_norm(x, dim=dim, dtype=torch.float64)
        return along
    # PyTorch's norm is slow across rows (measured: 15 times slower than this).
    return (x.abs() if x.is_complex() else x).to(torch.float64, copy=True).square_().sum(dim).sqrt_()


def _rows(x: Tensor) -> Tensor:
    return norm(x, -1).unsqueeze(-1)


def _cols(w: Tensor) -> Tensor:
    return norm(w, -2).unsqueeze(-2)


def _last(x: Tensor) -> Tensor:
    return norm(x, -1)


def _keyword(kwargs: Mapping[str, Any], name: str) -> float:
    value = kwargs.get(name, 1)
    return float(abs(value))


def _mm(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Products:
    x, w = args[0], args[1]
    return Products(x, w, x.shape[-1], _rows, _cols)


def _addmm(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Products:
    added, x, w = args[0], args[1], args[2]
    beta = _keyword(kwargs, "beta")
    return Products(x, w, x.shape[-1], _rows, _cols, _keyword(kwargs, "alpha"), None if beta == 0 else added * beta)


def _mv(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Products:
    return Products(args[0], args[1], args[0].shape[-1], _last, _last)


def _addmv(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Products:
    beta = _keyword(kwargs, "beta")
    return Products(
        args[1],
        args[2],
        args[1].shape[-1],
        _last,
        _last,
        _keyword(kwargs, "alpha"),
        None if beta == 0 else args[0] * beta,
    )


def _linear(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Products:
    bias = args[2] if len(args) > 2 else kwargs.get("bias")
    return Products(args[0], args[1], args[0].shape[-1], _rows, _last, added=bias)


def lost(products: Products, u: float) -> float:
    """What n products lose where they underflow: each half the smallest number of the arithmetic (Higham, §2.8)."""
    return products.roundings * (2.0**-1074 if u == U64 else 2.0**-150) * max(products.scale, 1.0)


def products_bound(products: Products, call: Call) -> Limit:
    """γ_{n+2} (scale ‖x‖‖w‖ + |added|): n products, a summand and a scale; a complex product is four real ones."""
    gamma = call.gamma(products.roundings)
    rows, cols = products.rows(products.x), products.cols(products.w)
    limit: Limit = rows * (gamma * products.scale * (2 if products.x.is_complex() else 1)) * cols
    if products.parts and call.u_out > call.u:
        limit = limit + rows * (call.u_out * products.parts * products.scale) * cols
    limit = limit + lost(products, call.u)
    if products.added is not None:
        limit = limit + products.added.abs() * gamma
        if call.u_out > call.u:  # some kernels store the sum in the short format before they add the bias (measured)
            limit = limit + (call.out[0] - products.added).abs() * call.u_out
    return limit


def _samples(kind: str) -> Any:
    def samples(dtype: torch.dtype, g: torch.Generator) -> Iterable[tuple[tuple[Any, ...], dict[str, Any]]]:
        for m, k, n in ((1, 1, 1), (3, 7, 5), (4, 64, 33), (16, 1000, 17), (5, 4096, 8)):
            for shift in (0.0, 3.0):
                x = (torch.randn(m, k, generator=g) + shift).to(dtype)
                w = (torch.randn(n, k, generator=g) * 10.0 ** torch.randint(-3, 3, (n, k), generator=g)).to(dtype).t()
                b = torch.randn(n, generator=g).to(dtype)
                match kind:
                    case "mm":
                        yield (x, w), {}
                    case "addmm":
                        yield (b, x, w), {}
                        yield (b, x, w), {"beta": 0.5, "alpha": 3.0}
                    case "bmm":
                        yield (torch.stack([x, -x]), torch.stack([w, w * 2])), {}
                    case "mv":
                        yield (x, w[:, 0]), {}
                    case "dot":
                        yield (x[0], w[:, 0]), {}
                    case "addmv":
                        yield (torch.randn(m, generator=g).to(dtype), x, w[:, 0]), {}
                    case "baddbmm":
                        yield (b, torch.stack([x, -x]), torch.stack([w, w * 2])), {}
                    case "linear":
                        yield (x, w.t().contiguous(), b), {}

    return samples


for _name, _take in {
    "mm": _mm,
    "bmm": _mm,
    "addmm": _addmm,
    "baddbmm": _addmm,
    "mv": _mv,
    "dot": _mv,
    "addmv": _addmv,
    "linear": _linear,
}.items():

    def _bound(call: Call, take: Any = _take) -> Limit:
        return products_bound(take(call.args, call.kwargs), call)

    register(
        Rule(
            (f"aten.{_name}",),
            Nature.ROUNDS,
            _bound,
            source=_SOURCE,
            assumes=_ASSUMES,
            samples=_samples(_name),
            products=_take,
        )
    )

register(
    Rule(
        ("aten.vdot",),
        Nature.ROUNDS,
        lambda call: products_bound(_mv(call.args, call.kwargs), call),
        source=_SOURCE,
        assumes=_ASSUMES,
        samples=_samples("dot"),
        products=_mv,
    )
)
