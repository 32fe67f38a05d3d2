"""The ledger: the difference of two networks at a target, booked on the steps that made it, until nothing is left.

native A - native B = r_A - r_B + d. Each r is booked by going backwards through that side's run (``replay.sweep``), one
side after the other; d, the real difference, is an entry of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from roundoff.errors import RoundoffError
from roundoff.formats import UNIT_ROUNDOFF, is_inexact, widen
from roundoff.judge.case import same_value
from roundoff.judge.kernels import limits
from roundoff.judge.kernels.parts import part_at
from roundoff.records import Account, Booking, Finding, Kind
from roundoff.replay.adjoints import Adjoints
from roundoff.replay.keep import Constant, Keeper, Kept, Measured
from roundoff.replay.run import Leaf, Ran, Side, run_wide
from roundoff.replay.sweep import Pulled, entered, pull
from roundoff.replay.wide import Executed, Observer
from roundoff.rules import Call, Limit
from roundoff.rules.matmul import products_bound
from roundoff.rules.rule import compute_unit, rounding

#: From here on an amplification is a finding: three decimal digits are lost.
AMPLIFIED = 1000.0

Weights = dict[str, Tensor]  # by output: what each of its numbers counts; a target is the weighted sum


@dataclass(frozen=True)
class Target:
    """What is taken apart: one or more weighted sums of the outputs, and how they are called."""

    name: str
    weights: tuple[Weights, ...]
    differences: tuple[float, ...]  # A - B
    real: tuple[float, ...]  # of that the real difference
    size: float  # of the outputs that it weighs, as a root sum of squares over its weights


def at_element(pairs: Sequence[tuple[str, Leaf, Leaf]], output: str | None, index: Sequence[int] | None) -> Target:
    """The difference at one element: ``index`` of ``output``, or where it is largest. Raises RoundoffError for neither."""
    named = [pair for pair in pairs if output is None or pair[0] == output or (pair[0] or "output") == output]
    if not pairs:
        raise RoundoffError(
            "The two networks have no output of the same place, shape and format, so that there is no difference to take "
            "apart. print(comparison) says what they return."
        )
    if not named:
        names = ", ".join(name or "output" for name, _, _ in pairs)
        raise RoundoffError(f"There is no output {output!r}. The outputs of both networks are: {names}.")
    sizes = [_gap(a, b).abs() for _, a, b in named]
    if index is None:
        most = max(range(len(named)), key=lambda i: float(sizes[i].max()) if sizes[i].numel() else -1.0)
    elif output is None and len(named) > 1:
        names = ", ".join(name or "output" for name, _, _ in named)
        raise RoundoffError(f"Several outputs have an element {list(index)}. Say which output: {names}.")
    else:
        most = 0
    (name, a, b), size = named[most], sizes[most]
    if not size.numel():
        raise RoundoffError(f"The output {name or 'output'} is empty: it has no difference to take apart.")
    at = tuple(int(i) for i in torch.unravel_index(size.argmax(), size.shape)) if index is None else tuple(index)
    if len(at) != size.dim() or any(not -n <= i < n for i, n in zip(at, size.shape, strict=True)):
        raise RoundoffError(
            f"The output {name or 'output'} has no element {list(at)}: its shape is {list(size.shape)}. Give one index "
            "for each dimension, counted from 0."
        )
    weight = torch.zeros(size.shape, dtype=_wide(a).dtype, device=a.native.device)
    weight[at] = 1.0
    where = f"{name or 'output'}{list(at)}" if at else name or "output"
    return _target(where, [{name: weight}], [(name, a, b)])


def in_directions(pairs: Sequence[tuple[str, Leaf, Leaf]], count: int) -> Target:
    """The difference in ``count`` random directions: every number of every output counts +1 or -1."""
    if count < 0:
        raise RoundoffError(
            f"directions={count} was given. Ask for one direction or more, or 0 for the largest difference."
        )
    generator = torch.Generator().manual_seed(0)
    weights = []
    for _ in range(count):
        signs = {}
        for name, a, b in pairs:
            drawn = torch.randint(2, a.native.shape, generator=generator).mul_(2).sub_(1).to(_wide(a))
            signs[name] = torch.where((_wide(a) - _wide(b)).isfinite(), drawn, 0.0)
        weights.append(signs)
    return _target(f"{count} random directions over all outputs", weights, pairs)


def _target(name: str, weights: list[Weights], pairs: Sequence[tuple[str, Leaf, Leaf]]) -> Target:
    differences, real = [], []
    for weight in weights:
        differences.append(sum(_weighted(weight[n], _gap(a, b)) for n, a, b in pairs))
        real.append(sum(_weighted(weight[n], _real(a, b)) for n, a, b in pairs))
    return Target(name, tuple(weights), tuple(differences), tuple(real), _size(weights[0], pairs))


def _size(weight: Weights, pairs: Sequence[tuple[str, Leaf, Leaf]]) -> float:
    """What the target would be if the weighted numbers were of typical size and random sign."""
    squares = 0.0
    for name, a, _ in pairs:
        values = _finite(_wide(a)).abs().double()
        squares += float(weight[name].abs().square().sum() * values.square().mean()) if values.numel() else 0.0
    return math.sqrt(squares)


def open_account(
    sides: Sequence[tuple[Side, Ran]],
    target: Target,
    memory: float,
    say: Callable[[int, int, str], None],
    beside: Mapping[str, Observer] | None = None,
) -> Account:
    """Run both sides again, and book ``target`` on their steps. ``memory``: how many bytes may be kept at once; ``beside``:
    who else is told of each step, once, by side.

    Raises RoundoffError where a side no longer gives the bits that were compared.
    """
    whole = sum(t * t for t in target.differences)

    def share(parts: Sequence[float]) -> float:
        # In several directions: the regression of what was booked on the differences, so that shares still add up.
        return sum(p * t for p, t in zip(parts, target.differences, strict=True)) / whole if whole else 0.0

    bookings: list[Booking] = []
    worst: dict[str, tuple[float, Booking]] = {}
    sums = list(target.real)
    for sign, (side, ran) in zip((1.0, -1.0), sides, strict=True):
        for kept, pulled in _booked(side, ran, target.weights, memory, say, (beside or {}).get(side.name)):
            parts = [sign * p.local for p in pulled]
            bend = share([sign * p.bend for p in pulled])
            gain = (sum(p.gain**2 for p in pulled) / len(pulled)) ** 0.5
            row = _booking(side.name, kept, share(parts), bend, gain)
            bookings.append(row)
            factor = gain * kept.measured.value_rms / target.size if target.size else 0.0
            if factor > worst.get(side.name, (0.0, row))[0]:
                worst[side.name] = factor, row
            sums = [s + p for s, p in zip(sums, parts, strict=True)]
    left = [t - s for t, s in zip(target.differences, sums, strict=True)]
    return Account(
        target=target.name,
        difference=target.differences[0] if len(left) == 1 else (whole / len(left)) ** 0.5,
        ledger=tuple(sorted(bookings, key=lambda row: -abs(row.share))),
        real_share=share(target.real),
        booked=share(sums) if whole else 1.0,
        residual_abs=(sum(x * x for x in left) / len(left)) ** 0.5,
        findings=tuple(_amplified(target, *found) for found in worst.values() if found[0] >= AMPLIFIED),
    )


def _amplified(target: Target, factor: float, row: Booking) -> Finding:
    where = ", ".join(part for part in (row.module, row.source) if part) or f"step {row.step}"
    text = (
        f"A relative error made here by {row.op} arrives multiplied by {factor:.2g} in {target.name}: about "
        f"{math.log10(factor):.1f} of the decimal digits that the format holds are lost between here and there."
    )
    return Finding(Kind.AMPLIFICATION, f"{row.side}: {where}", text)


def _booking(side: str, kept: Kept, share: float, bend: float, gain: float) -> Booking:
    step, measured = kept.step, kept.measured
    return Booking(
        side,
        step.index,
        str(step.op),
        step.module,
        step.source,
        measured.local_abs,
        measured.bound_abs,
        measured.inherited_abs,
        measured.error_rel,
        gain,
        share,
        bend,
    )


def _booked(
    side: Side,
    ran: Ran,
    targets: Sequence[Weights],
    memory: float,
    say: Callable[[int, int, str], None],
    beside: Observer | None,
) -> list[tuple[Kept, list[Pulled]]]:
    """Every step of ``side`` with what it made of each target, the last first."""
    adjoints = [Adjoints() for _ in targets]
    found: list[tuple[Kept, list[Pulled]]] = []
    constants: dict[int, Constant] = {}
    until: int | None = None
    while until is None or until > 0:
        say(ran.steps - (ran.steps if until is None else until), ran.steps, f"booking the steps of {side.name}")
        keeper = Keeper(_bound_at, memory, until)
        observe = keeper if beside is None or until is not None else _both(keeper, beside)
        now, _ = run_wide(side, observe=observe, keep_old=True, also=[keeper])
        if until is None:
            _check_bits(side, ran, now)
            for leaf in now.leaves:
                place = keeper.place(leaf.of) if leaf.of is not None else None
                for mine, weights in zip(adjoints, targets, strict=True):
                    if place is not None and leaf.name in weights:
                        mine.add(place, weights[leaf.name])
        constants |= keeper.constants
        until = keeper.first
        while keeper.kept:
            kept = keeper.kept.pop()
            found.append((kept, pull(kept, adjoints)))
    for constant in constants.values():
        size = Measured(local_abs=float(constant.moved.abs().amax()), bound_abs=None)
        line = Kept(replace(constant.step, op="a rounded constant"), measured=size)
        found.append((line, [entered(constant, mine) for mine in adjoints]))
    return found


def _both(first: Observer, second: Observer) -> Observer:
    def observe(executed: Executed) -> None:
        first(executed)
        second(executed)

    return observe


def _check_bits(side: Side, before: Ran, now: Ran) -> None:
    same = len(before.leaves) == len(now.leaves) and all(
        same_value(x.native, y.native) for x, y in zip(before.leaves, now.leaves, strict=True)
    )
    if not same:
        raise RoundoffError(
            f"{side.name} no longer gives the bits that were compared: its weights, its input or a setting changed since. "
            "Compare again, and explain that comparison."
        )


def _bound_at(executed: Executed, result: int, index: tuple[int, ...]) -> float | None:
    """The bound at one element of one result; of products by the norms of the row and column that meet there."""
    rule, x = executed.rule, executed.outs[result]
    if rule is not None and rule.products is not None and not executed.step.overwritten:
        # From the native operands: their norms are those of the widened ones, which need not be made.
        products, (y,) = rule.products(executed.step.args, executed.step.kwargs), executed.reference
        call = Call(executed.step.op, (), {}, (y,), compute_unit(x.dtype), u_out=UNIT_ROUNDOFF[x.dtype])
        return _element(products_bound(products, call), x, index) + float(rounding(x, y[index]))
    if result == 0:
        executed, index = part_at(executed, index)
    found = limits(executed)
    return None if found is None else _element(found[result], executed.outs[result], index)


def _element(limit: Limit, x: Tensor, index: tuple[int, ...]) -> float:
    return float(limit.expand(x.shape)[index]) if isinstance(limit, Tensor) else float(limit)


def _wide(leaf: Leaf) -> Tensor:
    return widen(leaf.native)


def _gap(a: Leaf, b: Leaf) -> Tensor:
    """Native A - native B, zero where that is not a number."""
    x, y = _wide(a), _wide(b)
    return _finite((x - y) if is_inexact(x.dtype) else (x.double() - y.double()))


def _real(a: Leaf, b: Leaf) -> Tensor:
    """Wide A - wide B, zero where that is not a number."""
    assert a.wide is not None and b.wide is not None
    return _finite(a.wide - b.wide if is_inexact(a.wide.dtype) else a.wide.double() - b.wide.double())


def _finite(x: Tensor) -> Tensor:
    return torch.where(x.isfinite(), x, 0.0)


def _weighted(weight: Tensor, x: Tensor) -> float:
    return float((weight.conj() * x).real.sum()) if weight.is_complex() else float((weight * x).sum())
