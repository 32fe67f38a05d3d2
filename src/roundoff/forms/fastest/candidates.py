"""The networks that race against the original: copies with other ways for their layers and calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from roundoff.errors import RoundoffError
from roundoff.forms.calls import place_calls
from roundoff.forms.conv_to_linear import is_conv
from roundoff.forms.fastest.in_place import in_place
from roundoff.forms.fastest.plan import Layer, made, spots
from roundoff.forms.fastest.ways import AS_IT_IS, FIRST, LAST
from roundoff.forms.linear_to_conv import is_linear
from roundoff.forms.observe import Seen, copied
from roundoff.forms.rewrite import rewrite
from roundoff.forms.sites import pinned_in
from roundoff.forms.swap import swap
from roundoff.maps import Map
from roundoff.records import Converted

Plan = dict[str, Layer]
_FORMS = {"all linear": "linear", "all convolutions": "conv"}


@dataclass(frozen=True)
class Candidate:
    """A network to race: what it is called, and what was changed in it."""

    name: str
    model: nn.Module
    converted: tuple[Converted, ...]
    maps: Mapping[str, Map]
    changes: int


def candidates_for(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], seen: Seen, layers: list[Layer]
) -> list[Candidate]:
    """The networks to race, from what a run showed; those that change nothing or cannot be built or run are left out."""
    best: Plan = {x.name: x for x in layers}
    last: Plan = {x.name: replace(x, chosen=LAST) for x in layers if (LAST, LAST) in x.seconds}
    forms: Plan = {name: x for name, x in best.items() if x.chosen not in (LAST, FIRST)}
    planned = partial(_by_plan, model, seen)
    builders: list[Callable[[], Candidate | None]] = [
        partial(planned, "layer by layer", best),
        partial(planned, "forms only", forms),
        partial(planned, "channels last", last),
        partial(planned, "activations in place", {}, activations=True),
        partial(planned, "layer by layer, activations in place", best, activations=True),
        partial(planned, "channels last, activations in place", last, activations=True),
        partial(planned, "layer by layer, calls linear", best, calls="linear"),
        partial(planned, "layer by layer, calls as convolutions", best, calls="conv"),
    ]
    for name, to in _FORMS.items():
        builders.append(partial(_by_form, model, args, kwargs, name, to, "keep"))
        builders.append(partial(_by_form, model, args, kwargs, f"{name}, in flow", to, "flow"))
    found: list[Candidate] = []
    for build in builders:
        try:
            candidate = build()
            if candidate is not None and not any(_same(c, candidate) for c in found):
                with torch.no_grad():
                    copied(candidate.model)(*args, **kwargs)
                found.append(candidate)
        except (RoundoffError, RuntimeError):  # a view of a tensor whose channels are last, for example
            continue
    return found


def _same(a: Candidate, b: Candidate) -> bool:
    return (a.converted, a.changes) == (b.converted, b.changes)


def _by_plan(
    model: nn.Module, seen: Seen, name: str, plan: Plan, *, calls: str = "", activations: bool = False
) -> Candidate | None:
    """A copy with each layer in the way that was chosen for it, functional calls in the form ``calls``, and activations in
    place; None where it lacks what its name says."""
    new = copied(model)
    layers = {path: True for path, module in new.named_modules() if is_linear(module) or is_conv(module)}
    sites = spots(seen, dict(new.named_modules()), pinned_in(new, seen), lambda _: "" if _ in plan else "kept")
    converted, maps = [], dict[str, Map]()
    for module_name, made_new in made(sites, list(plan.values())).items():
        old = sites[module_name].module
        converted.append(Converted(module_name, type(old).__name__, plan[module_name].chosen))
        for path, module in new.named_modules(remove_duplicate=False):
            if module is old:
                maps |= {f"{path}.{parameter}".lstrip("."): way for parameter, way in made_new.maps.items()}
        swap(old, made_new.module)
    changes = sum(x.changes for x in plan.values() if x.chosen != AS_IT_IS)
    if calls:
        placed = place_calls(new, seen.products, calls, layers)
        if not placed.converted:
            return None
        converted, changes = [*converted, *placed.converted], changes + placed.permutes
    if activations:
        where = in_place(new)
        if not where:
            return None
        converted += [Converted(path, "Sequential", "activations in place") for path in where]
    return Candidate(name, new, tuple(converted), maps, changes) if converted else None


def _by_form(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], name: str, to: str, layout: str
) -> Candidate | None:
    done = rewrite(model, args, kwargs, to, layout)
    return Candidate(name, done.model, done.converted, done.maps, done.permutes_left) if done.converted else None
