"""Which parts of a network flow: the largest modules whose forward can be captured, and that hold rewritten layers."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map

from roundoff.errors import RoundoffError
from roundoff.forms.calls.mode import has_calls
from roundoff.forms.flow.capture import capture, runs
from roundoff.forms.flow.draws import draws
from roundoff.forms.flow.elementwise import elementwise
from roundoff.forms.flow.layers import layers
from roundoff.forms.flow.moves import moves
from roundoff.forms.flow.norms import norms
from roundoff.forms.flow.parts import parts
from roundoff.forms.flow.program import Program, with_program
from roundoff.forms.flow.push import push
from roundoff.forms.flow.reductions import reductions
from roundoff.forms.flow.steps import convolved, joined
from roundoff.forms.layers import Rewritten
from roundoff.records import Declined

RULES = (layers, norms, draws, elementwise, moves, reductions, parts)


@dataclass(frozen=True)
class Flowed:
    """The modules that run a program, how many moves of axes fewer a run makes with them (the network's own are counted
    as they run there), and the modules that could not be captured."""

    regions: tuple[str, ...]
    saved: int
    declined: tuple[Declined, ...]


def flow(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], moving: frozenset[str]) -> Flowed:
    """Let the modules of ``model`` that can be captured run in one layout, in place.

    ``model`` holds rewritten layers, of which ``moving`` move an axis; ``args`` and ``kwargs`` show the shapes. The model
    runs as before on what has other ranks.
    """
    copy = deepcopy(model)
    modules = dict(copy.named_modules())
    candidates = {name for name, m in modules.items() if _holds_layers(m) and not isinstance(m, Rewritten)}
    args, kwargs = tree_map(lambda x: x.detach().clone() if isinstance(x, Tensor) else x, (args, kwargs))
    calls = runs(copy, candidates, args, kwargs)
    regions: dict[str, int] = {}  # what each saves
    inside: set[str] = set()
    declined: list[Declined] = []

    def visit(name: str, module: nn.Module) -> None:
        if name not in candidates or name not in calls:
            return _within(name, module)
        try:
            if type(module).__module__.startswith("torch.nn") and not isinstance(module, nn.Sequential):
                raise RoundoffError("it is a module of PyTorch")
            if has_calls(module):
                raise RoundoffError("some of its calls are in another form")
            if "forward" in vars(module) or isinstance(module, fx.GraphModule):
                raise RoundoffError("its forward was replaced")
            given, named = calls[name][0]
            program, permutes, own = push(module, capture(module, given, named), RULES)
        except RoundoffError as error:
            declined.append(Declined(name, type(module).__name__, f"layout='keep' here, for {error}"))
            return _within(name, module)
        layers_run = list(_run_on_held(program))
        without = 2 * len(layers_run)  # each of these layers moves an axis there and back
        if not layers_run or permutes >= own + without:
            return None
        with_program(dict(model.named_modules())[name], program)
        held = sum(program.arguments(module, *call) is not None for call in calls[name])
        regions[name] = (without - permutes) * held
        inside.update(f"{name}.{path}".lstrip(".") for path in layers_run)
        return None

    def _within(name: str, module: nn.Module) -> None:
        for child, inner in module.named_children():
            visit(f"{name}.{child}".lstrip("."), inner)

    visit("", copy)
    told = [d for d in declined if any(_under(name, [d.module]) for name in moving - inside)]
    return Flowed(tuple(regions), sum(regions.values()), tuple(told))


def _under(name: str, those: Iterable[str]) -> bool:
    return any(not outer or name == outer or name.startswith(f"{outer}.") for outer in those)


def _run_on_held(program: Program) -> Iterable[str]:
    """The paths of the layers whose weights a program reads, instead of calling them."""
    return (line.args[0].path for line in program.lines if line.target in (convolved, joined))


def _holds_layers(module: nn.Module) -> bool:
    return any(isinstance(m, Rewritten) for m in module.modules())
