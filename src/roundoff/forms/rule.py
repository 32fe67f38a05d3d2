"""A rule: what it requires of a layer, when it applies to it here, and what it ensures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from roundoff.forms.layers import Rewritten
from roundoff.maps import Map


@dataclass(frozen=True)
class Call:
    """One call of a layer in the run on the given input. ``flat``: the sizes of what was flattened into its input, the
    channels first, and whether they were its last axis."""

    shape: tuple[int, ...]
    flat: tuple[tuple[int, ...], bool] | None = None


@dataclass(frozen=True)
class Site:
    """A layer where it stands. ``pinned``: names of its parameters that keep their shape, for others read them too."""

    name: str
    module: nn.Module
    calls: tuple[Call, ...]
    pinned: frozenset[str] = frozenset()


@dataclass(frozen=True)
class New:
    """A rewritten layer, and the way of each parameter of the old one that changed its shape."""

    module: nn.Module
    maps: dict[str, Map]


@dataclass(frozen=True)
class Rule:
    """How one kind of layer is rewritten.

    ``kind`` is what it requires: which modules it is for. ``declines`` gives the reason why it does not apply to a site,
    or an empty text. ``rewrite`` makes the new layer. ``ensures`` says in words what holds afterwards.
    """

    to: str
    name: str
    kind: Callable[[nn.Module], bool]
    declines: Callable[[Site], str]
    rewrite: Callable[[Site], New]
    permutes: Callable[[Site], int]
    ensures: str


def move_parameters(old: nn.Module, new: nn.Module, maps: dict[str, Map], pinned: frozenset[str]) -> New:
    """Give ``new`` the parameters of ``old`` through ``maps``; the pinned ones, and those without a map, as they are."""
    for name in ("weight", "bias"):
        parameter = old._parameters.get(name)
        if parameter is None or name not in maps or name in pinned or maps[name].before == maps[name].after:
            new._parameters[name] = parameter
            continue
        new._parameters[name] = nn.Parameter(maps[name].to(parameter.detach()).clone(), parameter.requires_grad)
    if isinstance(new, Rewritten):
        new.view = maps["weight"]
        new.maps = {name: way for name, way in maps.items() if name not in pinned}
    new.train(old.training)
    return New(new, {n: way for n, way in maps.items() if n not in pinned and way.before != way.after})
