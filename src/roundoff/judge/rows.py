"""The rows of the table: one for each output leaf that both sides have."""

from __future__ import annotations

import torch
from torch import Tensor

from roundoff.formats import is_inexact, same_bits, ulps_between, widen
from roundoff.judge.case import Case
from roundoff.judge.difference import FLOOR, Real, roundoff
from roundoff.records import Output


def rows(case: Case, real: dict[str, Real]) -> tuple[Output, ...]:
    """One Output for each comparable leaf, in order."""
    found = []
    for name, a, b in case.comparable:
        x, y = a.native, b.native
        assert a.wide is not None and b.wide is not None
        gap = native_difference(x, y)
        at = int(gap.argmax()) if gap.numel() else None
        ulps = ulps_between(x, y)
        r = real.get(name)
        found.append(
            Output(
                name=name or "output",
                shape=tuple(x.shape),
                dtype=x.dtype,
                max_abs=_largest(gap),
                index=None if at is None else tuple(int(i) for i in torch.unravel_index(torch.tensor(at), x.shape)),
                max_ulp=None if ulps is None else int(ulps.max()) if ulps.numel() else 0,
                roundoff_a_abs=_largest(roundoff(x, a.wide)),
                roundoff_b_abs=_largest(roundoff(y, b.wide)),
                real_abs=_largest(r.d) if r else 0.0,
                floor_abs=float(r.typical.flatten()[r.at]) * FLOOR if r and r.typical.numel() else 0.0,
                value_abs=_largest(_magnitude(x)),
                identical=same_bits(x, y),
            )
        )
    return tuple(found)


def native_difference(x: Tensor, y: Tensor) -> Tensor:
    """|x - y| in float64; 0 where both are NaN or the same infinity, infinite where only one is."""
    if not is_inexact(x.dtype):
        return (x.to(torch.float64) - y.to(torch.float64)).abs()
    a, b = widen(x), widen(y)
    same = (a == b) | (a.isnan() & b.isnan())
    return torch.where(same, 0.0, (a - b).abs().nan_to_num(nan=float("inf"), posinf=float("inf")))


def _magnitude(x: Tensor) -> Tensor:
    size = widen(x).abs() if is_inexact(x.dtype) else x.to(torch.float64).abs()
    return torch.where(size.isfinite(), size, 0.0)


def _largest(x: Tensor) -> float:
    return float(x.max()) if x.numel() else 0.0
