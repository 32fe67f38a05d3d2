"""What is known of each operator: exact or not, its bound, and the source. One file per family."""

from __future__ import annotations

from roundoff.rules import (  # noqa: F401  (each registers its rules)
    arithmetic,
    attention,
    attention_backward,
    casts,
    convolution,
    convolution_backward,
    distances,
    draws,
    elementwise,
    fft,
    fused,
    grouped,
    indexing,
    interpolation,
    interpolation_backward,
    linear_algebra,
    losses,
    makes,
    matmul,
    movement,
    normalisation,
    normalisation_backward,
    padding_backward,
    pairs,
    piecewise,
    pooling,
    pooling_backward,
    recurrent,
    recurrent_backward,
    reduction,
    selection,
    slopes,
    softmax,
)
from roundoff.rules.registry import all_rules, lookup, register, replace
from roundoff.rules.rule import Call, Limit, Nature, Rule

__all__ = ["Call", "Limit", "Nature", "Rule", "all_rules", "lookup", "register", "replace"]
