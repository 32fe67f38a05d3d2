"""Perturbed wide runs: how far do the roundings of float64 itself reach?

Each computed result is moved by a random multiple of the typical size of its own float64 rounding, so the spread of
the outputs is the wide round-off of the network, amplification and branches included (the idea of stochastic
arithmetic: Vignes 1993; Parker, Monte Carlo Arithmetic 1997). Typical is what the rule says, or what the native kernel
showed, if that is more: a kernel that adds equal numbers in a row rounds the same way each time, and its errors add up.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from roundoff.formats import U64, UNIT_ROUNDOFF, is_inexact
from roundoff.replay.wide import Executed
from roundoff.rules import Call, Nature
from roundoff.rules.rule import compute_unit


def perturb(seed: int, strength: float = 1.0, *, together: bool = False) -> Callable[[Executed], list[Tensor]]:
    """An ``alter`` for :class:`WideRun`: results moved by ``strength`` times the typical float64 rounding error.

    ``together`` moves all elements of a step the same way, as equal errors of equal elements are; else each goes its own.
    """
    generators: dict[torch.device, torch.Generator] = {}

    def alter(executed: Executed) -> list[Tensor]:
        rule = executed.rule
        if rule is not None and rule.nature is not Nature.ROUNDS:
            return executed.wide
        sizes = typical_error(executed)
        moved = []
        for y, size, shown in zip(executed.wide, sizes, _shown(executed, sizes), strict=True):
            if not is_inexact(y.dtype) or y.numel() == 0:
                moved.append(y)
                continue
            if y.device not in generators:
                generators[y.device] = torch.Generator(y.device).manual_seed(seed)
            shape = [1] * y.dim() if together else y.shape
            part = torch.rand(shape, generator=generators[y.device], dtype=torch.float64, device=y.device) * 2 - 1
            step = (part.sign() if together else part) * (size * (strength * shown))
            # A result that fits in far fewer digits was computed exactly, and would be by any kernel.
            short = torch.complex64 if y.is_complex() else torch.float32
            moved.append(torch.where(y == y.to(short).to(y.dtype), y, y + step))
        return moved

    return alter


def _shown(executed: Executed, sizes: list[Tensor | float]) -> list[float]:
    """How much larger than ``sizes`` the native kernel's own errors are, each in its unit round-off; at least 1."""
    shown = []
    for x, reference, size in zip(executed.outs, executed.reference, sizes, strict=True):
        u = max(compute_unit(x.dtype), UNIT_ROUNDOFF.get(x.dtype, 0.0))
        if not is_inexact(x.dtype) or u <= U64 or x.numel() == 0:
            shown.append(1.0)
            continue
        error = (reference - x).abs()
        error = torch.where(error.isfinite(), error, 0.0)
        expected = size * (u / U64) if isinstance(size, float) else torch.where(size.isfinite(), size * (u / U64), 0.0)
        # Of root mean squares, so that an element which should have no error at all does not decide for all others.
        whole = float(expected.square().mean().sqrt()) if isinstance(expected, Tensor) else expected
        shown.append(max(1.0, float(error.square().mean().sqrt()) / whole) if whole > 0 else 1.0)
    return shown


def typical_error(executed: Executed) -> list[Tensor | float]:
    """For each result the typical size of its rounding error in float64, absolute; broadcasts to the result."""
    rule, wide = executed.rule, executed.wide
    sizes: list[Tensor | float] = [y.abs() * U64 if is_inexact(y.dtype) else 0.0 for y in wide]
    if rule is None:
        return [size * 8 for size in sizes]  # unknown operator: a few roundings
    if rule.bound is None or (rule.discrete and rule.products is None):
        return sizes
    limits = rule.bound(Call(executed.step.op, executed.args, executed.kwargs, tuple(wide), U64, typical=True))
    if not isinstance(limits, tuple):
        limits = (limits,) * len(wide)
    return [size + limit for size, limit in zip(sizes, limits, strict=True)]
