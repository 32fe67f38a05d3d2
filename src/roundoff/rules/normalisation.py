"""Normalisation: y = (x - μ) ρ g + b with ρ = 1 / √(σ² + ε).

The error of y comes from the mean, which moves all of them by |g| ρ δμ; from ρ, which stretches them; and from the way of
multiplying out, for many kernels compute x (ρ g) + (b - μ ρ g), which cancels where |μ| is large beside σ.

Two ways to the variance: Welford's or two-pass, whose relative error is about n u √(1 + μ²/σ²); and in one pass by
E[x²] - E[x]², with n u (1 + μ²/σ²). Both are in use (channels-last group norm is of the second kind), so ``bound`` allows
the second, and ``stable`` is that of the first, √n roundings in the place of n. What the second loses it loses in the
statistics, which the kernels return: y must follow from them, so that nothing else hides behind the larger bound. The
typical size is that of the first, save for group norm: PyTorch's other float64 kernels are stable (measured).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from math import inf, isqrt, prod
from typing import Any

import torch
from torch import Tensor

from roundoff.formats import U64
from roundoff.rules.reduction import spread_error
from roundoff.rules.registry import register
from roundoff.rules.rule import Call, Limit, Nature, Rule
from roundoff.rules.samples import Given, Operands, given

_SOURCE = "first-order error of (x - μ) ρ g + b; variance: Chan, Golub, LeVeque (1983)"


def _stretch(error: Tensor, spread: Tensor) -> Tensor:
    """The relative error of 1/√(σ² + ε) when σ² is off by ``error``: 1/√(1 - t) - 1 with t = error / (σ² + ε)."""
    t = error.div_(spread)
    return (1 - t).clamp_min_(0).rsqrt_().sub_(1)


@dataclass(frozen=True)
class Normal:
    """A normalisation in float64: y = (x - mean) rho gain + shift over n numbers each; all broadcast to y."""

    y: Tensor
    mean: Tensor
    rho: Tensor
    n: int
    gain: Tensor | None
    shift: Tensor | None
    eps: float


def _bounds(call: Call, a: Normal, *, one_pass: bool, factors: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """The bounds of y, mean and rho. ``factors``: mean, rho and their products are stored in the output's format.

    |x| <= |x - μ| + |μ|, and |x - μ| ρ g = |y - b|, so that nothing but y has to be gone through.
    """
    coarse = factors and call.u_out > call.u
    stored = call.gamma_out(3) if coarse else 0.0
    size = a.mean.abs()
    spread = a.rho.pow(-2)
    # Where σ² is nothing beside ε this difference has lost it: what it may have lost is put back.
    variance = (spread - a.eps).clamp_min_(0).add_(spread, alpha=4 * U64)
    square = variance + a.mean.square()
    error = square * (3 * call.gamma(a.n + 2)) if one_pass else spread_error(call, variance, square, a.n)
    if coarse:
        error = error.add_(a.mean.mul(call.gamma_out(2)).square_())
    stretch = _stretch(error, spread).add_(call.gamma(5) + call.scalar(a.eps) / max(a.eps, 1e-300) + stored)
    # The mean of |x| is at most the root of the mean square; each rounding is half the smallest number at least.
    mean_error = square.sqrt().mul_(call.gamma(a.n + 2)).add_((a.n + 2) * call.underflow)
    # twice |μ|: for the rounding of x - μ, or of x ρ g and of μ ρ g, and for the size of x
    moved = size.mul_(2 * (call.gamma(4) + stored)).add_(mean_error).add_(2 * call.underflow)
    moved = moved.mul_(a.rho)
    if a.gain is not None:
        moved = moved * a.gain.abs()
    if a.shift is not None:
        moved = moved + a.shift.abs() * call.gamma(4)
    centred = a.y if a.shift is None else a.y - a.shift
    factor = stretch + (call.gamma(6) + stored)
    limit = centred.abs().mul_(factor).add_(moved)
    if not bool(factor.isfinite().all()):
        limit = limit.nan_to_num_(nan=inf, posinf=inf)
    return limit, mean_error, a.rho * stretch


def _roundings(n: int, *, one_pass: bool) -> int:
    """What the stable way does typically, not at worst: at worst it may lose as much as the other one."""
    return n if one_pass else max(1, isqrt(n))


def _following(call: Call, x: Tensor, a: Normal) -> tuple[Tensor, Limit]:
    """y from x and the given mean and rho, and its bound: the roundings after the statistics, and those of storing them."""
    y = (x - a.mean) * a.rho
    y = y if a.gain is None else y * a.gain
    y = y if a.shift is None else y + a.shift
    limit, _, _ = _bounds(call, replace(a, y=y, n=1), one_pass=False, factors=True)
    return y, limit


def _layer(call: Call, out: tuple[Tensor, ...]) -> Normal:
    _, shape, gain, shift, eps = call.args[:5]
    y, mean, rho = out
    return Normal(y, mean, rho, prod(shape), gain, shift, float(eps))


def _layer_norm(one_pass: bool) -> Callable[[Call], tuple[Limit, ...]]:
    def bound(call: Call) -> tuple[Limit, ...]:
        a = _layer(call, call.out)
        n = _roundings(a.n, one_pass=one_pass)
        return _bounds(call, replace(a, n=n), one_pass=one_pass and not call.typical)

    return bound


def _layer_least(call: Call) -> tuple[Limit, ...]:
    """What the rounding of the mean adds to the bound of the stable way, where the gain is smallest."""
    a = _layer(call, call.out)
    square = (a.rho.pow(-2) - a.eps).clamp_min_(0).add_(a.mean.square())
    mean_error = square.sqrt_().mul_(call.gamma(_roundings(a.n, one_pass=False) + 2))
    gain = 1.0 if a.gain is None else a.gain.abs().amin()
    return mean_error * a.rho * gain, mean_error, a.rho * call.gamma(5)


def _group(call: Call, out: tuple[Tensor, ...]) -> Normal:
    _, gain, shift, batch, channels, _, groups, eps = call.args[:8]
    gain, shift = (None if t is None else t.reshape(1, groups, -1, 1) for t in (gain, shift))
    y, mean, rho = (x.reshape(batch, groups, -1, 1) for x in out)
    y = y.reshape(batch, groups, channels // groups, -1)
    return Normal(y, mean, rho, y[0, 0].numel(), gain, shift, float(eps))


def _group_norm(one_pass: bool) -> Callable[[Call], tuple[Limit, ...]]:
    def bound(call: Call) -> tuple[Limit, ...]:
        a = _group(call, call.out)
        limits = _bounds(call, replace(a, n=_roundings(a.n, one_pass=one_pass)), one_pass=one_pass)
        return tuple(limit.reshape(out.shape) for limit, out in zip(limits, call.out, strict=True))

    return bound


def _group_following(call: Call, native: tuple[Tensor, ...]) -> tuple[Tensor, Limit]:
    a, x = _group(call, native), call.args[0]
    y, limit = _following(call, x.reshape(a.y.shape), a)
    return y.reshape(x.shape), limit.reshape(x.shape) if isinstance(limit, Tensor) else limit


def _by_channel(t: Tensor, x: Tensor) -> Tensor:
    return t.reshape(1, -1, *([1] * (x.dim() - 2)))


def _batch(x: Tensor, gain: Any, shift: Any, eps: float, out: tuple[Tensor, ...]) -> Normal:
    y, mean, rho = out[0], *(_by_channel(t, x) for t in out[1:3])
    gain, shift = (None if t is None else _by_channel(t, x) for t in (gain, shift))
    return Normal(y, mean, rho, x.numel() // max(x.shape[1], 1), gain, shift, eps)


def _batch_statistics(call: Call, x: Tensor, gain: Any, shift: Any, eps: float, one_pass: bool) -> tuple[Limit, ...]:
    a = _batch(x, gain, shift, eps, call.out)
    n = _roundings(a.n, one_pass=one_pass)
    limits = _bounds(call, replace(a, n=n), one_pass=one_pass and not call.typical, factors=True)
    return limits[0], limits[1].flatten(), limits[2].flatten()


def _running_statistics(call: Call, gain: Any, shift: Any, mean: Tensor, var: Tensor, eps: float) -> Limit:
    """(x - μ) ρ g + b, or x (ρ g) + (b - μ ρ g), with given μ and σ²."""
    y = call.out[0]
    scale = (var + eps).rsqrt_().mul_(mean.abs()).mul_(2)
    if gain is not None:
        scale = scale.mul_(gain.abs())
    several = call.gamma(8) + (call.gamma_out(3) if call.u_out > call.u else 0.0)
    moved = scale.mul_(several)
    if shift is not None:
        moved = moved.add_(shift.abs().mul_(several))
    centred = y if shift is None else y - _by_channel(shift, y)
    return centred.abs().mul_(several).add_(_by_channel(moved, y))


def _batch_norm(names: tuple[str, ...], one_pass: bool = False) -> Callable[[Call], tuple[Limit, ...]]:
    """``names``: the operator's arguments in order, of which those that matter are called by their usual names."""

    def bound(call: Call) -> tuple[Limit, ...]:
        given_ = {name: call.arg(i, name) for i, name in enumerate(names)}
        x, eps = given_["input"], float(given_["eps"])
        training = bool(given_.get("training", "with_update" in str(call.op)))
        if training:
            limits = _batch_statistics(call, x, given_["weight"], given_["bias"], eps, one_pass)
        else:
            mean, var = given_["running_mean"], given_["running_var"]
            y = _running_statistics(call, given_["weight"], given_["bias"], mean, var, eps)
            limits = (y, 0.0, call.gamma(6) * (var + eps).rsqrt())
        limits = tuple(
            limit if i == 0 or out.numel() else 0.0
            for i, (limit, out) in enumerate(zip(limits, call.out, strict=False))
        )
        return (
            limits + tuple(_running(call, out, given_, limits[1]) for out in call.out[3:5]) + (0.0,) * len(call.out[5:])
        )

    return bound


def _batch_following(names: tuple[str, ...]) -> Callable[[Call, tuple[Tensor, ...]], tuple[Tensor, Limit]]:
    def follows(call: Call, native: tuple[Tensor, ...]) -> tuple[Tensor, Limit]:
        given_ = {name: call.arg(i, name) for i, name in enumerate(names)}
        x = given_["input"]
        return _following(call, x, _batch(x, given_["weight"], given_["bias"], float(given_["eps"]), native))

    return follows


def _running(call: Call, new: Tensor, given_: dict[str, Any], mean_error: Limit) -> Limit:
    """(1 - momentum) old + momentum (batch's): the second is off by what n roundings make of a mean of squares."""
    if not new.is_floating_point():
        return 0.0
    x = given_["input"]
    n = x.numel() / max(x.shape[1], 1)
    dims = [d for d in range(x.dim()) if d != 1]
    size: Tensor = x.abs().amax(dims) if new is call.out[3] else x.square().mean(dims)
    return (size + new.abs()) * (call.gamma(2 * n + 8) + call.gamma_out(4))


def _fused_rms_norm(call: Call) -> tuple[Limit, ...]:
    """x ρ g with ρ = 1/√(mean x² + ε): every term of the sum is positive, so ρ is off by half its γ_{n+1}."""
    n = 1
    for d in call.args[1]:
        n *= d
    y, rho = call.out
    relative = call.gamma(n / 2 + 6)
    return y.abs() * (relative + call.gamma_out(1)), rho.abs() * relative


def _fused_rms_norm_wide(
    x: Tensor, shape: list[int], weight: Tensor | None, eps: float | None, *, native: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """The default ε is that of the format in which the kernel computes, so it cannot be left to the wide kernel."""
    dims = list(range(-len(shape), 0))
    if eps is None:
        eps = torch.finfo(native[0].dtype if native[0].dtype == torch.float64 else torch.float32).eps
    rho = (x.square().mean(dims, keepdim=True) + eps).rsqrt()
    y = x * rho
    return (y if weight is None else y * weight), rho


def _weight_norm(call: Call) -> tuple[Limit, ...]:
    """w = v g / ‖v‖, and ‖v‖."""
    w, norms = call.out
    n = call.args[0].numel() / max(norms.numel(), 1)
    lost = (n * call.tiny) ** 0.5
    return w.abs() * call.gamma_out(n / 2 + 6), norms * call.gamma(n / 2 + 3) + lost


def _images(r: Operands) -> Iterable[tuple[Tensor, Tensor | None, Tensor | None]]:
    gain, shift = r.normal(6, shift=1), r.normal(6)
    for scale, offset in ((1.0, 0.0), (0.5, 20.0), (1e-4, 0.0)):
        x = r.normal(3, 6, 5, 7, scale=scale, shift=offset)
        yield x, gain, shift
        yield x.contiguous(memory_format=torch.channels_last), gain, shift
    yield r.normal(4, 6, 33), None, None
    yield r.wild(2, 6, 17, decades=2), gain, None
    yield torch.full((2, 6, 9), 0.1, dtype=r.dtype), gain, shift


def _layer_samples(r: Operands) -> Iterable[Any]:
    for n in (1, 7, 64, 1000):
        gain, shift = r.normal(n, shift=1), r.normal(n)
        yield r.normal(3, 4, n), [n], gain, shift, 1e-5
        yield r.normal(5, n, shift=50), [n], gain, shift, 1e-5
        yield r.normal(5, n, scale=1e-4), [n], None, None, 1e-12
        yield r.wild(5, n, decades=2), [n], gain, shift, 1e-5
    yield r.normal(3, 5, 6), [5, 6], r.normal(5, 6), r.normal(5, 6), 1e-6
    yield r.strided(r.normal(4, 65)), [65], None, None, 1e-5
    yield torch.full((3, 40), 0.1, dtype=r.dtype), [40], None, None, 1e-5


def _group_samples(r: Operands) -> Iterable[Any]:
    for x, gain, shift in _images(r):
        yield x, gain, shift, x.shape[0], 6, x[0, 0].numel(), 3, 1e-5


def _batch_samples(r: Operands, always: bool) -> Iterable[Any]:
    for x, gain, shift in _images(r):
        mean, var = r.normal(6), r.uniform(6, low=0.01, high=3)
        yield x, gain, shift, mean, var, False, 0.1, 1e-5
        yield x, gain, shift, mean if always else None, var if always else None, True, 0.1, 1e-5


_BATCH = ("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps")
_UPDATING = ("input", "weight", "bias", "running_mean", "running_var", "momentum", "eps")
_ANY = "the variance by any method, E[x²] - E[x]² included"
_NO_STATS = ("input", "weight", "bias", "training", "momentum", "eps")
_NO_TRAINING = ("input", "weight", "bias", "running_mean", "running_var", "momentum", "eps")

register(
    Rule(
        ("aten.native_layer_norm",),
        Nature.ROUNDS,
        _layer_norm(one_pass=True),
        source=_SOURCE,
        samples=given(_layer_samples),
        assumes=_ANY,
        stable=_layer_norm(one_pass=False),
        follows=lambda call, native: _following(call, call.args[0], _layer(call, native)),
        least=_layer_least,
    )
)
register(
    Rule(
        ("aten.native_group_norm",),
        Nature.ROUNDS,
        _group_norm(one_pass=True),
        source=_SOURCE,
        assumes=_ANY,
        samples=given(_group_samples),
        stable=_group_norm(one_pass=False),
        follows=_group_following,
    )
)
_BATCH_NORMS: tuple[tuple[tuple[str, ...], tuple[str, ...], Given | None], ...] = (
    (("native_batch_norm",), _BATCH, lambda r: _batch_samples(r, always=False)),
    (
        ("_native_batch_norm_legit", "_native_batch_norm_legit_functional"),
        _BATCH,
        lambda r: _batch_samples(r, always=True),
    ),
    (("_batch_norm_with_update", "_batch_norm_with_update_functional"), _UPDATING, None),
    (
        ("_native_batch_norm_legit.no_stats",),
        _NO_STATS,
        lambda r: [(x, gain, shift, True, 0.1, 1e-5) for x, gain, shift in _images(r)],
    ),
    (("cudnn_batch_norm", "miopen_batch_norm"), _BATCH, None),
)
for _ops, _names, _cases in _BATCH_NORMS:
    register(
        Rule(
            tuple(f"aten.{op}" for op in _ops),
            Nature.ROUNDS,
            _batch_norm(_names, one_pass=True),
            source=_SOURCE,
            assumes=_ANY,
            stable=_batch_norm(_names),
            follows=_batch_following(_names),
            samples=None if _cases is None else given(_cases),
        )
    )
register(
    Rule(
        ("aten._native_batch_norm_legit_no_training", "aten._batch_norm_no_update"),
        Nature.ROUNDS,
        _batch_norm(_NO_TRAINING),
        source=_SOURCE,
        samples=given(
            lambda r: [
                (x, gain, shift, r.normal(6), r.uniform(6, low=0.01, high=3), 0.1, 1e-5)
                for x, gain, shift in _images(r)
            ]
        ),
    )
)
register(
    Rule(
        ("aten._fused_rms_norm",),
        Nature.ROUNDS,
        _fused_rms_norm,
        source="Higham (2002), §3.1",
        wide=_fused_rms_norm_wide,
        samples=given(lambda r: [(r.normal(3, 65), [65], r.normal(65), 1e-6), (r.wild(3, 9), [9], None, None)]),
    )
)
register(
    Rule(
        ("aten._weight_norm_interface",),
        Nature.ROUNDS,
        _weight_norm,
        source="Higham (2002), §3.1",
        samples=given(
            lambda r: [] if r.half else [(r.normal(5, 33), r.normal(5, 1), 0), (r.normal(5, 33), r.normal(1, 33), 1)]
        ),
    )
)
