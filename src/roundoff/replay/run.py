"""Run one side of a comparison: natively as it is, watched, and with the wide run beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from roundoff.errors import RoundoffError
from roundoff.formats import UNIT_ROUNDOFF, widen
from roundoff.replay.constants import Constants, numbers_in_and_out
from roundoff.replay.wide import Executed, Observer, Opaque, WideRun
from roundoff.tape.leaves import is_wrapper, leaves
from roundoff.tape.modes import Modes
from roundoff.tape.storages import has_storage
from roundoff.tape.trace import drew_elsewhere, random_state, set_random_state, untouched
from roundoff.tape.watch import Listener, ListenerFailed, Step, watch


@dataclass(frozen=True)
class Side:
    """One of the two networks with what it is given."""

    name: str  # "A" or "B"
    model: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    randomness: dict[str, Any]  # the state of the random generators from which every run starts
    modes: Modes | None = None  # those in which to run; None: those that are on
    numbers: Mapping[float, float] = field(default_factory=dict)  # those that kernels were given for others, rounded
    values: tuple[tuple[Tensor, Tensor], ...] = ()  # constants with the wide values that they have instead of their own

    def error(self, error: BaseException) -> RoundoffError:
        """What to raise when the network itself raised."""
        return RoundoffError(
            f"{self.name} raised {type(error).__name__}: {error}\n"
            f"{self.name} is {describe(self.model)}, called with {describe_inputs(self.args, self.kwargs)}. "
            "Check that it runs on this input by itself."
        )


@dataclass(frozen=True)
class Leaf:
    """One leaf of what a network returned: its place, its native value and, for a tensor, its wide value."""

    name: str
    native: Any
    wide: Tensor | None
    of: Tensor | None = None  # the tensor itself, for where it lies: its values may have been put back since


class Beside(Listener, Protocol):
    """A listener that keeps something beside the wide run, and is told which run that is."""

    def follow(self, wide: WideRun) -> None:
        """``wide`` is the run that is about to begin."""


@dataclass(frozen=True)
class Ran:
    """One watched run: what came out, and what was met on the way."""

    leaves: tuple[Leaf, ...]
    wide: WideRun
    constants: Constants
    coarsest: float  # u of the shortest format in which a step rounded
    steps: int
    drew_elsewhere: bool  # Python's or NumPy's random numbers were used
    casts: dict[torch.dtype, str]  # where a step first casts from a longer format, by the format it casts to
    numbers: frozenset[float]  # the Python numbers that steps were given

    @property
    def tensors(self) -> dict[str, Leaf]:
        """The leaves that are tensors, by name."""
        return {leaf.name: leaf for leaf in self.leaves if leaf.wide is not None}


class _Formats:
    """A listener that counts steps, keeps the coarsest unit round-off in which one rounded, and where casts shorten."""

    def __init__(self) -> None:
        self.coarsest = 0.0
        self.steps = 0
        self.casts: dict[torch.dtype, str] = {}
        self.numbers: set[float] = set()

    def before(self, step: Step) -> None:
        self.steps += 1
        self.numbers.update(x for x in (*step.args, *step.kwargs.values()) if type(x) is float)

    def after(self, step: Step, out: Any) -> None:
        for x in out if isinstance(out, (tuple, list)) else (out,):
            if not isinstance(x, Tensor):
                continue
            u = UNIT_ROUNDOFF.get(x.dtype, 0.0)
            self.coarsest = max(self.coarsest, u)
            is_cast = step.op._schema.name == "aten::_to_copy" and x.dtype not in self.casts
            if is_cast and u > UNIT_ROUNDOFF.get(step.args[0].dtype, 1.0):
                self.casts[x.dtype] = step.where


def run_wide(
    side: Side,
    *,
    observe: Observer | None = None,
    alter: Callable[[Executed], list[Tensor]] | None = None,
    neutral: bool = False,
    repeat: bool = False,
    keep_old: bool = False,
    also: Sequence[Listener] = (),
    beside: Beside | None = None,
) -> tuple[Ran, tuple[Leaf, ...] | None]:
    """Run ``side`` watched, with the wide run beside it, and leave no trace.

    ``repeat``: afterwards run it once more without being watched, and return those leaves as well (``wide`` None).
    Raises RoundoffError when the network raises, naming the side.
    """
    constants = Constants((side.args, side.kwargs), side.values, side.numbers)
    wide = WideRun(observe, alter, constants, neutral, keep_old)
    formats = _Formats()
    modes = nullcontext() if side.modes is None else side.modes.again()
    with modes, untouched(side.model, (side.args, side.kwargs)) as restore:
        set_random_state(side.randomness)
        listeners: list[Listener] = [restore, wide, formats, *also]
        if beside is not None:
            beside.follow(wide)
            listeners.append(beside)
        before = random_state()
        with numbers_in_and_out(constants, wide.twins, restore.keep):
            out = _guarded(side, lambda: watch(side.model, side.args, side.kwargs, listeners))
        elsewhere = drew_elsewhere(before, random_state())
        found = tuple(leaf for name, value in leaves(out) for leaf in _leaves(name, value, wide, restore.is_older))
        del out
        again = None
        if repeat:
            restore.undo()
            set_random_state(side.randomness)
            result = _guarded(side, lambda: side.model(*side.args, **side.kwargs))
            again = tuple(leaf for name, value in leaves(result) for leaf in _plain(name, value, restore.is_older))
    return Ran(
        found, wide, constants, formats.coarsest, formats.steps, elsewhere, formats.casts, frozenset(formats.numbers)
    ), again


def _guarded(side: Side, run: Callable[[], Any]) -> Any:
    try:
        return run()
    except (RoundoffError, ListenerFailed):
        raise
    except Exception as error:
        raise side.error(error) from error


def _leaves(name: str, value: Any, wide: WideRun, is_older: Callable[[Tensor], bool]) -> Iterator[Leaf]:
    """The leaves of one output: a tensor, the parts of a nested one, or anything else."""
    if isinstance(value, Tensor) and value.is_nested and value.layout is torch.strided:
        for i, (x, w) in enumerate(zip(value.unbind(), wide.twins.wide(value).unbind(), strict=True)):
            yield Leaf(f"{name}[{i}]", x.detach(), w)
    elif isinstance(value, Tensor) and value.is_nested:
        for i, x in enumerate(value.unbind()):
            yield _leaf(f"{name}[{i}]", x, wide, is_older)
    else:
        yield _leaf(name, value, wide, is_older)


def _leaf(name: str, value: Any, wide: WideRun, is_older: Callable[[Tensor], bool]) -> Leaf:
    if not isinstance(value, Tensor):
        return Leaf(name, value, None)
    value = _dense(value)
    if not has_storage(value):
        return Leaf(name, value, widen(value))
    if is_wrapper(value):
        wide.opaque.append(Opaque("the output", name, f"a {type(value).__name__}"))
    try:
        twin = wide.value(value)
    except ValueError as error:
        wide.opaque.append(Opaque("the output", name, str(error)))
        twin = widen(value)
    if is_older(value):  # it will be put back to what it was
        return Leaf(name, value.clone(), twin.clone(), value)
    return Leaf(name, value, twin, value)


def _plain(name: str, value: Any, is_older: Callable[[Tensor], bool]) -> Iterator[Leaf]:
    if isinstance(value, Tensor) and value.is_nested:
        for i, x in enumerate(value.unbind()):
            yield from _plain(f"{name}[{i}]", x, is_older)
        return
    if isinstance(value, Tensor):
        value = _dense(value)
        value = value.clone() if has_storage(value) and is_older(value) else value
    yield Leaf(name, value, None)


def _dense(x: Tensor) -> Tensor:
    """``x``, detached; a sparse tensor with its zeros, a quantised one as the numbers that it stands for."""
    if x.is_meta:
        raise RoundoffError(
            "An output is on the meta device, where tensors have no values. Return tensors with values."
        )
    if x.is_quantized:
        return x.detach().dequantize()
    return x.detach() if x.layout in (torch.strided, torch.jagged) else x.detach().to_dense()


def describe(model: Any) -> str:
    """A network in a few words: its class, or its name."""
    name = getattr(model, "__qualname__", None) or type(model).__qualname__
    return str(name)


def describe_inputs(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Inputs in a few words: dtype and shape of each tensor."""
    words = [_describe_value(name, value) for name, value in leaves(list(args))]
    words += [_describe_value(name, value) for name, value in leaves(dict(kwargs))]
    return ", ".join(words) or "no arguments"


def _describe_value(name: str, value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    return repr(value)[:40]


def coarsest_of(*runs: Ran) -> float:
    """u of the shortest format in which any of the runs rounded."""
    return max((run.coarsest for run in runs), default=0.0)
