"""Rows of a table, and sums of such rows: embeddings, and the gradient of taking a row more than once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from roundoff.exact.products import BLOCK, products
from roundoff.exact.sums import row_sums


def by_size(segment: Tensor, count: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """For each size: the segments of that size, and the places of their members [segments, size], in their order."""
    order = segment.argsort(stable=True)
    sizes = torch.bincount(segment, minlength=count)
    ends = sizes.cumsum(0)
    for size in sizes.unique().tolist():
        which = (sizes == size).nonzero()[:, 0]
        places = (ends[which] - size)[:, None] + torch.arange(size, device=segment.device)
        yield size, which, order[places] if size else places


def bags(rows: Tensor, weights: Tensor | None, segment: Tensor, count: int, mean: bool) -> Tensor:
    """Σ of weights[i] rows[i] over the i of each segment, or their mean, rounded once: [count, D]. Nothing adds to 0."""
    out = rows.new_zeros((count, rows.shape[1]))
    for size, which, places in by_size(segment, count):
        if not size:
            continue
        step = max(1, BLOCK // max(1, size * rows.shape[1]))
        for at, where in zip(which.split(step), places.split(step), strict=True):
            some = rows[where]  # [segments, size, D]
            if weights is not None:
                out[at] = products(weights[where][:, None], some, None, rows.dtype)[:, 0]
            elif size == 1:
                out[at] = some[:, 0] + 0.0
            else:
                flat = some.transpose(1, 2).reshape(-1, size)
                out[at] = row_sums(flat, size if mean else 1, rows.dtype).reshape(len(at), -1)
    return out
