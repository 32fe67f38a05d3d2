"""Whole blocks in one operator: multi-head attention and the transformer encoder layer on their fast path.

In evaluation without gradients PyTorch runs these as one operator each, which hides everything inside. Both have a kernel
in float64, so they can be followed; for their bounds they are written out in primitives and opened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from roundoff.rules.opened import simulated
from roundoff.rules.registry import register
from roundoff.rules.rule import Call, Limit, Nature, Rule
from roundoff.rules.samples import Operands, given

_SOURCE = "the operator written out in primitives; their bounds, propagated by a few random draws"
_ASSUMES = "statistical: draws find typical directions, not the worst one"

_ATTENTION = (
    "query", "key", "value", "embed_dim", "num_head", "qkv_weight", "qkv_bias", "proj_weight", "proj_bias",
    "mask", "need_weights", "average_attn_weights", "mask_type",
)  # fmt: skip
_LAYER = (
    "src", "embed_dim", "num_heads", "qkv_weight", "qkv_bias", "proj_weight", "proj_bias", "use_gelu", "norm_first",
    "eps", "norm_weight_1", "norm_bias_1", "norm_weight_2", "norm_bias_2", "ffn_weight_1", "ffn_bias_1",
    "ffn_weight_2", "ffn_bias_2", "mask", "mask_type",
)  # fmt: skip


def _named(names: tuple[str, ...], call: Call) -> Mapping[str, Any]:
    return {name: call.arg(i, name) for i, name in enumerate(names)}


def _spread_mask(mask: Tensor, kind: int | None) -> Tensor:
    """True where a key is hidden, as [B, H, L, S]: kind 0 is [L, S], kind 1 [B, S], kind 2 whole. Any number but 0 hides."""
    hidden = mask != 0
    return hidden[None, None] if kind == 0 else hidden[:, None, None] if kind == 1 else hidden


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    heads: int,
    weights: tuple[Tensor, Tensor, Tensor, Tensor],
    mask: Tensor | None,
    kind: int | None,
) -> tuple[Tensor, Tensor]:
    """Multi-head attention from primitives: the output [B, L, D] and the attention weights [B, H, L, S]."""
    qkv_weight, qkv_bias, proj_weight, proj_bias = weights
    batch, rows, width = query.shape
    each = width // heads
    parts = zip((query, key, value), qkv_weight.chunk(3), qkv_bias.chunk(3), strict=True)
    q, k, v = (F.linear(x, w, b).reshape(batch, -1, heads, each).transpose(1, 2) for x, w, b in parts)
    scores = torch.matmul(q * each**-0.5, k.transpose(-2, -1))
    if mask is not None:
        scores = scores.masked_fill(_spread_mask(mask, kind), -float("inf"))
    p = torch.softmax(scores, -1)
    out = torch.matmul(p, v).transpose(1, 2).reshape(batch, rows, width)
    return F.linear(out, proj_weight, proj_bias), p


def written_out(call: Call) -> Callable[[], Any] | None:
    """The operator of ``call`` as a program of primitives on its operands; None where it is not one of these blocks."""
    program = _PROGRAMS.get(call.op._schema.name)
    return None if program is None else program(call)


def _attention_program(call: Call) -> Callable[[], tuple[Tensor, ...]]:
    a = _named(_ATTENTION, call)

    def program() -> tuple[Tensor, ...]:
        weights = (a["qkv_weight"], a["qkv_bias"], a["proj_weight"], a["proj_bias"])
        out, p = attention(a["query"], a["key"], a["value"], a["num_head"], weights, a["mask"], a["mask_type"])
        if len(call.out) == 1:
            return (out,)
        return out, p if a["average_attn_weights"] is False else p.mean(1)

    return program


def _encoder_layer_program(call: Call) -> Callable[[], Tensor]:
    a = _named(_LAYER, call)
    width = [a["embed_dim"]]

    def attend(x: Tensor) -> Tensor:
        weights = (a["qkv_weight"], a["qkv_bias"], a["proj_weight"], a["proj_bias"])
        return attention(x, x, x, a["num_heads"], weights, a["mask"], a["mask_type"])[0]

    def norm(x: Tensor, which: int) -> Tensor:
        normed: Tensor = F.layer_norm(x, width, a[f"norm_weight_{which}"], a[f"norm_bias_{which}"], a["eps"])
        return normed

    def feed(x: Tensor) -> Tensor:
        hidden = F.linear(x, a["ffn_weight_1"], a["ffn_bias_1"])
        hidden = F.gelu(hidden) if a["use_gelu"] else F.relu(hidden)
        return F.linear(hidden, a["ffn_weight_2"], a["ffn_bias_2"])

    def program() -> Tensor:
        x: Tensor = a["src"]
        if a["norm_first"]:
            x = x + attend(norm(x, 1))
            return x + feed(norm(x, 2))
        x = norm(x + attend(x), 1)
        return norm(x + feed(x), 2)

    return program


_PROGRAMS: dict[str, Callable[[Call], Callable[[], Any]]] = {
    "aten::_native_multi_head_attention": _attention_program,
    "aten::_transformer_encoder_layer_fwd": _encoder_layer_program,
}


def _bound(call: Call) -> tuple[Limit, ...]:
    limits = simulated(call, _PROGRAMS[call.op._schema.name](call))
    # A form of the operator that the program does not know: nothing is held against it.
    return (float("inf"),) * len(call.out) if limits is None else limits


def _weights(r: Operands, width: int) -> tuple[Tensor, ...]:
    each = width**-0.5
    return (r.normal(3 * width, width, scale=each), r.normal(3 * width, scale=0.1),
            r.normal(width, width, scale=each), r.normal(width, scale=0.1))  # fmt: skip


def _attention_samples(r: Operands) -> Iterable[Any]:
    for width, heads, length in ((8, 2, 5), (64, 4, 33)):
        x = r.normal(2, length, width)
        hidden = torch.zeros(2, length).masked_fill(r.mask(2, length), -float("inf")).to(r.dtype)
        hidden[:, 0] = 0
        yield x, x, x, width, heads, *_weights(r, width)
        yield x, x, x, width, heads, *_weights(r, width), hidden, True, True, 1
        yield x, x, x, width, heads, *_weights(r, width), None, False


def _layer_samples(r: Operands) -> Iterable[Any]:
    for width, heads, gelu, first in ((8, 2, True, True), (64, 4, False, False), (64, 4, True, False)):
        x = r.normal(2, 9, width)
        norms = [r.normal(width, shift=1), r.normal(width), r.normal(width, shift=1), r.normal(width)]
        feed = [
            r.normal(2 * width, width, scale=0.2),
            r.normal(2 * width),
            r.normal(width, 2 * width, scale=0.2),
            r.normal(width),
        ]
        yield x, width, heads, *_weights(r, width), gelu, first, 1e-5, *norms, *feed


register(Rule(("aten._native_multi_head_attention",), Nature.ROUNDS, _bound, source=_SOURCE, assumes=_ASSUMES,
              samples=given(_attention_samples)))  # fmt: skip
register(Rule(("aten._transformer_encoder_layer_fwd",), Nature.ROUNDS, _bound, source=_SOURCE, assumes=_ASSUMES,
              samples=given(_layer_samples)))  # fmt: skip
