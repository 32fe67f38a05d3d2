"""What kind of work an operator does, in a reader's words: an account is told by these."""

from __future__ import annotations

import re
from functools import cache

from roundoff.rules import Nature, lookup

PRODUCTS = "matrix products and convolutions"
MOVEMENT = "data movement"
CONSTANTS = "rounded constants"
UNKNOWN = "operators without a rule"

#: Why each kind rounds; what it says follows the name and a comma.
WHY = {
    PRODUCTS: "where each kernel adds in its own order and rounds at every addition",
    "attention": "where each kernel adds products and exponentials in its own order",
    "sums, means and pooling": "where each kernel adds in its own order and rounds at every addition",
    "normalisation": "which adds many numbers and takes a root",
    "softmax": "which adds exponentials",
    "recurrent cells": "which add many products at each of their steps",
    "linear algebra": "which solves, decomposes or transforms, with many roundings",
    "interpolation": "which weighs neighbouring numbers",
    "casts": "which round each number once to a shorter format",
    "arithmetic": "which rounds each number once",
    "activations and other functions": "each a few units in the last place off",
    "choices and clamps": "which choose between numbers",
    CONSTANTS: "numbers such as 0.1 that the format cannot hold",
    "random draws": "which the wide run takes as they were drawn",
    MOVEMENT: "which computes nothing",
    UNKNOWN: "of which nothing is known",
}

#: Which names are of which kind, looked up in this order once the rule has not told.
_NAMES = {
    "sums, means and pooling": re.compile(
        r"(nan)?sum|mean|prod|(var|std)(_mean)?|norm|linalg_vector_norm|dist|cum(sum|prod)|trace|.*avg_pool.*|.*_add|"
        r".*reduce|.*embedding_bag.*|.*_loss.*|binary_cross_entropy.*|[cp]dist_forward|euclidean_dist|bincount"
    ),
    "arithmetic": re.compile(
        r"add|r?sub|mul|div|pow|addcmul|addcdiv|addr|lerp|floor_divide|remainder|fmod|(linalg_)?cross|abs|leaky_relu|"
        r"prelu_kernel|ldexp|reciprocal"
    ),
    "attention": re.compile(r".*(scaled_dot_product|multi_head_attention|transformer_encoder_layer).*"),
    "softmax": re.compile(r".*softmax|log(cum)?sumexp"),
    "normalisation": re.compile(r".*(batch|layer|group|rms|weight)_norm.*"),
    "recurrent cells": re.compile(r".*(lstm|gru|rnn).*"),
    "interpolation": re.compile(r"(upsample|grid_sampler).*"),
    "casts": re.compile(r"to_copy|convert_element_type|copy"),
    "linear algebra": re.compile(r"(linalg|fft)_.*|cholesky_.*|geqrf"),
    PRODUCTS: re.compile(r"grouped_mm|trilinear"),
    CONSTANTS: re.compile(r"(new_)?full(_like)?|scalar_tensor|arange|linspace|logspace|.*_window"),
}


def name_of(op: str) -> str:
    """The name that a reader knows.

    >>> name_of("aten._softmax.default"), name_of("aten.relu_.default"), name_of("a rounded constant")
    ('softmax', 'relu', 'a rounded constant')
    """
    return op.split(".")[1].strip("_") if op.count(".") else op


@cache
def family(op: str) -> str:
    """The kind of work that ``op`` does: one of the keys of ``WHY``.

    >>> family("aten.addmm.default"), family("aten.permute.default"), family("aten.relu_.default")
    ('matrix products and convolutions', 'data movement', 'choices and clamps')
    """
    rule, name = lookup(op), name_of(op)
    if rule is None:
        return UNKNOWN if "." in op else CONSTANTS
    if rule.products is not None:
        return PRODUCTS
    if rule.nature is Nature.DRAWS:
        return "random draws"
    if rule.nature is Nature.MAKES:
        return CONSTANTS
    if rule.nature is Nature.EXACT:
        return MOVEMENT if rule.source.startswith("moves") else "choices and clamps"
    for kind, names in _NAMES.items():
        if names.fullmatch(name):
            return kind
    if rule.source.startswith(("moves", "selects")):
        return "choices and clamps"
    return "activations and other functions"
