"""Average pooling: the mean of a window. Maximum pooling selects (see ``selection``)."""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil, prod
from typing import Any

import torch
from torch import Tensor

from roundoff.rules.registry import register
from roundoff.rules.rule import Call, Limit, Nature, Rule
from roundoff.rules.samples import Operands, given

_SOURCE = "Higham, Accuracy and Stability of Numerical Algorithms (2002), §4.2"


def of_sizes(call: Call) -> Tensor:
    """The same operator on the sizes of its first operand: a mean of |x|."""
    result: Tensor = call.op(call.args[0].abs(), *call.args[1:], **call.kwargs)
    return result


def _window(call: Call) -> Limit:
    size = call.args[1]
    dims = call.args[0].dim() - 2
    window = prod(size) if len(size) > 1 else size[0] ** max(dims, 1)
    return of_sizes(call).mul_(call.gamma(window + 2)).add_(call.out[0].abs() * call.gamma_out(1))


def _adaptive(call: Call) -> Limit:
    sizes = call.args[1]
    space = call.args[0].shape[-len(sizes) :]
    window = prod(ceil(n / m) + 1 for n, m in zip(space, sizes, strict=True) if m)
    # the three-dimensional kernel sums in the format of the output
    gamma = call.gamma_out(window + 2) if len(sizes) == 3 else call.gamma(window + 2)
    return of_sizes(call).mul_(gamma).add_(call.out[0].abs() * call.gamma_out(1))


def _images(r: Operands, *shape: int) -> Iterable[Tensor]:
    x = r.normal(*shape)
    yield x
    yield r.normal(*shape, shift=30)
    yield r.wild(*shape, decades=2)
    if len(shape) in (4, 5):
        yield x.contiguous(memory_format=torch.channels_last if len(shape) == 4 else torch.channels_last_3d)


def _avg(*shape: int) -> Any:
    def cases(r: Operands) -> Iterable[Any]:
        dims = len(shape) - 2
        for x in _images(r, *shape):
            yield x, [3] * dims, [2] * dims
            yield x, [2] * dims, [1] * dims, [1] * dims, True, False
            yield x, [3] * dims, [3] * dims, [1] * dims, True, True

    return given(cases)


def _ada(*shape: int) -> Any:
    def cases(r: Operands) -> Iterable[Any]:
        for x in _images(r, *shape):
            yield x, [1] * (len(shape) - 2)
            yield x, [3, 2, 4][: len(shape) - 2]

    return given(cases)


for _dims, _shape in {2: (2, 3, 9, 11), 3: (1, 2, 5, 6, 7)}.items():
    register(
        Rule((f"aten.avg_pool{_dims}d",), Nature.ROUNDS, _window, source=_SOURCE, samples=_avg(*_shape)),
    )
    register(
        Rule((f"aten._adaptive_avg_pool{_dims}d",), Nature.ROUNDS, _adaptive, source=_SOURCE, samples=_ada(*_shape))
    )
