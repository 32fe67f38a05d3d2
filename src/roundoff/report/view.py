"""The one view model: what a reader is told of a comparison, in words and numbers. Every renderer shows this."""

from __future__ import annotations

from dataclasses import dataclass

from roundoff.formats import unit_roundoff
from roundoff.judge.verdict import Judgement
from roundoff.records import Finding, Output, Verdict

HEADLINES = {
    Verdict.IDENTICAL: "identical: every output has the same bits",
    Verdict.ROUNDOFF: "roundoff: the same function; the difference is rounding",
    Verdict.DIFFERENT: "different: not the same function",
    Verdict.UNDECIDED: "undecided: the evidence does not settle it",
}


@dataclass(frozen=True)
class Row:
    """One output as it is shown."""

    name: str
    kind: str
    difference: str
    where: str
    ulp: str
    relative: str
    roundoff_a: str
    roundoff_b: str
    real: str
    floor: str


@dataclass(frozen=True)
class View:
    """A comparison as it is shown."""

    verdict: Verdict
    headline: str
    reason: str
    evidence: str
    rows: tuple[Row, ...]
    closer: str
    findings: tuple[Finding, ...]


def view(judgement: Judgement) -> View:
    """What to show of ``judgement``."""
    return View(
        verdict=judgement.verdict,
        headline=HEADLINES[judgement.verdict],
        reason=judgement.reason,
        evidence=str(judgement.evidence),
        rows=tuple(_row(o) for o in judgement.outputs),
        closer=_closer(judgement.outputs),
        findings=judgement.findings,
    )


def _row(o: Output) -> Row:
    return Row(
        name=o.name,
        kind=f"{str(o.dtype).removeprefix('torch.')}{list(o.shape)}",
        difference=number(o.max_abs),
        where="" if o.index is None or o.max_abs == 0 else f"at {list(o.index)}",
        ulp="-" if o.max_ulp is None else f"{o.max_ulp:,}",
        relative=number(o.max_abs / o.value_abs) if o.value_abs > 0 else "-",
        roundoff_a=number(o.roundoff_a_abs),
        roundoff_b=number(o.roundoff_b_abs),
        real=number(o.real_abs),
        floor=number(o.floor_abs),
    )


def number(x: float) -> str:
    """A size in three digits.

    >>> number(0.0), number(1.23456e-7)
    ('0', '1.23e-07')
    """
    return "0" if x == 0 else f"{x:.3g}"


def _closer(outputs: tuple[Output, ...]) -> str:
    """Which side is closer to the exact result, and by how much; empty where neither rounds."""
    rounded = [o for o in outputs if unit_roundoff(o.dtype) and (o.roundoff_a_abs or o.roundoff_b_abs)]
    if not rounded:
        return ""
    # Per output relative to its values, so that a large output does not drown a small one.
    a = max(o.roundoff_a_abs / (o.value_abs or 1.0) for o in rounded)
    b = max(o.roundoff_b_abs / (o.value_abs or 1.0) for o in rounded)
    if a == b:
        return "Both sides are equally far from the exact result."
    near, far, name = (a, b, "A") if a < b else (b, a, "B")
    if near == 0:
        return f"{name} is exact here; the other side is off by {number(far)} of the largest value."
    factor = far / near
    if factor < 1.1:
        return f"Both sides are equally accurate: their largest round-off is {number(near)} of the largest value."
    return (
        f"{name} is closer to the exact result: its largest round-off is {number(near)} of the largest value, "
        f"{factor:.2g} times smaller than the other's."
    )
