"""The gradients of poolings: each element is the sum of the gradients of the windows that hold it.

    mean      g_x[p] = sum over windows w with p in w of g[w] / |w|
    maximum   g_x[p] = sum over windows w that chose p of g[w]

With n windows for an element, n - 1 additions in any order are off by at most γ_{n-1} of the sum of absolute values
(Higham, Accuracy and Stability, §4.2), which is the same gradient of absolute values; a mean divides once, or once along
each axis, or by reciprocals and their products. Kernels add to what is stored, so the roundings are to the format of the
result where that is short.

n is counted: it is the gradient of ones where no window divides. An adaptive pooling of N to M has the window
[floor(iN/M), ceil((i+1)N/M)) for each i, so that p is in those with i in the open interval (pM/N - 1, (p+1)M/N): at most
ceil(M/N) + 1 of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil, prod
from typing import Any

import torch
from torch import Tensor

from roundoff.formats import U64
from roundoff.rules.registry import register
from roundoff.rules.rule import Call, Limit, Nature, Rule
from roundoff.rules.samples import Given, Operands, given

_SOURCE = "Higham, Accuracy and Stability of Numerical Algorithms (2002), §4.2; a sum of the windows' gradients"
aten = torch.ops.aten


def _limit(call: Call, windows: int, divisions: int) -> Limit:
    """γ of the roundings of an element in ``windows`` windows, and what underflows in each."""
    if windows + divisions < 2:
        return 0.0  # one gradient, as it is
    absolute: Tensor = call.op(call.args[0].abs(), *call.args[1:], **call.kwargs).abs()
    limit = absolute * call.gamma_out(windows - 1 + divisions)
    return limit + windows * (2.0**-1074 if call.u == U64 else call.underflow)


def _largest(counts: Tensor) -> int:
    return int(counts.amax()) if counts.numel() else 0


def _mean(call: Call) -> Limit:
    g, *rest = call.args[:7]
    return _limit(call, _largest(call.op(torch.ones_like(g), *rest, 1)), 2)


def _adaptive_mean(call: Call) -> Limit:
    g, x = call.args
    dims = 3 if "3d" in str(call.op) else 2
    sizes = zip(g.shape[-dims:], x.shape[-dims:], strict=True)
    return _limit(call, prod(ceil(m / n) + 1 for m, n in sizes), 2 * dims)


def _maximum(call: Call) -> Limit:
    return _limit(call, _largest(call.op(torch.ones_like(call.args[0]), *call.args[1:], **call.kwargs)), 0)


def _images(r: Operands, *shape: int) -> Iterable[Tensor]:
    x = r.wild(*shape, decades=2)
    yield x
    yield x.contiguous(memory_format=torch.channels_last if len(shape) == 4 else torch.channels_last_3d)
    yield x[0]


def _gradients(x: Tensor, y: Tensor, r: Operands) -> Tensor:
    """The gradient of ``y`` in the memory layout of ``x``."""
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(x.dim(), torch.contiguous_format)
    g = r.normal(*y.shape)
    return g if x.is_contiguous() else g.contiguous(memory_format=last)


def _means(*shape: int) -> Given:
    def cases(r: Operands) -> Iterable[Any]:
        dims = len(shape) - 2
        pool = getattr(aten, f"avg_pool{dims}d").default
        for x in _images(r, *shape):
            for kernel, stride, pad, *how in ((3, 2, 0, False, True), (3, 1, 1, True, False), (2, 2, 0, False, True)):
                window = [kernel] * dims, [stride] * dims, [pad] * dims, *how
                yield _gradients(x, pool(x.double(), *window), r), x, *window, None
            window = [2] * dims, [2] * dims, [0] * dims, False, True
            yield _gradients(x, pool(x.double(), *window), r), x, *window, -3  # a divisor of its own

    return cases


def _adaptive(*shape: int) -> Given:
    def cases(r: Operands) -> Iterable[Any]:
        dims = len(shape) - 2
        for x in _images(r, *shape):
            for size in ([1] * dims, [3, 2, 4][:dims], [13, 4, 9][:dims]):
                yield _gradients(x, x.new_empty(*x.shape[:-dims], *size), r), x

    return cases


def _maxima(*shape: int) -> Given:
    def cases(r: Operands) -> Iterable[Any]:
        dims = len(shape) - 2
        pool = getattr(aten, f"max_pool{dims}d_with_indices").default
        for x in _images(r, *shape):
            for kernel, stride, pad, dilation in ((3, 1, 1, 1), (2, 2, 0, 1), (2, 1, 0, 2)):
                window = [kernel] * dims, [stride] * dims, [pad] * dims, [dilation] * dims, False
                y, indices = pool(x.float(), *window)
                yield _gradients(x, y, r), x, *window, indices

    return cases


def _adaptive_maxima(*shape: int) -> Given:
    def cases(r: Operands) -> Iterable[Any]:
        dims = len(shape) - 2
        for x in _images(r, *shape):
            for size in ([3, 2, 4][:dims], [13, 4, 9][:dims]):
                y, indices = getattr(aten, f"adaptive_max_pool{dims}d").default(x.float(), size)
                yield _gradients(x, y, r), x, indices

    return cases


for _dims, _shape in {2: (2, 3, 9, 11), 3: (1, 2, 5, 6, 7)}.items():
    for _name, _bound, _cases in (
        (f"avg_pool{_dims}d_backward", _mean, _means(*_shape)),
        (f"_adaptive_avg_pool{_dims}d_backward", _adaptive_mean, _adaptive(*_shape)),
        (f"max_pool{_dims}d_with_indices_backward", _maximum, _maxima(*_shape)),
        (f"adaptive_max_pool{_dims}d_backward", _maximum, _adaptive_maxima(*_shape)),
    ):
        register(Rule((f"aten.{_name}",), Nature.ROUNDS, _bound, source=_SOURCE, samples=given(_cases)))
