"""Correctly rounded operations: the same bits in every form, at any batch size, thread count, layout and machine.

A sum of products is the number nearest to its exact value, ties to even, bias included, rounded once. An elementwise
function is correctly rounded. What is made of several of them is one written expression of such steps: docs/exact.md.
"""

from __future__ import annotations

from roundoff.exact.contractions import (
    bmm,
    conv1d,
    conv2d,
    conv3d,
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
    convolution,
    linear,
    matmul,
    mean,
    sum,
    tensordot,
)

__all__ = [
    "bmm",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "convolution",
    "linear",
    "matmul",
    "mean",
    "sum",
    "tensordot",
]
