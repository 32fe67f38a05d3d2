"""The fastest form of a network on this machine: candidates are built, and raced against the original."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import torch
from torch import nn

from roundoff.conversion import shapes_of
from roundoff.errors import RoundoffError
from roundoff.forms.fastest.candidates import Candidate, candidates_for
from roundoff.forms.fastest.plan import Layer, Tell, calls_of, chosen, measured, spots
from roundoff.forms.fastest.race import Race, in_turns, race
from roundoff.forms.observe import copied, observe
from roundoff.forms.sites import pinned_in, why_not
from roundoff.records import Declined
from roundoff.tape.trace import random_state, set_random_state

#: What a gain must be at least, at the lower end of its interval: less is not worth another network.
LEAST_GAIN = 1.01


@dataclass(frozen=True)
class Fastest:
    """What was measured: each layer's call, each candidate's race, and the last race, which decided.

    ``name`` is the candidate that won, or empty where the original stays. Times in seconds, without gradients.
    """

    name: str
    layers: tuple[Layer, ...]
    races: tuple[Race, ...]
    decision: Race | None
    threads: int
    device: str

    def __str__(self) -> str:
        if self.decision is None:
            return "the original stays: there is no other way for any of its layers"
        if not self.name:
            best = f"the fastest candidate, {self.decision.name}, is {self.decision}"
            return f"the original stays, for no gain is certain: {best}"
        return f"{self.name} is {self.decision} as fast as the original"


@dataclass(frozen=True)
class Found:
    """The network that won, or the original (None), with what was measured. ``again`` races the winner once more."""

    winner: Candidate | None
    declined: tuple[Declined, ...]
    shapes: dict[str, tuple[int, ...]]
    fastest: Fastest
    again: Callable[[], Race] | None = None

    def confirmed(self) -> Found:
        """The same where the winner wins another race now, at another time and load; else with the original."""
        if self.again is None or self.winner is None or self.fastest.decision is None:
            return self
        randomness = random_state()
        try:
            later = self.again()
        finally:
            set_random_state(randomness)
        wins = later.low > LEAST_GAIN
        name, races = self.winner.name if wins else "", (*self.fastest.races, self.fastest.decision)
        report = replace(self.fastest, name=name, races=races, decision=later)
        return replace(self, winner=self.winner if wins else None, fastest=report)


def fastest(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    tell: Tell,
    seconds: float = 5.0,
    clock: Callable[[], float] = perf_counter,
) -> Found:
    """Measure, build and race. ``seconds``: about how long the last race may take; the rest takes a few times that.

    Raises RoundoffError for a network that cannot be copied or does not run.
    """
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        raise RoundoffError(
            f"convert() was given a {type(model).__name__}, but rewrites a torch.nn.Module written in Python."
        )
    randomness = random_state()
    try:
        return _fastest(model, args, kwargs, tell, seconds, clock)
    finally:
        set_random_state(randomness)


def _fastest(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    tell: Tell,
    seconds: float,
    clock: Callable[[], float],
) -> Found:
    copy = copied(model)
    seen = observe(copy, args, kwargs)
    modules, originals = dict(copy.named_modules()), dict(model.named_modules())
    pinned = pinned_in(copy, seen)
    declined = []

    def kept(name: str) -> str:
        why = why_not(originals[name], seen, name, True)
        if why and isinstance(originals[name], (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            declined.append(Declined(name, type(originals[name]).__name__, why))
        return why

    sites = spots(seen, modules, pinned, kept)
    calls = calls_of(copy, args, kwargs, set(sites))
    layers = chosen(measured(sites, calls, seconds / 10, tell, clock))
    candidates = candidates_for(model, args, kwargs, seen, layers)
    shapes = shapes_of(model.state_dict())
    report = Fastest("", tuple(layers), (), None, torch.get_num_threads(), _device(model))
    if not candidates:
        return Found(None, tuple(declined), shapes, report)

    def run(network: nn.Module) -> Callable[[], object]:
        racer = copied(network)  # what it keeps of its runs, such as statistics, is not for the winner
        return lambda: racer(*args, **kwargs)

    with torch.no_grad():
        tell(0, 2, "racing the candidates")
        times = in_turns([run(model), *(run(c.model) for c in candidates)], 7, seconds, 3, clock)
        races = [race(c.name, times[0], t) for c, t in zip(candidates, times[1:], strict=True)]
        best = max(range(len(races)), key=lambda i: races[i].gain)
        tell(1, 2, f"racing {candidates[best].name}")

        def again() -> Race:
            """Taken anew: the best of several is the luckiest of them too."""
            with torch.no_grad():
                turns = in_turns([run(model), run(candidates[best].model)], 101, seconds, 11, clock)
            return race(candidates[best].name, *turns)

        last = again()
    wins = last.low > LEAST_GAIN
    report = replace(report, races=tuple(races), decision=last, name=candidates[best].name if wins else "")
    return Found(candidates[best] if wins else None, tuple(declined), shapes, report, again if wins else None)


def _device(model: nn.Module) -> str:
    tensor = next((x for x in (*model.parameters(), *model.buffers())), None)
    return str(tensor.device) if tensor is not None else "cpu"
