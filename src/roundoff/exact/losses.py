"""The usual losses: written expressions of single roundings, then a mean or a sum that is rounded once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from roundoff.errors import RoundoffError
from roundoff.exact import ops
from roundoff.exact.activations import divided
from roundoff.exact.contractions import mean, sum
from roundoff.exact.gradients import expand
from roundoff.exact.rounding import short_dtype
from roundoff.exact.softmax import log_softmax


def known(reduction: str) -> None:
    """Raises RoundoffError for a reduction that there is not."""
    if reduction not in ("none", "mean", "sum"):
        raise RoundoffError(f"reduction is 'none', 'mean' or 'sum', and {reduction!r} was given.")


def reduced(x: Tensor, reduction: str) -> Tensor:
    """The reduction of a loss."""
    known(reduction)
    return x if reduction == "none" else mean(x) if reduction == "mean" else sum(x)


def _away(what: str, x: Tensor, target: Tensor) -> Tensor:
    short_dtype(what, x, target)
    shape = torch.broadcast_shapes(x.shape, target.shape)
    return expand(x, shape) - expand(target, shape)


def mse_loss(x: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """(x - target)², then their mean or sum."""
    away = _away("mse_loss", x, target)
    return reduced(away * away, reduction)


def l1_loss(x: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """|x - target|, then their mean or sum."""
    return reduced(_away("l1_loss", x, target).abs(), reduction)


def smooth_l1_loss(x: Tensor, target: Tensor, reduction: str = "mean", beta: float = 1.0) -> Tensor:
    """a = |x - target|; 0.5 · a · a / beta below beta, else a - 0.5 · beta."""
    a = _away("smooth_l1_loss", x, target).abs()
    if beta == 0:
        return reduced(a, reduction)
    return reduced(torch.where(a < beta, divided(a * a * 0.5, beta), a - 0.5 * beta), reduction)


def huber_loss(x: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0) -> Tensor:
    """a = |x - target|; 0.5 · a · a up to delta, else (a - 0.5 · delta) · delta."""
    a = _away("huber_loss", x, target).abs()
    return reduced(torch.where(a <= delta, a * a * 0.5, (a - 0.5 * delta) * delta), reduction)


def kl_div(x: Tensor, target: Tensor, reduction: str = "mean", log_target: bool = False) -> Tensor:
    """target · (log target - x), 0 where the target is 0; or exp(target) · (target - x) with ``log_target``."""
    short_dtype("kl_div", x, target)
    if log_target:
        y = ops.each(target, "exp") * (target - x)
    else:
        safe = torch.where(target > 0, target, 1.0)
        y = torch.where(target > 0, target * (ops.each(safe, "log") - x), 0.0)
    if reduction == "batchmean":
        return divided(sum(y), x.shape[0])
    return reduced(y, reduction)


class _Pick(torch.autograd.Function):
    """One element of each row; its gradient only moves data, where that of gather adds."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, target: Tensor) -> Tensor:
        ctx.save_for_backward(target)
        ctx.shape = x.shape
        return x.gather(1, target[:, None])[:, 0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (target,) = ctx.saved_tensors
        return grad.new_zeros(ctx.shape).scatter(1, target[:, None], grad[:, None]), None


def _rows(x: Tensor) -> Tensor:
    """[N, C, ...] as [N ·, C]."""
    return x[None] if x.dim() == 1 else x.movedim(1, -1).reshape(-1, x.shape[1])


def _mean_of(total: Tensor, count: Tensor, reduction: str, shape: Any) -> Tensor:
    if reduction == "none":
        return total.reshape(shape)
    return reduced(total, "sum") if reduction == "sum" else sum(total) / sum(count)


def nll_loss(x: Tensor, target: Tensor, weight: Tensor | None = None, ignore_index: int = -100,
             reduction: str = "mean", label_smoothing: float = 0.0) -> Tensor:  # fmt: skip
    """-x at the class, · its weight, 0 where it is ignored; the mean is Σ of these / Σ of their weights.

    ``x`` [N, C, ...] or [C] and class numbers [N, ...]. With smoothing ε: (1 - ε) · that + ε / C · the same of
    -Σ over the classes of x · weight.
    """
    short_dtype("nll_loss", x, weight)
    if target.dtype.is_floating_point or target.dim() != max(0, x.dim() - 1):
        raise RoundoffError(f"exact.nll_loss takes x [N, C, ...] and class numbers [N, ...], not {list(x.shape)} "
                            f"and {target.dtype} {list(target.shape)}.")  # fmt: skip
    known(reduction)
    rows, which = _rows(x), target.reshape(-1)
    valid = which != ignore_index
    which = torch.where(valid, which, 0)
    own = torch.ones_like(rows[:, 0]) if weight is None else weight[which]
    own = torch.where(valid, own, 0.0).detach()
    picked: Tensor = _Pick.apply(rows, which)  # type: ignore[no-untyped-call]
    picked = torch.where(valid, -picked if weight is None else -picked * own, 0.0)
    loss = _mean_of(picked, own, reduction, target.shape)
    if not label_smoothing:
        return loss
    spread = sum(-rows if weight is None else -rows * expand(weight, rows.shape), 1)
    smooth = _mean_of(torch.where(valid, spread, 0.0), own, reduction, target.shape)
    return loss * (1 - label_smoothing) + smooth * (label_smoothing / rows.shape[1])


def cross_entropy(x: Tensor, target: Tensor, weight: Tensor | None = None, ignore_index: int = -100,
                  reduction: str = "mean", label_smoothing: float = 0.0) -> Tensor:  # fmt: skip
    """:func:`nll_loss` of log_softmax(x). For probabilities [N, C, ...]: -Σ log_softmax · target · weight."""
    logs = log_softmax(x, 0 if x.dim() == 1 else 1)
    if not target.dtype.is_floating_point:
        return nll_loss(logs, target, weight, ignore_index, reduction, label_smoothing)
    short_dtype("cross_entropy", x, target, weight)
    if target.shape != x.shape:
        raise RoundoffError(f"exact.cross_entropy takes probabilities {list(x.shape)}, not {list(target.shape)}.")
    known(reduction)
    rows, share = _rows(logs), _rows(target)
    if label_smoothing:
        share = share * (1 - label_smoothing) + label_smoothing / rows.shape[1]
    if weight is not None:
        share = share * expand(weight, share.shape)
    y = -ops.products(rows[:, None], share[:, :, None]).reshape(-1)
    if reduction == "mean":
        return divided(sum(y), len(y))
    return sum(y) if reduction == "sum" else y.reshape(x.shape[:1] * (x.dim() > 1) + x.shape[2:])


class _BinaryCrossEntropy(torch.autograd.Function):
    """Its gradient is (x - t) / max((1 - x) · x, 1e-12), which is finite at 0 and 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, t: Tensor) -> Tensor:
        ctx.save_for_backward(x, t)
        no = ops.each(-x, "log1p").clamp_min(-100)
        return (t - 1) * no - t * ops.each(x, "log").clamp_min(-100)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        x, t = ctx.saved_tensors
        other = None
        if ctx.needs_input_grad[1]:
            other = grad * (ops.each(-x, "log1p").clamp_min(-100) - ops.each(x, "log").clamp_min(-100))
        return grad * ((x - t) / ((1 - x) * x).clamp_min(1e-12)), other


def binary_cross_entropy(x: Tensor, target: Tensor, weight: Tensor | None = None, reduction: str = "mean") -> Tensor:
    """(t - 1) · max(log1p(-x), -100) - t · max(log x, -100), · weight, then their mean or sum."""
    short_dtype("binary_cross_entropy", x, target, weight)
    y: Tensor = _BinaryCrossEntropy.apply(x, target)  # type: ignore[no-untyped-call]
    return reduced(y if weight is None else y * expand(weight, y.shape), reduction)


def binary_cross_entropy_with_logits(x: Tensor, target: Tensor, weight: Tensor | None = None, reduction: str = "mean",
                                     pos_weight: Tensor | None = None) -> Tensor:  # fmt: skip
    """(1 - t) · x + softplus(-x) · ((pos_weight - 1) · t + 1), · weight, then their mean or sum."""
    short_dtype("binary_cross_entropy_with_logits", x, target, weight, pos_weight)
    low = ops.each(-x, "softplus")
    if pos_weight is not None:
        low = low * (expand(pos_weight - 1, x.shape) * target + 1)
    y = (1 - target) * x + low
    return reduced(y if weight is None else y * expand(weight, y.shape), reduction)
