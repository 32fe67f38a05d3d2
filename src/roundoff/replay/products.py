"""Large products at a lower price: where float32 is enough for a second one."""

from __future__ import annotations

from math import frexp
from typing import Any

import torch
from torch import Tensor

from roundoff.rules import Rule
from roundoff.rules.rule import Products
from roundoff.tape.leaves import map_operands

#: Multiplications from which on it pays.
_LARGE = 1 << 22


def is_large_product(rule: Rule | None, dtype: torch.dtype, work: float) -> bool:
    """True for a step that sums products in float32, ``work`` of them, where float32 computes in float32 on this machine."""
    large = rule is not None and rule.products is not None and dtype == torch.float32 and work >= _LARGE
    return large and torch.get_float32_matmul_precision() == "highest"


def work_of(products: Products, out: Tensor) -> float:
    """How many multiplications a step makes."""
    return float(out.numel()) * products.terms


def power_of_two(x: Tensor) -> float:
    """The power of two at the largest magnitude of ``x``; 1 where that is 0 or not finite."""
    largest = float(torch.linalg.vector_norm(x.flatten(), float("inf"))) if x.numel() else 0.0
    return 2.0 ** frexp(largest)[1] if 0 < largest < float("inf") else 1.0


def corrected(
    step_op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], products: Products, moved: Tensor, which: Tensor
) -> Tensor:
    """What ``moved``, the error that the operand ``which`` inherited, makes of the result: the product with it in its place.

    The step is linear in that operand; what is added to the product does not count. Float32 gives it to float32's digits,
    and it is itself no larger than a few roundings: together the result is good to 2^-45 or so.
    """
    scale = power_of_two(moved)
    short = (moved / scale).float()

    def part(x: Any) -> Any:
        if x is which:
            return short
        return torch.zeros_like(x) if isinstance(x, Tensor) and x is not products.x and x is not products.w else x

    out: Tensor = step_op(*map_operands(part, args), **map_operands(part, kwargs))
    return out.double().mul_(scale)
