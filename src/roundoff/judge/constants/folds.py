"""Verified folds: is a parameter of one side exactly what follows from parameters of the other?

A batch norm folded into a convolution replaces w by w γ/√(σ²+ε), rounded. The fold is verified when every element has
the bits of one of the ways to compute it; then the wide value of the parameter is the fold before it was rounded,
and the two networks must agree to the wide round-off as if nothing had been folded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from roundoff.formats import widen
from roundoff.judge.constants.derived import DerivedLog, Variance, near
from roundoff.judge.constants.scales import Scales, find_scaled, scale_of, verified
from roundoff.tape.watch import Step


@dataclass(frozen=True)
class Fold:
    """``folded`` has the wide value ``value``; ``text`` says what it was folded from."""

    folded: Tensor
    value: Tensor
    text: str


@dataclass(frozen=True)
class Norm:
    """A batch norm in evaluation mode that a run went through."""

    weight: Tensor | None
    bias: Tensor | None
    mean: Tensor
    var: Tensor
    eps: float


class NormLog:
    """A listener that keeps the batch norms of a run."""

    def __init__(self) -> None:
        self.norms: list[Norm] = []

    def before(self, step: Step) -> None:
        name, args = str(step.op), step.args
        if ("native_batch_norm.default" in name and not args[5]) or (
            "cudnn_batch_norm.default" in name and not args[5]
        ):
            self.norms.append(Norm(args[1], args[2], args[3], args[4], args[7]))
        elif "no_training.default" in name and "batch_norm" in name:
            self.norms.append(Norm(args[1], args[2], args[3], args[4], args[6]))

    def after(self, step: Step, out: object) -> None:
        """Nothing is kept of results."""


def find_folds(
    unmatched: tuple[Tensor, ...], sources: list[Tensor], norms: list[Norm], log: DerivedLog | None = None
) -> list[Fold]:
    """The folds that explain ``unmatched`` parameters by ``sources`` and batch norms of the other side.

    ``log`` holds what the other side computes from its constants: norms that are written by hand, and scales.
    """
    folds = [fold for target in unmatched if (fold := _fold_of(target, sources, norms)) is not None]
    if log is not None:
        folds += _by_hand(_without(folds, unmatched), sources, log)
        scales = Scales(log.values, log.numbers)
        for target in _without(folds, unmatched):
            scaled = find_scaled(target, scales)
            folds += [Fold(target, *scaled)] if scaled is not None else []
    found = {id(fold.folded): fold for fold in folds}
    return [found[id(target)] for target in unmatched if id(target) in found]


def _without(folds: list[Fold], unmatched: tuple[Tensor, ...]) -> list[Tensor]:
    found = {id(fold.folded) for fold in folds}
    return [target for target in unmatched if id(target) not in found]


def _by_hand(targets: list[Tensor], sources: list[Tensor], log: DerivedLog) -> list[Fold]:
    """Norms of which the variance is known, and the rest is found among the constants: (x - μ) γ/√(σ²+ε) + β."""
    found, norms = [], []
    for target in targets:
        if target.dim() >= 2:
            fold, norm = _fold_weight(target, sources, log.variances)
            if fold is not None and norm is not None:
                found.append(fold)
                norms.append(norm)
    for target in targets:
        if target.dim() == 1:
            folds = (_fold_bias(target, sources, norm) for norm in norms if norm.var.numel() == target.numel())
            found += [fold for fold in folds if fold is not None][:1]
    return found


def _fold_weight(
    target: Tensor, sources: list[Tensor], variances: list[Variance]
) -> tuple[Fold, Norm] | tuple[None, None]:
    for w in sources:
        if w.numel() != target.numel() or w.dim() < 2:
            continue
        for axis in (0, 1):
            scale = scale_of(widen(w), widen(target).reshape(w.shape), axis)
            for known in variances:
                if scale is None or known.var.numel() != scale.numel():
                    continue
                root = torch.sqrt(widen(known.var) + known.eps)
                for gain in (None, *(s.flatten() for s in sources if s.numel() == scale.numel())):
                    if near(1 / root if gain is None else widen(gain) / root, scale):
                        norm = Norm(gain, None, torch.zeros_like(known.var), known.var, known.eps)
                        value = verified(target, _weights(w, norm, axis))
                        if value is not None:
                            return Fold(
                                target, value, f"a weight {list(w.shape)} times the scale of a batch norm"
                            ), norm
    return None, None


def _fold_bias(target: Tensor, sources: list[Tensor], norm: Norm) -> Fold | None:
    """(b - μ) γ/√(σ²+ε) + β with b, μ and β among ``sources``; b and β may not be there at all."""
    those = [s.flatten() for s in sources if s.numel() == target.numel()][:_MOST]
    none = torch.zeros_like(norm.var)
    _, gamma, _, _, root, _ = _in(torch.float64, norm, None)
    y, factor = widen(target).flatten(), gamma / root
    wide = torch.stack([widen(x) for x in (none, *those)])  # [those, channel]
    moved = (wide[:, None, 0] - wide[:, 0]) * factor[0]  # [b, mean] in the first channel, in which most are told apart
    room = 1e-5 * (y[0].abs() + (wide[:, None, 0].abs() + wide[:, 0].abs()) * factor[0].abs())
    for b, m, s in ((y[0] - moved[:, :, None] - wide[:, 0]).abs() <= room[:, :, None]).nonzero().tolist():
        room_of_all = 1e-5 * (y.abs() + (wide[b].abs() + wide[m].abs()) * factor.abs())
        if not bool(((y - (wide[b] - wide[m]) * factor - wide[s]).abs() <= room_of_all).all()):
            continue
        bias, mean, shift = (None if i == 0 else those[i - 1] for i in (b, m, s))
        whole = Norm(norm.weight, shift, none if mean is None else mean, norm.var, norm.eps)
        value = verified(target, _biases(bias, whole, target.dtype))
        if value is not None:
            return Fold(target, value, "a bias shifted and scaled by a batch norm")
    return None


#: How many vectors of one length are tried as means, biases and shifts: all triples of them.
_MOST = 100


def _fold_of(target: Tensor, sources: list[Tensor], norms: list[Norm]) -> Fold | None:
    for norm in norms:
        if target.dim() >= 2:
            weights = (w for w in sources if w.numel() == target.numel() and w.dim() >= 2)
            for w, axis in ((w, axis) for w in weights for axis in (0, 1)):
                if w.shape[axis] == norm.var.numel():
                    value = verified(target, _weights(w, norm, axis))
                    if value is not None:
                        return Fold(target, value, f"a weight {list(w.shape)} times the scale of a batch norm")
        elif norm.var.numel() == target.numel():
            for b in (None, *(s for s in sources if s.dim() == 1 and s.numel() == target.numel())):
                value = verified(target, _biases(b, norm, target.dtype))
                if value is not None:
                    return Fold(target, value, "a bias shifted and scaled by a batch norm")
    return None


def _weights(w: Tensor, norm: Norm, axis: int) -> Iterator[Tensor]:
    """The ways in which folding code computes w γ/√(σ²+ε), in float64 first."""
    shape = [1] * w.dim()
    shape[axis] = -1
    for form in (torch.float64, w.dtype):
        x, gamma, _, _, root, inverse = _in(form, norm, w)
        assert x is not None
        yield x * (gamma / root).reshape(shape)
        yield x * (gamma * inverse).reshape(shape)
        yield (x * gamma.reshape(shape)) / root.reshape(shape)
        yield (x * gamma.reshape(shape)) * inverse.reshape(shape)
        yield x * inverse.reshape(shape) * gamma.reshape(shape)


def _biases(bias: Tensor | None, norm: Norm, dtype: torch.dtype) -> Iterator[Tensor]:
    """The ways in which folding code computes (b - μ) γ/√(σ²+ε) + β, in float64 first."""
    for form in (torch.float64, dtype):
        b, gamma, beta, mean, root, inverse = _in(form, norm, bias)
        b = torch.zeros_like(mean) if b is None else b
        yield (b - mean) * (gamma / root) + beta
        yield (b - mean) * (gamma * inverse) + beta
        yield (b - mean) * inverse * gamma + beta
        yield (b - mean) / root * gamma + beta
        yield (b - mean) * gamma / root + beta
        yield beta - mean * (gamma / root) + b * (gamma / root)
        yield beta - (mean - b) * (gamma / root)
        yield beta - mean * gamma / root


def _in(form: torch.dtype, norm: Norm, x: Tensor | None) -> tuple[Any, Tensor, Tensor, Tensor, Tensor, Tensor]:
    var, mean = norm.var.detach().to(form), norm.mean.detach().to(form)
    gamma = torch.ones_like(var) if norm.weight is None else norm.weight.detach().to(form)
    beta = torch.zeros_like(var) if norm.bias is None else norm.bias.detach().to(form)
    root, inverse = torch.sqrt(var + norm.eps), torch.rsqrt(var + norm.eps)
    return (None if x is None else x.detach().to(form)), gamma, beta, mean, root, inverse
