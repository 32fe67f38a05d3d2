"""Pairs through normalisation."""

from __future__ import annotations

from typing import Any

import torch

from roundoff.replay.enclosure import ball as b
from roundoff.replay.enclosure.ball import Ball, Unknown
from roundoff.replay.enclosure.norms import ARGUMENTS
from roundoff.replay.enclosure.pairs.pair import (
    Pair,
    add,
    finished,
    mean,
    moved,
    mul,
    number,
    rough,
    rsqrt,
    square,
    sub,
    without_error,
)
from roundoff.replay.enclosure.pairs.registry import pair, real
from roundoff.replay.enclosure.registry import Operation


def _optional(x: Any) -> Pair | None:
    return None if x is None else real(x)


def _scaled(y: Pair, gain: Pair | None, shift: Pair | None) -> Pair:
    y = y if gain is None else mul(y, gain)
    return y if shift is None else add(y, shift)


def _rho(variance: Pair, eps: Any) -> Pair:
    return rsqrt(add(variance, number(eps, variance.mid)))


def shaped(x: Pair, *shape: int) -> Pair:
    """``x`` with another shape."""
    return moved(x, lambda t: t.reshape(*shape))


def normalised(x: Pair, dims: list[int], eps: float) -> tuple[Pair, Pair, Pair]:
    """(x - μ) ρ with ρ = 1 / √(σ² + ε), over ``dims``; then μ and ρ.

    Of mid + low it is computed as it is written. What the error of x adds is no more than its slope makes of it, which is
    no larger than ρ, and over the ball σ is no less than it is here by ‖e‖/√n; see ``norms.normalised``.
    """
    here = without_error(x)
    m = mean(here, dims, True)
    centred = sub(here, m)
    variance = mean(square(centred), dims, True)
    rho = _rho(variance, eps)
    y = mul(centred, rho)
    if x.tail is None or x.tail.rad is None:
        return y, m, rho
    n = x.mid.numel() / max(m.mid.numel(), 1)
    far = x.tail.far
    rows = (b.up(x.tail.rad.square().sum(dims, True), n).sqrt() * (1 + 2.0**-30) + 2.0**-500).clamp_max(far)
    of_sigma = rough(variance)
    sigma = (of_sigma.mid - of_sigma.radius).clamp_min(0).sqrt() * (1 - 2.0**-30) - rows * n**-0.5 * (1 + 2.0**-30)
    steep = (sigma.clamp_min(0).square() + eps).rsqrt() * (1 + 2.0**-30)
    assert y.tail is not None
    moves = b.up((steep * rows).expand(y.mid.shape))
    tail = b.add(y.tail, Ball(torch.zeros_like(y.mid), moves, b.grown(far, steep)))
    # The mean and ρ of the numbers with their errors
    full_m = mean(x, dims, True)
    return finished(y.mid, tail, x), full_m, _rho(mean(square(sub(x, full_m)), dims, True), eps)


@pair("native_layer_norm")
def _layer_norm(o: Operation) -> tuple[Pair, ...]:
    x, shape, gain, shift, eps = o.args[:5]
    y, m, rho = normalised(real(x), list(range(-len(shape), 0)), eps)
    return _scaled(y, _optional(gain), _optional(shift)), m, rho


@pair("native_group_norm")
def _group_norm(o: Operation) -> tuple[Pair, ...]:
    x, gain, shift, batch, channels, _, groups, eps = o.args[:8]
    x = real(x)
    each = channels // groups
    y, m, rho = normalised(shaped(x, batch, groups, each, -1), [2, 3], eps)
    gain, shift = (None if t is None else shaped(real(t), 1, groups, each, 1) for t in (gain, shift))
    y = _scaled(y, gain, shift)
    return shaped(y, *x.mid.shape), shaped(m, batch, groups), shaped(rho, batch, groups)


@pair(*ARGUMENTS)
def _batch_norm(o: Operation) -> tuple[Pair | Ball, ...]:
    a = {name: o.arg(i, name) for i, name in enumerate(ARGUMENTS[o.name])}
    if "no_stats" in str(o.op) or a.get("training", False):
        raise Unknown("batch norm by its own statistics")
    x = real(a["input"])
    channels = (1, -1, *(1,) * (x.mid.dim() - 2))
    gain, shift, m, variance = (
        None if a[k] is None else shaped(real(a[k]), *channels)
        for k in ("weight", "bias", "running_mean", "running_var")
    )
    assert m is not None and variance is not None
    rho = _rho(variance, a["eps"])
    # (x - μ) (ρ γ): the factor of a channel is computed once
    y = mul(sub(x, m), rho if gain is None else mul(rho, gain))
    rest = [Ball(t, torch.full(t.shape, torch.inf, dtype=torch.float64, device=t.device)) for t in o.out[1:]]
    return y if shift is None else add(y, shift), *rest


@pair("_fused_rms_norm")
def _rms_norm(o: Operation) -> tuple[Pair, ...]:
    x, shape, gain = real(o.args[0]), o.args[1], _optional(o.arg(2, "weight"))
    eps = o.arg(3, "eps")
    if eps is None:
        raise Unknown("an epsilon that depends on the format")
    rho = _rho(mean(square(x), list(range(-len(shape), 0)), True), eps)
    return _scaled(mul(x, rho), gain, None), rho
