"""What each layer costs in each way and layout, and the choice that costs least in all, changes of layout counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from roundoff.forms.fastest.race import in_turns
from roundoff.forms.fastest.ways import AS_IT_IS, FIRST, FORMATS, LAST, ways
from roundoff.forms.observe import Seen, copied
from roundoff.forms.rule import New, Site
from roundoff.forms.sites import site_of

Tell = Callable[[int, int, str], None]
LAYOUTS = ("channels first", "channels last")


@dataclass(frozen=True)
class Layer:
    """A layer's call: its name, class and input's shape; ``seconds`` by way and by the layout in which its input comes
    (``as given`` where the input has no such layouts); the way that was chosen, and whether it changes the layout."""

    name: str
    kind: str
    shape: tuple[int, ...]
    seconds: dict[tuple[str, str], float]
    chosen: str = AS_IT_IS
    changes: int = 0


@dataclass(frozen=True)
class Given:
    """One call of a layer: what its input looks like."""

    name: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def draw(self, layout: str) -> Tensor:
        """Random numbers of that shape, in a memory layout."""
        x = torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device=self.device)
        x.normal_()
        if layout == "as given":
            return x
        return x.contiguous(memory_format=FORMATS[len(self.shape)] if layout == LAST else torch.contiguous_format)


def calls_of(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], names: set[str]) -> list[Given]:
    """The calls of these layers, in order."""
    found: list[Given] = []
    copy = copied(model)
    for name, module in copy.named_modules():
        if name in names:

            def note(_: Any, given: tuple[Any, ...], named: dict[str, Any], name: str = name) -> None:
                (x,) = (*given, *named.values())
                found.append(Given(name, tuple(x.shape), tuple(x.stride()), x.dtype, x.device))

            module.register_forward_pre_hook(note, with_kwargs=True)
    args, kwargs = tree_map(lambda x: x.detach().clone() if isinstance(x, Tensor) else x, (args, kwargs))
    with torch.no_grad():
        copy(*args, **kwargs)
    return found


def measured(
    sites: dict[str, Site],
    calls: list[Given],
    seconds: float,
    tell: Tell,
    clock: Callable[[], float] = perf_counter,
) -> list[Layer]:
    """Each call's time in each way and layout. ``seconds``: about how much time one layer may take."""
    found, known = [], dict[Any, dict[tuple[str, str], float]]()
    for i, call in enumerate(calls):
        site = sites[call.name]
        tell(i, len(calls), f"measuring {call.name}")
        key = (repr(site.module), type(site.module), call.shape, call.stride, call.dtype, site.calls[0].flat)
        if key not in known:
            known[key] = _times(site, call, seconds, clock)
        found.append(Layer(call.name, type(site.module).__name__, call.shape, known[key]))
    return found


def _times(site: Site, call: Given, seconds: float, clock: Callable[[], float]) -> dict[tuple[str, str], float]:
    layers = {AS_IT_IS: site.module, **{name: make().module for name, make in ways(site).items()}}
    layouts = LAYOUTS if LAST in layers else ("as given",)
    cases = [(way, layout) for way in layers for layout in layouts]
    inputs = {layout: call.draw(layout) for layout in layouts}

    def run(way: str, layout: str) -> Callable[[], object]:
        return lambda: layers[way].forward(inputs[layout])

    with torch.no_grad():
        times = in_turns([run(*case) for case in cases], 15, seconds, 3, clock)
    # the smallest: whatever else runs on the machine only adds to it
    return {case: min(t) for case, t in zip(cases, times, strict=True)}


def chosen(layers: list[Layer]) -> list[Layer]:
    """The ways that cost least together: along the layers that have layouts, the cheapest path through them.

    A layer that is called more than once has one way: the cheapest at its first call.
    """
    path: dict[str, tuple[float, list[tuple[str, int]]]] = {FIRST: (0.0, [])}
    for layer in layers:
        options: dict[str, tuple[float, list[tuple[str, int]]]] = {}
        for state, (cost, taken) in path.items():
            for way in dict.fromkeys(w for w, _ in layer.seconds):
                before = [w for x, (w, _) in zip(layers, taken, strict=False) if x.name == layer.name]
                if before and before[0] != way:
                    continue
                here = state if (way, state) in layer.seconds else "as given"
                after = way if way in (FIRST, LAST) else state
                moved = int(after != state and here != "as given")
                total = cost + layer.seconds[way, here]
                if after not in options or total < options[after][0]:
                    options[after] = (total, [*taken, (way, moved)])
        path = options
    best = min(path.values(), key=lambda p: p[0])[1] if path else []
    return [Layer(x.name, x.kind, x.shape, x.seconds, way, moved) for x, (way, moved) in zip(layers, best, strict=True)]


def made(sites: dict[str, Site], layers: list[Layer]) -> dict[str, New]:
    """The new layers, of those that do not stay as they are."""
    return {x.name: ways(sites[x.name])[x.chosen]() for x in layers if x.chosen != AS_IT_IS}


def spots(seen: Seen, module_of: dict[str, nn.Module], pinned: set[int], kept: Callable[[str], str]) -> dict[str, Site]:
    """The layers that there is another way for."""
    found = {}
    for name, module in module_of.items():
        if name not in seen.calls or kept(name):
            continue
        site = site_of(name, module, seen, pinned)
        if ways(site):
            found[name] = site
    return found
