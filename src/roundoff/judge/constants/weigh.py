"""The difference is real: is it in the parameters, and may they differ?"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from roundoff.formats import UNIT_ROUNDOFF, widen
from roundoff.judge.case import Case
from roundoff.judge.constants.derived import DerivedLog
from roundoff.judge.constants.folds import Fold, NormLog, find_folds
from roundoff.judge.constants.parameters import Changed, Matching, match
from roundoff.judge.difference import FLOOR, real_difference
from roundoff.judge.settle import Settled, State, settle
from roundoff.records import Kind, Verdict
from roundoff.replay.run import Ran, Side, run_wide

_HINT = "If the weights should be the same, copy them first: match_weights=True, on the command line --match-weights."


def weigh_constants(case: Case, settled: Settled) -> tuple[Verdict | None, str, Settled] | None:
    """None: the parameters are the same numbers. Otherwise the verdict that they lead to; a verdict of None: round-off."""
    matching = match(case.ran_a.constants.met, case.ran_b.constants.met)
    if matching.complete:
        return None
    names = _names(case.a) | _names(case.b)
    if matching.few is not None:
        return Verdict.DIFFERENT, _a_few_changed(case, matching.few, names), settled
    folded = _refolded(case, matching, names)
    if folded is not None:
        return folded
    return _reround(case, settled, matching, names)


def _a_few_changed(case: Case, few: tuple[tuple[Changed, ...], tuple[Changed, ...]], names: dict[int, str]) -> str:
    """Name the elements that one side has and the other does not."""
    texts = []
    for side, changed in zip("AB", few, strict=True):
        for c in changed[:4]:
            where = _name(c.constant, names, side)
            text = (
                f"{c.count} of {c.constant.numel()} elements are not among the other side's parameters: "
                f"{c.value:.9g} at {list(c.index)}, where the nearest is {c.nearest - c.value:.3g} away."
            )
            case.find(Kind.WEIGHTS_DIFFER, where, text)
            texts.append(f"{where}: {text}")
    return f"Not the same parameters. {texts[0]}"


def _refolded(case: Case, matching: Matching, names: dict[int, str]) -> tuple[Verdict | None, str, Settled] | None:
    """Are all unmatched parameters of one side verified folds of the other's?"""
    logs, derived = {"A": NormLog(), "B": NormLog()}, {}
    for side in (case.a, case.b):
        derived[side.name] = log = DerivedLog((side.args, side.kwargs))
        run_wide(side, observe=log, also=[logs[side.name], log])
    b_from_a = find_folds(matching.b, case.ran_a.constants.met, logs["A"].norms, derived["A"])
    a_from_b = find_folds(matching.a, case.ran_b.constants.met, logs["B"].norms, derived["B"])
    folds, folded, target = max(
        ((b_from_a, "B", matching.b), (a_from_b, "A", matching.a)), key=lambda found: len(found[0])
    )
    if not folds or len(folds) < len(target):
        return None
    values = tuple((fold.folded, fold.value) for fold in folds)
    case.a, case.b = (replace(s, values=values) if s.name == folded else s for s in (case.a, case.b))
    ran_a, _ = run_wide(case.a)
    ran_b, _ = run_wide(case.b)
    settled = settle(case, ran_a, ran_b)
    _tell_folds(case, folds, folded, names)
    if settled.state is State.SAME:
        return None, "", settled
    name, ratio = settled.worst
    if settled.state is not State.REAL:
        text = (
            f"The folded parameters are verified, and what is left in {name or 'output'}, {ratio:.3g} times the wide "
            "round-off, hangs on a near-tie or is too small to be called real. Compare at another input."
        )
        if settled.flips:
            case.find(Kind.BRANCH_CROSSING, settled.flips[0], text)
        return Verdict.UNDECIDED, text, settled
    return (
        Verdict.DIFFERENT,
        f"Not the same function: the folded parameters are verified, and the real difference in {name or 'output'} is "
        f"still {ratio:.3g} times the wide round-off.",
        settled,
    )


def _tell_folds(case: Case, folds: list[Fold], side: str, names: dict[int, str]) -> None:
    for fold in folds:
        case.find(
            Kind.WEIGHTS_REFOLDED,
            _name(fold.folded, names, side),
            f"is {fold.text}, rounded: verified in every element, and allowed for.",
        )


def _reround(case: Case, settled: Settled, matching: Matching, names: dict[int, str]) -> tuple[Verdict, str, Settled]:
    """Would rounding the unmatched parameters once more make a difference of this size?

    z is the difference over the effect of one rounding of each of them (Σ(∂y/∂w u w)²)^½, had from a wide run in
    which they are moved by random roundings.
    """
    spread: dict[str, Tensor] = {}
    for side, ran, unmatched in ((case.a, case.ran_a, matching.a), (case.b, case.ran_b, matching.b)):
        if unmatched:
            _add_spread(spread, side, ran, unmatched)
    z = 0.0
    for name, real in settled.real.items():
        if name in spread and real.d.numel():
            pooled = spread[name].square().mean().sqrt()
            z = max(z, float((real.d / torch.maximum(spread[name], pooled)).nan_to_num(posinf=float("inf")).max()))
    first = [_name(x, names, side) for side, unmatched in (("A", matching.a), ("B", matching.b)) for x in unmatched[:1]]
    counts = f"{len(matching.a)} of A's parameters and {len(matching.b)} of B's"
    if z > FLOOR:
        text = f"{counts} hold other numbers, by far more than rounding them once more would make (z = {z:.3g})."
        case.find(Kind.WEIGHTS_DIFFER, ", ".join(first), text)
        return Verdict.DIFFERENT, f"Not the same parameters. {_HINT}", settled
    text = (
        f"{counts} hold other numbers, and rounding them once more could make a difference of this size (z = {z:.3g}): "
        "it cannot be told whether they were folded or changed."
    )
    case.find(Kind.WEIGHTS_DIFFER, ", ".join(first), text)
    return Verdict.UNDECIDED, f"{text} {_HINT}", settled


def _add_spread(spread: dict[str, Tensor], side: Side, ran: Ran, unmatched: tuple[Tensor, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    values = []
    for x in unmatched:
        wide = widen(x)
        sign = torch.randint(0, 2, x.shape, generator=generator).to(wide.device, torch.float64) * 2 - 1
        values.append((x, wide * (1 + sign * UNIT_ROUNDOFF[x.dtype])))
    moved, _ = run_wide(replace(side, values=tuple(values)))
    for name, leaf in moved.tensors.items():
        base = ran.tensors.get(name)
        if base is None or base.wide is None or leaf.wide is None or base.wide.shape != leaf.wide.shape:
            continue
        effect = real_difference(leaf.wide, base.wide).nan_to_num(posinf=0.0)
        spread[name] = (spread[name].square() + effect.square()).sqrt() if name in spread else effect


def _names(side: Side) -> dict[int, str]:
    """The parameters and buffers of a side by the address of their storage."""
    model = side.model
    if not isinstance(model, torch.nn.Module):
        return {}
    found: dict[int, str] = {}
    for name, x in [*model.named_parameters(), *model.named_buffers()]:
        found[x.untyped_storage()._cdata] = name
    return found


def _name(x: Tensor, names: dict[int, str], side: str) -> str:
    return f"{side}'s {names.get(x.untyped_storage()._cdata, 'constant')} {list(x.shape)}"
