"""Convolutions as sums of products: the patches of the input are the rows of a matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from roundoff.exact.products import BLOCK, products


def patches(x: Tensor, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Tensor:
    """A view of a padded input [N, C, *in]: [N, C, *out, *kernel]."""
    space = x.shape[2:]
    out = [(n - d * (k - 1) - 1) // s + 1 for n, k, s, d in zip(space, kernel, stride, dilation, strict=True)]
    steps = x.stride()[2:]
    size = (*x.shape[:2], *(max(0, o) for o in out), *kernel)
    by = [s * t for s, t in zip(stride, steps, strict=True)], [d * t for d, t in zip(dilation, steps, strict=True)]
    return x.as_strided(size, (*x.stride()[:2], *by[0], *by[1]))


def pad(x: Tensor, padding: Sequence[int]) -> Tensor:
    """Zeros on both sides of each spatial dimension; a negative number takes elements away."""
    if not any(padding):
        return x
    return F.pad(x, [p for p in reversed(padding) for _ in range(2)])


def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int], padding: Sequence[int],
                dilation: Sequence[int], groups: int) -> Tensor:  # fmt: skip
    """x [N, C, *in] with weight [O, C / groups, *kernel]: [N, O, *out], each element rounded once, bias included."""
    kernel, channels = weight.shape[2:], x.shape[1] // groups
    columns = len(weight) // groups
    view = patches(pad(x, padding), kernel, stride, dilation)
    dims = len(kernel)
    space = view.shape[2 : 2 + dims]
    out = x.new_empty((len(x), len(weight), *space))
    if not out.numel():
        return out
    terms, positions = channels * math.prod(kernel), math.prod(space)
    right = weight.reshape(groups, columns, terms).transpose(1, 2)
    added = None if bias is None else bias.reshape(groups, 1, columns)
    images = max(1, BLOCK // max(1, groups * terms * positions))
    lines = space[0] if images > 1 else max(1, BLOCK // max(1, groups * terms * positions // space[0]))
    for n in range(0, len(x), images):
        for i in range(0, space[0], lines):
            block = view[n : n + images, :, i : i + lines]
            part = out[n : n + images, :, i : i + lines]
            spread = block.unflatten(1, (groups, channels))
            # [groups, N, *out, channels, *kernel]: the rows of one matrix for each group
            spread = spread.permute(1, 0, *range(3, 3 + dims), 2, *range(3 + dims, 3 + 2 * dims))
            left = spread.reshape(groups, -1, terms)
            y = products(left, right, added, x.dtype)
            y = y.reshape(groups, len(part), *part.shape[2:], columns)
            part.copy_(y.permute(1, 0, y.dim() - 1, *range(2, y.dim() - 1)).flatten(1, 2))
    return out


def of_weight(x: Tensor, grad: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int],
              dilation: Sequence[int], groups: int) -> Tensor:  # fmt: skip
    """The gradient of a convolution in its weight: one sum over all images and positions, rounded once."""
    channels, columns = x.shape[1] // groups, grad.shape[1] // groups
    dims = len(kernel)
    view = patches(pad(x, padding), kernel, stride, dilation).unflatten(1, (groups, channels))
    # After output padding there may be more places for the kernel than the result has.
    view = view[(slice(None),) * 3 + tuple(slice(n) for n in grad.shape[2:])]
    out = x.new_empty((groups * columns, channels, *kernel))
    right = grad.unflatten(1, (groups, columns)).permute(1, 0, *range(3, 3 + dims), 2).reshape(groups, -1, columns)
    for tap in range(math.prod(kernel)):
        place: list[int] = []
        rest = tap
        for k in reversed(kernel):
            place.insert(0, rest % k)
            rest //= k
        here: tuple[Any, ...] = (..., *place)
        at = view[here]  # [N, groups, channels, *out]
        left = at.permute(1, 2, 0, *range(3, 3 + dims)).reshape(groups, channels, -1)
        y = products(left, right, None, x.dtype)  # [groups, channels, columns]
        out[here] = y.transpose(1, 2).reshape(groups * columns, channels)
    return out


def spread_out(x: Tensor, stride: Sequence[int]) -> Tensor:
    """``x`` with stride - 1 zeros between its elements."""
    if all(s == 1 for s in stride):
        return x
    space = [(n - 1) * s + 1 for n, s in zip(x.shape[2:], stride, strict=True)]
    out = x.new_zeros((*x.shape[:2], *space))
    steps: tuple[Any, ...] = (..., *[slice(None, None, s) for s in stride])
    out[steps] = x
    return out


def of_input(grad: Tensor, weight: Tensor, bias: Tensor | None, space: Sequence[int], stride: Sequence[int],
             padding: Sequence[int], dilation: Sequence[int], groups: int) -> Tensor:  # fmt: skip
    """The gradient of a convolution in its input of size ``space``, or a transposed convolution: rounded once.

    It is a convolution of ``grad``, spread out by the stride, with the flipped kernel and the channels exchanged.
    """
    kernel, dims = weight.shape[2:], weight.dim() - 2
    around = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    wide = spread_out(grad, stride)
    sides: list[int] = []
    for i in reversed(range(dims)):
        before = around[i] - padding[i]
        sides += [before, space[i] + around[i] - before - wide.shape[2 + i]]
    wide = F.pad(wide, sides)
    columns = len(weight) // groups
    turned = weight.flip(list(range(2, 2 + dims))).unflatten(0, (groups, columns)).transpose(1, 2).flatten(0, 1)
    ones, none = [1] * dims, [0] * dims
    return convolution(wide, turned, bias, ones, none, dilation, groups)
