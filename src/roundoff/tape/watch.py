"""Watch one run of a network: listeners are told before and after each executed ATen operation.

A ``TorchDispatchMode`` sits below autograd and autocast, so it sees what is really executed, whatever Python did to get
there. Module paths come from global hooks: hooks on the user's own modules would switch PyTorch's fused paths off.
"""

from __future__ import annotations

import linecache
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from roundoff.errors import RoundoffError
from roundoff.tape.dispatcher import COMPOSITE, Setting, inside, is_composite, setting_of
from roundoff.tape.leaves import operands
from roundoff.tape.objects import holders

_HERE = str(Path(__file__).parent) + os.sep
#: Where the user's lines are not: PyTorch, the watching, and what stands in for PyTorch's functions meanwhile.
_NOT_THE_USER = (
    "<",
    str(Path(torch.__file__).parent) + os.sep,
    _HERE,
    str(Path(__file__).parents[1] / "replay") + os.sep,
)


@dataclass(frozen=True)
class Step:
    """One executed ATen operation: its operands as they are before it runs, its module and the user's source line."""

    index: int
    op: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    module: str
    frame: tuple[str, int] = field(repr=False)
    setting: Setting = field(repr=False)

    @cached_property
    def overwritten(self) -> list[Tensor]:
        """The operands that the operation writes to, by the schema's alias information."""
        return written(self.op, self.args, self.kwargs)

    @property
    def moves_only_shape(self) -> bool:
        """True for operations in place that change how a tensor lies in memory, not what is in the memory."""
        return self.op._schema.name in _SHAPE_ONLY

    @property
    def source(self) -> str:
        """``file:line: code`` of the user's line that led here; empty when there is none."""
        name, line = self.frame
        if not name:
            return ""
        code = linecache.getline(name, line).strip()
        return f"{Path(name).name}:{line}" + (f": {code}" if code else "")

    @property
    def where(self) -> str:
        """The module path and the source line, in words."""
        return ", ".join(part for part in (self.module, self.source) if part) or f"step {self.index}"

    def __str__(self) -> str:
        return f"{self.index:4d}  {self.op}  {self.where}"


#: Operators that write to their running statistics without their schema saying so.
_UNDECLARED = {
    f"aten::{name}": ("running_mean", "running_var")
    for name in ("native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm", "batch_norm", "batch_norm_update_stats")
}


_SHAPE_ONLY = {
    f"aten::{name}_"
    for name in (
        "transpose",
        "t",
        "squeeze",
        "unsqueeze",
        "as_strided",
        "swapaxes",
        "swapdims",
        "detach",
        "resize",
        "set",
    )
}


def written(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """Those of an operation's operands that it writes to, by the schema's alias information."""
    found: list[Tensor] = []
    for position, name in _written(op):
        found += operands(args[position] if position < len(args) else kwargs.get(name))
    return found


@cache
def _written(op: Any) -> tuple[tuple[int, str], ...]:
    undeclared = _UNDECLARED.get(op._schema.name, ())
    return tuple(
        (i, a.name)
        for i, a in enumerate(op._schema.arguments)
        if (a.alias_info is not None and a.alias_info.is_write) or a.name in undeclared
    )


class ListenerFailed(Exception):
    """A listener raised, which is a mistake in roundoff, not in the network; its cause is the exception itself."""


class Listener(Protocol):
    """Something that is told of each step. An exception in it ends the listening, never the run, and is raised after."""

    def before(self, step: Step) -> None:
        """``step`` is about to run; what it overwrites still has its old value."""

    def after(self, step: Step, out: Any) -> None:
        """``step`` has run and gave ``out``."""


#: May put another result in place of a step's own; for experiments, not for watching.
Replace = Callable[[Step, Any], Any]


class _Watch(TorchDispatchMode):
    def __init__(self, listeners: Sequence[Listener], modules: list[str], replace: Replace | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.replace = replace
        self.listeners = listeners
        self.modules = modules
        self.failure: BaseException | None = None
        self.failed_at = ""
        self.steps = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if any(kind not in (Tensor, nn.Parameter, nn.Buffer) for kind in types):
            return NotImplemented  # a tensor of a kind of its own: what it does is seen, not what it is asked to do
        if is_composite(func) and not any(x.is_nested for x in operands((args, kwargs))):
            with inside(func), self:
                return func._op_dk(COMPOSITE, *args, **kwargs)
        setting = setting_of(func)
        if self.failure is not None:
            with setting.keys():
                return func(*args, **kwargs)
        step = Step(self.steps, func, args, kwargs, self.modules[-1], _user_frame(), setting)
        self.steps += 1
        self._tell("before", step)
        with setting.keys():
            out = func(*args, **kwargs)
        self._tell("after", step, out)
        return out if self.replace is None else self.replace(step, out)

    def _tell(self, event: str, step: Step, *out: Any) -> None:
        if self.failure is not None:
            return
        try:
            with step.setting.aside():
                for listener in self.listeners:
                    getattr(listener, event)(step, *out)
        except Exception as error:  # kept, and raised when the run is over: the model must not be able to catch it
            self.failure, self.failed_at = error, f"{step.op}, {step.where}: {type(error).__name__}: {error}"


def _user_frame() -> tuple[str, int]:
    """The innermost frame that belongs neither to PyTorch nor to the watching."""
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if frame.f_code is _run.__code__:
            break
        if not name.startswith(_NOT_THE_USER):
            return name, frame.f_lineno
        frame = frame.f_back  # type: ignore[assignment]
    return "", 0


@contextmanager
def _module_paths(root: Any) -> Iterator[list[str]]:
    """A stack of the paths of the modules that are running, kept by global hooks."""
    names: dict[int, str] = {}
    for holder in holders(root):
        if isinstance(holder, nn.Module) and id(holder) not in names:
            names |= {id(module): name for name, module in holder.named_modules()}
    stack = [""]

    def enter(module: nn.Module, args: Any) -> None:
        stack.append(names.get(id(module), type(module).__name__))

    def leave(module: nn.Module, args: Any, out: Any) -> None:
        if len(stack) > 1:
            stack.pop()

    handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave, always_call=True)]
    try:
        yield stack
    finally:
        for handle in handles:
            handle.remove()


def _run(model: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return model(*args, **kwargs)


def watch(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    listeners: Sequence[Listener],
    replace: Replace | None = None,
) -> Any:
    """Run ``model(*args, **kwargs)`` as it is and tell ``listeners`` of each step; returns what the model returns.

    The run happens in the caller's grad, inference and autocast mode. What the model raises goes through; what a
    listener raises ends in ListenerFailed when the run is over.
    """
    with _module_paths(model) as modules:
        mode = _Watch(listeners, modules, replace)
        try:
            with mode:
                out = _run(model, args, kwargs)
        finally:
            if mode.failure is not None:
                if isinstance(mode.failure, RoundoffError):
                    raise mode.failure
                raise ListenerFailed(f"watching failed at {mode.failed_at}") from mode.failure
    return out
