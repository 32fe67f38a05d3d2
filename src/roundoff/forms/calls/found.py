"""A functional call with a weight as a run showed it, and its exact check."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from roundoff.errors import RoundoffError
from roundoff.forms.calls.given import name_of
from roundoff.forms.calls.mode import tensors
from roundoff.forms.calls.rules import rule_for


@dataclass(frozen=True)
class Like:
    """A tensor that was given: its shape and dtype, and whether it is a weight."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    weight: bool


@dataclass(frozen=True)
class WeightCall:
    """A call with a weight: the module it stands in, the function, its arguments with a :class:`Like` for each tensor, the
    parameters that its weights come from, the modules in which those were computed, and what else they come from."""

    module: str
    function: Callable[..., Any]
    args: Any
    kwargs: dict[str, Any]
    parameters: tuple[str, ...]
    places: frozenset[str]
    others: tuple[str, ...] = ()

    @property
    def op(self) -> str:
        """The name of the function."""
        return name_of(self.function)

    def __str__(self) -> str:
        return f"{self.op}({', '.join(self.parameters)})"


@dataclass(frozen=True)
class Checked:
    """What the other form of a call is: its functions, and by how many of them an axis is moved. ``declined``: why there
    is none, an empty text where the call multiplies no weight."""

    after: str = ""
    permutes: int = 0
    declined: str | None = None


def check_call(call: WeightCall, to: str) -> Checked:
    """Run both forms of the call on small whole numbers, for which float32 is exact in any order.

    Raises RoundoffError, naming the call, where they do not give the same values.
    """
    rule = rule_for(to, call.op)
    if rule is None:
        return Checked(declined=f"there is no rule for {call.op}")
    weights: list[Tensor] = []
    generator = torch.Generator().manual_seed(0)
    most = _largest(call)

    def numbers(x: Any) -> Any:
        if not isinstance(x, Like):
            return x
        whole = torch.randint(-most, most + 1, x.shape, generator=generator)
        if x.dtype.is_complex:
            made = torch.complex(whole.float(), torch.randint(-most, most + 1, x.shape, generator=generator).float())
        else:
            made = whole.float() if x.dtype.is_floating_point else whole.to(x.dtype)
        if x.weight:
            weights.append(made)
        return made

    args, kwargs = tree_map(numbers, (call.args, call.kwargs))
    for name, value in (("beta", 2), ("alpha", 3)):  # other factors would round
        if kwargs.get(name, 1) not in (0, 1):
            kwargs[name] = value
    watch = _Moves(weights)
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        with watch:
            y = rule.apply(call.op, args, kwargs, watch.is_weight)
        if isinstance(y, str):
            return Checked(declined=y)
        want = call.function(*args, **kwargs)
    if y.shape != want.shape or y.dtype != want.dtype or not torch.equal(y, want):
        raise RoundoffError(
            f"{call} in {call.module or '(root)'} was not converted rightly: on whole numbers the two forms give different "
            "values. Please report this with the call."
        )
    return Checked(watch.form, watch.permutes)


def _largest(call: WeightCall) -> int:
    """The largest m for which a sum of 4 k products of numbers up to m stays below 2^24; k, the length of the sum, is at
    most the size of either operand. The 4: complex products are two, and beta + alpha up to 5/2 of one."""
    sizes: list[int] = []

    def size(x: Any) -> Any:
        if isinstance(x, Like):
            sizes.append(max(torch.Size(x.shape).numel(), 1))
        return x

    tree_map(size, (call.args, call.kwargs))
    terms = sorted(sizes)[-2] if len(sizes) > 1 else sizes[0]
    return max(1, min(8, isqrt((2**24 - 9) // (4 * terms))))


class _Moves(TorchFunctionMode):
    """Counts the moves of an axis past another one, of the input or the output; names the form."""

    def __init__(self, weights: list[Tensor]) -> None:
        super().__init__()
        self.weights, self.permutes, self.form = weights, 0, ""

    def is_weight(self, x: Any) -> bool:
        return any(x is weight for weight in self.weights)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        op = name_of(func)
        if op in ("conv1d", "conv2d", "conv3d", "linear"):
            self.form = op
        if op in ("permute", "movedim") and not any(self.is_weight(x) for x in tensors(args, {})):
            self.permutes += _axes(args[0]) != _axes(out)
        return out


def _axes(x: Tensor) -> list[tuple[int, int]]:
    return [(size, stride) for size, stride in zip(x.shape, x.stride(), strict=True) if size > 1]
