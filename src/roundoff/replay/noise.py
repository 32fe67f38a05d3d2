"""Perturbed wide runs: how far do the roundings of float64 itself reach?

Each computed result is moved by a random multiple of the typical size of its own float64 rounding, so the spread of
the outputs is the wide round-off of the network, amplification and branches included (the idea of stochastic
arithmetic: Vignes 1993; Parker, Monte Carlo Arithmetic 1997). Typical is what the rule says, or what the native kernel
showed, if that is more: a kernel that adds equal numbers in a row rounds the same way each time, and its errors add up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import Any

import torch
from torch import Tensor

from roundoff.formats import U64, UNIT_ROUNDOFF, is_inexact, widen
from roundoff.replay.redo import redo
from roundoff.replay.wide import Executed
from roundoff.rules import Call, Nature
from roundoff.rules.rule import compute_unit, limits_of
from roundoff.tape.leaves import map_operands

#: How many roundings an unknown operator is taken to make.
_UNKNOWN = 8


def perturb(
    seed: int, strength: float = 1.0, *, together: bool = False, shown: bool = True
) -> Callable[[Executed], list[Tensor]]:
    """An ``alter`` for :class:`WideRun`: results moved by ``strength`` times the typical float64 rounding error.

    ``together`` moves all elements of a step the same way, as equal errors of equal elements are; else each goes its own.
    ``shown`` lets what the kernels show count as well, at the price of two or three more float64 operations for each.
    """
    generators: dict[torch.device, torch.Generator] = {}

    def alter(executed: Executed) -> list[Tensor]:
        rule = executed.rule
        if rule is not None and rule.nature is not Nature.ROUNDS:
            return executed.wide
        if not any(y.is_nested or is_inexact(y.dtype) for y in executed.wide):
            return executed.wide  # whole numbers and choices do not round
        if any(y.is_nested for y in executed.wide):  # few operators know them: all elements together
            (part,) = _uniform([1], torch.device("cpu"), generators, seed).tolist()
            return [y * (1 + _UNKNOWN * U64 * strength * part) if is_inexact(y.dtype) else y for y in executed.wide]
        sizes = typical_error(executed)
        if any(_is_unbounded(y, size) for y, size in zip(executed.wide, sizes, strict=True)):
            return _on_moved_operands(executed, generators, seed, strength)
        if shown and rule is not None and rule.products is not None and not executed.step.overwritten:
            sizes = [torch.maximum(torch.as_tensor(sizes[0]), _order_effect(executed))]
        moved = []
        factors = _shown(executed, sizes) if shown else [1.0] * len(sizes)
        for y, size, factor in zip(executed.wide, sizes, factors, strict=True):
            if not is_inexact(y.dtype) or y.numel() == 0:
                moved.append(y)
                continue
            part = _uniform([1] * y.dim() if together else y.shape, y.device, generators, seed)
            size = torch.where(torch.isfinite(torch.as_tensor(size)), size, y.abs() * U64)  # it may have overflowed
            step = (part.sign() if together else part) * (size * (strength * factor))
            # Less than half the way to a neighbour is no move at all, and another correct result is a neighbour at least.
            step = torch.where(y + step == y, part.sign() * y.abs() * (2 * U64), step)
            # A result that fits in far fewer digits was computed exactly, and would be by any kernel; unless its error is
            # as large as the last of these digits: then it is what a cancellation left, and fits by that.
            short = torch.complex64 if y.is_complex() else torch.float32
            stays = ~(y + step).isfinite()
            if _is_rational(executed):
                few = y == y.to(short).to(y.dtype)
                stays |= few & ((size <= y.abs() * UNIT_ROUNDOFF[short]) | (y == 0))
            moved.append(torch.where(stays, y, y + step))
        return moved

    return alter


#: Operators whose exact result on numbers of few digits has few digits.
_RATIONAL = {
    "add",
    "sub",
    "rsub",
    "mul",
    "div",
    "sum",
    "mean",
    "cumsum",
    "square",
    "lerp",
    "addcmul",
    "_to_copy",
    "copy",
}


def _is_rational(executed: Executed) -> bool:
    """False for functions such as tanh and logsumexp: where they give a number of few digits, they mostly came near it."""
    name = str(executed.step.op).split(".")[1].removesuffix("_")
    return name in _RATIONAL or (executed.rule is not None and executed.rule.products is not None)


def _on_moved_operands(
    executed: Executed, generators: dict[torch.device, torch.Generator], seed: int, strength: float
) -> list[Tensor]:
    """Results without a bound, such as eigenvectors: those of operands that are off by a rounding of their largest number.

    A backward stable method gives just that (Higham, Accuracy and Stability, §1.5), and its results belong together: the
    factors of a matrix may be far off each by itself, and their product is the matrix all the same.
    """

    def move(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        wide = executed.twins.wide(x)
        if not is_inexact(x.dtype) or x.numel() == 0:
            return wide
        part = _uniform(wide.shape, wide.device, generators, seed)
        dims = tuple(range(max(wide.dim() - 2, 0), wide.dim()))
        largest = torch.where(wide.isfinite(), wide.abs(), 0.0).amax(dims, keepdim=True)  # a mask holds infinities
        return wide + part * (largest * (strength * U64))

    args = tuple(map_operands(move, a) for a in executed.step.args)
    kwargs = {k: map_operands(move, v) for k, v in executed.step.kwargs.items()}
    try:
        return redo(executed.step, executed.rule, args, kwargs, executed.outs)
    except RuntimeError:  # did not converge
        return executed.wide


def _is_unbounded(y: Tensor, size: Tensor | float) -> bool:
    return is_inexact(y.dtype) and y.numel() > 0 and bool((torch.as_tensor(size) == inf).all())


def _uniform(
    shape: Sequence[int], device: torch.device, generators: dict[torch.device, torch.Generator], seed: int
) -> Tensor:
    """Uniform numbers in [-1, 1)."""
    if device not in generators:
        generators[device] = torch.Generator(device).manual_seed(seed)
    return torch.rand(shape, generator=generators[device], dtype=torch.float64, device=device) * 2 - 1


def _shown(executed: Executed, sizes: list[Tensor | float]) -> list[float]:
    """How much larger than ``sizes`` the native kernel's own errors are, each in its unit round-off; at least 1."""
    factors = []
    for x, reference, size in zip(executed.outs, executed.reference, sizes, strict=True):
        u = max(compute_unit(x.dtype), UNIT_ROUNDOFF.get(x.dtype, 0.0))
        if not is_inexact(x.dtype) or u <= U64 or x.numel() == 0:
            factors.append(1.0)
            continue
        error = (reference - widen(x)).abs()
        error = torch.where(error.isfinite(), error, 0.0)
        expected = size * (u / U64) if isinstance(size, float) else torch.where(size.isfinite(), size * (u / U64), 0.0)
        # Of root mean squares, so that an element which should have no error at all does not decide for all others.
        whole = float(expected.square().mean().sqrt()) if isinstance(expected, Tensor) else expected
        factors.append(max(1.0, float(error.square().mean().sqrt()) / whole) if whole > 0 else 1.0)
    return factors


def typical_error(executed: Executed) -> list[Tensor | float]:
    """For each result the typical size of its rounding error in float64, absolute; broadcasts to the result."""
    rule, wide = executed.rule, executed.wide
    sizes: list[Tensor | float] = [y.abs() * U64 if is_inexact(y.dtype) else 0.0 for y in wide]
    if rule is None:
        return [size * _UNKNOWN for size in sizes]
    if rule.bound is None or (rule.discrete and rule.products is None):
        return sizes
    limits = limits_of(rule, Call(executed.step.op, executed.args, executed.kwargs, tuple(wide), U64, typical=True))
    return [size + limit for size, limit in zip(sizes, limits, strict=True)]


def _order_effect(executed: Executed) -> Tensor:
    """How far the wide sums of products are from the same sums taken in two random parts.

    One u is the typical size where roundings cancel. Equal addends round the same way each time, and their errors pile
    up, to n u (all weights equal is enough, or a bias that is added to first); that shows only by adding otherwise.
    """
    rule, step = executed.rule, executed.step
    assert rule is not None and rule.products is not None
    wide_args, wide_kwargs = map_operands(_wide_in(executed), step.args), map_operands(_wide_in(executed), step.kwargs)
    products = rule.products(wide_args, wide_kwargs)
    w = products.w
    first = torch.randint(0, 2, w.shape, generator=torch.Generator().manual_seed(0)).to(w.device, torch.bool)
    rest = executed.wide[0].clone()
    for mine in (first, ~first):
        bias_too = mine is first

        def part(x: Any, mine: Tensor = mine, bias_too: bool = bias_too) -> Any:
            if x is w:
                return torch.where(mine, w, torch.zeros_like(w))
            is_bias = isinstance(x, Tensor) and x is not products.x
            return torch.zeros_like(x) if is_bias and not bias_too else x

        (y,) = redo(step, rule, map_operands(part, wide_args), map_operands(part, wide_kwargs), executed.outs)
        rest -= y
    return rest.abs()


def _wide_in(executed: Executed) -> Callable[[Any], Any]:
    return lambda x: executed.twins.wide(x) if isinstance(x, Tensor) else x
