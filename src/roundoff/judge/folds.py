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

from roundoff.formats import same_bits
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


def find_folds(unmatched: tuple[Tensor, ...], sources: list[Tensor], norms: list[Norm]) -> list[Fold]:
    """The folds that explain ``unmatched`` parameters by ``sources`` and batch norms of the other side."""
    return [fold for target in unmatched if (fold := _fold_of(target, sources, norms)) is not None]


def _fold_of(target: Tensor, sources: list[Tensor], norms: list[Norm]) -> Fold | None:
    for norm in norms:
        if target.dim() >= 2:
            weights = (w for w in sources if w.numel() == target.numel() and w.dim() >= 2)
            for w, axis in ((w, axis) for w in weights for axis in (0, 1)):
                if w.shape[axis] == norm.var.numel():
                    value = _verified(target, _weights(w, norm, axis))
                    if value is not None:
                        return Fold(target, value, f"a weight {list(w.shape)} times the scale of a batch norm")
        elif norm.var.numel() == target.numel():
            for b in (None, *(s for s in sources if s.dim() == 1 and s.numel() == target.numel())):
                value = _verified(target, _biases(b, norm, target.dtype))
                if value is not None:
                    return Fold(target, value, "a bias shifted and scaled by a batch norm")
    return None


def _verified(target: Tensor, candidates: Iterator[Tensor]) -> Tensor | None:
    """The first candidate, which is the float64 one, if ``target`` has the bits of any of them."""
    exact: Tensor | None = None
    for value in candidates:
        exact = value if exact is None else exact
        if same_bits(value.to(target.dtype).reshape(target.shape), target):
            return exact.reshape(target.shape)
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
