"""Softmax and attention of pairs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from roundoff.formats import is_inexact
from roundoff.replay.enclosure import ball as b
from roundoff.replay.enclosure.ball import Ball, Unknown
from roundoff.replay.enclosure.norms import LARGEST
from roundoff.replay.enclosure.pairs import pair as p
from roundoff.replay.enclosure.pairs.functions import exp
from roundoff.replay.enclosure.pairs.pair import Pair, finished, moved, without_error
from roundoff.replay.enclosure.pairs.products import matmul
from roundoff.replay.enclosure.pairs.registry import pair, real
from roundoff.replay.enclosure.registry import Operation, certain


def _weights(x: Pair, dim: int) -> tuple[Pair, Pair]:
    """exp(x - m) and its sum, for what has no error. m is near the largest x: any number would do."""
    m = Pair(x.mid.amax(dim, True))
    w = exp(p.sub(x, m))
    return w, p.total(w, [dim], True)


def softmax(x: Pair, dim: int) -> Pair:
    """exp(x - m) / Σ exp(x - m), and what its slope makes of the radii.

    Where all of a row move by r at most, each result moves by a factor of exp(±2 r). The slope is diag(p) - p pᵀ: between
    0 and diag(p), so that its norm is no more than the largest p, nor than 1/2.
    """
    if not x.mid.dim():
        return moved(softmax(moved(x, lambda t: t.reshape(1)), 0), lambda t: t.reshape(()))
    w, s = _weights(without_error(x), dim)
    y = p.div(w, s)
    if x.tail is None or x.tail.rad is None or y.tail is None:
        return y
    rad = x.tail.rad
    far = x.tail.far
    most = rad.amax(dim, True)
    size = b.up(y.mid.abs() + y.tail.size)
    apart = size * (2 * most).expm1()
    steep = ((size + apart).amax(dim, True) * (1 + 2.0**-30)).clamp_max(0.5)
    rows = ((b.up(rad.square().sum(dim, True), rad.shape[dim]).sqrt() + 2.0**-500) * (1 + 2.0**-30)).clamp_max(far)
    moves = b.up(torch.minimum(apart, steep * rows))
    tail = b.add(y.tail, Ball(torch.zeros_like(y.mid), moves, b.grown(far, steep)))
    return finished(y.mid, tail)


@pair("_softmax", "_safe_softmax")
def _softmax(o: Operation) -> Pair:
    return softmax(real(o.args[0]), int(o.args[1]))


def attention(q: Pair, k: Pair, v: Pair, mask: Any, causal: bool, scale: Any) -> Pair:
    """softmax(scale q kᵀ + mask) v: [..., L, E]."""
    if q.mid.shape[:-1].numel() * k.mid.shape[-2] > LARGEST:
        raise Unknown("attention with so many scores")
    if k.mid.shape[-3] != q.mid.shape[-3]:
        raise Unknown("heads that share keys")
    s = matmul(q, moved(k, lambda t: t.transpose(-2, -1)))
    s = p.mul(s, p.number(q.mid.shape[-1] ** -0.5 if scale is None else float(scale), s.mid))
    if causal:
        s = _hidden(s, torch.ones(s.mid.shape[-2:], dtype=torch.bool, device=s.mid.device).triu_(1))
    if isinstance(mask, Ball) and not is_inexact(mask.mid.dtype):
        s = _hidden(s, ~certain(mask).to(torch.bool))
    elif mask is not None:
        s = p.add(s, real(mask))
    return matmul(softmax(s, -1), v)


def _hidden(x: Pair, where: Tensor) -> Pair:
    if x.tail is None:
        return Pair(x.mid.masked_fill(where, -torch.inf))
    low, rad = (t.masked_fill(where, 0.0) for t in (x.tail.mid, x.tail.radius))
    return Pair(x.mid.masked_fill(where, -torch.inf), Ball(low, rad, x.tail.norm))


def _not_followed(o: Operation) -> list[Any]:
    return [
        Ball(t, torch.full(t.shape, torch.inf, dtype=torch.float64, device=t.device))
        if isinstance(t, torch.Tensor)
        else t
        for t in o.out[1:]
    ]


@pair("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention",
      "_scaled_dot_product_efficient_attention", "_scaled_dot_product_cudnn_attention")  # fmt: skip
def _attention(o: Operation) -> tuple[Any, ...]:
    dropout_at, causal_at = (3, 4) if "flash" in o.name else (5, 6)
    if float(o.arg(dropout_at, "dropout_p", 0.0)):
        raise Unknown("dropout inside attention")
    mask = o.kwargs.get("attn_mask") if o.name.endswith("cpu") else None if "flash" in o.name else o.arg(3, "attn_bias")
    q, k, v = (real(x) for x in o.args[:3])
    y = attention(q, k, v, mask, bool(o.arg(causal_at, "is_causal", False)), o.kwargs.get("scale"))
    return y, *_not_followed(o)
