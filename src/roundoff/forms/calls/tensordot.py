"""``torch.tensordot`` of an input and a weight is a 1x1 convolution over the axes that it sums.

tensordot(a, b, dims) sums over pairs of axes; what is left of a comes first, then what is left of b. With a label for
each axis, the same one for a pair, it is the sum in ``contraction``.

Requires: one operand that is a parameter, or is computed from parameters alone, and one that is not.
Applies: where at least one pair is summed.
Ensures: the axes as ``torch.tensordot`` orders them, contiguous.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from roundoff.forms.calls.contraction import contraction
from roundoff.forms.calls.given import CallRule, IsWeight, named, unusual


def apply(op: str, args: Any, kwargs: dict[str, Any], is_weight: IsWeight) -> Tensor | str:
    """The call as a convolution."""
    given = named(("a", "b", "dims"), args, kwargs)
    if isinstance(given, str):
        return given
    a, b, dims = given["a"], given["b"], given.get("dims", 2)
    if is_weight(a) and is_weight(b):
        return "both operands are parameters, and neither is its input"
    if not is_weight(a) and not is_weight(b):
        return ""
    if isinstance(dims, Tensor):
        dims = dims.tolist()
    if isinstance(dims, int):
        of_a, of_b = list(range(a.dim() - dims, a.dim())), list(range(dims))
    else:
        of_a, of_b = ([each] if isinstance(each, int) else list(each) for each in dims)
    a_labels: list[Any] = [f"a{i}" for i in range(a.dim())]
    b_labels: list[Any] = [f"b{i}" for i in range(b.dim())]
    for i, j in zip(of_a, of_b, strict=True):
        b_labels[j] = a_labels[i]
    out = [label for label in [*a_labels, *b_labels] if (label in a_labels) != (label in b_labels)]
    if is_weight(a):
        return unusual(b, a) or contraction(b, b_labels, a, a_labels, out)
    return unusual(a, b) or contraction(a, a_labels, b, b_labels, out)


RULE = CallRule("conv", frozenset({"tensordot"}), apply, "conv1d")
