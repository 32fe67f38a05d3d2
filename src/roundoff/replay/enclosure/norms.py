"""Enclosures of normalisation, softmax and attention, as compositions of what they are made of."""

from __future__ import annotations

from typing import Any

import torch

from roundoff.formats import is_inexact
from roundoff.replay.enclosure.ball import (
    Ball,
    Unknown,
    add,
    copied,
    div,
    grown,
    l2,
    map_exact,
    mean,
    mul,
    number,
    square,
    sub,
    tight,
    total,
)
from roundoff.replay.enclosure.functions import exp, log, rsqrt, sqrt_of
from roundoff.replay.enclosure.products import matmul
from roundoff.replay.enclosure.registry import Operation, certain, enclose, real
from roundoff.replay.enclosure.sums import dims_of, moments


def shaped(x: Ball, *shape: int) -> Ball:
    """``x`` with another shape."""
    return map_exact(x, lambda t: t.reshape(*shape))


def _scaled(y: Ball, gain: Ball | None, shift: Ball | None) -> Ball:
    y = y if gain is None else mul(y, gain)
    return y if shift is None else add(y, shift)


def _optional(value: Any) -> Ball | None:
    return None if value is None else real(value)


def normalised(x: Ball, dims: list[int], eps: float) -> tuple[Ball, Ball, Ball]:
    """(x - μ) ρ with ρ = 1 / √(σ² + ε), over ``dims``; then μ and ρ.

    The slope, ρ (I - 11ᵀ/n - yyᵀ/n), is no larger than ρ, and over the ball σ is no less than it is here by ‖e‖/√n.
    """
    m, centred, variance = moments(x, dims)
    rho = _rho(variance, eps)
    y = mul(centred, rho)
    if x.rad is None:
        return y, m, rho
    own = normalised(Ball(x.mid), dims, eps)[0].radius
    n = x.mid.numel() / max(m.mid.numel(), 1)
    rows = (x.rad.square().sum(dims, True).sqrt() * (1 + 2.0**-30)).clamp_max(x.far)
    sigma = (variance.mid - variance.radius).clamp_min(0).sqrt() * (1 - 2.0**-30) - rows * n**-0.5 * (1 + 2.0**-30)
    steep = (sigma.clamp_min(0).square() + eps).rsqrt() * (1 + 2.0**-30)
    rad = torch.minimum(y.radius, steep * rows + own)
    return tight(Ball(y.mid, rad, grown(x.far, steep) + l2(own))), m, rho


def _rho(variance: Ball, eps: Any) -> Ball:
    return rsqrt(add(variance, number(eps, variance.mid)))


@enclose("native_layer_norm")
def _layer_norm(o: Operation) -> tuple[Ball, ...]:
    x, shape, gain, shift, eps = o.args[:5]
    x = real(x)
    y, m, rho = normalised(x, list(range(-len(shape), 0)), eps)
    return _scaled(y, _optional(gain), _optional(shift)), m, rho


@enclose("native_group_norm")
def _group_norm(o: Operation) -> tuple[Ball, ...]:
    x, gain, shift, batch, channels, _, groups, eps = o.args[:8]
    x = real(x)
    each = channels // groups
    split = shaped(x, batch, groups, each, -1)
    y, m, rho = normalised(split, [2, 3], eps)
    gain, shift = (None if t is None else shaped(real(t), 1, groups, each, 1) for t in (gain, shift))
    y = _scaled(y, gain, shift)
    return shaped(y, *x.mid.shape), shaped(m, batch, groups), shaped(rho, batch, groups)


ARGUMENTS = {
    "native_batch_norm": ("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps"),
    "_native_batch_norm_legit_no_training": (
        "input", "weight", "bias", "running_mean", "running_var", "momentum", "eps",
    ),
}  # fmt: skip
ARGUMENTS["_native_batch_norm_legit"] = ARGUMENTS["native_batch_norm"]
ARGUMENTS["_native_batch_norm_legit_functional"] = ARGUMENTS["native_batch_norm"]
ARGUMENTS["_batch_norm_no_update"] = ARGUMENTS["_native_batch_norm_legit_no_training"]


@enclose(*ARGUMENTS)
def _batch_norm(o: Operation) -> tuple[Ball, ...]:
    a = {name: o.arg(i, name) for i, name in enumerate(ARGUMENTS[o.name])}
    if "no_stats" in str(o.op):
        raise Unknown("batch norm without running statistics")
    x = real(a["input"])
    channels = (1, -1, *(1,) * (x.mid.dim() - 2))
    gain, shift = (None if a[k] is None else shaped(real(a[k]), *channels) for k in ("weight", "bias"))
    if a.get("training", False):
        y, m, rho = normalised(x, [d for d in range(x.mid.dim()) if d != 1], a["eps"])
        statistics = [shaped(m, -1), shaped(rho, -1)]
    else:
        m, variance = (shaped(real(a[k]), *channels) for k in ("running_mean", "running_var"))
        y = mul(sub(x, m), _rho(variance, a["eps"]))
        statistics = []
    y = _scaled(y, gain, shift)
    # Statistics that are not kept come as empty tensors; what else is returned is not followed.
    rest = [Ball(t, torch.full(t.shape, torch.inf, dtype=torch.float64, device=t.device)) for t in o.out[1:]]
    for i, s in enumerate(statistics):
        if i < len(rest) and rest[i].mid.shape == s.mid.shape:
            rest[i] = s
    return y, *rest


@enclose("_fused_rms_norm")
def _rms_norm(o: Operation) -> tuple[Ball, ...]:
    x, shape, gain = real(o.args[0]), o.args[1], _optional(o.arg(2, "weight"))
    eps = o.arg(3, "eps")
    if eps is None:
        raise Unknown("an epsilon that depends on the format")
    rho = _rho(mean(square(x), list(range(-len(shape), 0)), True), eps)
    return _scaled(mul(x, rho), gain, None), rho


@enclose("_weight_norm_interface")
def _weight_norm(o: Operation) -> tuple[Ball, ...]:
    v, g, dim = real(o.args[0]), real(o.args[1]), int(o.arg(2, "dim", 0))
    norm = sqrt_of(total(square(v), [d for d in range(v.mid.dim()) if d != dim], True), known=True)
    return mul(v, div(g, shaped(norm, *g.mid.shape))), shaped(norm, *o.out[1].shape)


# -- softmax ----------------------------------------------------------------------------------------------------------


def _weights(x: Ball, dims: list[int]) -> tuple[Ball, Ball, Ball]:
    """m, exp(x - m) and their sum. m is near the largest x; any number would do, so it carries no error."""
    m = Ball(x.mid.amax(dims, True))
    w = exp(sub(x, m))
    return m, w, total(w, dims, True)


def softmax(x: Ball, dim: int) -> Ball:
    """exp(x - m) / Σ exp(x - m)."""
    if not x.mid.dim():
        x = shaped(x, 1)
        return shaped(softmax(x, 0))
    _, w, s = _weights(x, [dim])
    p = div(w, s)
    if x.rad is None:
        return p
    # The slope of softmax is diag(p) - p pᵀ, whose norm is at most 1/2 and at most the largest p, wherever it is taken.
    steep = p.size.max().clamp(max=0.5) if p.mid.numel() else p.size.sum()
    return tight(Ball(p.mid, p.rad, grown(x.far, steep) + l2(softmax(Ball(x.mid), dim).radius)))


@enclose("_softmax", "_safe_softmax")
def _softmax(o: Operation) -> Ball:
    return softmax(real(o.args[0]), int(o.args[1]))


@enclose("_log_softmax")
def _log_softmax(o: Operation) -> Ball:
    x, dim = real(o.args[0]), int(o.args[1])
    if not x.mid.dim():
        raise Unknown("a softmax of one number")
    m, _, s = _weights(x, [dim])
    return sub(sub(x, m), log(s))


@enclose("logsumexp")
def _logsumexp(o: Operation) -> Ball:
    x = real(o.args[0])
    m, _, s = _weights(x, dims_of(o.arg(1, "dim"), x.mid))
    return shaped(add(m, log(s)), *o.out[0].shape)


# -- attention --------------------------------------------------------------------------------------------------------

LARGEST = 1 << 26  # scores that are held at once: half a gigabyte for each of a few arrays


def attention(q: Ball, k: Ball, v: Ball, mask: Ball | None, causal: bool, scale: Any) -> Ball:
    """softmax(scale q kᵀ + mask) v: [..., L, E]."""
    if q.mid.shape[:-1].numel() * k.mid.shape[-2] > LARGEST:
        raise Unknown("attention with so many scores")
    if k.mid.shape[-3] != q.mid.shape[-3]:
        repeat = q.mid.shape[-3] // k.mid.shape[-3]
        k, v = (_repeated(b, repeat) for b in (k, v))
    s = matmul(q, map_exact(k, lambda t: t.transpose(-2, -1)))
    s = mul(s, number(q.mid.shape[-1] ** -0.5 if scale is None else float(scale), s.mid))
    hidden = torch.zeros(1, dtype=torch.bool, device=s.mid.device)
    if causal:
        hidden = torch.ones(s.mid.shape[-2:], dtype=torch.bool, device=s.mid.device).triu_(1)
    if mask is not None and not is_inexact(mask.mid.dtype):
        hidden = hidden | ~certain(mask).to(torch.bool)
    elif mask is not None:
        s = add(s, real(mask))
    s = Ball(s.mid.masked_fill(hidden, -torch.inf), s.radius.masked_fill(hidden, 0.0), s.norm)
    return matmul(softmax(s, -1), v)


def _repeated(x: Ball, times: int) -> Ball:
    y = map_exact(Ball(x.mid, x.rad), lambda t: t.repeat_interleave(times, -3))
    return Ball(y.mid, y.rad, copied(x, y.mid.shape))


@enclose("_scaled_dot_product_flash_attention_for_cpu")
def _for_cpu(o: Operation) -> tuple[Ball, ...]:
    if float(o.arg(3, "dropout_p", 0.0)):
        raise Unknown("dropout inside attention")
    q, k, v = (real(b) for b in o.args[:3])
    y = attention(q, k, v, o.kwargs.get("attn_mask"), bool(o.arg(4, "is_causal", False)), o.kwargs.get("scale"))
    return y, *_not_followed(o)


@enclose("_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention",
         "_scaled_dot_product_cudnn_attention")  # fmt: skip
def _on_gpu(o: Operation) -> tuple[Ball, ...]:
    mask_at, causal_at, dropout_at = (None, 4, 3) if o.name.endswith("product_flash_attention") else (3, 6, 5)
    if float(o.arg(dropout_at, "dropout_p", 0.0)):
        raise Unknown("dropout inside attention")
    mask = None if mask_at is None else o.arg(mask_at, "attn_bias")
    q, k, v = (real(b) for b in o.args[:3])
    y = attention(q, k, v, mask, bool(o.arg(causal_at, "is_causal", False)), o.kwargs.get("scale"))
    return y, *_not_followed(o)


def _not_followed(o: Operation) -> list[Ball]:
    """Logarithms of sums, and workspace."""
    return [
        Ball(t, torch.full(t.shape, torch.inf, dtype=torch.float64, device=t.device))
        if isinstance(t, torch.Tensor)
        else t
        for t in o.out[1:]
    ]
