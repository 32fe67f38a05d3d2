"""The fastest form of a network on this machine: candidates are built, and raced against the original."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import Any

import torch
from torch import nn

from roundoff.conversion import shapes_of
from roundoff.errors import RoundoffError
from roundoff.forms.fastest.plan import Layer, Tell, calls_of, chosen, made, measured, spots
from roundoff.forms.fastest.race import Race, in_turns, race
from roundoff.forms.fastest.ways import AS_IT_IS, LAST
from roundoff.forms.observe import copied, observe
from roundoff.forms.rewrite import rewrite
from roundoff.forms.sites import pinned_in, why_not
from roundoff.forms.swap import swap
from roundoff.maps import Map
from roundoff.records import Converted, Declined
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
class Candidate:
    """A network to race: what it is called, and what was changed in it."""

    name: str
    model: nn.Module
    converted: tuple[Converted, ...]
    maps: Mapping[str, Map]
    changes: int


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
    candidates = _candidates(model, args, kwargs, layers)
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


def _candidates(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], layers: list[Layer]
) -> list[Candidate]:
    """The networks to race; those that change nothing, cannot be built or do not run are left out."""
    plans = {"layer by layer": {x.name: x for x in layers}}
    plans["forms only"] = {n: x for n, x in plans["layer by layer"].items() if x.chosen not in (LAST, "channels first")}
    plans["channels last"] = {x.name: replace(x, chosen=LAST) for x in layers if (LAST, LAST) in x.seconds}
    builders = [partial(_by_plan, name, model, args, kwargs, plan) for name, plan in plans.items()]
    forms = {"all linear": "linear", "all convolutions": "conv"}
    builders += [partial(_by_form, name, model, args, kwargs, to) for name, to in forms.items()]
    found: list[Candidate] = []
    for build in builders:
        try:
            candidate = build()
            if candidate is not None and not any(c.converted == candidate.converted for c in found):
                with torch.no_grad():
                    copied(candidate.model)(*args, **kwargs)
                found.append(candidate)
        except (RoundoffError, RuntimeError):  # a view of a tensor whose channels are last, for example
            continue
    return found


def _by_plan(
    name: str, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], plan: dict[str, Layer]
) -> Candidate | None:
    """A copy with each layer in the way that was chosen for it."""
    if all(x.chosen == AS_IT_IS for x in plan.values()):
        return None
    new = copied(model)
    seen = observe(new, args, kwargs)
    sites = spots(seen, dict(new.named_modules()), pinned_in(new, seen), lambda _: "" if _ in plan else "kept")
    converted, maps = [], dict[str, Map]()
    for module_name, made_new in made(sites, list(plan.values())).items():
        old = sites[module_name].module
        converted.append(Converted(module_name, type(old).__name__, plan[module_name].chosen))
        for path, module in new.named_modules(remove_duplicate=False):
            if module is old:
                maps |= {f"{path}.{parameter}".lstrip("."): way for parameter, way in made_new.maps.items()}
        swap(old, made_new.module)
    return Candidate(name, new, tuple(converted), maps, sum(x.changes for x in plan.values()))


def _by_form(name: str, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], to: str) -> Candidate | None:
    done = rewrite(model, args, kwargs, to)
    return Candidate(name, done.model, done.converted, done.maps, done.permutes_left) if done.converted else None


def _device(model: nn.Module) -> str:
    tensor = next((x for x in (*model.parameters(), *model.buffers())), None)
    return str(tensor.device) if tensor is not None else "cpu"
