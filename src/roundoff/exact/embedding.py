"""Embeddings and their sums. Taking a row rounds nothing; its gradient is a sum over all that took it, rounded once."""

from __future__ import annotations

import torch
from torch import Tensor

from roundoff.errors import RoundoffError
from roundoff.exact import ops
from roundoff.exact.gradients import take
from roundoff.exact.rounding import short_dtype


def _row(padding_idx: int | None, weight: Tensor) -> int | None:
    return None if padding_idx is None else padding_idx % len(weight)


def embedding(indices: Tensor, weight: Tensor, padding_idx: int | None = None) -> Tensor:
    """``weight[indices]``; the row ``padding_idx`` has no gradient."""
    short_dtype("embedding", weight)
    return take(weight, indices.long(), _row(padding_idx, weight))


def embedding_bag(indices: Tensor, weight: Tensor, offsets: Tensor | None = None, mode: str = "mean",
                  per_sample_weights: Tensor | None = None, include_last_offset: bool = False,
                  padding_idx: int | None = None) -> Tensor:  # fmt: skip
    """Σ of the rows of each bag, each times its weight where there are any, or their mean; rounded once.

    ``indices`` [B, N], or [N] with ``offsets`` [B], where the bags start. What is ``padding_idx`` does not count.
    """
    short_dtype("embedding_bag", weight, per_sample_weights)
    if mode not in ("sum", "mean"):
        raise RoundoffError(f"exact.embedding_bag takes the modes 'sum' and 'mean', and {mode!r} was given.")
    if per_sample_weights is not None and mode != "sum":
        raise RoundoffError("exact.embedding_bag takes per_sample_weights with the mode 'sum' only, as PyTorch does.")
    flat = indices.reshape(-1).long()
    places = torch.arange(len(flat), device=flat.device)
    if offsets is None:
        count = len(indices)
        segment = places // max(1, indices.shape[-1])
    else:
        starts = offsets[:-1] if include_last_offset else offsets
        count = len(starts)
        segment = torch.searchsorted(starts.contiguous(), places.to(starts.dtype), right=True) - 1
    by = None if per_sample_weights is None else per_sample_weights.reshape(-1)
    without = _row(padding_idx, weight)
    if without is not None:
        kept = (flat != without).nonzero()[:, 0]
        flat, segment = flat[kept], segment[kept]
        by = None if by is None else take(by, kept)
    return ops.bags(take(weight, flat, without), by, segment, count, mode == "mean")
