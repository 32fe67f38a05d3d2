"""NaN and Inf in the outputs: on which side, and which step made the first of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from roundoff.formats import is_inexact, widen
from roundoff.judge.case import Case
from roundoff.records import Kind
from roundoff.replay.run import Side
from roundoff.tape.leaves import leaves, operands
from roundoff.tape.storages import StorageMap, has_storage
from roundoff.tape.trace import set_random_state, untouched
from roundoff.tape.watch import Step, watch


def weigh_finite(case: Case) -> str:
    """NaN and Inf at the same places on both sides are noted; on one side only, what they are is returned."""
    reason = ""
    origins: dict[str, dict[str, str]] = {}
    for name, a, b in case.comparable:
        x, y = widen(a.native), widen(b.native)  # float8 has no isfinite
        if not is_inexact(x.dtype) or (bool(x.isfinite().all()) and bool(y.isfinite().all())):
            continue
        where = name or "output"
        same = (x.isnan() == y.isnan()) & ((x == y) | x.isnan() | (x.isfinite() & y.isfinite()))
        if bool(same.all()):
            sides = ["A", "B"]
            text = f"{int((~x.isfinite()).sum())} elements are NaN or Inf, at the same places on both sides."
        else:
            sides = [s for s, v in (("A", x), ("B", y)) if not bool(v[~same].isfinite().all())]
            text = (
                f"{int((~same).sum())} elements of {where} are NaN or Inf in {' and '.join(sides)} where the other side "
                "has another value."
            )
        for side, ran, _ in case.sides:
            if side.name not in sides:
                continue
            if side.name not in origins:
                origins[side.name] = find_origins(side)
            native, wide = (x, ran.tensors[name].wide) if side.name == "A" else (y, ran.tensors[name].wide)
            text += f" {side.name}: {origins[side.name].get(name, _GIVEN)}."
            if wide is not None and bool((~native.isfinite() & wide.isfinite()).any()):
                text += " In float64 there are finite numbers at some of these places: the format cannot hold them."
        case.find(Kind.NOT_FINITE, where, text)
        if not bool(same.all()):
            reason = reason or text
    return reason


_GIVEN = "they were given"


def find_origins(side: Side) -> dict[str, str]:
    """Which step made the first NaN or Inf of each output leaf that holds any, by the name of the leaf; in words."""
    origins = _Origins()
    with untouched(side.model, (side.args, side.kwargs)) as restore:
        set_random_state(side.randomness)
        out = watch(side.model, side.args, side.kwargs, [restore, origins])
        return {name: origins.of(x) for name, x in leaves(out) if isinstance(x, Tensor) and _holds(x) != _Holds()}


@dataclass(frozen=True)
class _Holds:
    """Whether a tensor holds NaN and Inf."""

    nan: bool = False
    inf: bool = False


def _holds(x: Tensor) -> _Holds:
    if not has_storage(x) or x.is_nested or x.is_meta or not is_inexact(x.dtype):
        return _Holds()
    x = widen(x)
    return _Holds(bool(x.isnan().any()), bool(x.isinf().any()))


class _Origins:
    """A listener that follows NaN and Inf back to the step that made them."""

    def __init__(self) -> None:
        self._nan: StorageMap[str] = StorageMap()
        self._inf: StorageMap[str] = StorageMap()
        self._found: dict[str, str] = {}

    def of(self, x: Tensor) -> str:
        """Where the NaN of ``x`` come from, or, where it has none, its Inf."""
        return (self._nan if _holds(x).nan else self._inf).get(x) or _GIVEN

    def before(self, step: Step) -> None:
        self._found = {}
        for x in operands((step.args, step.kwargs)):
            holds = _holds(x)
            given = f"{_GIVEN}, and {step.op} meets them first ({step.where})"
            if holds.nan:
                self._found.setdefault("nan", self._nan.get(x) or given)
            if holds.inf:
                self._found.setdefault("inf", self._inf.get(x) or given)

    def after(self, step: Step, out: Any) -> None:
        for x in operands(out) or step.overwritten:
            holds = _holds(x)
            if holds.nan:
                self._nan.set(x, self._found.get("nan", f"{step.op} makes the first NaN ({step.where})"))
            if holds.inf:
                self._inf.set(x, self._found.get("inf", f"{step.op} makes the first Inf ({step.where})"))
