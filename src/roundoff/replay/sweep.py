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
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._decomp import decomposition_table

from roundoff.formats import U64, UNIT_ROUNDOFF, is_inexact, widen
from roundoff.replay.adjoints import Adjoints
from roundoff.replay.keep import Constant, Kept, Operand
from roundoff.replay.products import is_large_product, power_of_two, pulled_back
from roundoff.replay.redo import redo
from roundoff.replay.sizes import finite, inner, largest
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
    storages = [place.storage for place in kept.results]
    ends = [n in kept.made and storages.count(n) == 1 for n in storages]  # nothing came before the step there
    found = [
        tuple(adjoints.take(place, last) for place, last in zip(kept.results, ends, strict=True))
        for adjoints in targets
    ]
    for adjoints in targets:
        for number in kept.made:
            adjoints.drop(number)
    gains = [sum(_square(g) for g in gs if g is not None) ** 0.5 for gs in found]
    live = [i for i, gain in enumerate(gains) if kept.local and gain]
    pulled = [Pulled()] * len(targets)
    if not live:
        return pulled
    gs = [found[i] for i in live]
    local = [sum(inner(g, e) for g, e in zip(mine, kept.local, strict=True)) for mine in gs]
    whole = [sum(inner(g, m) for g, m in zip(mine, kept.moved, strict=True)) for mine in gs]
    handed = _in_float32(kept, gs, whole, local) or _in_float64(kept, gs)
    for i, there, here, (total, shares, scale) in zip(live, whole, local, handed, strict=True):
        for operand, grad in shares:
            targets[i].add(operand.place, grad, scale)
        pulled[i] = Pulled(here, there - here - total, gains[i])
    return pulled


def _handed(leaves: list[Operand], grads: Grads, scale: float = 1.0) -> Handed:
    """What the operands inherited made of a target, and what is handed on to each; the derivatives are to be scaled."""
    shares = [(operand, grad) for operand, grad in zip(leaves, grads, strict=True) if grad is not None]
    return sum(inner(grad, operand.moved) for operand, grad in shares) * scale, shares, scale


def _scaled(g: Tensor | None, factor: float) -> Tensor | None:
    if g is None:
        return None
    return g.float().mul_(factor) if 2.0**-60 < factor < 2.0**60 else (g * factor).float()


def entered(constant: Constant, adjoints: Adjoints) -> Pulled:
    """What a constant made that the native run rounds and the wide run does not."""
    g = adjoints.read(constant.place)
    if g is None:
        return Pulled()
    return Pulled(inner(g, constant.moved), 0.0, _square(g) ** 0.5)


def _square(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x)) ** 2


Grads = tuple[Tensor | None, ...]
Handed = tuple[float, list[tuple[Operand, Tensor]], float]  # the sum, the derivatives by operand, and their scale
Program = Callable[[Kept, tuple[Any, ...], dict[str, Any]], "list[Tensor] | None"]

#: The nodes of Gauss's quadrature on [0, 1]; those of formats whose u is above 2^-16 are two.
#: Elements from which on a second look in float32 pays.
_MANY = 1 << 14
#: What float32 derivatives may leave of a share; a kink or choice that was crossed leaves more, and is looked at again.
_ENOUGH = 2.0**-14
_ONE, _TWO, _SHORT = (0.5,), (0.5 - 12**-0.5, 0.5 + 12**-0.5), 2.0**-16


def _in_float64(kept: Kept, adjoints: list[tuple[Tensor | None, ...]]) -> list[Handed]:
    operands, derivatives = _derivatives(kept, adjoints)
    return [_handed(operands, tuple(None if g is None else finite(g) for g in grads)) for grads in derivatives]


def _derivatives(kept: Kept, adjoints: list[tuple[Tensor | None, ...]]) -> tuple[list[Operand], list[Grads]]:
    """The operands that carry an error, and for each target the derivatives by them, meant over the way.

    An operator without derivatives is written out in others that have some; where that cannot be either, nothing is
    handed on, and all that the step inherited is booked as its bend.
    """
    if kept.rule is not None and kept.rule.nature is Nature.DRAWS and kept.rule.wide is None:
        return [], [()] * len(adjoints)
    coarsest = max(UNIT_ROUNDOFF.get(place.dtype, 0.0) for place in kept.results)
    for program in (_as_it_is, _written_out, _decomposed):
        try:
            nodes = [_at(node, kept, program, adjoints) for node in (_ONE if coarsest < _SHORT else _TWO)]
        except (RuntimeError, NotImplementedError, TypeError, ValueError, IndexError):
            continue
        if nodes[0] is not None:
            return _mean([node for node in nodes if node is not None])
    return [], [()] * len(adjoints)


def _in_float32(
    kept: Kept, adjoints: list[tuple[Tensor | None, ...]], whole: list[float], local: list[float]
) -> list[Handed] | None:
    """The same by the step's own kernel in float32, at a fraction of float64's price; None where that is not enough.

    It gives the derivatives to float32's digits. Any derivatives would keep the sum exact, because the bend takes up what
    they miss: so a bend that is small shows that they were good enough.
    """
    if not _enough_in_float32(kept):
        return None
    operands, derive = _short_derivatives(kept)
    handed: list[Handed] = []
    for gs in adjoints:
        scale = power_of_two(max(largest(g) for g in gs if g is not None))  # adjoints may be of any size
        try:
            grads = derive(tuple(_scaled(g, 1 / scale) for g in gs))
        except (RuntimeError, NotImplementedError, TypeError, ValueError, IndexError):
            return None
        if not all(largest(g) < torch.inf for g in grads if g is not None):
            return None
        handed.append(_handed(operands, grads, scale))
    if kept.rule is not None and kept.rule.nature is Nature.EXACT:
        return handed  # its derivatives are zeros and ones: a bend is a choice that was crossed
    for there, here, (total, _, _) in zip(whole, local, handed, strict=True):
        if abs(there - here - total) > _ENOUGH * (abs(there) + abs(here) + abs(total)):
            return None
    return handed


def _short_derivatives(kept: Kept) -> tuple[list[Operand], Callable[[tuple[Tensor | None, ...]], Grads]]:
    """The operands that carry an error, and the way from the adjoints of the results to theirs, in float32."""
    operands, leaves, args, kwargs = _between(kept, 0.5, torch.float32)

    @cache
    def results() -> list[Tensor]:
        with torch.enable_grad():
            return tensors(kept.step.op(*args, **kwargs))

    def derive(gs: tuple[Tensor | None, ...]) -> Grads:
        if not leaves:
            return ()
        known = pulled_back(kept.step.op, args, kwargs, leaves, gs[0]) if len(gs) == 1 and gs[0] is not None else None
        return _pulled_back(results(), leaves, gs) if known is None else known

    return operands, derive


def _enough_in_float32(kept: Kept) -> bool:
    """True for a step of float32 that is large, and whose mathematics is what its own kernel does."""
    if kept.rule is not None and kept.rule.products is not None:
        return is_large_product(kept.rule, kept.results[0].dtype, kept.work)
    if kept.rule is None or kept.rule.wide is not None:
        return False
    given: list[Operand] = []
    map_operands(lambda x: given.append(x) if isinstance(x, Operand) else None, (kept.args, kept.kwargs))
    formats = {place.dtype for place in (*kept.results, *(x.place for x in given)) if is_inexact(place.dtype)}
    return formats == {torch.float32} and sum(x.native.numel() for x in given) >= _MANY


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
            value = widen(x.native) if dtype is None or not is_inexact(x.native.dtype) else x.native.to(dtype)
            if x.moved is None:
                return value.clone() if writes or value.is_inference() else value
            leaf = torch.sub(value, x.moved.to(value.dtype), alpha=1 - node).requires_grad_()
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
