"""Changes of format: each number is rounded once, or not at all where the new format holds it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from roundoff.rules.registry import register
from roundoff.rules.rule import Nature, Rule
from roundoff.rules.samples import Operands, given

_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def _to_copy(r: Operands) -> Iterable[tuple[Any, ...]]:
    for dtype in _FLOATS:
        yield r.wild(3, 37, decades=2), {"dtype": dtype}
    yield r.integers(1000, 5), {"dtype": r.dtype}
    yield r.wild(2, 3, 4, 5), {"memory_format": torch.channels_last}


def _copy(r: Operands) -> Iterable[tuple[Any, ...]]:
    for dtype in _FLOATS:
        yield r.normal(3, 37), r.wild(37, decades=2).to(dtype)


register(
    Rule(
        ("aten._to_copy",),
        Nature.ROUNDS,
        source="IEEE 754: one rounding to the new format",
        assumes="the new format does not overflow",
        samples=given(_to_copy),
    )
)
register(
    Rule(
        ("prims.convert_element_type",),
        Nature.ROUNDS,
        source="IEEE 754: one rounding to the new format",
        assumes="the new format does not overflow",
        samples=given(lambda r: [(r.wild(3, 37, decades=2), dtype) for dtype in _FLOATS]),
    )
)
register(
    Rule(
        ("aten.copy",),
        Nature.ROUNDS,
        source="IEEE 754: one rounding to the format that is written to",
        assumes="the new format does not overflow",
        samples=given(_copy),
    )
)
