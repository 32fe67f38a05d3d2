"""The operators that round once, known to PyTorch: they record, export, compile and have gradients.

``roundoff::products``, ``convolution`` and its gradients, ``add_up``, ``windows``, ``bags``, ``multiply_add``, ``each`` and
``power``; their gradients are in gradients.py.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import ParamSpec, cast

import torch
from torch import Tensor

from roundoff.exact import convolutions, elementwise, gathering, sums
from roundoff.exact import products as of_rows
from roundoff.exact import windows as of_windows
from roundoff.exact.rounding import subnormal_numbers

P = ParamSpec("P")


_LIBRARY = torch.library.Library("roundoff", "FRAGMENT")


def _operator(f: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Makes ``f`` an operator of PyTorch. By ``torch.library.custom_op`` its first call would wait for the compiler."""
    name = f.__name__
    traced: list[Callable[P, Tensor]] = []

    def run(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        subnormal_numbers()
        if "torch._dynamo" not in sys.modules:
            return f(*args, **kwargs)
        if not traced:
            traced.append(torch._dynamo.disable(f))
        return traced[0](*args, **kwargs)

    _LIBRARY.define(name + torch.library.infer_schema(f, mutates_args=()))
    _LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    return cast("Callable[P, Tensor]", getattr(torch.ops.roundoff, name).default)


def _fake(name: str) -> Callable[[Callable[P, Tensor]], Callable[P, Tensor]]:
    def register(f: Callable[P, Tensor]) -> Callable[P, Tensor]:
        torch.library.register_fake(f"roundoff::{name}", f, lib=_LIBRARY)
        return f

    return register


@_operator
def products(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """Σ_k left[b, m, k] right[b, k, n] + bias, which broadcasts to [B, M, N]; each element rounded once."""
    return of_rows.products(left, right, bias, left.dtype)


@_operator
def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int], padding: Sequence[int],
                dilation: Sequence[int], groups: int) -> Tensor:  # fmt: skip
    """x [N, C, *in] with weight [O, C / groups, *kernel]; each element rounded once, bias included."""
    return convolutions.convolution(x, weight, bias, stride, padding, dilation, groups)


@_operator
def convolution_input(grad: Tensor, weight: Tensor, bias: Tensor | None, space: Sequence[int], stride: Sequence[int],
                      padding: Sequence[int], dilation: Sequence[int], groups: int) -> Tensor:  # fmt: skip
    """The gradient of a convolution in its input of size ``space``, and so a transposed convolution."""
    return convolutions.of_input(grad, weight, bias, space, stride, padding, dilation, groups)


@_operator
def convolution_weight(x: Tensor, grad: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int],
                       dilation: Sequence[int], groups: int) -> Tensor:  # fmt: skip
    """The gradient of a convolution in its weight."""
    return convolutions.of_weight(x, grad, kernel, stride, padding, dilation, groups)


@_operator
def add_up(x: Tensor, dims: Sequence[int], divisor: int) -> Tensor:
    """The sum over ``dims``, which are kept with size 1, over ``divisor``; rounded once."""
    kept = [d for d in range(x.dim()) if d not in dims]
    rows = x.permute(*kept, *dims).reshape(math.prod(x.shape[d] for d in kept), -1 if x.numel() else 0)
    y = sums.row_sums(rows, divisor, x.dtype)
    return y.reshape([1 if d in dims else x.shape[d] for d in range(x.dim())])


@_operator
def each(x: Tensor, name: str) -> Tensor:
    """The function ``name`` at each element, rounded once."""
    return elementwise.each(x, name)


@_operator
def power(x: Tensor, exponent: int) -> Tensor:
    """A whole power of each element, rounded once."""
    return elementwise.power(x, exponent)


@_operator
def windows(x: Tensor, sizes: Sequence[int], starts: Sequence[int], ends: Sequence[int], counts: Sequence[int],
            divisor: int) -> Tensor:  # fmt: skip
    """x [..., *in] averaged over windows: those of each dimension from starts to ends, one after the other.

    ``sizes`` says how many there are in each dimension. The divisor is the product of the counts, or ``divisor`` unless
    that is 0; each element is rounded once.
    """
    by = of_windows.divisors(sizes, counts, divisor, x.device)
    return of_windows.window_sums(x, of_windows.split(sizes, starts), of_windows.split(sizes, ends), by)


@_operator
def bags(rows: Tensor, weights: Tensor | None, segment: Tensor, count: int, mean: bool) -> Tensor:
    """Σ weights[i] rows[i] over the i of each of ``count`` segments, or their mean; each element rounded once."""
    return gathering.bags(rows, weights, segment, count, mean)


@_operator
def multiply_add(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """x + a · b for three tensors of one shape, or one number a or b; each element rounded once."""
    return elementwise.multiply_add(x, a, b)


@_fake("products")
def _(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    return left.new_empty((left.shape[0], left.shape[1], right.shape[2]))


@_fake("convolution")
def _(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int], padding: Sequence[int],
      dilation: Sequence[int], groups: int) -> Tensor:  # fmt: skip
    kernel = weight.shape[2:]
    space = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(x.shape[2:], kernel, stride, padding, dilation, strict=True)
    ]
    return x.new_empty((x.shape[0], weight.shape[0], *space))


@_fake("convolution_input")
def _(grad: Tensor, weight: Tensor, bias: Tensor | None, space: Sequence[int], stride: Sequence[int],
      padding: Sequence[int], dilation: Sequence[int], groups: int) -> Tensor:  # fmt: skip
    return grad.new_empty((grad.shape[0], weight.shape[1] * groups, *space))


@_fake("convolution_weight")
def _(x: Tensor, grad: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int],
      dilation: Sequence[int], groups: int) -> Tensor:  # fmt: skip
    return x.new_empty((grad.shape[1], x.shape[1] // groups, *kernel))


@_fake("add_up")
def _(x: Tensor, dims: Sequence[int], divisor: int) -> Tensor:
    return x.new_empty([1 if d in dims else x.shape[d] for d in range(x.dim())])


@_fake("each")
def _(x: Tensor, name: str) -> Tensor:
    return torch.empty_like(x)


@_fake("power")
def _(x: Tensor, exponent: int) -> Tensor:
    return torch.empty_like(x)


@_fake("windows")
def _(x: Tensor, sizes: Sequence[int], starts: Sequence[int], ends: Sequence[int], counts: Sequence[int],
      divisor: int) -> Tensor:  # fmt: skip
    return x.new_empty((*x.shape[: x.dim() - len(sizes)], *sizes))


@_fake("bags")
def _(rows: Tensor, weights: Tensor | None, segment: Tensor, count: int, mean: bool) -> Tensor:
    return rows.new_empty((count, rows.shape[1]))


@_fake("multiply_add")
def _(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return x.new_empty(x.shape)


__all__ = [
    "add_up",
    "bags",
    "convolution",
    "convolution_input",
    "convolution_weight",
    "each",
    "multiply_add",
    "power",
    "products",
    "windows",
]
