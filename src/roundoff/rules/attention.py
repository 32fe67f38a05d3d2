"""Scaled dot-product attention in one kernel.

With s = scale q kᵀ + mask, p = softmax(s) and o = p v, an output is off by at most

    Σ_j p_j |v_j| (ε_j + Σ_k p_k ε_k) + γ_S Σ_j p_j |v_j|,    ε_j <= γ_{d+3} scale ‖q‖‖k_j‖ + 2 u (|s_j| + m - s_j) + c u

for S keys: the score's own error, seen through exp together with the rounding of s - m, then the sum over the keys. On
bfloat16 and float16 exp is had from a faster formula, and the weights p are rounded to that format before they meet v.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.linalg import vector_norm

from roundoff.rules.registry import register
from roundoff.rules.rule import Call, Limit, Nature, Rule
from roundoff.rules.samples import Operands, given
from roundoff.rules.ulps import roundings

_SOURCE = "first-order error of softmax(scale q kᵀ + mask) v; Higham (2002), §3.1, for both products"
_ASSUMES = "both products accumulated in float32 or wider; keys taken in blocks, rescaled a few times per block"

_LARGEST = 1 << 16  # scores held at once, that they stay in the cache: half a megabyte


def scores(q: Tensor, k: Tensor, mask: Tensor | None, causal: bool, scale: float) -> Tensor:
    """scale q kᵀ + mask, and -inf above the diagonal where ``causal``: [..., L, S]."""
    s = torch.matmul(q, k.transpose(-2, -1)).mul_(scale)
    if mask is not None:
        s = s.masked_fill(~mask, -float("inf")) if mask.dtype == torch.bool else s + mask
    if causal:
        rows, columns = s.shape[-2:]
        ahead = torch.ones(rows, columns, dtype=torch.bool, device=s.device).triu_(1)
        s = s.masked_fill(ahead, -float("inf"))
    return s


def _parts(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Iterator[tuple[Any, list[Any]]]:
    """Batches and heads a few at a time, so that the scores of all are never in memory."""
    batch, heads, rows = q.shape[:3]
    step = max(1, _LARGEST // max(1, rows * k.shape[2]))
    if mask is not None:
        mask = mask.expand(batch, heads, *mask.shape[-2:]) if mask.dim() >= 2 else mask
    for b in range(batch):
        for h in range(0, heads, step):
            at = (b, slice(h, h + step))
            yield at, [q[at], k[at], v[at], None if mask is None else mask[at]]


def repeated(q: Tensor, k: Tensor) -> Tensor:
    """Keys or values for as many heads as there are queries (grouped-query attention)."""
    return k if k.shape[1] == q.shape[1] else k.repeat_interleave(q.shape[1] // k.shape[1], 1)


def _bound_part(call: Call, q: Tensor, k: Tensor, v: Tensor, mask: Any, causal: bool, scale: float) -> tuple[Any, Any]:
    s = scores(q, k, mask, causal, scale)
    m = s.amax(-1, keepdim=True)
    below = m.sub(s).nan_to_num_(nan=0.0, posinf=float("inf"))
    lse = torch.logsumexp(s, -1, keepdim=True)
    p = s.sub(lse).exp_().nan_to_num_(nan=0.0)
    norms = vector_norm(q, dim=-1).unsqueeze(-1) * vector_norm(k, dim=-1).unsqueeze(-2)
    # typical errors of a score add up as the root of the sum of squares of its products
    share = q.shape[-1] ** -0.5 if call.typical else 1.0
    each = norms.mul_(abs(scale) * share * call.gamma(q.shape[-1] + 3))
    each.add_(s.abs_().add_(below).mul_(call.gamma(2))).add_(call.gamma(roundings("exp")) + call.gamma_out(1))
    each = each.mul_(p).nan_to_num_(nan=0.0, posinf=0.0)
    sizes = v.abs()
    average = each.sum(-1, keepdim=True)
    keys = k.shape[-2]
    total = p @ sizes
    limit = each @ sizes + total * (average + (call.gamma(2 * keys + 8) + call.gamma_out(2))) + call.tiny
    top = m.abs().nan_to_num(posinf=0.0)
    rest = lse.sub(m).abs().nan_to_num(nan=0.0, posinf=0.0)
    spread = average + call.gamma(keys + 8) + (top + rest) * call.gamma(roundings("log"))
    return limit, spread.squeeze(-1)


def bound_of(call: Call, mask: Tensor | None, causal: bool, scale: float | None) -> tuple[Limit, Limit]:
    """The bounds of the output [B, H, L, E] and of the logarithm of the sums [B, H, L]."""
    q, k, v = call.args[:3]
    scale = q.shape[-1] ** -0.5 if scale is None else float(scale)
    k, v = repeated(q, k), repeated(q, v)
    limit = q.new_zeros(*q.shape[:3], v.shape[-1])
    spread = q.new_zeros(q.shape[:3])
    for at, (q_, k_, v_, mask_) in _parts(q, k, v, mask):
        limit[at], spread[at] = _bound_part(call, q_, k_, v_, mask_, causal, scale)
    return limit, spread


def wide_of(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool, scale: float | None, dropout: float
) -> Tensor:
    """Attention in float64, a few heads at a time. Raises RuntimeError where the kernel drops weights at random."""
    if dropout:
        raise RuntimeError("attention with dropout inside the kernel draws where nobody can see it")
    scale = q.shape[-1] ** -0.5 if scale is None else float(scale)
    k, v = repeated(q, k), repeated(q, v)
    out = q.new_empty(*q.shape[:3], v.shape[-1])
    for at, (q_, k_, v_, mask_) in _parts(q, k, v, mask):
        out[at] = torch.softmax(scores(q_, k_, mask_, causal, scale), -1) @ v_
    return out


def _least_for_cpu(call: Call) -> tuple[Limit, ...]:
    """What the sum over the keys adds to the bound, whatever the scores are; and to that of its logarithm."""
    q, k, v = call.args[:3]
    mask, causal, scale = call.kwargs.get("attn_mask"), bool(call.arg(4, "is_causal", False)), call.kwargs.get("scale")
    total = wide_of(q, k, v.abs(), mask, causal, scale, 0.0)
    return total.mul_(call.gamma(2 * k.shape[-2] + 8) + call.gamma_out(2)), call.gamma(k.shape[-2] + 8)


def _for_cpu(call: Call) -> tuple[Limit, ...]:
    return bound_of(call, call.kwargs.get("attn_mask"), bool(call.arg(4, "is_causal", False)), call.kwargs.get("scale"))


def _fused(mask_at: int | None, causal_at: int) -> Callable[[Call], tuple[Limit, ...]]:
    """For kernels with more outputs: the logarithms of the sums are padded, and the rest is workspace."""

    def bound(call: Call) -> tuple[Limit, ...]:
        mask = None if mask_at is None else call.arg(mask_at, "attn_bias")
        limit, _ = bound_of(call, mask, bool(call.arg(causal_at, "is_causal", False)), call.kwargs.get("scale"))
        return (limit, *(0.0,) * (len(call.out) - 1))

    return bound


def _fused_wide(mask_at: int | None, causal_at: int, dropout_at: int) -> Callable[..., Any]:
    def wide(*args: Any, native: tuple[Tensor, ...], **kwargs: Any) -> tuple[Tensor, ...]:
        def at(index: int | None, name: str) -> Any:
            return None if index is None else args[index] if index < len(args) else kwargs.get(name)

        mask, causal = at(mask_at, "attn_bias"), bool(at(causal_at, "is_causal"))
        dropout = float(at(dropout_at, "dropout_p") or 0.0)
        q, k, v = args[:3]
        return wide_of(q, k, v, mask, causal, kwargs.get("scale"), dropout), *native[1:]

    return wide


def heads_of(r: Operands) -> Iterable[Any]:
    """Queries, keys and values to try a rule on: long, masked, causal, large, and strided."""

    def three(*shape: int, scale: float = 1.0, shift: float = 0.0) -> tuple[Tensor, ...]:
        return tuple(r.normal(*shape, scale=scale, shift=shift) for _ in range(3))

    yield three(2, 3, 9, 8)
    yield (*three(1, 2, 70, 64), 0.0, True)
    yield (*three(1, 2, 17, 16, scale=4), {"scale": 1.0})
    yield r.normal(2, 2, 5, 8), r.normal(2, 2, 600, 8), r.normal(2, 2, 600, 8)
    lowest = -1e9 if r.dtype != torch.float16 else -6e4
    yield (*three(2, 2, 33, 8), {"attn_mask": r.normal(33, 33).masked_fill(r.mask(33, 33).tril(-1), lowest)})
    yield (*three(2, 2, 33, 8), {"attn_mask": torch.zeros(33, 33, dtype=r.dtype).masked_fill(
        r.mask(33, 33).triu(1), -float("inf"))})  # fmt: skip
    yield tuple(x.transpose(1, 2) for x in three(2, 10, 3, 8, shift=2))


register(
    Rule(
        ("aten._scaled_dot_product_flash_attention_for_cpu",),
        Nature.ROUNDS,
        _for_cpu,
        source=_SOURCE,
        assumes=_ASSUMES,
        samples=given(heads_of),
        least=_least_for_cpu,
    )
)
for _name, _mask_at, _causal_at, _dropout_at in (
    ("flash_attention", None, 4, 3),
    ("efficient_attention", 3, 6, 5),
    ("cudnn_attention", 3, 6, 5),
):
    register(
        Rule(
            (f"aten._scaled_dot_product_{_name}",),
            Nature.ROUNDS,
            _fused(_mask_at, _causal_at),
            source=_SOURCE,
            assumes=_ASSUMES,
            wide=_fused_wide(_mask_at, _causal_at, _dropout_at),
        )
    )
