"""Convolutions as sums of products: the patches of the input are the rows of a matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from roundoff.exact.products import BLOCK, Left, apart, products, products_into
from roundoff.exact.rounding import narrow, slack

FEW = 128  # places of an image below which images are taken together
TAPS = 1 << 15  # elements of a block whose taps are added one by one: it fits the cache


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
    padded = pad(x, padding)
    view = patches(padded, kernel, stride, dilation)
    space = view.shape[2 : 2 + len(kernel)]
    out = x.new_empty((len(x), len(weight), *space))
    if not out.numel():
        return out
    if math.prod(space) < FEW:
        _by_rows(view, weight, bias, groups, out)
    elif channels == 1 and len(weight) <= 2 * groups:
        _by_taps(padded, weight, bias, stride, dilation, out)
    else:
        squares = padded.to(torch.float64).square_().unflatten(1, (groups, channels)).sum(2)
        norms = patches(squares, kernel, stride, dilation).flatten(2 + len(kernel)).sum(-1).sqrt_()
        _by_images(view, norms, weight, bias, groups, out)
    return out


def _by_images(view: Tensor, norms: Tensor, weight: Tensor, bias: Tensor | None, groups: int, out: Tensor) -> None:
    """For each image the weights times its patches, which are copied along its rows and have the ``norms``."""
    dims = weight.dim() - 2
    columns, terms = len(weight) // groups, weight[0].numel()
    left = weight.reshape(groups, columns, terms).to(torch.float64)
    added = None if bias is None else bias.reshape(groups, columns, 1)
    lines = max(1, 2 * BLOCK // max(1, groups * terms * math.prod(view.shape[3 : 2 + dims])))
    order = [1, *range(2 + dims, 2 + 2 * dims), *range(2, 2 + dims)]  # [channels, *kernel, *out] of one image
    todo = Left()
    for n in range(len(view)):
        for i in range(0, view.shape[2], lines):
            part = view[n : n + 1, :, i : i + lines].permute(0, *order)[0]
            right = torch.empty(part.shape, dtype=torch.float64, device=part.device)
            right.copy_(part)
            here, sizes = out[n, :, i : i + lines], norms[n, :, i : i + lines].flatten(1)
            near = torch.empty_like(here) if lines < view.shape[2] else here
            rows = near.view(groups, columns, -1)
            products_into(left, right.view(groups, terms, -1), added, rows, todo, sizes)
            if near is not here:
                todo.settle()
                here.copy_(near)
    todo.settle()


def _by_taps(padded: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int], dilation: Sequence[int],
             out: Tensor) -> None:  # fmt: skip
    """Channels by themselves: the input, shifted to each place of the kernel, times one number for each channel.

    A product is exact in float64 and a term passes through at most as many additions as there are places and a bias,
    so the bound is that of a sum of products, with Σ|x w| at most max|x| Σ|w|.
    """
    dims, groups = weight.dim() - 2, padded.shape[1]
    columns = len(weight) // groups
    ones = [1] * dims
    w = weight.reshape(groups, columns, -1).to(torch.float64)
    taps = list(product(*(range(k) for k in weight.shape[2:])))
    size = padded.abs().flatten(2).amax(2).to(torch.float64)[:, :, None] * w.abs().sum(2)  # [N, groups, columns]
    added = None if bias is None else bias.to(torch.float64).reshape(groups, columns)
    if added is not None:
        size = size + added.abs()
    step = max(1, TAPS // max(1, columns * math.prod(out.shape[2:])))
    todo = Left()
    for n in range(len(padded)):
        for g in range(0, groups, step):
            some = slice(g, g + step)
            part = patches(padded[n : n + 1, some].to(torch.float64), weight.shape[2:], stride, dilation)[0]
            by, more = w[some], None if added is None else added[some].reshape(-1)
            y = torch.zeros((len(part), columns, *out.shape[2:]), dtype=torch.float64, device=out.device)
            if more is not None:
                y += more.reshape(len(part), columns, *ones)
            for t, place in enumerate(taps):
                at = part[(..., *place)]  # type: ignore[index]
                y.addcmul_(at[:, None], by[:, :, t].reshape(len(part), columns, *ones))
            near = out[n, g * columns : (g + step) * columns]
            _finish(y, size[n, some].reshape(-1), len(taps), part, by, more, near, todo)
    todo.settle()


def _finish(y: Tensor, size: Tensor, count: int, part: Tensor, w: Tensor, bias: Tensor | None, out: Tensor,
            todo: Left) -> None:  # fmt: skip
    """Rounds what the bound decides, and keeps the rest with its terms."""
    flat, near = y.view(len(size), -1), out.view(len(size), -1)
    found = apart(flat, (size * slack(count + 1))[:, None], near)
    if found is None:
        return
    for at in found.split(1 << 13):
        row, place = at // flat.shape[1], at % flat.shape[1]
        values = flat[row, place]
        finite = values.isfinite()
        if not bool(finite.all()):
            odd = ~finite
            near[row[odd], place[odd]] = narrow(values[odd].nan_to_num(torch.nan, torch.inf, -torch.inf), out.dtype)
            row, place = row[finite], place[finite]
        channel, rest = row // w.shape[1], place
        index: list[Tensor] = []
        for n in reversed(out.shape[1:]):
            index.insert(0, rest % n)
            rest = rest // n
        terms = part[(channel, *index)].flatten(1) * w[channel, row % w.shape[1]]
        if bias is not None:
            terms = torch.cat([terms, bias[row, None]], dim=1)
        todo.keep(near, row, place, terms, size[row])


def _by_rows(view: Tensor, weight: Tensor, bias: Tensor | None, groups: int, out: Tensor) -> None:
    """Small images together: the patches of all are the rows of one matrix for each group."""
    dims, channels, columns = weight.dim() - 2, weight.shape[1], len(weight) // groups
    space = view.shape[2 : 2 + dims]
    terms, positions = weight[0].numel(), math.prod(space)
    right = weight.reshape(groups, columns, terms).transpose(1, 2)
    added = None if bias is None else bias.reshape(groups, 1, columns)
    images = max(1, BLOCK // max(1, groups * terms * positions))
    lines = space[0] if images > 1 else max(1, BLOCK // max(1, groups * terms * positions // space[0]))
    for n in range(0, len(view), images):
        for i in range(0, space[0], lines):
            block = view[n : n + images, :, i : i + lines]
            part = out[n : n + images, :, i : i + lines]
            spread = block.unflatten(1, (groups, channels))
            # [groups, N, *out, channels, *kernel]: the rows of one matrix for each group
            spread = spread.permute(1, 0, *range(3, 3 + dims), 2, *range(3 + dims, 3 + 2 * dims))
            left = spread.reshape(groups, -1, terms)
            y = products(left, right, added, out.dtype)
            y = y.reshape(groups, len(part), *part.shape[2:], columns)
            part.copy_(y.permute(1, 0, y.dim() - 1, *range(2, y.dim() - 1)).flatten(1, 2))


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
    right = right.to(torch.float64)
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
    y = convolution(wide, turned, bias, ones, none, dilation, groups)
    if bool(weight.isfinite().all()):
        return y
    # The zeros around and between are no operands: an infinite weight does not meet them. Where it meets nothing else,
    # the sum is that without it.
    more = [n - ((g - 1) * s - 2 * p + d + 1) for n, g, s, p, d in
            zip(space, grad.shape[2:], stride, padding, around, strict=True)]  # fmt: skip
    tensors = (None if t is None else t.to(torch.float64) for t in (grad, weight, bias))
    true = torch.ops.aten.convolution(*tensors, stride, padding, dilation, True, more, groups)
    finite = convolution(wide, turned.nan_to_num(0.0, 0.0, 0.0), bias, ones, none, dilation, groups)
    return torch.where(true.isfinite(), finite, narrow(true, y.dtype))
