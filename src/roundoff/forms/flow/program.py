"""A forward as a list of lines, which a module runs instead of its own where its input has the ranks that were seen.

The module gets a class of its own, and can be copied, pickled, exported and compiled. Its parameters and modules stay where
they are; the lines name them by their paths.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from roundoff.forms.flow.values import Ref
from roundoff.forms.own_class import Forward, give_class, take_class

_PROGRAM = "_roundoff_flow"
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def has_hooks(module: nn.Module) -> bool:
    """True where somebody looks on."""
    return any(vars(module).get(hooks) for hooks in _HOOKS)


def class_name(module: nn.Module) -> str:
    """The name of its class, which a class made from it has too."""
    return f"{type(module).__module__}.{type(module).__qualname__}"


def within(module: nn.Module) -> tuple[tuple[str, str], ...]:
    """The modules within that nobody looks on: paths, and names of their classes."""
    return tuple((path, class_name(m)) for path, m in module.named_modules() if path and not has_hooks(m))


@dataclass(frozen=True)
class Module:
    """A module, by its path from the one whose forward it is."""

    path: str


@dataclass(frozen=True)
class Line:
    """One step: ``kind`` is "input", "attribute", "module", "function", "method" or "output". ``done`` are the values that
    nothing reads afterwards."""

    out: int
    kind: str
    target: Any
    args: tuple[Any, ...] = ()
    kwargs: tuple[tuple[str, Any], ...] = ()
    done: tuple[int, ...] = ()


@dataclass(frozen=True)
class Program:
    """Lines, and for what they hold: ``given`` has each parameter of forward, its rank where it takes a tensor, else the
    value, and the default; ``inner`` the path and the name of the class of each module within that nobody looked on."""

    lines: tuple[Line, ...]
    given: tuple[tuple[str, int | None, Any, Any], ...]
    inner: tuple[tuple[str, str], ...]

    def arguments(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any] | None:
        """The arguments by their names, where the lines are for such and the modules within are those that were seen."""
        names = [given[0] for given in self.given]
        arguments = dict(zip(names, args, strict=False)) | kwargs
        if len(args) > len(names) or not all(name in names for name in arguments):
            return None
        for path, kind in self.inner:
            inner = module.get_submodule(path)
            if class_name(inner) != kind or has_hooks(inner):
                return None
        for name, rank, value, default in self.given:
            x = arguments.get(name, default)
            if rank is None:
                if isinstance(x, Tensor) or (x is not value and x != value):
                    return None
            elif not isinstance(x, Tensor) or x.is_nested or x.dim() != rank:
                return None
        return arguments

    def run(self, module: nn.Module, arguments: dict[str, Any]) -> Any:
        """The result of the lines in ``module``."""
        values: dict[int, Any] = {}

        def get(x: Any) -> Any:
            return values[x.number] if isinstance(x, Ref) else module.get_submodule(x.path)

        for line in self.lines:
            if line.kind == "input":
                values[line.out] = arguments[line.target]
                continue
            if line.kind == "attribute":
                path, _, name = line.target.rpartition(".")
                values[line.out] = getattr(module.get_submodule(path), name)
                continue
            args, kwargs = replaced((line.args, dict(line.kwargs)), (Ref, Module), get)
            if line.kind == "output":
                return args[0]
            if line.kind == "method":
                values[line.out] = getattr(args[0], line.target)(*args[1:], **kwargs)
            else:
                call = module.get_submodule(line.target) if line.kind == "module" else line.target
                values[line.out] = call(*args, **kwargs)
            for number in line.done:
                del values[number]
        raise AssertionError("a program ends with its output")


def with_program(module: nn.Module, program: Program) -> None:
    """Let ``module`` run ``program`` as its forward. It stays the same object."""
    give_class(module, _flowing)
    vars(module)[_PROGRAM] = program


def without_programs(model: nn.Module) -> None:
    """Give each module of ``model`` its own forward again."""
    for module in model.modules():
        if vars(module).pop(_PROGRAM, None) is not None:
            take_class(module)


def _flowing(original: Forward) -> Forward:
    """A forward that runs the module's program where it is for the arguments."""

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        program: Program = vars(self)[_PROGRAM]
        arguments = program.arguments(self, args, kwargs)
        return original(self, *args, **kwargs) if arguments is None else program.run(self, arguments)

    return forward


def replaced(x: Any, kinds: Any, get: Callable[[Any], Any]) -> Any:
    """Arguments with what ``get`` gives in place of each of ``kinds``; also within slices, which are no pytree."""
    if isinstance(x, kinds):
        return get(x)
    if isinstance(x, (list, tuple)) and not isinstance(x, torch.Size):
        found = [replaced(y, kinds, get) for y in x]
        return found if isinstance(x, list) else tuple(found)
    if isinstance(x, dict):
        return {key: replaced(y, kinds, get) for key, y in x.items()}
    return slice(*(replaced(y, kinds, get) for y in (x.start, x.stop, x.step))) if isinstance(x, slice) else x


def freed(lines: list[Line]) -> tuple[Line, ...]:
    """The lines, each with the values that it is the last to read."""
    last: dict[int, int] = {}
    for at, line in enumerate(lines):
        last.setdefault(line.out, at)
        refs: list[Ref] = []
        replaced((line.args, dict(line.kwargs)), Ref, refs.append)
        last.update({ref.number: at for ref in refs})
    return tuple(
        Line(line.out, line.kind, line.target, line.args, line.kwargs,
             tuple(n for n, where in last.items() if where == at and line.kind not in ("input", "attribute")))
        for at, line in enumerate(lines)
    )  # fmt: skip
