"""Go backwards through a run and book its error on the steps that made it.

For a target, a linear function of the outputs, and any matrices J_s put in place of the steps' derivatives,

    target(native) - target(wide) = Σ_s ⟨adjoint_s, local error_s⟩ + Σ_s ⟨adjoint_s, bend_s⟩

holds exactly, where bend_s = op(native operands) - op(wide operands) - J_s (native - wide operands). J_s is taken half
way between the native and the wide operands: there the bend of a product is zero, that of a smooth function of third
order, and what is left are kinks and choices that were crossed. So the second sum is the residual, by step.
(Linearised error analysis: Higham 2002, §3.9; the adjoints are those of reverse accumulation, Griewank and Walther 2008;
the derivative half way is the implicit midpoint rule.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from roundoff.formats import is_inexact, widen
from roundoff.replay.adjoints import Adjoints
from roundoff.replay.keep import Constant, Kept, Operand
from roundoff.replay.wide import redo
from roundoff.rules import Nature
from roundoff.tape.leaves import map_operands
from roundoff.tape.record import Place


@dataclass(frozen=True)
class Pulled:
    """What one step made of one target: by its local error, by its bend; and the 2-norm of its adjoint."""

    local: float = 0.0
    bend: float = 0.0
    gain: float = 0.0


def pull(kept: Kept, targets: Sequence[Adjoints]) -> list[Pulled]:
    """Take the adjoints of the step's results, hand them on to its operands, and say what the step made."""
    found = [tuple(adjoints.take(place) for place in kept.results) for adjoints in targets]
    for adjoints in targets:
        for number in kept.made:
            adjoints.drop(number)
    live = [any(g is not None and bool(g.any()) for g in gs) for gs in found]
    if not any(live) or not kept.local:
        return [Pulled()] * len(targets)
    leaves, results = _half_way(kept) if any(live) else ([], [])
    pulled = []
    for i, (adjoints, gs) in enumerate(zip(targets, found, strict=True)):
        if not live[i]:
            pulled.append(Pulled())
            continue
        handed = 0.0
        for (operand, _), grad in zip(leaves, _derivatives(leaves, results, gs, last=i == len(found) - 1), strict=True):
            if grad is None:
                continue
            grad = torch.where(grad.isfinite(), grad, 0.0)
            handed += _inner(grad, operand.moved)
            adjoints.add(operand.place, grad)
        local = sum(_inner(g, e) for g, e in zip(gs, kept.local, strict=True))
        whole = sum(_inner(g, m) for g, m in zip(gs, kept.moved, strict=True))
        gain = sum(float(g.abs().square().sum()) for g in gs if g is not None) ** 0.5
        pulled.append(Pulled(local, whole - local - handed, gain))
    return pulled


def entered(constant: Constant, adjoints: Adjoints) -> Pulled:
    """What a constant made that the native run rounds and the wide run does not."""
    g = adjoints.read(constant.place)
    if g is None:
        return Pulled()
    return Pulled(_inner(g, constant.moved), 0.0, float(g.abs().square().sum()) ** 0.5)


def seed(place: Place, weight: Tensor, adjoints: Adjoints) -> None:
    """Begin at an output: the target is the sum of the products of ``weight`` with it."""
    adjoints.add(place, weight)


def _half_way(kept: Kept) -> tuple[list[tuple[Operand, Tensor]], list[Tensor]]:
    """The operands half way between native and wide, and the results there, ready for derivatives."""
    leaves: list[tuple[Operand, Tensor]] = []
    if kept.rule is not None and kept.rule.nature is Nature.DRAWS and kept.rule.wide is None:
        return [], []
    writes = bool(kept.step.op._schema.is_mutable)

    def half_way(x: Any) -> Any:
        if not isinstance(x, Operand):
            return x
        wide = widen(x.native)
        if x.moved is None or not is_inexact(wide.dtype):
            return wide.clone() if writes else wide
        leaf = (wide - x.moved.to(wide.dtype) / 2).requires_grad_()
        leaves.append((x, leaf))
        return leaf

    with torch.no_grad():
        args = tuple(map_operands(half_way, a) for a in kept.args)
        kwargs = {k: map_operands(half_way, v) for k, v in kept.kwargs.items()}
    if writes:  # a leaf must not be written to
        with torch.enable_grad():
            args = tuple(map_operands(_copy, a) for a in args)
            kwargs = {k: map_operands(_copy, v) for k, v in kwargs.items()}
    step = replace(kept.step, args=args, kwargs=kwargs)
    natives = list(kept.natives) or [torch.empty(0, dtype=place.dtype) for place in kept.results]
    try:
        with torch.enable_grad():
            return leaves, redo(step, kept.rule, args, kwargs, natives)
    except (RuntimeError, NotImplementedError, TypeError, ValueError, IndexError):
        return [], []  # no derivative: all that it inherited is booked as its bend


def _copy(x: Any) -> Any:
    return x.clone() if isinstance(x, Tensor) and x.requires_grad else x


def _derivatives(
    leaves: list[tuple[Operand, Tensor]], results: list[Tensor], gs: tuple[Tensor | None, ...], last: bool
) -> tuple[Tensor | None, ...]:
    pairs = [(y, g) for y, g in zip(results, gs, strict=False) if g is not None and y.requires_grad]
    if not leaves or not pairs:
        return (None,) * len(leaves)
    try:
        return torch.autograd.grad(
            [y for y, _ in pairs],
            [x for _, x in leaves],
            [g for _, g in pairs],
            allow_unused=True,
            retain_graph=not last,
        )
    except (RuntimeError, NotImplementedError):
        return (None,) * len(leaves)


def _inner(g: Tensor | None, x: Tensor | None) -> float:
    """⟨g, x⟩, real: of complex numbers the real part of conj(g) x."""
    if g is None or x is None:
        return 0.0
    product = (g.conj() * x).real if g.is_complex() else g * x
    return float(product.sum())
