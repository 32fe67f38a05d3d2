"""Correctly rounded operations: the same bits in every form, at any batch size, thread count, layout and machine.

A sum of products is the number nearest to its exact value, ties to even, bias included, rounded once. An elementwise
function is correctly rounded. What is made of several of them is one written expression of such steps: docs/exact.md.
"""

from __future__ import annotations

from typing import Any

from roundoff.exact import ops, rules
from roundoff.exact.compound import (
    attention,
    batch_norm,
    cross_entropy,
    elu,
    gelu,
    group_norm,
    l1_loss,
    layer_norm,
    log_softmax,
    mse_loss,
    softmax,
    softplus,
)
from roundoff.exact.contractions import (
    bmm,
    conv1d,
    conv2d,
    conv3d,
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
    linear,
    matmul,
    mean,
    sum,
    tensordot,
)
from roundoff.exact.elementwise import FUNCTIONS
from roundoff.exact.making import Exact, make_exact
from roundoff.exact.mode import mode
from roundoff.exact.rounding import short_dtype


def __getattr__(name: str) -> Any:
    """The elementwise functions: ``exp(x)``, ``log(x)``, ``sqrt(x)`` and the others."""
    if name not in FUNCTIONS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def function(x: Any) -> Any:
        short_dtype(name, x)
        return ops.each(x, name)

    function.__name__ = name
    return function


__all__ = [
    "Exact",
    "attention",
    "batch_norm",
    "bmm",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "cross_entropy",
    "elu",
    "gelu",
    "group_norm",
    "l1_loss",
    "layer_norm",
    "linear",
    "log_softmax",
    "make_exact",
    "matmul",
    "mean",
    "mode",
    "mse_loss",
    "rules",
    "softmax",
    "softplus",
    "sum",
    "tensordot",
]
