"""Grouped matrix products: one product for each group of rows, of columns or of the summed dimension (mixtures of experts).

The kernel takes the short formats and float32 only, so it is written out wide. ``offs`` holds where each group ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.linalg import vector_norm

from roundoff.rules.registry import register
from roundoff.rules.rule import Call, Limit, Nature, Rule
from roundoff.rules.samples import Operands, given

Product = Callable[[Tensor, Tensor], Tensor]


def grouped(x: Tensor, w: Tensor, offs: Tensor | None, product: Product) -> Tensor:
    """``product`` of each pair of groups, put together as ``_grouped_mm`` puts them.

    [G, M, K] and [G, K, N] without ``offs``; [M, K] and [G, K, N] with groups of rows; [G, M, K] and [K, N] with groups of
    columns; [M, K] and [K, N] with groups of K, which give [G, M, N]. Raises RuntimeError where ``offs`` is missing.
    """
    if x.dim() == 3 and w.dim() == 3:
        return torch.stack([product(a, b) for a, b in zip(x, w, strict=True)])
    if offs is None:
        raise RuntimeError("a grouped product of a matrix needs offs, the ends of its groups")
    ends = [int(end) for end in offs]
    spans = [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
    if x.dim() == 2 and w.dim() == 3:
        parts = [product(x[span], w[g]) for g, span in enumerate(spans)]
        rest = x.new_zeros(x.shape[0] - ends[-1], w.shape[-1])  # rows of no group: whatever was in memory
        return torch.cat([*parts, rest])
    if x.dim() == 3:
        rest = x.new_zeros(x.shape[1], w.shape[-1] - ends[-1])
        return torch.cat([*(product(x[g], w[:, span]) for g, span in enumerate(spans)), rest], -1)
    return torch.stack([product(x[:, span], w[span]) for span in spans])


def _wide(
    x: Tensor,
    w: Tensor,
    offs: Tensor | None = None,
    bias: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    *,
    native: tuple[Tensor, ...],
) -> Tensor:
    y: Tensor = grouped(x, w, offs, torch.matmul)
    return y if bias is None else y + bias


def _norms(x: Tensor, w: Tensor) -> Tensor:
    rows: Tensor = vector_norm(x, dim=-1).unsqueeze(-1)
    columns: Tensor = vector_norm(w, dim=-2).unsqueeze(-2)
    return rows * columns


def _bound(call: Call) -> Limit:
    x, w, bias = call.args[0], call.args[1], call.arg(3, "bias")
    limit = grouped(x, w, call.arg(2, "offs"), _norms)
    if bias is not None:
        limit = limit + bias.abs()
    return limit.mul_(call.gamma(x.shape[-1] + 2))


def _samples(r: Operands) -> Iterable[Any]:
    ends = torch.tensor([3, 3, 16], dtype=torch.int32)
    yield r.normal(16, 32), r.normal(3, 32, 8), ends
    yield r.normal(16, 32), r.normal(3, 8, 32).transpose(1, 2), torch.tensor([8, 12, 16], dtype=torch.int32)
    yield r.normal(3, 8, 16), r.normal(3, 16, 8)
    yield r.normal(3, 8, 16), r.normal(16, 16), torch.tensor([8, 12, 16], dtype=torch.int32)
    yield r.normal(8, 16), r.normal(16, 8), torch.tensor([8, 12, 16], dtype=torch.int32)


register(
    Rule(
        ("aten._grouped_mm",),
        Nature.ROUNDS,
        _bound,
        source="Higham, Accuracy and Stability of Numerical Algorithms (2002), §3.1, §3.5",
        assumes="classical products, accumulated in float32 or wider; every row belongs to a group",
        samples=given(_samples),
        wide=_wide,
    )
)
