"""The sums of products by the names that PyTorch gives them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from roundoff.errors import RoundoffError
from roundoff.exact import ops
from roundoff.exact.gradients import expand
from roundoff.exact.rounding import short_dtype

Ints = int | Sequence[int]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x [..., in]`` times ``weight [out, in]`` plus ``bias [out]``, each element rounded once.

    >>> import torch
    >>> x = torch.tensor([[1.0, 2.0**-30, -1.0]])
    >>> linear(x, torch.ones(1, 3)).item() == 2**-30
    True
    """
    short_dtype("linear", x, weight, bias)
    if x.shape[-1] != weight.shape[-1]:
        raise RoundoffError(
            f"exact.linear: x is {list(x.shape)} and weight {list(weight.shape)}; the last sizes differ."
        )
    flat = x.reshape(1, math.prod(x.shape[:-1]), x.shape[-1])
    right = (weight if weight.dim() == 2 else weight[None]).t()[None]
    y = ops.products(flat, right, None if bias is None else bias.reshape(1, 1, -1))
    return y.reshape(*x.shape[:-1], *weight.shape[:-1])


def matmul(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """``torch.matmul``, plus ``bias``, which broadcasts to the result; each element rounded once."""
    short_dtype("matmul", a, b, bias)
    if not a.dim() or not b.dim():
        raise RoundoffError("exact.matmul takes tensors of one dimension and more; use * for scalars.")
    left, right = (a[None] if a.dim() == 1 else a), (b[:, None] if b.dim() == 1 else b)
    if left.shape[-1] != right.shape[-2]:
        raise RoundoffError(f"exact.matmul: {list(a.shape)} and {list(b.shape)} do not fit.")
    batch = tuple(torch.broadcast_shapes(left.shape[:-2], right.shape[:-2]))
    shape = (*batch, left.shape[-2], right.shape[-1])
    out = (*batch, *(() if a.dim() == 1 else shape[-2:-1]), *(() if b.dim() == 1 else shape[-1:]))
    if right.dim() == 2 and bias is None:
        y = ops.products(left.reshape(1, math.prod(left.shape[:-1]), left.shape[-1]), right[None])
        return y.reshape(out)
    if (
        left.dim() == 2 and bias is None and right.dim() > 2
    ):  # one operand for the whole batch: so is its gradient one sum
        y = matmul(right.transpose(-1, -2), left.t()).transpose(-1, -2)
        return y.reshape(out)
    left = expand(left, (*batch, *left.shape[-2:])).reshape(math.prod(batch), *left.shape[-2:])
    right = expand(right, (*batch, *right.shape[-2:])).reshape(math.prod(batch), *right.shape[-2:])
    if bias is not None:
        bias = expand(bias, out).reshape(math.prod(batch), *shape[-2:])
    return ops.products(left, right, bias).reshape(out)


def bmm(a: Tensor, b: Tensor) -> Tensor:
    """``[B, M, K]`` times ``[B, K, N]``, each element rounded once."""
    return matmul(a, b)


def tensordot(a: Tensor, b: Tensor, dims: Any = 2, bias: Tensor | None = None) -> Tensor:
    """``torch.tensordot``, plus ``bias``, which broadcasts to the result; each element rounded once."""
    if isinstance(dims, Tensor):
        dims = dims.tolist()
    if isinstance(dims, int):
        dims = (range(a.dim() - dims, a.dim()), range(dims))
    first, second = ([d % x.dim() for d in which] for x, which in zip((a, b), dims, strict=True))
    keep_a = [d for d in range(a.dim()) if d not in first]
    keep_b = [d for d in range(b.dim()) if d not in second]
    terms = math.prod([a.shape[d] for d in first])
    if [a.shape[d] for d in first] != [b.shape[d] for d in second]:
        raise RoundoffError(f"exact.tensordot: {list(a.shape)} and {list(b.shape)} do not fit over {dims}.")
    shape = [a.shape[d] for d in keep_a] + [b.shape[d] for d in keep_b]
    rows, columns = math.prod([a.shape[d] for d in keep_a]), math.prod([b.shape[d] for d in keep_b])
    left = a.permute(*keep_a, *first).reshape(1, rows, terms)
    right = b.permute(*second, *keep_b).reshape(1, terms, columns)
    short_dtype("tensordot", a, b, bias)
    if bias is not None:
        last = bias.reshape(-1) if bias.dim() <= 1 else None
        whole = last is not None and len(keep_b) == 1
        added = last.reshape(1, 1, -1) if whole and last is not None else expand(bias, shape).reshape(1, rows, columns)
        return ops.products(left, right, added).reshape(shape)
    return ops.products(left, right).reshape(shape)


def each_of(value: Ints, dims: int) -> list[int]:
    """One number for each dimension, from one for all or from as many as there are."""
    found = [value] if isinstance(value, int) else list(value)
    return found * dims if len(found) == 1 else found


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Ints = 1, padding: Ints | str = 0,
                dilation: Ints = 1, groups: int = 1) -> Tensor:  # fmt: skip
    """A convolution in one, two or three dimensions: as ``torch.nn.functional.conv2d``, each element rounded once."""
    dims = weight.dim() - 2
    short_dtype(f"conv{dims}d", x, weight, bias)
    single = x.dim() == dims + 1
    if single:
        x = x[None]
    if x.dim() != dims + 2 or x.shape[1] != weight.shape[1] * groups:
        raise RoundoffError(
            f"exact.conv{dims}d: input {list(x.shape)} does not fit weight {list(weight.shape)} in {groups} groups."
        )
    stride, dilation = each_of(stride, dims), each_of(dilation, dims)
    if padding == "same":
        around = [d * (k - 1) for k, d in zip(weight.shape[2:], dilation, strict=True)]
        sides = [s for a in reversed(around) for s in (a // 2, a - a // 2)]
        x, padding = torch.nn.functional.pad(x, sides), 0
    elif padding == "valid":
        padding = 0
    if isinstance(padding, str):
        raise RoundoffError(f"exact.conv{dims}d: padding is a number, 'same' or 'valid', and {padding!r} was given.")
    padding = each_of(padding, dims)
    if min(stride) < 1 or min(padding) < 0 or min(dilation) < 1 or len(weight) % groups:
        raise RoundoffError(f"exact.conv{dims}d was given the stride {stride}, padding {padding} and dilation {dilation} "
                            f"for {len(weight)} channels in {groups} groups.")  # fmt: skip
    for n, k, p, d in zip(x.shape[2:], weight.shape[2:], padding, dilation, strict=True):
        if n + 2 * p < d * (k - 1) + 1:
            raise RoundoffError(
                f"exact.conv{dims}d: a kernel over {d * (k - 1) + 1} elements does not fit {n + 2 * p}."
            )
    y = ops.convolution(x, weight, bias, stride, padding, dilation, groups)
    return y[0] if single else y


conv1d = conv2d = conv3d = convolution


def conv_transpose(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Ints = 1, padding: Ints = 0,
                   output_padding: Ints = 0, groups: int = 1, dilation: Ints = 1) -> Tensor:  # fmt: skip
    """A transposed convolution, as ``torch.nn.functional.conv_transpose2d``, each element rounded once."""
    dims = weight.dim() - 2
    short_dtype(f"conv_transpose{dims}d", x, weight, bias)
    single = x.dim() == dims + 1
    if single:
        x = x[None]
    stride, padding, dilation = each_of(stride, dims), each_of(padding, dims), each_of(dilation, dims)
    more = each_of(output_padding, dims)
    if x.dim() != dims + 2 or x.shape[1] != len(weight) or len(weight) % groups:
        raise RoundoffError(f"exact.conv_transpose{dims}d: input {list(x.shape)} does not fit weight "
                            f"{list(weight.shape)} in {groups} groups.")  # fmt: skip
    if min(stride) < 1 or min(padding) < 0 or min(dilation) < 1 or any(
        not 0 <= m < max(s, d) for m, s, d in zip(more, stride, dilation, strict=True)
    ):  # fmt: skip
        raise RoundoffError(f"exact.conv_transpose{dims}d was given the stride {stride}, padding {padding}, dilation "
                            f"{dilation} and output padding {more}.")  # fmt: skip
    space = [
        (x.shape[2 + i] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (weight.shape[2 + i] - 1) + more[i] + 1
        for i in range(dims)
    ]
    if min(space) < 1:
        raise RoundoffError(f"exact.conv_transpose{dims}d: the result would have the sizes {space}.")
    y = ops.convolution_input(x, weight, bias, space, stride, padding, dilation, groups)
    return y[0] if single else y


conv_transpose1d = conv_transpose2d = conv_transpose3d = conv_transpose


def _dims(x: Tensor, dim: Any) -> list[int]:
    if dim is None or (isinstance(dim, (tuple, list)) and not dim):
        return list(range(x.dim()))
    which = [dim] if isinstance(dim, int) else list(dim)
    return sorted(d % max(1, x.dim()) for d in which)


def sum(x: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """``torch.sum``, each element rounded once; an empty sum is 0."""
    return _reduced(x, dim, keepdim, mean=False)


def mean(x: Tensor, dim: Any = None, keepdim: bool = False) -> Tensor:
    """``torch.mean``: the exact sum over the number of elements, rounded once; NaN where there are none."""
    return _reduced(x, dim, keepdim, mean=True)


def _reduced(x: Tensor, dim: Any, keepdim: bool, mean: bool) -> Tensor:
    short_dtype("mean" if mean else "sum", x)
    dims = _dims(x, dim)
    count = math.prod([x.shape[d] for d in dims])
    if mean and not count:
        y = torch.full_like(ops.add_up(x, dims, 1), torch.nan)
    else:
        y = ops.add_up(x, dims, count if mean else 1)
    if keepdim:
        return y
    return y.reshape([n for d, n in enumerate(x.shape) if d not in dims])
