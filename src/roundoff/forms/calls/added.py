"""A matrix product with a weight, to which something is added: ``addmm``, ``baddbmm``, ``addmv``.

beta input + alpha (a b): the product is a convolution as in ``matmul``. Where input is one number for each output, and
beta and alpha are 1, it is the convolution's bias.

Requires: one factor that is a parameter, or is computed from parameters alone.
Applies: as ``matmul``, where beta is not 0, which means that input is not read.
Ensures: the dtype of the product, also under autocast.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from roundoff.forms.calls.given import CallRule, IsWeight, named
from roundoff.forms.calls.linear import last_axis
from roundoff.forms.calls.matmul import product

_FACTORS = {"addmm": ("mat1", "mat2"), "baddbmm": ("batch1", "batch2"), "addmv": ("mat", "vec")}


def apply(op: str, args: Any, kwargs: dict[str, Any], is_weight: IsWeight) -> Tensor | str:
    """The call as a convolution, and an addition."""
    first, second = _FACTORS[op]
    scales = {name: kwargs.get(name, 1) for name in ("beta", "alpha")}
    rest = {name: value for name, value in kwargs.items() if name not in scales}
    given = named(("input", first, second), args, rest)
    if isinstance(given, str):
        return given
    added: Tensor = given["input"]
    a, b = given[first], given[second]
    alpha, beta = scales["alpha"], scales["beta"]
    if beta == 0 and (is_weight(a) or is_weight(b)):
        return "its beta is 0"
    y = product(a, b, is_weight)
    if isinstance(y, str):
        return y
    if op == "addmm" and alpha == 1 and beta == 1 and is_weight(b) and tuple(added.shape) == (b.shape[1],):
        return last_axis(a, b.t(), added)
    y = y if alpha == 1 else y * alpha
    added = added.to(y.dtype)
    return y + (added if beta == 1 else added * beta)


RULE = CallRule("conv", frozenset(_FACTORS), apply, "conv with a bias, or conv and an addition")
