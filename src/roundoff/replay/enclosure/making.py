"""Enclosures of tensors that are made from written numbers."""

from __future__ import annotations

from typing import Any

import torch

from roundoff.formats import is_inexact
from roundoff.replay.enclosure.ball import Ball, add, div, mul, number, sub
from roundoff.replay.enclosure.registry import Operation, enclose


@enclose("full", "full_like", "new_full", "scalar_tensor")
def _full(o: Operation) -> Ball:
    """One number everywhere."""
    out = o.out[0]
    if not is_inexact(out.dtype):
        return Ball(out)
    at = {"full": 1, "full_like": 1, "new_full": 2, "scalar_tensor": 0}[o.name]
    value = number(o.arg(at, "fill_value" if at else "s"), out)
    return Ball(value.mid.expand(out.shape), None if value.rad is None else value.rad.expand(out.shape))


def _counted(n: int, out: torch.Tensor) -> Ball:
    return Ball(torch.arange(n, dtype=torch.float64, device=out.device))


@enclose("arange")
def _arange(o: Operation) -> Ball:
    """start + i step."""
    out = o.out[0]
    if not is_inexact(out.dtype):
        return Ball(out)
    given: list[Any] = list(o.args)
    start = number(given[0] if len(given) > 1 else o.kwargs.get("start", 0), out)
    step = number(given[2] if len(given) > 2 else o.kwargs.get("step", 1), out)
    return add(start, mul(_counted(out.numel(), out), step))


@enclose("linspace")
def _linspace(o: Operation) -> Ball:
    """start + i (end - start) / (n - 1)."""
    out = o.out[0]
    if not is_inexact(out.dtype) or out.numel() < 2:
        return Ball(out)
    start, end = number(o.args[0], out), number(o.args[1], out)
    share = div(_counted(out.numel(), out), number(out.numel() - 1, out))
    return add(start, mul(share, sub(end, start)))
