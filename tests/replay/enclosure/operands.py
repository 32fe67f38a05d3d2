"""Operands with radii, and the hunt for a result outside its ball."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch
from tests.rules.trial import First, samples, tensors, wide
from torch import Tensor

from roundoff.formats import is_inexact
from roundoff.replay.enclosure.ball import Ball, Unknown, gap, l2
from roundoff.replay.enclosure.opened import balls_of
from roundoff.replay.enclosure.registry import Operation, enclosure_of, names
from roundoff.rules import all_rules
from roundoff.tape.leaves import map_operands

MOST = 6  # calls of each operator
LARGEST = 700  # numbers in an operand: the hunt looks at many shapes, not at large ones


def cases() -> dict[str, list[tuple[Any, tuple[Any, ...], dict[str, Any]]]]:
    """For each operator that has an enclosure, calls in float64 on the sample operands of its rule."""
    found: dict[str, list[tuple[Any, tuple[Any, ...], dict[str, Any]]]] = {}
    known = set(names())
    for rule in all_rules():
        if rule.samples is None or not known & {n for op in rule.ops for n in (op, op.rpartition(".")[0])}:
            continue
        for op, args, kwargs in samples(rule, torch.float32):
            with torch.no_grad(), First() as first, suppress(RuntimeError):  # some names have other arguments
                op(*args, **kwargs)
            if first.seen is None or enclosure_of(first.seen[0]) is None:
                continue
            overload, args, kwargs = first.seen
            if len(tensors(args)) == 1 and isinstance(args[0], Tensor) and args[0].dim() == 1:
                args = args[0][:: args[0].numel() // LARGEST + 1], *args[1:]
            mine = found.setdefault(str(overload), [])
            if len(mine) < MOST and all(x.numel() <= LARGEST for x in tensors([*args, *kwargs.values()])):
                mine.append((overload, args, kwargs))
    return {name: mine for name, mine in found.items() if mine}


def with_radii(value: Any, size: float, g: torch.Generator) -> Any:
    """``value`` with each float tensor as a ball: radii of ``size`` of the numbers, or of 1, and some of 0."""

    def ball(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        if not is_inexact(x.dtype):
            return Ball(x)
        scale = x.abs() if torch.rand(1, generator=g) < 0.7 else torch.ones_like(x)
        rad = torch.where(x.isfinite(), scale.nan_to_num(posinf=0.0) * size, 0.0)
        rad = rad * torch.rand(x.shape, generator=g).round(decimals=1).to(torch.float64)
        share = (None, 0.1, 0.7)[int(torch.randint(3, (1,), generator=g))]  # of the norm that the radii allow
        return Ball(x, rad, None if share is None else share * l2(rad))

    return map_operands(ball, value)


def moved(value: Any, how: str, g: torch.Generator) -> Any:
    """Numbers inside the balls of ``value``: at one end, at either, or anywhere; the same for each use of a ball."""

    def inside(x: Any) -> Any:
        if not isinstance(x, Ball) or x.rad is None:
            return x
        share = {
            "up": torch.ones_like(x.rad),
            "down": -torch.ones_like(x.rad),
            "either": torch.rand(x.rad.shape, generator=g, dtype=torch.float64).round() * 2 - 1,
            "inside": torch.rand(x.rad.shape, generator=g, dtype=torch.float64) * 2 - 1,
        }[how]
        step = share * x.rad * (1 - 2.0**-20)
        if x.norm is not None and l2(step) > 0:
            step = step * min(1.0, x.norm / l2(step) * (1 - 2.0**-20))
        there = x.mid + step
        there = torch.where((there - x.mid).abs() <= x.rad * (1 - 2.0**-30), there, x.mid)  # it was rounded
        return x if x.norm is not None and l2(there - x.mid) > x.norm else Ball(there)

    return map_operands(inside, value)


def computed(op: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """What float64 gives on the midpoints, written to copies."""
    plain = wide(map_operands(lambda v: v.mid if isinstance(v, Ball) else v, [list(args), dict(kwargs)]))
    with torch.no_grad():
        return tensors(op(*plain[0], **plain[1]))


def enclosed(op: Any, args: Any, kwargs: Any) -> tuple[Ball, ...]:
    return balls_of(op, Operation(op, tuple(args), dict(kwargs), tuple(computed(op, args, kwargs))))


def escapes(op: Any, args: Any, kwargs: Any, seed: int, size: float) -> Iterator[tuple[str, float]]:
    """For each way to move the operands: how far the results go, at most, in their radii."""
    g = torch.Generator().manual_seed(seed)
    args, kwargs = with_radii(list(args), size, g), with_radii(dict(kwargs), size, g)
    try:
        balls = enclosed(op, args, kwargs)
    except Unknown:
        return
    for how in ("up", "down", "either", "inside"):
        there_args, there_kwargs = moved([args, kwargs], how, g)
        try:
            there = enclosed(op, there_args, there_kwargs)
        except Unknown:
            continue
        for ball, other in zip(balls, there, strict=True):
            assert ball.mid.shape == other.mid.shape
            if not ball.mid.numel():
                continue
            far = gap(other.mid, ball.mid.to(other.mid.dtype))
            room = ball.radius + other.radius
            yield how, float(torch.where(far == 0, 0.0, far / room).nan_to_num(nan=0.0).max())
            if ball.norm is not None and bool(far.isfinite().all()):
                yield f"{how}, all together", l2(far) / max(ball.far + other.far, 1e-300)
