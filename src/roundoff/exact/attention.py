"""Attention: softmax(q kᵀ · scale + mask) v, each step rounded once."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from roundoff.errors import RoundoffError
from roundoff.exact.activations import divided
from roundoff.exact.contractions import linear, matmul, mean
from roundoff.exact.gradients import expand
from roundoff.exact.rounding import short_dtype
from roundoff.exact.softmax import softmax


def attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
              is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False) -> Tensor:  # fmt: skip
    """softmax(q kᵀ · scale + mask) v, as ``scaled_dot_product_attention``; a row that is masked everywhere gives 0.

    With dropout the weights are multiplied by what :func:`dropped` draws. With ``enable_gqa`` each head of k and v
    serves a group of heads of q; their gradients are one sum over the group.
    """
    short_dtype("attention", q, k, v)
    heads = q.shape[-3] if q.dim() > 2 else 1
    grouped = enable_gqa and q.dim() > 2 and not heads == k.shape[-3] == v.shape[-3]
    if grouped and (heads % k.shape[-3] or k.shape[-3] != v.shape[-3]):
        raise RoundoffError(f"exact.attention: {heads} heads of q are no multiple of {k.shape[-3]} of k and v.")
    rows = q.shape[-2]
    if grouped:  # the heads of a group are more rows for the same keys
        q = q.unflatten(-3, (k.shape[-3], -1)).flatten(-3, -2)
    raw = matmul(q, k.transpose(-1, -2)) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    scores = raw.unflatten(-2, (-1, rows)).flatten(-4, -3) if grouped else raw
    if is_causal and attn_mask is not None:
        raise RoundoffError("exact.attention takes attn_mask or is_causal, and both were given.")
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    p = weights(scores, attn_mask)
    if attn_mask is not None:
        p = torch.where(_masked(scores, attn_mask), 0.0, p)
    if dropout_p:
        p = p * dropped(p, dropout_p)
    if not grouped:
        return matmul(p, v)
    p = p.unflatten(-3, (v.shape[-3], -1)).flatten(-3, -2)
    y: Tensor = matmul(p, v).unflatten(-2, (-1, rows)).flatten(-4, -3)
    return y


def _hide(scores: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return scores
    if mask.dtype == torch.bool:
        return scores.masked_fill(~mask, -math.inf)
    shape = torch.broadcast_shapes(scores.shape, mask.shape)
    return expand(scores, shape) + expand(mask.to(scores.dtype), shape)


def _masked(scores: Tensor, mask: Tensor) -> Tensor:
    hidden = ~mask if mask.dtype == torch.bool else mask == -math.inf
    return hidden.expand(torch.broadcast_shapes(scores.shape, mask.shape)).all(-1, keepdim=True)


def weights(scores: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(scores + mask); a mask of booleans is True where a key takes part."""
    return softmax(_hide(scores, mask), -1)


def dropped(x: Tensor, p: float) -> Tensor:
    """What dropout multiplies by: 0 with probability p, else 1 / (1 - p) rounded once.

    Drawn by ``bernoulli_`` from PyTorch's generator for the shape of ``x``: the same bits for the same seed and device,
    and as random as any dropout otherwise.
    """
    if p >= 1:
        return torch.zeros_like(x)
    return divided(torch.empty_like(x, memory_format=torch.contiguous_format).bernoulli_(1 - p), 1 - p)


def multi_head_attention(query: Tensor, key: Tensor, value: Tensor, embed_dim_to_check: int, num_heads: int,
                         in_proj_weight: Tensor | None, in_proj_bias: Tensor | None, bias_k: Tensor | None,
                         bias_v: Tensor | None, add_zero_attn: bool, dropout_p: float, out_proj_weight: Tensor,
                         out_proj_bias: Tensor | None, training: bool = True, key_padding_mask: Tensor | None = None,
                         need_weights: bool = True, attn_mask: Tensor | None = None,
                         use_separate_proj_weight: bool = False, q_proj_weight: Tensor | None = None,
                         k_proj_weight: Tensor | None = None, v_proj_weight: Tensor | None = None,
                         static_k: Tensor | None = None, static_v: Tensor | None = None,
                         average_attn_weights: bool = True,
                         is_causal: bool = False) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """``torch.nn.functional.multi_head_attention_forward``: three linear layers, :func:`attention`, a linear layer."""
    if static_k is not None or static_v is not None:
        raise RoundoffError("exact.multi_head_attention takes no static keys and values.")
    single = query.dim() == 2
    if single:
        query, key, value = query[:, None], key[:, None], value[:, None]
        key_padding_mask = None if key_padding_mask is None else key_padding_mask[None]
    length, batch, width = query.shape
    if use_separate_proj_weight:
        each: tuple[Tensor | None, ...] = (q_proj_weight, k_proj_weight, v_proj_weight)
    else:
        assert in_proj_weight is not None
        each = in_proj_weight.chunk(3)
    biases = (None,) * 3 if in_proj_bias is None else in_proj_bias.chunk(3)
    q, k, v = (linear(x, w, b) for x, w, b in zip((query, key, value), each, biases, strict=True) if w is not None)
    more = 0
    if bias_k is not None and bias_v is not None:
        k = torch.cat([k, expand(bias_k, (1, batch, width))])
        v = torch.cat([v, expand(bias_v, (1, batch, width))])
        more += 1
    q, k, v = (x.unflatten(-1, (num_heads, -1)).permute(1, 2, 0, 3) for x in (q, k, v))  # [batch, heads, length, size]
    if add_zero_attn:
        k, v = (torch.nn.functional.pad(x, (0, 0, 0, 1)) for x in (k, v))
        more += 1
    mask = _merged(attn_mask, key_padding_mask, batch, num_heads, more, q.dtype)
    if is_causal and mask is None:
        raise RoundoffError("exact.multi_head_attention: is_causal is a hint about attn_mask. Give attn_mask too.")
    p = dropout_p if training else 0.0
    if need_weights:
        shares = weights(matmul(q, k.transpose(-1, -2)) * (1 / math.sqrt(q.shape[-1])), mask)
        if p:
            shares = shares * dropped(shares, p)
        y = matmul(shares, v)
    else:
        y, shares = attention(q, k, v, mask, p), None
    out = linear(y.permute(2, 0, 1, 3).reshape(length, batch, width), out_proj_weight, out_proj_bias)
    if shares is not None and average_attn_weights:
        shares = mean(shares, 1)
    if single:
        return out[:, 0], None if shares is None else shares[0]
    return out, shares


def _merged(attn: Tensor | None, padding: Tensor | None, batch: int, heads: int, more: int,
            dtype: torch.dtype) -> Tensor | None:  # fmt: skip
    """Both masks of nn.MultiheadAttention as one number to add to each score; their booleans are True for what hides."""
    out = None
    for mask, own in ((attn, True), (padding, False)):
        if mask is None:
            continue
        if mask.dtype == torch.bool:
            mask = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask, -math.inf)
        mask = torch.nn.functional.pad(mask, (0, more))
        if own:
            mask = mask.reshape(batch, heads, *mask.shape[1:]) if mask.dim() == 3 else mask
        else:
            mask = mask.reshape(batch, 1, 1, -1)
        out = mask if out is None else out + mask
    return out
