"""Settle whether the real difference is the rounding of the wide runs, or real."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from roundoff.judge.case import Case
from roundoff.judge.difference import CERTAIN, FLOOR, SAME, Real, from_native, from_perturbed, real_difference, roundoff
from roundoff.replay.noise import perturb
from roundoff.replay.run import Ran, coarsest_of, run_wide


class State(StrEnum):
    """What the real difference is."""

    SAME = "same"  # within a few E: the mathematics is the same
    REAL = "real"  # above the floor
    BETWEEN = "between"  # neither
    TIED = "tied"  # rounding in float64 decides a branch that the difference hangs on


@dataclass(frozen=True)
class Settled:
    """The state and the real difference of each comparable leaf, by name."""

    state: State
    real: dict[str, Real]
    flips: tuple[str, ...] = ()  # where perturbed runs chose differently

    @property
    def worst(self) -> tuple[str, float]:
        """The leaf where d / E is largest, and that ratio."""
        return max(((name, real.worst) for name, real in self.real.items()), key=lambda x: x[1], default=("", 0.0))


#: The strong run makes near-ties tip over if they are near enough to matter; with the next two it gives E.
_ROUNDS: tuple[tuple[float, ...], ...] = ((32.0,), (1.0, 1.0), (1.0, 1.0, 1.0, 1.0))


def settle(
    case: Case,
    ran_a: Ran,
    ran_b: Ran,
    neutral: bool = False,
) -> Settled:
    """Measure d in E: cheaply first, with perturbed wide runs where that does not settle it.

    The two runs are those of the sides of ``case``, with constant draws if ``neutral``.
    """
    names = [name for name, _, _ in case.comparable]
    base = {name: (_wide(ran_a, name), _wide(ran_b, name)) for name in names}
    d = {name: real_difference(*base[name]) for name in names}
    cheap = {name: _cheap(ran_a, ran_b, name, d[name]) for name in names}
    crossed = bool(ran_a.wide.crossings or ran_b.wide.crossings)
    settled = Settled(State.SAME, {name: Real(d[name], cheap[name]) for name in names})
    if not crossed and settled.worst[1] <= SAME / 2:
        return settled

    runs: list[tuple[dict[str, Tensor], dict[str, Tensor], float, bool]] = []
    flips: set[str] = set()
    for strengths, certain in zip(_ROUNDS, CERTAIN, strict=True):
        for strength in strengths:
            case.say(len(runs), sum(map(len, _ROUNDS)), "perturbed wide runs")
            runs.append(_perturbed(case, ran_a, ran_b, strength, len(runs), neutral, flips))
        settled = _weigh(base, d, cheap, crossed, runs, tuple(sorted(flips)))
        enough = certain < settled.worst[1] < float("inf")  # infinite: exact results or choices, which may yet tip over
        if enough or (len(runs) > 1 and settled.state in (State.SAME, State.TIED)):
            break
        if settled.state is State.SAME and not crossed and not flips and settled.worst[1] <= SAME / 2:
            break  # what the kernels show could only make E larger
    return settled


def _perturbed(
    case: Case,
    ran_a: Ran,
    ran_b: Ran,
    strength: float,
    count: int,
    neutral: bool,
    flips: set[str],
) -> tuple[dict[str, Tensor], dict[str, Tensor], float, bool]:
    outs, flipped = [], False
    for side, base, seed in ((case.a, ran_a, 2 * count), (case.b, ran_b, 2 * count + 1)):
        alter = perturb(seed, strength, together=count % 2 == 1, shown=count > 0)
        moved, _ = run_wide(side, alter=alter, neutral=neutral)
        outs.append({name: leaf.wide for name, leaf in moved.tensors.items() if leaf.wide is not None})
        before, now = set(base.wide.crossings), set(moved.wide.crossings)
        flips |= {f"{side.name}: {crossing.op} ({crossing.where})" for crossing in now - before}
        flipped |= now != before
    return outs[0], outs[1], strength, flipped


def _weigh(
    base: dict[str, tuple[Tensor, Tensor]],
    d: dict[str, Tensor],
    cheap: dict[str, Tensor],
    crossed: bool,
    runs: list[tuple[dict[str, Tensor], dict[str, Tensor], float, bool]],
    flips: tuple[str, ...],
) -> Settled:
    real: dict[str, Real] = {}
    explained_by_flips = bool(flips)
    for name, (a, b) in base.items():
        clean = [(x[name], y[name], s) for x, y, s, flipped in runs if not flipped and x[name].shape == a.shape]
        typical = from_perturbed(a, b, clean) if clean else torch.zeros_like(cheap[name])
        if not crossed or not clean:
            typical = torch.maximum(typical, cheap[name])
        real[name] = Real(d[name], typical)
        if flips:
            spread = max(
                float(torch.maximum(real_difference(x[name], a), real_difference(y[name], b)).max())
                for x, y, _, _ in runs
                if x[name].numel()
            ) if a.numel() else 0.0  # fmt: skip
            over = real[name].worst > SAME
            explained_by_flips &= not over or float(d[name].max()) <= FLOOR * spread
    settled = Settled(State.SAME, real, flips)
    ratio = settled.worst[1]
    if ratio <= SAME:
        return settled
    if explained_by_flips:
        return Settled(State.TIED, real, flips)
    return Settled(State.REAL if ratio > FLOOR else State.BETWEEN, real, flips)


def _wide(ran: Ran, name: str) -> Tensor:
    wide = ran.tensors[name].wide
    assert wide is not None
    return wide


def _cheap(ran_a: Ran, ran_b: Ran, name: str, d: Tensor) -> Tensor:
    a, b = ran_a.tensors[name], ran_b.tensors[name]
    assert a.wide is not None and b.wide is not None
    return from_native(roundoff(a.native, a.wide), roundoff(b.native, b.wide), d, coarsest_of(ran_a, ran_b))
