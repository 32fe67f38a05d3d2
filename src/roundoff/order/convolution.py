"""Convolutions as sums of products: windows of the image against rows of weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from roundoff.errors import RoundoffError
from roundoff.order.kernel import TINY, Kernel, Operands, draw_rows, normal, opposites, scale_of

TILE = 8  # what Winograd transforms at once reaches less far than this
MOST = 2**22  # numbers in the windows that are drawn: of more windows a part is drawn

#: Takes an image [batch, channels, *size], weights [out, channels of a group, *window] and a bias [out], contiguous; lays
#: them out and convolves.
Call = Callable[[Tensor, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class Convolution:
    """The shape of a convolution: ``channels`` and ``cols`` are those of one group, the tuples one number a dimension."""

    batch: int
    channels: int
    cols: int
    size: tuple[int, ...]
    window: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1

    @property
    def reach(self) -> tuple[int, ...]:
        """How far the window reaches."""
        return tuple(d * (n - 1) + 1 for d, n in zip(self.dilation, self.window, strict=True))

    @property
    def outs(self) -> tuple[int, ...]:
        """The size of the result."""
        parts = zip(self.size, self.padding, self.reach, self.stride, strict=True)
        return tuple((n + 2 * p - r) // s + 1 for n, p, r, s in parts)

    @property
    def products(self) -> int:
        """How many products each output adds."""
        return self.channels * math.prod(self.window)

    @property
    def middle(self) -> tuple[int, ...]:
        """A place of the result whose window lies inside the image. Raises RoundoffError where there is none."""
        found = []
        for n, p, r, s, out in zip(self.size, self.padding, self.reach, self.stride, self.outs, strict=True):
            inside = [m for m in range(out) if m * s - p >= 0 and m * s - p + r <= n]
            if not inside:
                raise RoundoffError(f"The window lies nowhere inside the image of {self.size}: make size larger.")
            found.append(min(inside, key=lambda m: abs(m - out // 2)))
        return tuple(found)


def kernel_of_convolution(name: str, conv: Convolution, bias: bool, dtype: torch.dtype, call: Call) -> Kernel:
    """The convolution as a :class:`Kernel`: its rows are the windows, those of all groups, channels first.

    All groups have the same weights. Of a window of more than one place, or one that does not go everywhere, masks are
    put into the one in the middle of the image; real operands into all.
    """
    k, cols, groups, channels = conv.products, conv.cols, conv.groups, conv.channels
    ones = math.prod(conv.window) == 1
    everywhere = ones and set(conv.stride) == {1} and set(conv.padding) == {0}
    places = math.prod(conv.size) if everywhere else 1
    dims, middle = len(conv.size), conv.middle

    def whole(image: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        """The outputs, [batch, groups, cols, *outs]."""
        weight = w.view(cols, channels, *conv.window).repeat(groups, *[1] * (dims + 1))
        y: Tensor = call(image, weight, None if b is None else b.repeat(groups)).unflatten(1, (groups, cols))
        return y

    def run(x: Tensor, w: Tensor | None, b: Tensor | None) -> Tensor:
        assert w is not None
        image = torch.zeros(conv.batch, groups, channels, *conv.size, dtype=dtype)
        if everywhere:
            image.copy_(x.view(conv.batch, groups, places, channels).transpose(2, 3).reshape(image.shape))
            return whole(image.flatten(1, 2), w, b).flatten(3).transpose(2, 3).reshape(-1, cols)
        parts = zip(middle, conv.stride, conv.padding, conv.reach, conv.dilation, strict=True)
        inside: Any = (Ellipsis, *(slice(m * s - p, m * s - p + r, d) for m, s, p, r, d in parts))
        image[inside] = x.view(conv.batch, groups, channels, *conv.window)
        return whole(image.flatten(1, 2), w, b)[_at(middle)].reshape(-1, cols)

    def draw(seed: int, cancel: bool) -> tuple[Operands, Tensor]:
        if cancel and channels == 1:  # opposites lie in other channels; here they must lie in the window
            operands = draw_rows(seed, dtype, conv.batch * groups * places, cols, k, bias, cancel)
            return operands, run(*operands)
        drawn = normal(seed, dtype)
        image = drawn(conv.batch, groups, channels, *conv.size)
        w, b = drawn(cols, channels, k // channels), drawn(cols) if bias else None
        if cancel:
            first, second, rest = opposites(seed, channels)
            scale = scale_of(dtype, k, products=True)
            image, w = image * scale, w * scale
            image[:, :, second] = image[:, :, first]
            image[:, :, rest] *= TINY[dtype]
            w[:, second] = -w[:, first]
            b = None if b is None else b * (scale**2 * TINY[dtype])
        image, w = image.flatten(1, 2), w.flatten(1)
        y = whole(image, w, b).flatten(3).transpose(2, 3).reshape(-1, cols)
        chosen = None
        if len(y) * k > MOST:  # the same ones on each draw: an output must have the same order on all of them
            count = max(8, MOST // k)
            chosen = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))[:count].sort().values
        return (_windows(conv, image, chosen), w, b), y if chosen is None else y[chosen]

    def spills() -> bool | None:
        image = torch.zeros(conv.batch, groups * channels, *conv.size, dtype=dtype)
        pixel = tuple(n // 2 for n in conv.size)
        image[_at(pixel)] = normal(0, dtype)(1)
        y = whole(image, normal(1, dtype)(cols, k), None).flatten(0, 2)
        far = torch.zeros(conv.outs, dtype=torch.bool)
        for i, (p, n, s, pad, r) in enumerate(
            zip(pixel, conv.outs, conv.stride, conv.padding, conv.reach, strict=True)
        ):
            start = torch.arange(n) * s - pad  # the window goes from here to start + r
            apart = (start + r + TILE <= p) | (start - TILE > p)
            far |= apart.view([-1 if d == i else 1 for d in range(dims)])
        return bool((y[:, far] != 0).any()) if bool(far.any()) else None

    return Kernel(name, k, bias, conv.batch * groups * places, cols, dtype, run, draw, spills=spills)


def _at(place: tuple[int, ...]) -> Any:
    """The index of one place of an image."""
    return (Ellipsis, *place)


def _windows(conv: Convolution, image: Tensor, chosen: Tensor | None) -> Tensor:
    """[batch x groups x outputs, channels x places of the window], zeros where the window reaches over the edge; all of
    them or the ``chosen`` ones."""
    padded = F.pad(image, [p for p in reversed(conv.padding) for _ in (0, 1)])
    padded = padded.unflatten(1, (conv.groups, conv.channels))
    count, dims = math.prod(conv.outs), len(conv.outs)
    rows = torch.arange(conv.batch * conv.groups * count) if chosen is None else chosen
    batch, group = rows // count // conv.groups, rows // count % conv.groups
    at = torch.unravel_index(rows % count, conv.outs)
    offsets = torch.cartesian_prod(*[torch.arange(n) for n in conv.window]).view(-1, dims)
    places = [
        (a[:, None] * s + offsets[:, i][None] * d)[:, None, :]
        for i, (a, s, d) in enumerate(zip(at, conv.stride, conv.dilation, strict=True))
    ]
    channels = torch.arange(conv.channels)[None, :, None]
    found: Tensor = padded[(batch[:, None, None], group[:, None, None], channels, *places)]
    return found.reshape(len(rows), -1)
