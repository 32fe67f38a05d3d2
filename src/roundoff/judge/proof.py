"""Proof: the real difference against a rigorous bound of the wide runs, element by element.

With ŵ the wide results and e their rigorous errors, the exact real difference d of an output element obeys
|d - (ŵ_A - ŵ_B)| <= e_A + e_B. So

- where |ŵ_A - ŵ_B| > e_A + e_B, d is not 0: the two are different functions, and that is proved;
- where it is at most e_A + e_B for every element, nothing but the rounding of float64 is needed to explain it, and d is at
  most D = |ŵ_A - ŵ_B| + e_A + e_B. That is worth the name of a proof only where D is small beside the native round-off,
  and where every kernel on the way kept a bound that is rigorous: then the native difference is that round-off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from roundoff.formats import is_inexact, unit_roundoff, widen
from roundoff.judge.case import Case
from roundoff.judge.difference import pooled, real_difference, roundoff
from roundoff.judge.kernels import limits
from roundoff.judge.settle import Settled, State
from roundoff.records import Kind, Verdict
from roundoff.replay.enclosure import Enclosure
from roundoff.replay.enclosure.pairs import PairEnclosure
from roundoff.replay.enclosure.pairs.pair import two_sum
from roundoff.replay.run import Side, run_wide
from roundoff.replay.wide import Executed
from roundoff.rules import Nature, Rule

#: The real difference must be bounded by this share of the native round-off before that is called a proof of round-off.
SHARE = 1 / 16


@dataclass(frozen=True)
class Proof:
    """Whether the verdict is proved, and what was shown, or what stood in the way."""

    proved: bool
    text: str
    wider: bool = False  # smaller radii might prove it


@dataclass(frozen=True)
class Bounded:
    """One output leaf of an enclosed run: native, wide, and how far the wide value can be from the exact one."""

    name: str
    native: Tensor
    wide: Tensor
    radius: Tensor
    low: Tensor | None = None  # what must be added to ``wide`` for that


class LocalErrors:
    """An observer that holds every local error against its bound, and notes where that is not rigorous."""

    def __init__(self) -> None:
        self.obstacle = ""
        self.double = ""  # the first step that rounded to float64 itself: its kernel is held against nothing

    def __call__(self, executed: Executed) -> None:
        rule, step = executed.rule, executed.step
        if self.obstacle or (rule is not None and rule.nature in (Nature.DRAWS, Nature.MAKES)):
            return
        natives = [x for x in executed.outs if is_inexact(x.dtype) and x.numel()]
        if any(x.dtype == torch.float64 for x in natives) and (rule is None or rule.nature is not Nature.EXACT):
            self.double = self.double or f"{step.op} ({step.where})"
        if not natives or all(x.dtype == torch.float64 for x in natives):
            return
        if not is_rigorous(rule):
            self.obstacle = f"{step.op} ({step.where}) has a bound that is statistical, not rigorous"
            return
        found = limits(executed)
        if found is None:
            self.obstacle = f"nothing is known of the error of {step.op} ({step.where})"
            return
        for x, reference, limit in zip(executed.outs, executed.reference, found, strict=True):
            if is_inexact(x.dtype) and x.numel():
                self._hold(executed, widen(x), reference, torch.as_tensor(limit))

    def _hold(self, executed: Executed, x: Tensor, reference: Tensor, limit: Tensor) -> None:
        finite = reference.isfinite()
        same = (x == reference) | (x.isnan() & reference.isnan())
        held = same | (finite & limit.isfinite() & ((x - reference).abs() <= limit))
        if not bool(held.all()):
            self.obstacle = (
                f"{int((~held).sum())} elements of {executed.step.op} ({executed.step.where}) are not within a finite bound "
                "of its local error"
            )


def is_rigorous(rule: Rule | None) -> bool:
    """False for bounds that were found by random draws: those of decomposed operators, and rules that say so."""
    return rule is not None and "statistical" not in rule.assumes


def prove_verdict(case: Case, verdict: Verdict, settled: Settled, mismatch: bool) -> Proof:
    """Run both sides once more, enclosed, and say whether ``verdict`` is proved. ``mismatch``: of structure."""
    if mismatch:
        return Proof(True, "Proved: that can be seen.")
    if verdict is Verdict.UNDECIDED:
        return Proof(False, "Nothing is proved where nothing is decided.")
    if any(finding.kind is Kind.WEIGHTS_REFOLDED for finding in case.findings):
        return Proof(False, "Not proved: parameters are folds of others, and how a fold rounds is not enclosed.")
    if verdict is Verdict.DIFFERENT and settled.state is State.SAME:
        return Proof(False, "Not proved: this verdict does not rest on the real difference.")
    if float(torch.full((1,), 2.0**-1040, dtype=torch.float64) * 1.0) == 0:
        return Proof(False, "Not proved: numbers below 2^-1022 are flushed to zero (see torch.set_flush_denormal).")
    sides = (case.a, case.b)
    enclosed = []
    for i, side in enumerate(sides):
        case.say(i, 2, f"enclosing {side.name}")
        enclosed.append(_enclosed(side, Enclosure()))
    obstacle = _obstacle(sides, enclosed)
    if obstacle and not all(e.near for e in enclosed):
        return Proof(False, f"Not proved: {obstacle}.")
    if verdict is not Verdict.DIFFERENT:
        for side, e in zip(sides, enclosed, strict=True):
            if e.kernels.obstacle:
                return Proof(False, f"Not proved: in {side.name}, {e.kernels.obstacle}.")
            if side.name in _reduced(case):
                return Proof(
                    False, f"Not proved: {side.name} computes in reduced precision, whose bound is not rigorous."
                )
    decide = _different if verdict is Verdict.DIFFERENT else _same
    found = Proof(False, f"Not proved: {obstacle}.", True) if obstacle else decide(_leaves(*enclosed))
    in_double = any(e.kernels.double for e in enclosed)
    del enclosed
    if found.proved or not found.wider or (in_double and verdict is not Verdict.DIFFERENT):
        return found
    return _in_pairs(case, decide, found)


def _obstacle(sides: Sequence[Side], enclosed: Sequence[Enclosed]) -> str:
    return next((f"in {x.name}, {e.obstacle}" for x, e in zip(sides, enclosed, strict=True) if e.obstacle), "")


def _in_pairs(case: Case, decide: Callable[[list[tuple[Bounded, Bounded]]], Proof], before: Proof) -> Proof:
    """The same in about twice the digits, where float64's own were not enough; and what made its radii large."""
    enclosed, coarse = [], []
    for i, side in enumerate((case.a, case.b)):
        case.say(i, 2, f"enclosing {side.name} in pairs of numbers")
        enclosure = PairEnclosure()
        enclosed.append(_enclosed(side, enclosure, check=False))
        coarse += [f"in {side.name}, from {enclosure.coarse} on"] if enclosure.coarse else []
        if enclosed[-1].obstacle:
            first = f" Radii are of the size of float64's rounding {coarse[0]}." if coarse else ""
            return Proof(False, f"{before.text} In pairs of numbers: {_obstacle([side], enclosed[-1:])}.{first}")
    found = decide(_leaves(*enclosed))
    if found.proved or not coarse:
        return found
    return Proof(False, f"{found.text} Radii are of the size of float64's rounding {coarse[0]}.")


def _leaves(a: Enclosed, b: Enclosed) -> list[tuple[Bounded, Bounded]]:
    of_b = {leaf.name: leaf for leaf in b.leaves}
    return [(x, of_b[x.name]) for x in a.leaves if x.name in of_b]


def _reduced(case: Case) -> set[str]:
    return {side.name for side, _, check in case.sides if check.reduced}


@dataclass(frozen=True)
class Enclosed:
    """An enclosed run: the output leaves, what stands in the way of a proof, and the check of the kernels."""

    leaves: list[Bounded]
    obstacle: str
    near: bool  # smaller radii might remove the obstacle
    kernels: LocalErrors


def _enclosed(side: Side, enclosure: Enclosure, check: bool = True) -> Enclosed:
    """Run ``side`` with ``enclosure``; ``check``: hold its kernels against their bounds as well."""
    kernels = LocalErrors()

    def observe(executed: Executed) -> None:
        enclosure(executed)
        if check:
            kernels(executed)

    ran, _ = run_wide(side, observe=observe, beside=enclosure)
    found = [
        Bounded(name, leaf.native, leaf.wide, enclosure.value(leaf.of), enclosure.correction(leaf.of))
        for name, leaf in ran.tensors.items()
        if leaf.wide is not None and leaf.of is not None
    ]
    obstacles = [f"{o.op} ({o.where}) was not followed in float64" for o in ran.wide.opaque]
    obstacles += [f"a number left the tensors at {where}" for where in ran.constants.left_as_float]
    obstacles += ["an output is not one block of memory"] if len(found) < len(ran.tensors) else []
    bounded = all(bool(leaf.radius.isfinite().all()) for leaf in found)
    gaps = [gap for gap in enclosure.gaps if gap.steers or not bounded]
    near = not obstacles and all(gap.near for gap in gaps)
    obstacles += [f"{gap.op} ({gap.where}): {gap.why}" for gap in sorted(gaps, key=lambda gap: not gap.steers)]
    obstacles += [] if bounded else ["the bound grew beyond all numbers on the way"]
    return Enclosed(found, obstacles[0] if obstacles else "", near, kernels)


def _bounds(a: Bounded, b: Bounded) -> tuple[Tensor, Tensor]:
    """|ŵ_A - ŵ_B|, corrected where there are corrections, and e_A + e_B."""
    d, e = real_difference(a.wide, b.wide), (a.radius + b.radius) * (1 + 2.0**-50)
    if a.low is None or b.low is None or not is_inexact(a.wide.dtype) or a.wide.is_complex():
        return d, e
    # The difference is s + t exactly; three more additions lose less than 2^-51 of all that is added.
    s, t = two_sum(a.wide, -b.wide)
    low = t + (a.low - b.low)
    fine = s.isfinite() & t.isfinite()
    lost = (s.abs() + t.abs() + a.low.abs() + b.low.abs()) * 2.0**-50
    return torch.where(fine, (s + low).abs(), d), torch.where(fine, e + lost, e)


def _different(leaves: list[tuple[Bounded, Bounded]]) -> Proof:
    best, where, nearest = 0, "", 0.0
    for a, b in leaves:
        if not a.native.numel() or a.native.shape != b.native.shape:
            continue
        d, e = _bounds(a, b)
        d = d * (1 - 2.0**-50)  # the subtraction itself was rounded
        ratio = torch.where(d > 0, d / e, 0.0)
        nearest = max(nearest, float(ratio.max()))
        count = int((d > e).sum())
        if count > best:
            best = count
            where = (
                f"{count} of {d.numel()} elements of {a.name or 'output'}, by up to {float(ratio.max()):.3g} times what "
                "both wide runs can be off together"
            )
    if best:
        return Proof(True, f"Proved: in exact arithmetic they differ in {where}.")
    return Proof(
        False, f"Not proved: the real difference is {nearest:.2g} of the rigorous bound of the wide runs at most.", True
    )


def _same(leaves: list[tuple[Bounded, Bounded]]) -> Proof:
    largest, bound = 0.0, 0.0
    for a, b in leaves:
        if not a.native.numel():
            continue
        d, e = _bounds(a, b)
        over = ~(d <= e)
        if bool(over.any()):
            factor = float(torch.where(over, d / e, 0.0).max())
            return Proof(
                False,
                f"Not proved: {int(over.sum())} elements of {a.name or 'output'} differ by more than rounding in float64 "
                f"can explain, up to {factor:.3g} times, if only by a part of {_share(d, a, b):.1g} of their round-off.",
            )
        if is_inexact(a.native.dtype):
            largest = max(largest, _share(d + e, a, b))
            bound = max(bound, float((d + e).max()))
    if largest == inf:
        return Proof(
            False,
            f"Not proved: the rigorous bound of the real difference is {bound:.2g}, and nothing was rounded.",
            True,
        )
    if largest > SHARE:
        return Proof(
            False,
            f"Not proved: the rigorous bound of the real difference, {bound:.2g}, is {largest:.2g} times the native "
            f"round-off somewhere; {SHARE:.3g} would do.",
            True,
        )
    return Proof(
        True,
        f"Proved: in exact arithmetic they differ by {bound:.2g} at most, {largest:.2g} of the native round-off, and every "
        "local error is within its bound.",
    )


def _share(size: Tensor, a: Bounded, b: Bounded) -> float:
    """The largest share that ``size`` has of the native round-off: an element's own, one rounding, or its neighbours'."""
    r_a, r_b = roundoff(a.native, a.wide), roundoff(b.native, b.wide)
    one = widen(a.native).abs() * unit_roundoff(a.native.dtype)
    around = pooled((r_a.square() + r_b.square()) / 2)
    native = torch.maximum(torch.maximum(r_a, r_b), torch.maximum(one.nan_to_num(posinf=inf), around))
    return float(torch.where(size == 0, 0.0, size / native).nan_to_num(nan=inf, posinf=inf).max())
