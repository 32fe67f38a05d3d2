"""Where in an output two networks differ: its elements as a picture of few cells."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from roundoff.formats import is_inexact, widen
from roundoff.records import Output


@dataclass(frozen=True)
class HeatMap:
    """The largest |A - B| of the elements that fall into each cell; infinite where one side alone is not finite.

    ``cells`` is float64 of at most 128 x 128, ``extent`` the rows and columns of the output they stand for: its last
    dimension across, all others, in order, down.
    """

    name: str
    shape: tuple[int, ...]
    extent: tuple[int, int]
    cells: NDArray[np.float64]


def most_different(outputs: Iterable[Output]) -> Output | None:
    """The output whose largest difference is largest relative to its values; None without outputs."""

    def size(o: Output) -> float:
        relative = o.max_abs / (o.value_abs or 1.0)
        return float("inf") if relative != relative else relative

    return max(outputs, key=size, default=None)


def heat_map(name: str, a: Tensor, b: Tensor, most: int = 128) -> HeatMap:
    """The difference of ``a`` and ``b``, the native values of one output, in at most ``most`` x ``most`` cells.

    ``a`` and ``b`` have the same shape, any dtype, and lie on any device.
    """
    gap = _gap(a, b)
    across = a.shape[-1] if a.dim() else 1
    down = prod(a.shape[:-1])
    cells = _fewer(_fewer(gap.reshape(down, across), 0, most), 1, most)
    return HeatMap(name, tuple(a.shape), (down, across), cells)


def heat_of(outputs: Iterable[Output], natives: Mapping[str, tuple[Tensor, Tensor]]) -> HeatMap | None:
    """The heat map of the output that differs most; ``natives`` are the values of A and B by the name of the output."""
    output = most_different(outputs)
    return heat_map(output.name, *natives[output.name]) if output is not None and output.name in natives else None


def _gap(a: Tensor, b: Tensor) -> NDArray[np.float64]:
    x, y = (_plain(t) for t in (a, b))
    same = (x == y) | ((x != x) & (y != y))
    gap = torch.where(same, 0.0, (x - y).abs().double())
    return gap.nan_to_num(nan=float("inf"), posinf=float("inf")).numpy()


def _plain(x: Tensor) -> Tensor:
    x = x.detach().cpu()
    x = x if x.layout is torch.strided else x.to_dense()
    return widen(x).resolve_conj() if is_inexact(x.dtype) else x.double()


def _fewer(x: NDArray[np.float64], axis: int, most: int) -> NDArray[np.float64]:
    """The maximum of each of ``most`` stretches along ``axis``, as even as they can be."""
    n = x.shape[axis]
    if n <= most:
        return x
    starts = np.arange(most) * n // most
    return np.maximum.reduceat(x, starts, axis=axis)
