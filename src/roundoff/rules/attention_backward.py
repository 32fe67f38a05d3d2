"""The gradients of scaled dot-product attention in one kernel.

From the output o and the logarithms l of the sums that the forward pass gave, with g the gradient that comes in,

    p = exp(s - l),  a = g vᵀ,  δ_i = g_i · o_i,  b = p (a - δ),  g_v = pᵀ g,  g_q = scale b k,  g_k = scale bᵀ q

To first order p is off by a share ε of itself, which is that of the forward pass with l for the maximum; b by

    β_ij <= p_ij ((|a_ij| + |δ_i|) (ε_ij + 3 u) + γ_d ‖g_i‖‖v_j‖ + γ_d |g_i|·|o_i|)

and a gradient by the sum of these over its keys or rows, and by γ of the length of that sum of absolute values. On bfloat16
and float16, p and b are rounded to that format before they meet the other operand, and may underflow in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.linalg import vector_norm

from roundoff.rules.attention import heads_of, repeated, scores
from roundoff.rules.registry import register
from roundoff.rules.rule import Call, Limit, Nature, Rule
from roundoff.rules.samples import Operands, given
from roundoff.rules.ulps import roundings

aten = torch.ops.aten


def _share(call: Call, length: int) -> float:
    """γ of a dot product of ``length``; typical errors add up as the root of the sum of squares."""
    return call.gamma(length + 3) * (length**-0.5 if call.typical else 1.0)


def _norms(x: Tensor, y: Tensor) -> Tensor:
    norms: Tensor = vector_norm(x, dim=-1).unsqueeze(-1) * vector_norm(y, dim=-1).unsqueeze(-2)
    return norms


def _of_one(call: Call, g: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor, lse: Tensor, mask: Any, causal: bool,
            scale: float) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The bounds of g_q, g_k and g_v for heads [..., L, E] that belong together."""
    s = scores(q, k, mask, causal, scale)
    rows, keys, size = *s.shape[-2:], q.shape[-1]
    lse = lse.unsqueeze(-1)
    p = s.sub(lse).exp_().nan_to_num_(nan=0.0)
    each = _norms(q, k).mul_(abs(scale) * _share(call, size))
    each.add_(s.abs().add_(lse.abs()).nan_to_num_(nan=0.0, posinf=0.0).mul_(call.gamma(3)))
    each.add_(call.gamma(roundings("exp")) + call.gamma_out(1))
    a, delta = (g @ v.mT).abs_(), (g * o).sum(-1, keepdim=True).abs_()
    off = (a + delta).mul_(each + call.gamma(3)).add_(_norms(g, v).mul_(_share(call, v.shape[-1])))
    off.add_((g * o).abs_().sum(-1, keepdim=True).mul_(_share(call, v.shape[-1]))).mul_(p)
    off.add_(a.add_(delta) + 1, alpha=call.underflow)
    b = a.mul_(p)  # at least |b|
    moved = (p * each).add_(call.underflow)
    gq = (off @ k.abs()).add_((b @ k.abs()).mul_(call.gamma(keys + 4) + call.gamma_out(2))).mul_(abs(scale))
    gk = (off.mT @ q.abs()).add_((b.mT @ q.abs()).mul_(call.gamma(rows + 4) + call.gamma_out(2))).mul_(abs(scale))
    gv = moved.mT @ g.abs() + (p.mT @ g.abs()).mul_(call.gamma(rows + 4) + call.gamma_out(2))
    return gq, gk, gv


def _bound(call: Call) -> tuple[Limit, ...]:
    g, q, k, v, o, lse = call.args[:6]
    causal, mask, scale = bool(call.arg(7, "is_causal", False)), call.kwargs.get("attn_mask"), call.kwargs.get("scale")
    scale = q.shape[-1] ** -0.5 if scale is None else float(scale)
    heads = q.shape[1] // k.shape[1]
    k_, v_ = repeated(q, k), repeated(q, v)
    if mask is not None and mask.dim() >= 2:
        mask = mask.expand(*q.shape[:2], *mask.shape[-2:])
    found = []
    for i in range(q.shape[0]):
        for h in range(q.shape[1]):
            own = None if mask is None else mask[i, h]
            one = (g[i, h], q[i, h], k_[i, h], v_[i, h], o[i, h], lse[i, h])
            found.append(_of_one(call, *one, own, causal, scale))
    gq, gk, gv = (torch.stack(x).reshape(*q.shape[:2], *x[0].shape) for x in zip(*found, strict=True))
    if heads > 1:  # the gradients of heads that share their keys are added
        extra = call.gamma_out(heads)
        gk, gv = (
            x.reshape(x.shape[0], -1, heads, *x.shape[2:]).sum(2) + y.abs() * extra
            for x, y in ((gk, call.out[1]), (gv, call.out[2]))
        )
    return tuple(x.add_(call.tiny) for x in (gq, gk, gv))


def _samples(r: Operands) -> Iterable[Any]:
    for case in heads_of(r):
        keywords = dict(case[-1]) if isinstance(case[-1], dict) else {}
        operands = case[:-1] if keywords else case
        causal = bool(operands[4]) if len(operands) > 4 else False
        o, lse = aten._scaled_dot_product_flash_attention_for_cpu(*operands[:3], 0.0, causal, **keywords)
        yield r.normal(*o.shape), *operands[:3], o, lse, 0.0, causal, keywords


register(
    Rule(
        ("aten._scaled_dot_product_flash_attention_for_cpu_backward",),
        Nature.ROUNDS,
        _bound,
        source="first-order error of each of its products; Higham (2002), §3.1",
        assumes="products accumulated in float32 or wider",
        samples=given(_samples),
    )
)
