"""Correctly rounded operations: the same bits in every form, at any batch size, thread count, layout and machine.

A sum of products is the number nearest to its exact value, ties to even, bias included, rounded once. An elementwise
function is correctly rounded. What is made of several of them is one written expression of such steps: docs/exact.md.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from roundoff.exact import ops, rules
from roundoff.exact.activations import (
    celu,
    elu,
    gelu,
    glu,
    hardsigmoid,
    hardswish,
    leaky_relu,
    prelu,
    softplus,
    softsign,
    tanhshrink,
)
from roundoff.exact.attention import attention, multi_head_attention
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
from roundoff.exact.einsum import einsum
from roundoff.exact.elementwise import FUNCTIONS
from roundoff.exact.embedding import embedding, embedding_bag
from roundoff.exact.losses import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cross_entropy,
    huber_loss,
    kl_div,
    l1_loss,
    mse_loss,
    nll_loss,
    smooth_l1_loss,
)
from roundoff.exact.making import make_exact
from roundoff.exact.mode import mode
from roundoff.exact.norms import batch_norm, group_norm, instance_norm, layer_norm, norm, normalize, rms_norm, std, var
from roundoff.exact.pooling import adaptive_avg_pool, avg_pool
from roundoff.exact.rounding import short_dtype
from roundoff.exact.softmax import log_softmax, logsumexp, softmax
from roundoff.exact.steps import addcdiv, addcmul, lerp

avg_pool1d, avg_pool2d, avg_pool3d = (partial(avg_pool, i) for i in (1, 2, 3))
adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d = (partial(adaptive_avg_pool, i) for i in (1, 2, 3))


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
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "addcdiv",
    "addcmul",
    "attention",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "batch_norm",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "bmm",
    "celu",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "cross_entropy",
    "einsum",
    "elu",
    "embedding",
    "embedding_bag",
    "gelu",
    "glu",
    "group_norm",
    "hardsigmoid",
    "hardswish",
    "huber_loss",
    "instance_norm",
    "kl_div",
    "l1_loss",
    "layer_norm",
    "leaky_relu",
    "lerp",
    "linear",
    "log_softmax",
    "logsumexp",
    "make_exact",
    "matmul",
    "mean",
    "mode",
    "mse_loss",
    "multi_head_attention",
    "nll_loss",
    "norm",
    "normalize",
    "prelu",
    "rms_norm",
    "rules",
    "smooth_l1_loss",
    "softmax",
    "softplus",
    "softsign",
    "std",
    "sum",
    "tanhshrink",
    "tensordot",
    "var",
]
