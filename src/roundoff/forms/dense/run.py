"""What a dense network calls besides PyTorch's own operators: where cells are cut out, and put together again."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from torch import Tensor
from torch.nn.functional import conv1d, conv2d, conv3d, linear

from roundoff.errors import RoundoffError

_CONV = {1: conv1d, 2: conv2d, 3: conv3d}
_MOST_COPIED = 2**25  # elements: 128 MB of float32


def count_cells(image: Tensor, crop: Sequence[int], stride: Sequence[int]) -> tuple[int, ...]:
    """How many crops fit along each of the last axes. Raises RoundoffError for an image that is smaller than one."""
    sizes = image.shape[2:]
    if len(sizes) != len(crop) or any(n < c for n, c in zip(sizes, crop, strict=True)):
        raise RoundoffError(
            f"The dense network was given an image of shape {list(image.shape)}, but its crop is {list(crop)}. "
            "Give [samples, channels, ...] with sizes of at least the crop."
        )
    return tuple((n - c) // t + 1 for n, c, t in zip(sizes, crop, stride, strict=True))


def first(x: Tensor, places: Sequence[int], cells: Sequence[int], steps: Sequence[int], sizes: Sequence[int]) -> Tensor:
    """What the cells cover, from the start: ``sizes`` positions each, ``steps`` apart, along the axes ``places``."""
    for place, n, step, size in zip(places, cells, steps, sizes, strict=True):
        x = x.narrow(place, 0, (n - 1) * step + size)
    return x


def thinned(x: Tensor, places: Sequence[int], steps: Sequence[int]) -> Tensor:
    """Every ``steps``-th position along the axes ``places``."""
    for place, step in zip(places, steps, strict=True):
        x = x[(slice(None),) * place + (slice(None, None, step),)]
    return x


def fold(x: Tensor, places: Sequence[int], cells: Sequence[int], steps: Sequence[int], sizes: Sequence[int]) -> Tensor:
    """Each cell as a sample of its own: [N, ...] to [N * cells, ...], where the axes ``places`` have ``sizes``."""
    windows = {}
    for i, (place, step, size) in enumerate(zip(places, steps, sizes, strict=True)):
        windows[place] = x.dim()
        x = x.unfold(place, size, step).narrow(place, 0, cells[i])
    rest = [windows.get(place, place) for place in range(1, x.dim() - len(windows))]
    x = x.permute(0, *places, *rest)
    n = len(places) + 1
    return x.reshape(x.shape[0] * prod(cells), *x.shape[n:])


def spread(x: Tensor, image: Tensor, cells: Sequence[int]) -> Tensor:
    """Samples that are cells as a map again: [N * cells, ...] to [N, ..., *cells]."""
    x = x.reshape(image.shape[0], *cells, *x.shape[1:])
    n = len(cells)
    return x.permute(0, *range(n + 1, x.dim()), *range(1, n + 1))


def full_kernel(
    x: Tensor, weight: Tensor, bias: Tensor | None, cells: Sequence[int], steps: Sequence[int], sizes: Sequence[int]
) -> Tensor:
    """A layer [out, C * prod(sizes)] on the flatten of each cell: a convolution with the kernel [out, C, *sizes].

    [N, C, ...] to [N * cells, out]. Where there are few cells they are copied out and multiplied at once, which is faster
    than the convolution.
    """
    places = tuple(range(2, x.dim()))
    if x.shape[0] * prod(cells) * weight.shape[1] <= _MOST_COPIED:
        return linear(fold(x, places, cells, steps, sizes).flatten(1), weight, bias)
    y = _CONV[len(sizes)](x, weight.reshape(weight.shape[0], -1, *sizes), bias, stride=tuple(steps))
    ones = (1,) * len(sizes)
    return fold(y, places, cells, ones, ones).flatten(1)


def reshaped(x: Tensor, shape: Sequence[int], kept: Sequence[tuple[int, int]]) -> Tensor:
    """``x`` in another shape. ``kept``: axes of the new shape that have the size of an axis of ``x``."""
    sizes = list(shape)
    for new, old in kept:
        sizes[new] = x.shape[old]
    return x.reshape(sizes)


def several(x: Tensor) -> tuple[Tensor]:
    """``x`` as the first of several outputs."""
    return (x,)
