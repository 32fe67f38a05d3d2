"""Sums over windows that are products of intervals: the members of each in a row, added and rounded once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from roundoff.exact.sums import row_sums


def window_sums(x: Tensor, starts: Sequence[Sequence[int]], ends: Sequence[Sequence[int]], by: Tensor) -> Tensor:
    """``x`` [..., *in] summed over each window and divided by ``by`` (int64 [*out]), rounded once: [..., *out]."""
    dims = len(starts)
    lead = x.shape[: x.dim() - dims]
    if not x.numel() or not by.numel():
        return x.new_zeros((*lead, *by.shape))
    rows = gathered(x, starts, ends)
    same = int(by.reshape(-1)[0]) if bool((by == by.reshape(-1)[0]).all()) else None
    divisor = by.reshape(-1).repeat(math.prod(lead)) if same is None else same
    return row_sums(rows, divisor, x.dtype).reshape(*lead, *by.shape)


def divisors(sizes: Sequence[int], counts: Sequence[int], divisor: int, device: torch.device) -> Tensor:
    """The product of the counts of each dimension, int64 [*out]; or ``divisor`` everywhere, unless it is 0."""
    out = torch.full(tuple(sizes), divisor or 1, dtype=torch.int64, device=device)
    if not divisor:
        for i, part in enumerate(split(sizes, counts)):
            shape = [1] * len(sizes)
            shape[i] = -1
            out = out * torch.tensor(part, dtype=torch.int64, device=device).reshape(shape)
    return out


def split(sizes: Sequence[int], flat: Sequence[int]) -> list[list[int]]:
    """The numbers of each dimension from those of all."""
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [list(flat[e - n : e]) for n, e in zip(sizes, ends, strict=True)]


def covering(starts: Sequence[int], ends: Sequence[int], size: int) -> tuple[list[int], list[int]]:
    """Which windows cover each of the places 0 to size: these are neighbours, for starts and ends only grow."""
    first = [sum(1 for e in ends if e <= i) for i in range(size)]
    return first, [sum(1 for s in starts if s <= i) for i in range(size)]


def gathered(x: Tensor, starts: Sequence[Sequence[int]], ends: Sequence[Sequence[int]]) -> Tensor:
    """The members of each window in rows, filled up with zeros: [elements of x before them * windows, members]."""
    dims = len(starts)
    x = torch.nn.functional.pad(x, [0, 1] * dims)
    lengths = [max(1, *(e - s for s, e in zip(a, b, strict=True))) for a, b in zip(starts, ends, strict=True)]
    for i in range(dims):
        at = x.dim() - dims + i
        none = x.shape[at] - 1  # the place of a zero
        index = [[s + j if s + j < e else none for j in range(lengths[i])]
                 for s, e in zip(starts[i], ends[i], strict=True)]  # fmt: skip
        flat = torch.tensor(index, device=x.device).reshape(-1)
        x = x.index_select(at, flat)
    lead = x.shape[: x.dim() - dims]
    for i in range(dims):
        x = x.unflatten(len(lead) + 2 * i, (len(starts[i]), lengths[i]))
    outs, members = [len(lead) + 2 * i for i in range(dims)], [len(lead) + 2 * i + 1 for i in range(dims)]
    return x.permute(*range(len(lead)), *outs, *members).reshape(-1, math.prod(lengths))
