"""Go backwards through a run and book its error on the steps that made it.

For a target, a linear function of the outputs, and any matrices J_s put in place of the steps' derivatives,

    target(native) - target(wide) = Σ_s ⟨adjoint_s, local error_s⟩ + Σ_s ⟨adjoint_s, bend_s⟩

holds exactly, where bend_s = op(native operands) - op(wide operands) - J_s (native - wide operands). The bend is zero for
the mean of the derivative on the way from the wide to the native operands, which Gauss's quadrature gives: half way, with
one node, exactly for products and to third order for smooth functions; with two, for short formats, to fifth order. What
is left are kinks and choices that were crossed. So the second sum is the residual, by step. (Linearised error analysis:
Higham 2002, §3.9; reverse accumulation: Griewank and Walther 2008; the mean value theorem in its integral form.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch._decomp import decomposition_table

from roundoff.formats import U64, UNIT_ROUNDOFF, widen
from roundoff.replay.adjoints import Adjoints
from roundoff.replay.keep import Constant, Kept, Operand, finite
from roundoff.replay.products import is_large_product, power_of_two
from roundoff.replay.redo import redo
from roundoff.rules import Call, Nature
from roundoff.rules.fused import written_out
from roundoff.rules.opened import tensors
from roundoff.tape.leaves import map_operands


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
    live = [i for i, gs in enumerate(found) if kept.local and any(g is not None and bool(g.any()) for g in gs)]
    pulled = [Pulled()] * len(targets)
    if not live:
        return pulled
    leaves, derivatives = _derivatives(kept, [found[i] for i in live])
    for i, grads in zip(live, derivatives, strict=True):
        gs, handed = found[i], 0.0
        for operand, grad in zip(leaves, grads, strict=True):
            if grad is not None:
                grad = finite(grad)
                handed += _inner(grad, operand.moved)
                targets[i].add(operand.place, grad)
        local = sum(_inner(g, e) for g, e in zip(gs, kept.local, strict=True))
        whole = sum(_inner(g, m) for g, m in zip(gs, kept.moved, strict=True))
        gain = sum(float(g.abs().square().sum()) for g in gs if g is not None) ** 0.5
        pulled[i] = Pulled(local, whole - local - handed, gain)
    return pulled


def entered(constant: Constant, adjoints: Adjoints) -> Pulled:
    """What a constant made that the native run rounds and the wide run does not."""
    g = adjoints.read(constant.place)
    if g is None:
        return Pulled()
    return Pulled(_inner(g, constant.moved), 0.0, float(g.abs().square().sum()) ** 0.5)


Grads = tuple[Tensor | None, ...]
Program = Callable[[Kept, tuple[Any, ...], dict[str, Any]], "list[Tensor] | None"]

#: The nodes of Gauss's quadrature on [0, 1]; those of formats whose u is above 2^-16 are two.
_ONE, _TWO, _SHORT = (0.5,), (0.5 - 12**-0.5, 0.5 + 12**-0.5), 2.0**-16


def _derivatives(kept: Kept, adjoints: list[tuple[Tensor | None, ...]]) -> tuple[list[Operand], list[Grads]]:
    """The operands that carry an error, and for each target the derivatives by them, meant over the way.

    An operator without derivatives is written out in others that have some; where that cannot be either, nothing is
    handed on, and all that the step inherited is booked as its bend.
    """
    if kept.rule is not None and kept.rule.nature is Nature.DRAWS and kept.rule.wide is None:
        return [], [()] * len(adjoints)
    if is_large_product(kept.rule, kept.results[0].dtype, kept.work):
        return _in_float32(kept, adjoints)
    coarsest = max(UNIT_ROUNDOFF.get(place.dtype, 0.0) for place in kept.results)
    for program in (_as_it_is, _written_out, _decomposed):
        try:
            nodes = [_at(node, kept, program, adjoints) for node in (_ONE if coarsest < _SHORT else _TWO)]
        except (RuntimeError, NotImplementedError, TypeError, ValueError, IndexError):
            continue
        if nodes[0] is not None:
            return _mean([node for node in nodes if node is not None])
    return [], [()] * len(adjoints)


def _in_float32(kept: Kept, adjoints: list[tuple[Tensor | None, ...]]) -> tuple[list[Operand], list[Grads]]:
    """The derivatives of a large product, good to float32's digits, and at a fraction of float64's price."""
    operands, leaves, args, kwargs = _between(kept, 0.5, torch.float32)
    with torch.enable_grad():
        results = tensors(kept.step.op(*args, **kwargs))
    derivatives: list[Grads] = []
    for (g,) in adjoints:
        assert g is not None
        scale = power_of_two(g)  # adjoints may be as small as they like
        grads = _pulled_back(results, leaves, ((g / scale).float(),))
        derivatives.append(tuple(None if grad is None else grad.double().mul_(scale) for grad in grads))
    return operands, derivatives


def _at(
    node: float, kept: Kept, program: Program, adjoints: list[tuple[Tensor | None, ...]]
) -> tuple[list[Operand], list[Grads]] | None:
    operands, leaves, args, kwargs = _between(kept, node)
    if not leaves:
        return [], [()] * len(adjoints)
    with torch.enable_grad():
        results = program(kept, args, kwargs)
    return None if results is None else (operands, [_pulled_back(results, leaves, gs) for gs in adjoints])


def _mean(nodes: list[tuple[list[Operand], list[Grads]]]) -> tuple[list[Operand], list[Grads]]:
    operands, derivatives = nodes[0]
    for _, more in nodes[1:]:
        derivatives = [
            tuple(None if x is None or y is None else x + y for x, y in zip(xs, ys, strict=True))
            for xs, ys in zip(derivatives, more, strict=True)
        ]
    return operands, [tuple(None if g is None else g / len(nodes) for g in gs) for gs in derivatives]


def _pulled_back(results: list[Tensor], leaves: list[Tensor], gs: tuple[Tensor | None, ...]) -> Grads:
    pairs = [(y, g) for y, g in zip(results, gs, strict=False) if g is not None and y.requires_grad]
    if not pairs:
        return (None,) * len(leaves)
    ys, weights = [y for y, _ in pairs], [g for _, g in pairs]
    return torch.autograd.grad(ys, leaves, weights, allow_unused=True, retain_graph=True)


def _between(
    kept: Kept, node: float, dtype: torch.dtype | None = None
) -> tuple[list[Operand], list[Tensor], tuple[Any, ...], dict[str, Any]]:
    """The operands that carry an error, as leaves on the way from wide (0) to native (1), and the arguments with them."""
    operands: list[Operand] = []
    leaves: list[Tensor] = []
    writes = bool(kept.step.op._schema.is_mutable)

    def between(x: Any) -> Any:
        if not isinstance(x, Operand):
            return x
        with torch.no_grad():
            value = widen(x.native) if dtype is None else x.native.to(dtype)
            if x.moved is None:
                return value.clone() if writes or value.is_inference() else value
            leaf = (value - x.moved.to(value.dtype) * (1 - node)).requires_grad_()
        operands.append(x)
        leaves.append(leaf)
        return leaf.clone() if writes else leaf  # a leaf must not be written to

    with torch.enable_grad():
        args = tuple(map_operands(between, a) for a in kept.args)
        kwargs = {k: map_operands(between, v) for k, v in kept.kwargs.items()}
    return operands, leaves, args, kwargs


def _as_it_is(kept: Kept, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    natives = list(kept.natives) or [torch.empty(0, dtype=place.dtype) for place in kept.results]
    return redo(replace(kept.step, args=args, kwargs=kwargs), kept.rule, args, kwargs, natives)


def _written_out(kept: Kept, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor] | None:
    out = tuple(torch.empty(0, dtype=place.dtype) for place in kept.results)
    program = written_out(Call(kept.step.op, args, kwargs, out, U64))
    return None if program is None else tensors(program())


def _decomposed(kept: Kept, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor] | None:
    program = decomposition_table.get(kept.step.op)
    return None if program is None else tensors(program(*args, **kwargs))


def _inner(g: Tensor | None, x: Tensor | None) -> float:
    """⟨g, x⟩, real: of complex numbers the real part of conj(g) x."""
    if g is None or x is None:
        return 0.0
    product = (g.conj() * x).real if g.is_complex() else g * x
    return float(product.sum())
