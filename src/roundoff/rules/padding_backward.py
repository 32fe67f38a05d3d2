"""The gradients of paddings that repeat or mirror: each element is the sum of those of its copies.

Along an axis an element has at most 1 + before + after copies, over all axes n of them; n - 1 additions in any order are
off by at most γ_n of the sum of absolute values (Higham, Accuracy and Stability, §4.2), which is the same gradient of
absolute values. Kernels add to what is stored, so the roundings are to the format of the result where that is short.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import prod
from typing import Any

import torch
from torch import Tensor

from roundoff.formats import U64
from roundoff.rules.registry import register
from roundoff.rules.rule import Call, Limit, Nature, Rule


def _bound(name: str) -> Callable[[Call], Limit]:
    gradient: Any = getattr(torch.ops.aten, name)

    def bound(call: Call) -> Limit:
        g, x, pads = call.args[:3]
        copies: int = prod(
            1 + max(before, 0) + max(after, 0) for before, after in zip(pads[::2], pads[1::2], strict=True)
        )
        absolute: Tensor = gradient(g.abs(), x, pads)
        limit: Tensor = absolute * call.gamma_out(copies)
        return limit + copies * (2.0**-1074 if call.u == U64 else call.underflow)

    return bound


def _samples(dims: int) -> Any:
    def samples(dtype: torch.dtype, g: torch.Generator) -> Iterable[tuple[tuple[Any, ...], dict[str, Any]]]:
        for pads in ([1, 2, 2, 0, 1, 1][: 2 * dims], [0] * 2 * dims):
            sizes = [4, 5, 4][:dims]
            padded = [n + pads[2 * i] + pads[2 * i + 1] for i, n in enumerate(reversed(sizes))][::-1]
            yield (torch.randn(2, 3, *padded, generator=g).to(dtype), torch.zeros(2, 3, *sizes, dtype=dtype), pads), {}

    return samples


for _dims in (1, 2, 3):
    for _name in (f"reflection_pad{_dims}d_backward", f"replication_pad{_dims}d_backward"):
        register(
            Rule(
                (f"aten.{_name}",),
                Nature.ROUNDS,
                _bound(_name),
                source="Higham, Accuracy and Stability of Numerical Algorithms (2002), §4.2; a sum of the copies' gradients",
                samples=_samples(_dims),
            )
        )
