"""The verdict: the questions, in the order in which they decide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from textwrap import shorten

from torch import Tensor

from roundoff.errors import RoundoffError
from roundoff.formats import UNIT_ROUNDOFF
from roundoff.judge.case import Case, is_number, open_case, repeated, same_value
from roundoff.judge.constants import weigh_constants
from roundoff.judge.finite import weigh_finite
from roundoff.judge.kernels import Fault
from roundoff.judge.numbers import adopt_numbers
from roundoff.judge.parting import find_parting
from roundoff.judge.proof import prove_verdict
from roundoff.judge.rows import rows
from roundoff.judge.settle import Settled, State, settle
from roundoff.judge.strays import neutral_draws_agree, numbers_come_back
from roundoff.judge.unresolved import weigh_unresolved
from roundoff.records import Evidence, Finding, Kind, Output, Verdict
from roundoff.replay.run import Side, describe


@dataclass(frozen=True)
class Judgement:
    """What was decided, with the evidence."""

    verdict: Verdict
    evidence: Evidence
    reason: str
    outputs: tuple[Output, ...]
    findings: tuple[Finding, ...]
    case: Case = field(repr=False)


def judge(a: Side, b: Side, say: Callable[[int, int, str], None], prove: bool = False) -> Judgement:
    """Run both sides and decide; with ``prove`` try to prove the verdict, which stays what it is.

    Raises RoundoffError when a network raises or returns no tensor.
    """
    case = open_case(a, b, say)
    for side, ran, _ in case.sides:
        if not ran.tensors:
            raise RoundoffError(
                f"{side.name} ({describe(side.model)}) returned no tensor, only "
                f"{', '.join(type(leaf.native).__name__ for leaf in ran.leaves) or 'an empty structure'}. "
                "Compare functions whose output holds at least one tensor."
            )
    settled = settle(case, case.ran_a, case.ran_b)
    if settled.state is not State.SAME and adopt_numbers(case):
        settled = settle(case, case.ran_a, case.ran_b)
    verdict, reason, settled = _decide(case, settled)
    evidence = Evidence.PROVED if verdict is Verdict.IDENTICAL else Evidence.STATISTICAL
    if verdict is Verdict.DIFFERENT and not any(f.kind is Kind.FAULTY_KERNEL for f in case.findings):
        find_parting(case)
    outputs = rows(case, settled.real)
    _magnitude(case, outputs, verdict)
    if prove and verdict is not Verdict.IDENTICAL:
        proof = prove_verdict(case, verdict, settled, bool(_structure(case)))
        reason = f"{reason} {proof.text}".strip()
        evidence = Evidence.PROVED if proof.proved else evidence
    return Judgement(verdict, evidence, reason, outputs, tuple(case.findings), case)


def _decide(case: Case, settled: Settled) -> tuple[Verdict, str, Settled]:
    mismatch = _structure(case)
    unstable = _not_deterministic(case)
    of_b = {leaf.name: leaf.native for leaf in case.ran_b.leaves}
    same_bits = not mismatch and all(same_value(x.native, of_b[x.name]) for x in case.ran_a.leaves)
    if mismatch:
        return Verdict.DIFFERENT, mismatch, settled
    if unstable:
        return Verdict.UNDECIDED, unstable, settled
    if same_bits:
        return _identical(case, settled)
    faulty = _faults(case)
    if faulty:
        return Verdict.DIFFERENT, faulty, settled
    one_sided = weigh_finite(case)
    if one_sided:
        return Verdict.DIFFERENT, one_sided, settled
    if settled.state is not State.SAME:
        verdict, reason, settled = _not_the_same(case, settled)
        if verdict is not None:
            return verdict, reason, settled
    stray = _plain_numbers(case) or _unfollowed(case) or _unbounded(case) or weigh_unresolved(case, settled)
    if stray:
        return Verdict.UNDECIDED, stray, settled
    return Verdict.ROUNDOFF, _roundoff_reason(case, settled), settled


def _structure(case: Case) -> str:
    """What differs in the structure, the shapes or the formats of the outputs; empty when nothing does."""
    a, b = {x.name: x for x in case.ran_a.leaves}, {x.name: x for x in case.ran_b.leaves}
    only = [f"{name or 'output'} only in A" for name in a if name not in b]
    only += [f"{name or 'output'} only in B" for name in b if name not in a]
    for name, x in a.items():
        y = b.get(name)
        if y is None:
            continue
        if isinstance(x.native, Tensor) and isinstance(y.native, Tensor):
            if x.native.shape != y.native.shape:
                only.append(f"{name or 'output'} is {list(x.native.shape)} in A and {list(y.native.shape)} in B")
            elif x.native.dtype != y.native.dtype:
                only.append(f"{name or 'output'} is {x.native.dtype} in A and {y.native.dtype} in B")
        elif isinstance(x.native, Tensor) != isinstance(y.native, Tensor):
            only.append(f"{name or 'output'} is a tensor on one side only")
        elif is_number(x.native, y.native):
            continue  # judged later
        elif not same_value(x.native, y.native):
            only.append(f"{name or 'output'} is {_short(x.native)} in A and {_short(y.native)} in B")
    if not only:
        return ""
    more = f" (and {len(only) - 3} more)" if len(only) > 3 else ""
    return f"The outputs are not of the same structure: {'; '.join(only[:3])}{more}."


def _short(value: object) -> str:
    """``value`` as it is written down, in one line that is not long."""
    return shorten(repr(value), 60, placeholder=" …")


def _not_deterministic(case: Case) -> str:
    reasons = []
    for side, ran, _ in case.sides:
        if repeated(ran, case.again[side.name]):
            continue
        text = (
            f"{side.name} gives other bits when it is run again from the same random state and is not watched. "
            "It draws random numbers of its own, keeps state between calls, is compiled, or calls a fused encoder layer "
            "under autocast. Compare the eager network with fixed seeds."
        )
        case.find(Kind.NOT_DETERMINISTIC, side.name, text)
        reasons.append(text)
    return reasons[0] if reasons else ""


def _identical(case: Case, settled: Settled) -> tuple[Verdict, str, Settled]:
    reason = "Every output has the same bits on both sides."
    weigh_finite(case)
    faulty = _faults(case)
    if faulty:
        reason += f" All the same: {faulty}"
    if settled.state is State.REAL:
        constants = weigh_constants(case, settled)
        if constants is not None and constants[0] is None:  # a verified fold, whose rounding does not show
            return Verdict.IDENTICAL, reason, constants[2]
        name, ratio = settled.worst
        reason += (
            f" In exact arithmetic they differ all the same: by {ratio:.3g} times the wide round-off in "
            f"{name or 'output'}, too little for this precision to show."
        )
        if constants is None or constants[0] is Verdict.DIFFERENT:  # otherwise it can be the rounding of the parameters
            case.find(Kind.DIFFERENT_MATHEMATICS, name or "output", reason)
    return Verdict.IDENTICAL, reason, settled


def _faults(case: Case) -> str:
    reason = ""
    for side, _, check in case.sides:
        for fault in check.reduced:
            case.find(
                Kind.REDUCED_PRECISION,
                f"{side.name}: {fault.where}",
                f"{fault.op} computed in {fault.hypothesis}, which the precision setting in force allows: "
                f"{fault.setting}{_off(fault)}.",
            )
        for fault in check.unstable:
            case.find(Kind.UNSTABLE_ALGORITHM, f"{side.name}: {fault.where}", _unstable_text(fault))
        for fault in check.faults:
            text = _fault_text(fault)
            kind = Kind.REDUCED_PRECISION if fault.hypothesis else Kind.FAULTY_KERNEL
            case.find(kind, f"{side.name}: {fault.where}", text)
            reason = reason or f"A step of {side.name} is wrong in its own precision: {text}"
    return reason


def _fault_text(fault: Fault) -> str:
    if fault.hypothesis:
        force = f" ({fault.setting})" if fault.setting is not None else ""
        return (
            f"{fault.op} computed in {fault.hypothesis} though no setting in force allows it{force}: "
            f"its error reaches {fault.local_abs:.3g} at {list(fault.index)}."
        )
    return (
        f"{fault.op} is off by {fault.local_abs:.3g} at {list(fault.index)}, where no correct kernel can be off by more "
        f"than {fault.bound_abs:.3g}."
    )


def _off(fault: Fault) -> str:
    return f"; {fault.setting.off} switches it off" if fault.setting is not None else ""


def _unstable_text(fault: Fault) -> str:
    return (
        f"{fault.op} is off by {fault.local_abs:.3g} at {list(fault.index)}, where a stable algorithm is off by no more "
        f"than {fault.bound_abs:.3g}: correct, but of a kind that loses digits on these operands, as a variance by "
        "E[x²] - E[x]² does where the mean is large beside the spread. Centre its input, or compute it in float64."
    )


def _not_the_same(case: Case, settled: Settled) -> tuple[Verdict | None, str, Settled]:
    """d is not within the wide round-off. None: after all it is (a verified fold)."""
    name, ratio = settled.worst
    size = f"the real difference in {name or 'output'} is {ratio:.3g} times the wide round-off"
    if settled.state is State.TIED:
        text = (
            f"A choice hangs on the last bit of float64 ({'; '.join(settled.flips[:2])}), and the difference hangs on it. "
            "Compare at an input that is not at a tie."
        )
        case.find(Kind.BRANCH_CROSSING, settled.flips[0], text)
        return Verdict.UNDECIDED, text, settled
    if settled.state is State.BETWEEN:
        return Verdict.UNDECIDED, f"{size}: too large for rounding, too small to be called real.", settled
    stray = neutral_draws_agree(case) or _unfollowed(case)  # an unknown bound does not matter: d is of the wide runs
    if stray:
        return Verdict.UNDECIDED, stray, settled
    constants = weigh_constants(case, settled)
    if constants is not None:
        verdict, reason, after = constants
        return verdict, reason, after
    return Verdict.DIFFERENT, f"Not the same function: {size}, with the same parameters.", settled


def _unfollowed(case: Case) -> str:
    """What left the wide run: the verdict is undecided at best, and what it was is named."""
    found = []
    for side, ran, _ in case.sides:
        for opaque in ran.wide.opaque:
            text = f"{opaque.op} could not be followed in float64 ({opaque.why})."
            found.append((Kind.OPAQUE_OPERATOR, f"{side.name}: {opaque.where}", text))
        for where in numbers_come_back(side, ran):
            text = "A number left the tensors here and came back, so it cannot be followed. Keep it a tensor."
            found.append((Kind.OPAQUE_OPERATOR, f"{side.name}: {where}", text))
        if ran.drew_elsewhere:
            text = "Python's or NumPy's random numbers are used, which cannot be matched with the other side's."
            found.append((Kind.NOT_DETERMINISTIC, side.name, text))
    return _tell(case, found)


def _plain_numbers(case: Case) -> str:
    """Outputs that are plain Python numbers and differ: what they would be in exact arithmetic is not known."""
    of_b = {leaf.name: leaf.native for leaf in case.ran_b.leaves}
    for leaf in case.ran_a.leaves:
        other = of_b.get(leaf.name)
        if is_number(leaf.native, other) and not same_value(leaf.native, other):
            text = (
                f"It is {_short(leaf.native)} in A and {_short(other)} in B, plain numbers, which cannot be followed. "
                "Return tensors."
            )
            return _tell(case, [(Kind.OPAQUE_OPERATOR, leaf.name or "output", text)])
    return ""


def _unbounded(case: Case) -> str:
    """Operators whose error has no known bound: their kernels cannot be checked."""
    found = [
        (
            Kind.OPAQUE_OPERATOR,
            f"{side.name}: {where}",
            f"Nothing is known of the error of {op}. Teach it: roundoff.register_rule({op!r}, bound=...).",
        )
        for side, _, check in case.sides
        for op, where in check.unknown.items()
    ]
    return _tell(case, found)


def _tell(case: Case, found: list[tuple[Kind, str, str]]) -> str:
    for kind, where, text in found:
        case.find(kind, where, text)
    return f"{found[0][1]}: {found[0][2]}" if found else ""


def _casts(case: Case) -> None:
    """Explicit casts to a shorter format on one side only: they round, and they are named."""
    for side, ran, other in ((case.a, case.ran_a, case.ran_b), (case.b, case.ran_b, case.ran_a)):
        for dtype, where in ran.casts.items():
            if dtype not in other.casts and UNIT_ROUNDOFF[dtype] > other.coarsest:
                name = str(dtype).removeprefix("torch.")
                text = f"{side.name} casts to {name} here, and the other side computes in longer formats throughout."
                case.find(Kind.REDUCED_PRECISION, f"{side.name}: {where}", text)


def _roundoff_reason(case: Case, settled: Settled) -> str:
    _casts(case)
    for side, ran, _ in case.sides:
        for crossing in ran.wide.crossings[:3]:
            case.find(
                Kind.BRANCH_CROSSING,
                f"{side.name}: {crossing.where}",
                f"{crossing.op} chooses differently in {crossing.count} elements natively and in float64.",
            )
    return (
        "The same function: in exact arithmetic the two agree to the rounding of float64 "
        f"({settled.worst[1]:.2g} times its typical size), and every step rounds as its precision allows."
    )


def _magnitude(case: Case, outputs: tuple[Output, ...], verdict: Verdict) -> None:
    if verdict is not Verdict.ROUNDOFF:
        return
    for o in outputs:
        if o.value_abs > 0 and 1e-3 < o.max_abs < 1e-4 * o.value_abs:
            case.find(
                Kind.MAGNITUDE,
                o.name,
                f"The difference is large only because the values are: {o.max_abs:.3g} at {o.value_abs:.3g} "
                f"is {o.max_abs / o.value_abs:.2g} of them.",
            )
