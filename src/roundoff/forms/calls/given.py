"""What a rule for a call is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

IsWeight = Callable[[Any], bool]


@dataclass(frozen=True)
class CallRule:
    """How one kind of functional call is rewritten.

    ``apply`` is given the call's name, its arguments, its keyword arguments and which tensors are weights. It gives the
    result in the other form, or the reason why it does not apply; an empty reason where the call multiplies no weight.
    """

    to: str
    ops: frozenset[str]
    apply: Callable[[str, Any, dict[str, Any], IsWeight], Tensor | str]
    ensures: str


def name_of(function: Any) -> str:
    """The name of a function of PyTorch; for an overload of an operator (``aten.linear.default``) that of the operator."""
    return str(getattr(getattr(function, "overloadpacket", function), "__name__", function))


def named(names: tuple[str, ...], args: Any, kwargs: dict[str, Any]) -> dict[str, Any] | str:
    """The arguments by their names; a reason where one has another name."""
    kwargs = {name: value for name, value in kwargs.items() if (name, value) != ("out", None)}
    if len(args) > len(names):
        return f"it has more than the arguments {', '.join(names)}"
    for name in kwargs:
        if name not in names:
            return f"it has the argument {name}"
    return dict(zip(names, args, strict=False)) | kwargs


def unusual(x: Tensor, weight: Tensor) -> str:
    """Why these two cannot be the input and the weight of a convolution; an empty text where they can."""
    if not (x.is_floating_point() or x.is_complex()):
        return f"its input is of {x.dtype}"
    if x.is_nested or x.is_sparse or weight.is_sparse:
        return "its input or its weight is not a dense tensor"
    if 0 in x.shape or 0 in weight.shape:
        return "its input or its weight is empty"
    return ""
