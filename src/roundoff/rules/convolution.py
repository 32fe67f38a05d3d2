"""Convolutions of every kind: each element is a dot product of a patch with a kernel.

The bound is that of a dot product (see ``matmul``), with the norm of each patch had by box-summing squares. Kernels that
compute with Winograd's or Fourier's method keep a norm-wise bound only (Higham §24), with a larger constant than this
one assumes; where a step breaks the bound the finding says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import product
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from roundoff.rules.matmul import norm, products_bound
from roundoff.rules.registry import register
from roundoff.rules.rule import Call, Limit, Nature, Products, Rule

_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def _full(value: Any, dims: int) -> list[int]:
    items = [value] if isinstance(value, int) else list(value)
    return items * dims if len(items) == 1 else items


def _rows(kernel: list[int], stride: list[int], padding: list[int], dilation: list[int], groups: int, out: int) -> Any:
    def rows(x: Tensor) -> Tensor:
        dims = len(kernel)
        squares = _squares(x, groups, dims)
        if prod(kernel) == 1:
            if any(padding):
                squares = F.pad(squares, [p for p in reversed(padding) for _ in (0, 1)])
            boxes = squares[(slice(None), slice(None), *(slice(None, None, s) for s in stride))]
        elif all(d == 1 for d in dilation):
            squares = F.pad(squares, [p for p in reversed(padding) for _ in (0, 1)])
            boxes = _POOL[dims](squares, kernel, stride) * prod(kernel)
        else:
            batch, parts, *space = squares.shape
            ones = squares.new_ones(1, 1, *kernel)
            box = _CONV[dims](squares.reshape(batch * parts, 1, *space), ones, None, stride, padding, dilation)
            boxes = box.reshape(batch, parts, *box.shape[2:])
        return _per_channel(boxes, groups, out)

    return rows


def _transposed_rows(
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    extra: list[int],
    groups: int,
    out: int,
) -> Any:
    def rows(x: Tensor) -> Tensor:
        dims = len(kernel)
        squares = _squares(x, groups, dims)
        batch, parts, *space = squares.shape
        ones = squares.new_ones(1, 1, *kernel)
        box = _CONV_TRANSPOSE[dims](
            squares.reshape(batch * parts, 1, *space), ones, None, stride, padding, extra, 1, dilation
        )
        return _per_channel(box.reshape(batch, parts, *box.shape[2:]), groups, out)

    return rows


def _cols(w: Tensor) -> Tensor:
    return norm(w.flatten(1), 1).reshape(-1, *([1] * (w.dim() - 2)))


def _transposed_cols(groups: int) -> Any:
    def cols(w: Tensor) -> Tensor:
        by_channel = w.reshape(groups, w.shape[0] // groups, w.shape[1], -1).transpose(1, 2).flatten(2)
        return norm(by_channel, 2).reshape(-1, *([1] * (w.dim() - 2)))

    return cols


def _squares(x: Tensor, groups: int, dims: int) -> Tensor:
    """Σ |x|² over the channels of each group: [batch, groups, *space], float64."""
    batched = x if x.dim() == dims + 2 else x.unsqueeze(0)
    squares = (batched.abs() if batched.is_complex() else batched).to(torch.float64, copy=True).square_()
    if groups == batched.shape[1]:
        return squares
    by_group: Tensor = squares.unflatten(1, (groups, -1))
    return by_group.sum(2)


def _per_channel(boxes: Tensor, groups: int, out: int) -> Tensor:
    """The norms of the patches for each output channel: one for all of them where there is one group."""
    patches = boxes.clamp_min(0).sqrt_()
    return patches if groups in (1, out) else patches.repeat_interleave(out // groups, dim=1)


def _take(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Products:
    x, w, bias, stride, padding, dilation, transposed, extra, groups = args[:9]
    dims, kernel = w.dim() - 2, list(w.shape[2:])
    strides, pads, dilations = (_full(value, dims) for value in (stride, padding, dilation))
    added = None if bias is None else bias.reshape(-1, *([1] * dims))
    if transposed:
        terms = w.shape[0] // groups * prod(kernel)
        rows = _transposed_rows(kernel, strides, pads, dilations, _full(extra, dims), groups, w.shape[1] * groups)
        # Where a column is scattered into the image, each kernel position adds to what is stored (measured for float16).
        return Products(x, w, terms, rows, _transposed_cols(groups), added=added, parts=prod(kernel))
    rows = _rows(kernel, strides, pads, dilations, groups, w.shape[0])
    return Products(x, w, prod(w.shape[1:]), rows, _cols, added=added)


def _bound(call: Call) -> Limit:
    return products_bound(_take(call.args, call.kwargs), call)


def _wide(*args: Any, native: tuple[Tensor, ...]) -> Tensor:
    """The convolution in float64. A depthwise one as a sum of shifted taps: PyTorch's own is 6 times slower (measured).

    One of 1x1 as a product of matrices, which is 6 times faster than PyTorch's own where the image lies permuted in memory.
    """
    x, w, bias, stride, padding, dilation, transposed, _, groups = args[:9]
    dims = w.dim() - 2
    if not transposed and groups == 1 and prod(w.shape[2:]) == 1 and not any(padding) and x.dim() == dims + 2:
        return _pointwise(x[(..., *(slice(None, None, s) for s in _full(stride, dims)))], w.flatten(1), bias)
    depthwise = groups == x.shape[1 if x.dim() == dims + 2 else 0] == w.shape[0] and groups > 1
    if transposed or not depthwise or x.device.type != "cpu" or x.dim() != dims + 2:
        convolved: Tensor = torch.ops.aten.convolution(*args[:9])
        return convolved
    strides, pads, dilations = (_full(value, dims) for value in (stride, padding, dilation))
    padded = F.pad(x, [p for p in reversed(pads) for _ in (0, 1)]) if any(pads) else x
    space = native[0].shape[2:]
    out: Tensor | None = None
    for offset in product(*(range(k) for k in w.shape[2:])):
        window = [
            slice(o * d, o * d + (n - 1) * s + 1, s)
            for o, d, n, s in zip(offset, dilations, space, strides, strict=True)
        ]
        part, tap = padded[(slice(None), slice(None), *window)], w[(slice(None), 0, *offset)].reshape(-1, *([1] * dims))
        out = part * tap if out is None else out.addcmul_(part, tap)
    assert out is not None
    return out if bias is None else out.add_(bias.reshape(-1, *([1] * dims)))


def _pointwise(x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
    """A 1x1 convolution, [batch, in, *space] by [out, in]: as a linear layer does it, so that the two round alike."""
    rows = x.movedim(1, -1)
    flat = rows.reshape(-1, rows.shape[-1])
    y = torch.mm(flat, w.t()) if bias is None else torch.addmm(bias, flat, w.t())
    return y.view(*rows.shape[:-1], w.shape[0]).movedim(-1, 1)


def _samples(dtype: torch.dtype, g: torch.Generator) -> Iterable[tuple[tuple[Any, ...], dict[str, Any]]]:
    def rand(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g).to(dtype)

    def case(x: Tensor, w: Tensor, bias: bool = True, stride: int = 1, padding: int = 0, dilation: int = 1,
             transposed: bool = False, groups: int = 1) -> tuple[tuple[Any, ...], dict[str, Any]]:  # fmt: skip
        dims = w.dim() - 2
        out = w.shape[1] * groups if transposed else w.shape[0]
        return (x, w, rand(out) if bias else None, [stride] * dims, [padding] * dims, [dilation] * dims,
                transposed, [0] * dims, groups), {}  # fmt: skip

    yield case(rand(2, 64, 5, 7), rand(8, 64, 1, 1))
    yield case(rand(2, 3, 9, 9) + 2, rand(4, 3, 3, 3), padding=1)
    yield case(rand(2, 6, 11, 9), rand(6, 2, 3, 3), stride=2, padding=2, dilation=2, groups=3)
    yield case(rand(2, 16, 12, 12).contiguous(memory_format=torch.channels_last), rand(16, 1, 3, 3), groups=16)
    yield case(rand(2, 4, 30), rand(5, 4, 7), bias=False, padding=3)
    yield case(rand(1, 3, 5, 6, 7), rand(4, 3, 2, 3, 2), stride=2)
    yield case(rand(2, 6, 5, 5), rand(6, 4, 3, 3), stride=2, padding=1, transposed=True)
    yield case(rand(2, 6, 9), rand(6, 2, 4), stride=2, transposed=True, groups=2)
    yield case(rand(1, 256, 6, 6), rand(10, 256, 6, 6))


register(
    Rule(
        ("aten.convolution", "aten._convolution"),
        Nature.ROUNDS,
        _bound,
        source="Higham, Accuracy and Stability of Numerical Algorithms (2002), §3.1; direct or im2col convolution",
        assumes="no Winograd, no FFT; accumulated in float32 or wider; no overflow",
        samples=_samples,
        products=_take,
        wide=_wide,
    )
)
