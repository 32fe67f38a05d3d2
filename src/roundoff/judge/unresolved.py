"""Outputs that float64 itself does not hold: there the wide runs differ by their own rounding, as much as the native ones.

d within a few E says that the mathematics is the same only where E is small beside the difference that is to be judged.
A mask of the lowest float32 number added to scores absorbs them, and the softmax of a row that is masked whole hangs on
what was absorbed: E is then as large as the result, and says nothing about it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from roundoff.formats import U64, UNIT_ROUNDOFF, is_inexact
from roundoff.judge.case import Case
from roundoff.judge.rows import native_difference
from roundoff.judge.settle import Settled
from roundoff.records import Kind
from roundoff.replay.noise import perturb
from roundoff.replay.run import Side, coarsest_of, run_wide
from roundoff.replay.sizes import finite, largest
from roundoff.replay.wide import Executed
from roundoff.tape.leaves import operands

#: So much of the native difference.
_PART = 1 / 16
#: Of so many elements of each result is looked at whether rounding moved them.
_SAMPLE = 4096
#: Moved by so much of the largest: three digits are left.
_LOST = 1e-3


def weigh_unresolved(case: Case, settled: Settled) -> str:
    """Why nothing can be said, where d is rounding of float64 and yet a good part of the native difference; else empty.

    With a native format that is coarser, d is some 2^-29 of that difference. Where it is a sixteenth or more, d is what is
    to be judged, and E is no smaller. Elements far beneath the largest are spared, if d is beneath a rounding in float32
    of that one: 1 - tanh(x) of a large x is 0 on one side and 1e-20 on the other. A float64 network has no other
    difference than d and is judged by E alone.
    """
    if coarsest_of(case.ran_a, case.ran_b) <= U64:
        return ""
    for name, a, b in case.comparable:
        d, seen = settled.real[name].d, native_difference(a.native, b.native)
        assert a.wide is not None
        least = _PART * UNIT_ROUNDOFF[torch.float32] * largest(finite(a.wide))
        unresolved = (seen > 0) & (d >= _PART * seen) & (d > least)
        if not bool(unresolved.any()):
            continue
        count, where = int(unresolved.sum()), name or "output"
        first = [int(i) for i in unresolved.nonzero()[0]]
        text = (
            f"In {count} of {d.numel()} elements of {where}, the first at {first}, the two differ as much in float64 as "
            "natively, and the rounding of float64 can make so much: whether they are the same there cannot be told."
        )
        starts = _starts(case)
        for side, op in starts.items():
            case.find(Kind.AMPLIFICATION, side, f"{op} From here on the rounding of float64 decides the first digits.")
        text += "".join(f" It starts at {side}." for side in list(starts)[:1])
        return (
            f"{text} Leave such elements out of the outputs if they are of no use (rows that a mask hides whole), or keep "
            "large numbers from absorbing small ones."
        )
    return ""


def _starts(case: Case) -> dict[str, str]:
    """Where on each side rounding in float64 first takes nearly all digits of a result, and which operator that is."""
    found = {}
    for side, _, _ in case.sides:
        start = _start(side)
        if start is not None:
            found[f"{side.name}: {start.step.where}"] = (
                f"Numbers as large as {_entering(start):.3g} enter {start.step.op}, where rounding moves the result."
            )
    return found


def _start(side: Side) -> Executed | None:
    kept: dict[int, Tensor] = {}
    start: list[Executed] = []
    alter = perturb(0, shown=False)

    def keep(executed: Executed) -> None:
        if not start and executed.wide and is_inexact(executed.wide[0].dtype):
            kept[executed.step.index] = _sample(executed.wide[0]).clone()

    def hold(executed: Executed) -> list[Tensor]:
        moved = alter(executed)
        before = kept.pop(executed.step.index, None)
        if before is not None and not start and before.numel():
            gap = (_sample(moved[0]) - before).abs()
            if float(gap.max()) > _LOST * float(before.abs().max()):
                start.append(executed)
        return moved

    run_wide(side, observe=keep)
    run_wide(side, alter=hold)
    return start[0] if start else None


def _sample(x: Tensor) -> Tensor:
    """Some elements of ``x``, the same for the same shape."""
    flat = x.reshape(-1)
    return flat[:: max(1, flat.numel() // _SAMPLE)] if flat.numel() else flat


def _entering(executed: Executed) -> float:
    """The largest finite number among the wide operands."""
    wide = [executed.twins.wide(x) for x in operands((executed.step.args, executed.step.kwargs)) if is_inexact(x.dtype)]
    return max((largest(finite(x)) for x in wide), default=0.0)
