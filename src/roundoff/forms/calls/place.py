"""Put the functional calls of a network in the other form: those that a run showed, each checked by itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import fx, nn

from roundoff.forms.calls.found import WeightCall, check_call
from roundoff.forms.calls.mode import Calls, Weight, with_calls
from roundoff.forms.calls.rules import PRODUCTS
from roundoff.records import Converted, Declined


@dataclass
class Placed:
    """What became of the calls. ``read``: the parameters of those that were rewritten, and of those that were not."""

    converted: list[Converted] = field(default_factory=list)
    declined: list[Declined] = field(default_factory=list)
    permutes: int = 0
    read: set[str] = field(default_factory=set)
    left: set[str] = field(default_factory=set)


def place_calls(
    model: nn.Module, calls: Iterable[tuple[WeightCall, int]], to: str, layers: Mapping[str, bool]
) -> Placed:
    """Rewrite in ``model``, in place, each call that has a rule; ``calls`` says how often each ran.

    ``layers`` are the names of those that have a rule of their own, and whether calls within them are left alone all the
    same: they belong to the layer.
    """
    done = Placed()
    modules = dict(model.named_modules())
    owners = {id(p): (m, n) for m in modules.values() for n, p in m._parameters.items() if p is not None}
    parameters = dict(model.named_parameters())
    wanted: dict[str, dict[str, tuple[WeightCall, str]]] = {}
    for call, times in calls:
        if call.op not in PRODUCTS[to] or _within(call.module, layers):
            continue
        why = _why_not(modules[call.module], call)
        checked = None if why else check_call(call, to)
        if checked is not None and checked.declined == "":
            continue
        reason = why or (checked.declined if checked is not None else None)
        if reason:
            text = f"a functional call with the parameter {', '.join(call.parameters)}: {reason}"
            done.declined.append(Declined(call.module, call.op, text))
            done.left.update(call.parameters)
            continue
        assert checked is not None
        done.permutes += checked.permutes * times
        wanted.setdefault(call.module, {}).setdefault(str(call), (call, checked.after))
    for name, those in wanted.items():
        module = modules[name]
        names = dict.fromkeys(p for call, _ in those.values() for p in call.parameters)
        weights = tuple(_weight(module, *owners[id(parameters[p])]) for p in names)
        said = tuple((str(call), after) for call, after in those.values())
        with_calls(module, Calls(to, frozenset(call.op for call, _ in those.values()), weights, said))
        done.converted += [Converted(name, before, after) for before, after in said]
        done.read.update(names)
    done.declined = list(dict.fromkeys(done.declined))
    return done


def _within(name: str, layers: Mapping[str, bool]) -> bool:
    return any(closed and (name == layer or name.startswith(f"{layer}.")) for layer, closed in layers.items())


def _why_not(module: nn.Module, call: WeightCall) -> str:
    if call.places - {call.module}:
        return "its weight is computed in another module"
    if call.others:
        return f"its weight comes from {' and '.join(call.others)}, not from the network's parameters alone"
    if "forward" in vars(module):
        return "the forward of its module was replaced"
    if isinstance(module, (torch.jit.ScriptModule, fx.GraphModule, nn.DataParallel)):
        return f"it stands in a {type(module).__name__}, which makes its own forward"
    return ""


def _weight(module: nn.Module, owner: nn.Module, name: str) -> Weight:
    for path, inner in module.named_modules():
        if inner is owner:
            return Weight(None, f"{path}.{name}".lstrip("."))
    return Weight(owner, name)
