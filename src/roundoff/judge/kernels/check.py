"""Check the kernels: is each step's local error within what a correct kernel can make?

The local error is the native result minus the same operation in float64 on the same native operands. A step that sums
products is first held against its bound through norms, with what it inherited allowed for: that costs no second
product. Only where that does not settle it is the float64 product on the native operands computed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from roundoff.formats import UNIT_ROUNDOFF, is_inexact, widen
from roundoff.judge.kernels.parts import PART, parts_of
from roundoff.judge.kernels.precision import Setting, explain_error, permitted, setting_of
from roundoff.judge.kernels.shorter import Hypothesis
from roundoff.judge.kernels.stability import weigh_stability
from roundoff.replay.twins import Twins
from roundoff.replay.wide import Executed
from roundoff.rules import Call, Limit, Nature
from roundoff.rules.matmul import lost
from roundoff.rules.opened import opened
from roundoff.rules.rule import Products, compute_unit, limits_of, rounding

#: Rounding the operands of a product to TF32 leaves an error of about 2^-11.5/√n of ‖x‖‖w‖. Below a sixth of that no
#: step can have done so; float32 sums stay far below it wherever γ_n does not already forbid it.
_SUSPICIOUS = 2.0**-11.5 / 6

#: Three products of bfloat16 parts leave about 2^-18.5/√n: looked for only where a setting allows them, for below a third
#: of that are also sums in float32, and nothing is at stake.
_SUBTLE = 2.0**-18.5 / 3

#: Tensor cores cut where others round, two units for one, and align products before they add them.
_TRUNCATED = 4

#: Where the operands inherited more than this, relative to themselves, their share is taken out exactly.
_INHERITED = 2.0**-16


@dataclass(frozen=True)
class Fault:
    """A step whose local error no correct kernel can have."""

    step: int
    op: str
    where: str
    local_abs: float
    bound_abs: float
    index: tuple[int, ...]
    hypothesis: Hypothesis | None = None
    setting: Setting | None = None  # that decides whether it may


class KernelCheck:
    """An observer of the wide run that holds every local error against its bound."""

    def __init__(self) -> None:
        self.faults: list[Fault] = []
        self.reduced: list[Fault] = []
        self.unstable: list[Fault] = []
        self.unknown: dict[str, str] = {}
        self.steps: Counter[str] = Counter()

    def __call__(self, executed: Executed) -> None:
        rule, step = executed.rule, executed.step
        self.steps["all"] += 1
        if rule is not None and rule.nature in (Nature.DRAWS, Nature.MAKES):
            return
        natives = [x for x in executed.outs if is_inexact(x.dtype)]
        if not natives or all(x.dtype in (torch.float64, torch.complex128) for x in natives):
            return  # integers follow from the branches; float64 has no wider reference here
        if any(x.is_nested for x in executed.outs):
            self.unknown.setdefault(str(step.op), step.where)
            return
        if not any(x.numel() for x in natives):
            return
        if rule is not None and rule.products is not None and _settled_by_norms(executed):
            return
        if rule is not None and _within_in_parts(executed):
            self.steps["checked"] += 1
            return
        found = limits(executed)
        if found is None:
            self.unknown.setdefault(str(step.op), step.where)
            return
        self.steps["checked"] += 1
        for x, reference, limit in zip(executed.outs, executed.reference, found, strict=True):
            if is_inexact(x.dtype) and x.numel():  # statistics that are not kept come as empty tensors
                self._hold(executed, x, reference, limit)
        if rule is not None and rule.stable is not None and not (self.faults and self.faults[-1].step == step.index):
            self._hold_stable(executed)

    def _hold_stable(self, executed: Executed) -> None:
        step, excess = executed.step, weigh_stability(executed, _call(executed))
        if excess is not None:
            fault = Fault(step.index, str(step.op), step.where, excess.local_abs, excess.bound_abs, excess.index)
            (self.unstable if excess.follows else self.faults).append(fault)

    def _hold(self, executed: Executed, x: Tensor, reference: Tensor, limit: Limit) -> None:
        largest = torch.finfo(x.dtype).max
        if x.dtype.itemsize == 1:
            x = widen(x)  # float8 meets no other format
        if isinstance(limit, float) and limit == 0.0 and bool((reference == x).all()):
            return
        error = (reference - x).abs()
        products = executed.rule.products if executed.rule is not None else None
        suspicious = products is not None and _suspicious(executed, error)
        if not suspicious and bool((error <= limit).all()):
            return
        over = ~(error <= limit) & ~_beyond_reach(x, reference, largest)
        if isinstance(limit, Tensor):  # an infinite bound judges nothing, NaN included
            over &= limit.isfinite()
        if not suspicious and not bool(over.any()):
            return
        explanation = explain_error(executed, x, reference) if products is not None else None
        if explanation is None:
            if bool(over.any()):
                self.faults.append(_fault(executed, error, limit, over))
            return
        hypothesis = explanation.hypothesis
        setting = setting_of(executed.step.op, x.device.type, hypothesis)
        fault = replace(_fault(executed, error, limit, over), hypothesis=hypothesis, setting=setting)
        if setting is None or not setting.allows:
            self.faults.append(fault)
            return
        self.reduced.append(fault)
        if explanation.result is not None:  # nothing else may hide behind it
            error, limit = (explanation.result - x).abs(), limit * _TRUNCATED
            over = ~(error <= limit) & ~_beyond_reach(x, explanation.result, largest)
            if bool(over.any()):
                self.faults.append(_fault(executed, error, limit, over))


def _fault(executed: Executed, error: Tensor, limit: Limit, over: Tensor) -> Fault:
    """The step with the largest of its errors, or of those that are over the limit."""
    excess = torch.where(over, error, 0.0) if bool(over.any()) else error
    at = tuple(int(i) for i in torch.unravel_index(excess.argmax(), excess.shape))
    bound = limit.expand(error.shape)[at].item() if isinstance(limit, Tensor) else limit
    step = executed.step
    return Fault(step.index, str(step.op), step.where, error[at].item(), bound, at)


def _within_in_parts(executed: Executed) -> bool:
    """True when every part of the step is within its bounds; False also where the step has no parts."""
    found = False
    for part in parts_of(executed):
        found = True
        if not _within(part):
            return False
    return found


def _within(executed: Executed) -> bool:
    """True when each element of each result is within its bound, and digits are lost nowhere."""
    rule = executed.rule
    if rule is not None and rule.least is not None and _all_within(executed, rule.least(_call(executed))):
        return True
    found = limits(executed)
    if found is None or not _all_within(executed, found):
        return False
    return rule is None or rule.stable is None or weigh_stability(executed, _call(executed)) is None


def _all_within(executed: Executed, found: Sequence[Limit]) -> bool:
    for x, reference, limit in zip(executed.outs, executed.reference, found, strict=True):
        if not is_inexact(x.dtype) or not x.numel():
            continue
        exact = isinstance(limit, float) and limit == 0.0  # infinities are equal, and have no difference
        if not bool((reference == x).all() if exact else ((reference - x).abs_() <= limit).all()):
            return False
    return True


def _beyond_reach(x: Tensor, reference: Tensor, largest: float) -> Tensor:
    """Elements that no bound judges: not finite natively or wide, or beyond the largest number of the format."""
    return ~x.isfinite() & (~reference.isfinite() | (reference.abs() > largest * 0.99)) | ~reference.isfinite()


def _call(executed: Executed) -> Call:
    """The step as its rule sees it."""
    step, dtypes = executed.step, [x.dtype for x in executed.outs]
    coarsest = max(UNIT_ROUNDOFF.get(dtype, 0.0) for dtype in dtypes)
    reference = tuple(executed.reference)
    return Call(step.op, executed.args, executed.kwargs, reference, compute_unit(*dtypes), u_out=coarsest)


def limits(executed: Executed) -> list[Limit] | None:
    """The bound of each result: one rounding to its format, and what the rule adds. None where nothing is known."""
    rule, reference = executed.rule, executed.reference
    if rule is not None and rule.nature is Nature.EXACT:
        return [0.0] * len(reference)
    call = _call(executed)
    limits = opened(call) if rule is None else limits_of(rule, call)
    if limits is None:
        return None
    return [
        limit + rounding(x, y) if is_inexact(x.dtype) else limit
        for limit, x, y in zip(limits, executed.outs, reference, strict=True)
    ]


def _settled_by_norms(executed: Executed) -> bool:
    """True when ŷ is within its bound of the *wide* y, what the operands inherited allowed for by their norms.

    |ŷ - y_wide| <= γ‖x‖‖w‖ + ‖x̂ - x_wide‖‖w‖ + ‖x‖‖ŵ - w_wide‖ is implied by the bound; it is nearly as sharp while
    the inherited error is a few roundings, because γ_n allows n of them. Few passes over the output: this is the part
    of a comparison that is paid at every product.
    """
    rule, step, (x,) = executed.rule, executed.step, executed.outs
    assert rule is not None and rule.products is not None
    if step.overwritten:
        return False
    native, twins, u = rule.products(step.args, step.kwargs), executed.twins, compute_unit(x.dtype)
    gamma = Call(step.op, (), {}, (), u).gamma(native.roundings) * (2 if x.is_complex() else 1)
    try:
        rows, moved_rows = _norms_of(native.x, native.rows, twins)
        cols, moved_cols = _norms_of(native.w, native.cols, twins)
        added = None if native.added is None else twins.wide(native.added)
    except ValueError:
        return False
    if not bool((moved_rows <= rows * _INHERITED).all()) or not bool((moved_cols <= cols * _INHERITED).all()):
        return False
    (wide,) = executed.wide
    # Where everything is zero nothing may be off: a number that is nothing in any format keeps 0/0 away.
    slack: Limit = 1e-300
    if added is not None and native.added is not None:
        slack = added.abs() * gamma + (native.added - added).abs() + 1e-300
    cols, moved_cols, reach = cols * native.scale, moved_cols * native.scale, rows * gamma + moved_rows
    short = UNIT_ROUNDOFF[x.dtype] if UNIT_ROUNDOFF[x.dtype] > u else 0.0
    total = 0.0
    for cut in _slices(x):
        w, r, c = cut(wide), cut(rows), cut(cols)
        room = cut(reach) * c
        if twins.has(native.w):
            room = room + r * cut(moved_cols)
        room = room + cut(slack)
        if short:
            room = room + w.abs() * short
            if added is not None:
                room = room + (w - cut(added)).abs() * short
            room = room + r * (c * (native.parts * short))
        ratio = (w - cut(x)).abs().div_(room) if x.is_complex() else (w - cut(x)).div_(room)
        least, most = ratio.aminmax()
        if not (most <= 1 and least >= -1):
            return False
        total += float(torch.linalg.vector_norm(ratio)) ** 2
    if x.dtype not in (torch.float32, torch.complex64):
        return True
    typical: float = (total / x.numel()) ** 0.5 * gamma
    return typical <= _least(executed, native)


def _slices(x: Tensor) -> Iterator[Callable[[Any], Any]]:
    """Functions that cut what broadcasts to ``x`` into slices along its first dimension, of a size that fits the cache."""
    size = x.shape[0] if x.dim() else 1
    step = max(1, size * PART // max(x.numel(), 1))
    for start in range(0, size, step):

        def cut(t: Any, start: int = start) -> Any:
            along = isinstance(t, Tensor) and t.dim() == x.dim() > 0 and t.shape[0] == size
            return t.narrow(0, start, min(step, size - start)) if along else t

        yield cut


def _norms_of(x: Tensor, norms: Callable[[Tensor], Tensor], twins: Twins) -> tuple[Tensor, Tensor]:
    """The norms of an operand, and those of the error that it inherited."""
    size = norms(x)
    return size, norms(x - twins.wide(x)) if twins.has(x) else torch.zeros_like(size)


def _suspicious(executed: Executed, error: Tensor) -> bool:
    """Is the local error larger than sums in float32 make it, though the bound, which allows the worst, holds?"""
    rule = executed.rule
    assert rule is not None and rule.products is not None
    if executed.outs[0].dtype not in (torch.float32, torch.complex64):
        return False
    products = rule.products(executed.args, executed.kwargs)
    base = (products.rows(products.x) * (products.cols(products.w) * products.scale)).abs()
    error = (error - lost(products, compute_unit(executed.outs[0].dtype))).clamp_min_(0)
    typical = float((error / base.clamp_min(1e-300)).square_().mean().sqrt())
    return typical > _least(executed, products)


def _least(executed: Executed, products: Products) -> float:
    """The typical error, of ‖x‖‖w‖, from which on a shorter arithmetic is thought of."""
    subtle = permitted(executed.step.op, executed.outs[0].device.type, Hypothesis.BF16X3)
    return float((_SUBTLE if subtle else _SUSPICIOUS) / products.terms**0.5)
