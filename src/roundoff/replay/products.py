"""Large products at a lower price: where float32 is enough for a second one."""

from __future__ import annotations

from math import frexp
from typing import Any

import torch
from torch import Tensor

from roundoff.rules import Rule
from roundoff.rules.rule import Products
from roundoff.tape.leaves import map_operands
from roundoff.tape.watch import Step

_ATEN = torch.ops.aten

#: Multiplications from which on it pays.
_LARGE = 1 << 22


def is_large_product(rule: Rule | None, dtype: torch.dtype, work: float) -> bool:
    """True for a step that sums products in float32, ``work`` of them, where float32 computes in float32 on this machine."""
    large = rule is not None and rule.products is not None and dtype == torch.float32 and work >= _LARGE
    return large and torch.get_float32_matmul_precision() == "highest"


def work_of(products: Products, out: Tensor) -> float:
    """How many multiplications a step makes."""
    return float(out.numel()) * products.terms


def power_of_two(size: float) -> float:
    """The power of two at ``size``; 1 where that is 0 or not finite."""
    return 2.0 ** frexp(size)[1] if 0 < size < float("inf") else 1.0


def corrected(step: Step, products: Products, moved: Tensor, size: float, which: Tensor) -> Tensor:
    """What ``moved``, the error that the operand ``which`` inherited, makes of the result: the product with it in its place.

    ``size`` is the largest magnitude in ``moved``, which is overwritten. The step is linear in that operand; what is added
    to the product does not count. Float32 gives it to float32's digits, and it is itself no larger than a few roundings:
    together the result is good to 2^-45 or so.
    """
    scale = power_of_two(size)
    short = moved.div_(scale).float()

    def part(x: Any) -> Any:
        if x is which:
            return short
        return torch.zeros_like(x) if isinstance(x, Tensor) and x is not products.x and x is not products.w else x

    out: Tensor = step.op(*map_operands(part, step.args), **map_operands(part, step.kwargs))
    return out.double().mul_(scale)


def pulled_back(
    op: Any, args: tuple[Any, ...], kwargs: dict[str, Any], leaves: list[Tensor], g: Tensor
) -> tuple[Tensor | None, ...] | None:
    """⟨g, product⟩ differentiated by each of ``leaves``, without the product itself; None for other operators than these."""
    if kwargs or any(sum(x is leaf for x in args) != 1 for leaf in leaves):
        return None
    wanted = [any(x is leaf for leaf in leaves) for x in args]
    with torch.no_grad():
        if op is _ATEN.convolution.default:
            bias = None if args[2] is None else list(args[2].shape)
            found = _ATEN.convolution_backward(g, args[0], args[1], bias, *args[3:], wanted[:3])
        elif op in (_ATEN.mm.default, _ATEN.bmm.default, _ATEN.addmm.default):
            x, w = args[-2:]
            product = torch.bmm if op is _ATEN.bmm.default else torch.mm
            found = (product(g, w.mT) if wanted[-2] else None, product(x.mT, g) if wanted[-1] else None)
            if op is _ATEN.addmm.default:
                found = (g.sum_to_size(args[0].shape) if wanted[0] else None, *found)
        else:
            return None
    return tuple(next(d for x, d in zip(args, found, strict=False) if x is leaf) for leaf in leaves)
