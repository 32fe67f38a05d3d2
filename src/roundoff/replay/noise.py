"""Perturbed wide runs: how far do the roundings of float64 itself reach?

Each computed result is moved by a random multiple of the typical size of its own float64 rounding, so the spread of
the outputs is the wide round-off of the network, amplification and branches included (the idea of stochastic
arithmetic: Vignes 1993; Parker, Monte Carlo Arithmetic 1997).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from roundoff.formats import U64, is_inexact
from roundoff.replay.wide import Executed
from roundoff.rules import Call, Nature


def perturb(seed: int, strength: float = 1.0) -> Callable[[Executed], list[Tensor]]:
    """An ``alter`` for :class:`WideRun`: results moved by ``strength`` times the typical float64 rounding error."""
    generators: dict[torch.device, torch.Generator] = {}

    def alter(executed: Executed) -> list[Tensor]:
        rule = executed.rule
        if rule is not None and rule.nature is not Nature.ROUNDS:
            return executed.wide
        sizes = typical_error(executed)
        moved = []
        for y, size in zip(executed.wide, sizes, strict=True):
            if not is_inexact(y.dtype) or y.numel() == 0:
                moved.append(y)
                continue
            if y.device not in generators:
                generators[y.device] = torch.Generator(y.device).manual_seed(seed)
            part = torch.rand(y.shape, generator=generators[y.device], dtype=torch.float64, device=y.device)
            step = (part * 2 - 1) * (size * strength)
            # A result that fits in far fewer digits was computed exactly, and would be by any kernel.
            short = torch.complex64 if y.is_complex() else torch.float32
            moved.append(torch.where(y == y.to(short).to(y.dtype), y, y + step))
        return moved

    return alter


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
