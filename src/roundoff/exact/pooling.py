"""Averages over windows: the exact sum over the number that the kernel of PyTorch divides by, rounded once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from roundoff.errors import RoundoffError
from roundoff.exact import ops
from roundoff.exact.contractions import Ints, each_of
from roundoff.exact.rounding import short_dtype

#: For each spatial dimension: where its windows start and end, and by what they count in the divisor.
Windows = tuple[list[int], list[int], list[int]]


def average(x: Tensor, dims: Sequence[Windows], divisor: int | None) -> Tensor:
    """``x`` [..., *in] averaged over the product of the windows; over ``divisor`` where it is given."""
    starts = [s for d in dims for s in d[0]]
    ends = [e for d in dims for e in d[1]]
    counts = [c for d in dims for c in d[2]]
    return ops.windows(x, [len(d[0]) for d in dims], starts, ends, counts, divisor or 0)


def _size(n: int, k: int, s: int, p: int, ceil: bool) -> int:
    out = (n + 2 * p - k + (s - 1 if ceil else 0)) // s + 1
    return out - 1 if ceil and (out - 1) * s >= n + p else out  # the last window starts inside, or in its left border


def avg_pool(dims: int, x: Tensor, kernel_size: Ints, stride: Ints | None = None, padding: Ints = 0,
             ceil_mode: bool = False, count_include_pad: bool = True,
             divisor_override: int | None = None) -> Tensor:  # fmt: skip
    """As ``torch.nn.functional.avg_pool2d`` in ``dims`` dimensions, rounded once."""
    short_dtype(f"avg_pool{dims}d", x)
    if divisor_override is not None and divisor_override < 1:
        raise RoundoffError(f"exact.avg_pool{dims}d takes a divisor of 1 or more, not {divisor_override}.")
    kernel = each_of(kernel_size, dims)
    steps = kernel if stride is None or stride == [] or stride == () else each_of(stride, dims)
    around = each_of(padding, dims)
    found: list[Windows] = []
    for n, k, s, p in zip(x.shape[-dims:], kernel, steps, around, strict=True):
        first = [i * s - p for i in range(_size(n, k, s, p, ceil_mode))]
        last = [min(f + k, n + p) for f in first]
        inside = [max(0, f) for f in first], [min(e, n) for e in last]
        counts = [e - f for f, e in zip(first, last, strict=True)]
        if not count_include_pad:
            counts = [max(1, e - f) for f, e in zip(*inside, strict=True)]
        found.append((*inside, counts))
    return average(x, found, divisor_override)


def adaptive_avg_pool(dims: int, x: Tensor, output_size: int | Sequence[int | None]) -> Tensor:
    """As ``torch.nn.functional.adaptive_avg_pool2d`` in ``dims`` dimensions, rounded once."""
    short_dtype(f"adaptive_avg_pool{dims}d", x)
    sizes = [output_size] * dims if isinstance(output_size, int) else list(output_size)
    found: list[Windows] = []
    for n, wanted in zip(x.shape[-dims:], sizes, strict=True):
        m = n if wanted is None else wanted
        start, end = [i * n // m for i in range(m)], [-(-(i + 1) * n // m) for i in range(m)]
        found.append((start, end, [e - s for s, e in zip(start, end, strict=True)]))
    return average(x, found, None)


class _Largest(torch.autograd.Function):
    """The largest of each window. The gradient of one that is the largest of several windows is one sum."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, name: str, dims: int, options: tuple[Any, ...]) -> Tensor:
        y, at = getattr(F, name)(x, *options, return_indices=True)
        ctx.save_for_backward(at)
        ctx.shape, ctx.lead = x.shape, x.dim() - dims
        return y  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (at,) = ctx.saved_tensors
        space = math.prod(ctx.shape[ctx.lead :])
        lead = torch.arange(math.prod(ctx.shape[: ctx.lead]), device=at.device)
        place = (at.flatten(ctx.lead).reshape(len(lead), -1) + lead[:, None] * space).reshape(-1)
        return ops.bags(grad.reshape(-1, 1), None, place, len(lead) * space, False).reshape(ctx.shape), None, None, None


def max_pool(dims: int, x: Tensor, kernel_size: Ints, stride: Ints | None = None, padding: Ints = 0, dilation: Ints = 1,
             ceil_mode: bool = False, return_indices: bool = False) -> Tensor:  # fmt: skip
    """As ``torch.nn.functional.max_pool2d`` in ``dims`` dimensions; its gradient is a sum rounded once."""
    short_dtype(f"max_pool{dims}d", x)
    if return_indices:
        raise RoundoffError(f"exact.max_pool{dims}d gives no indices.")
    options = (kernel_size, stride, padding, dilation, ceil_mode)
    y: Tensor = _Largest.apply(x, f"max_pool{dims}d", dims, options)  # type: ignore[no-untyped-call]
    return y


def adaptive_max_pool(dims: int, x: Tensor, output_size: Any, return_indices: bool = False) -> Tensor:
    """As ``torch.nn.functional.adaptive_max_pool2d`` in ``dims`` dimensions; its gradient is a sum rounded once."""
    short_dtype(f"adaptive_max_pool{dims}d", x)
    if return_indices:
        raise RoundoffError(f"exact.adaptive_max_pool{dims}d gives no indices.")
    y: Tensor = _Largest.apply(x, f"adaptive_max_pool{dims}d", dims, (output_size,))  # type: ignore[no-untyped-call]
    return y
