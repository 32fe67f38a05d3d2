"""``torch.einsum`` of an input and a weight is a 1x1 convolution over the axes that it sums.

The equation gives the labels of the axes; the rest is in ``contraction``. The axes of "..." are labelled by their place
from the right.

Requires: an equation, and two operands of which one is a parameter or is computed from parameters alone.
Applies: where the sum is a linear map with that weight: no diagonal, no axis that is summed in one operand alone.
Ensures: the axes as the equation orders them, contiguous.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from torch import Tensor

from roundoff.forms.calls.contraction import contraction
from roundoff.forms.calls.given import CallRule, IsWeight, unusual


def apply(op: str, args: Any, kwargs: dict[str, Any], is_weight: IsWeight) -> Tensor | str:
    """The call as a convolution."""
    equation, *operands = args
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = list(operands[0])
    if len(operands) == 1 or not any(isinstance(x, Tensor) and is_weight(x) for x in operands):
        return ""  # it multiplies nothing, or no weight
    if not isinstance(equation, str):
        return "its axes are given as lists"
    if len(operands) != 2 or kwargs:
        return f"it multiplies {len(operands)} operands"
    if all(is_weight(x) for x in operands):
        return "both operands are parameters, and neither is its input"
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    labels = [_labels(term, x.dim()) for term, x in zip(terms, operands, strict=True)]
    out = _named(right, labels) if arrow else _implied(labels)
    at = 1 if is_weight(operands[1]) else 0
    x, weight = operands[1 - at], operands[at]
    return unusual(x, weight) or contraction(x, labels[1 - at], weight, labels[at], out)


def _labels(term: str, rank: int) -> list[Hashable]:
    """A label for each axis: its letter, or, of those under "...", its place from the right, as a negative number."""
    before, dots, after = term.partition("...")
    hidden = rank - len(before) - len(after) if dots else 0
    return [*before, *range(-hidden, 0), *after]


def _named(right: str, labels: list[list[Hashable]]) -> list[Hashable]:
    return _labels(right, len(right.replace("...", "")) + len(_hidden(labels)))


def _hidden(labels: list[list[Hashable]]) -> list[int]:
    return sorted({label for each in labels for label in each if isinstance(label, int)})


def _implied(labels: list[list[Hashable]]) -> list[Hashable]:
    """The output of an equation without an arrow: "...", then the letters that occur once, sorted."""
    letters = [label for each in labels for label in each if isinstance(label, str)]
    return [*_hidden(labels), *sorted(letter for letter in set(letters) if letters.count(letter) == 1)]


RULE = CallRule("conv", frozenset({"einsum"}), apply, "conv1d, grouped for each batch index of the weight")
