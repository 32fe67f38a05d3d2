"""Is a step within its bound only because the bound allows an algorithm that loses digits on these operands?

The rule of such an operator has two bounds. A step that is beyond the smaller one, and within the larger, lost digits in
its statistics, as a variance by E[x²] - E[x]² does where the mean is large; if the rest of it follows from them, it is
correct of its kind. Where it does not follow, something else is wrong that the larger bound would hide.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from roundoff.formats import widen
from roundoff.replay.wide import Executed
from roundoff.rules import Call, Limit
from roundoff.rules.rule import rounding


@dataclass(frozen=True)
class Excess:
    """How far the first result is beyond a limit, and where."""

    local_abs: float
    bound_abs: float
    index: tuple[int, ...]
    follows: bool  # from the statistics that the step itself gave


def weigh_stability(executed: Executed, call: Call) -> Excess | None:
    """None where the step keeps the bound of a stable algorithm. ``call`` is the step as its rule sees it."""
    rule = executed.rule
    if rule is None or rule.stable is None:
        return None
    x, reference = executed.outs[0], executed.reference[0]
    limits = rule.stable(call)
    excess = _beyond(x, reference, limits[0] if isinstance(limits, tuple) else limits, follows=True)
    if excess is None or rule.follows is None:
        return excess
    y, limit = rule.follows(call, tuple(widen(out) for out in executed.outs))
    return _beyond(x, y, limit, follows=False) or excess


def _beyond(x: Tensor, y: Tensor, limit: Limit, *, follows: bool) -> Excess | None:
    error, allowed = (widen(x) - y).abs(), rounding(x, y) + limit
    over = (error > allowed) & allowed.isfinite()  # what is not finite is another question
    if not bool(over.any()):
        return None
    at = tuple(int(i) for i in torch.unravel_index(torch.where(over, error, 0.0).argmax(), x.shape))
    return Excess(float(error[at]), float(allowed[at]), at, follows)
