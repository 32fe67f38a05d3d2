"""Which cells of a dense map are exact: what each position of a crop's feature maps reads, along one axis at a time.

Position q of a feature map of the crop that starts at pixel o lies at o / s + q in the map of the dense network, where s
is the stride so far. Both read the same places, with one exception: where the crop reads its own padding, the dense
network reads pixels, unless that place is padding for it too, at the border of the image. A position is exact where all
that it reads is: the same place of an exact position on both sides, or padding on both sides.

A crop's position has one index per axis. The set of exact positions that is kept is a product of one set per axis: never
more than those that are exact, and fewer only where a window lies in padding altogether.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from roundoff.errors import RoundoffError

#: Places outside of a map: padding, and what lies beyond it, which an average does not count.
_PADDED, _BEYOND = -1, -2


@dataclass(frozen=True)
class Window:
    """Along one axis: output q reads the positions q stride - before + dilation m for m below ``kernel``.

    ``after`` is the padding at the end; ``counted`` is True where a sum knows padding from what lies beyond it.
    """

    size: int
    out: int
    kernel: int
    stride: int
    before: int = 0
    after: int = 0
    dilation: int = 1
    counted: bool = False
    mode: str = "constant"


@dataclass(frozen=True)
class Step:
    """How the exact positions of one feature map come from those of others, ``sources``.

    ``windows``: one per axis; none where positions are joined one by one. ``strides``: those of the source, in pixels.
    ``where``: the layer, in words.
    """

    sources: tuple[int, ...]
    windows: tuple[Window, ...] = ()
    strides: tuple[int, ...] = ()
    where: str = ""


@dataclass(frozen=True)
class Dense:
    """Where the cells of a dense network lie, and which of them are exact.

    Cell (i, j) is the crop of ``crop`` pixels whose first pixel is (i, j) times ``stride``. All in the order of the axes of
    the image, height and width.
    """

    crop: tuple[int, ...]
    stride: tuple[int, ...]
    steps: tuple[Step, ...]
    ends: tuple[int, ...]

    def cells(self, *sizes: int) -> tuple[int, ...]:
        """How many cells an image of these sizes has along each axis: as many as crops fit.

        Raises RoundoffError for other than one size per axis, and for an image smaller than the crop.
        """
        if len(sizes) != len(self.crop) or any(n < c for n, c in zip(sizes, self.crop, strict=True)):
            raise RoundoffError(
                f"An image of {_by(sizes)} was given, but the crop is {_by(self.crop)}. Give one size per axis, "
                "each at least that of the crop."
            )
        return tuple((n - c) // t + 1 for n, c, t in zip(sizes, self.crop, self.stride, strict=True))

    def image(self, *cells: int) -> tuple[int, ...]:
        """The smallest image with so many cells along each axis, in pixels."""
        return tuple(c + (k - 1) * t for c, k, t in zip(self.crop, cells, self.stride, strict=True))

    def offsets(self, *sizes: int) -> Iterator[tuple[int, ...]]:
        """The first pixel of each cell's crop, in the order of the flattened map."""
        counts = self.cells(*sizes)
        for i in torch.cartesian_prod(*map(torch.arange, counts)).reshape(-1, len(counts)).tolist():
            yield tuple(k * t for k, t in zip(i, self.stride, strict=True))

    def mask(self, *sizes: int) -> Tensor:
        """Which cells of an image of these sizes are exact: a bool tensor with one axis per axis of the image.

        In an exact cell the dense network computes what the original computes on the crop. In the others it reads pixels
        where the original, on the crop, reads padding.
        """
        found = torch.ones((), dtype=torch.bool)
        for axis, cells in enumerate(self.cells(*sizes)):
            found = found.unsqueeze(-1) & self._along(axis, cells)
        return found

    def padding(self) -> tuple[str, ...]:
        """The layers whose padding is read by a cell in the middle of an image, which is why it is not exact."""
        found: dict[str, None] = {}
        for i, step in enumerate(self.steps):
            padded = [axis for axis, w in enumerate(step.windows) if _reads_outside(w)]
            if any(not self._along(axis, 3, only=i)[1] for axis in padded):
                found[step.where] = None
        return tuple(found)

    def __str__(self) -> str:
        grid = (3,) * len(self.crop)
        mask, size = self.mask(*self.image(*grid)), _by(self.image(*grid))
        lines = [
            f"crop {_by(self.crop)}, a cell every {_by(self.stride)} pixels; "
            f"{int(mask.sum())} of {mask.numel()} cells of an image of {size} are exact"
        ]
        if not mask.all():
            padding = self.padding()
            more = f", and {len(padding) - 4} more" if len(padding) > 4 else ""
            lines.append(f"padding reaches the output from {', '.join(padding[:4])}{more}" if padding else "")
        return "\n".join(filter(None, lines))

    def _along(self, axis: int, cells: int, only: int | None = None) -> Tensor:
        """Bool [cells]: exact along this axis. ``only``: as if no step but this one had padding."""
        made: list[Tensor] = []
        for i, step in enumerate(self.steps):
            if not step.sources:
                made.append(torch.ones(cells, self.crop[axis], dtype=torch.bool))
            elif step.windows and only not in (None, i):
                made.append(_through(made[step.sources[0]], step.windows[axis]))
            elif step.windows:
                places = torch.arange(cells) * (self.stride[axis] // step.strides[axis])
                made.append(_through(made[step.sources[0]], step.windows[axis], places))
            else:
                joined = made[step.sources[0]]
                for i in step.sources[1:]:
                    joined = joined & made[i]
                made.append(joined)
        found = torch.ones(cells, dtype=torch.bool)
        for end in self.ends:
            found &= made[end].all(1)
        return found


def _through(exact: Tensor, w: Window, places: Tensor | None = None) -> Tensor:
    """Bool [cells, w.out]: of which positions everything that the window reads is exact. ``places``: of the cells' first
    positions in the dense map, which ends where the last cell does; without them padding is taken to be the same."""
    reads = torch.arange(w.out)[:, None] * w.stride - w.before + w.dilation * torch.arange(w.kernel)
    crop = _resolved(reads, w.size, w)
    inside = crop >= 0
    known = torch.cat([exact, torch.ones(len(exact), 1, dtype=torch.bool)], 1)  # the last one: padding
    same = known[:, torch.where(inside, crop, w.size)]
    if places is not None:
        dense = _resolved(places[:, None, None] + reads, int(places[-1]) + w.size, w)
        same &= torch.where(inside, dense == places[:, None, None] + crop, dense == crop)
    return same.all(2)


def _reads_outside(w: Window) -> bool:
    return w.before > 0 or (w.out - 1) * w.stride - w.before + w.dilation * (w.kernel - 1) >= w.size


def _resolved(at: Tensor, size: int, w: Window) -> Tensor:
    """The position that is read at ``at`` of a map of ``size``; negative outside of it."""
    if w.mode == "reflect":
        return (size - 1) - ((size - 1) - at.abs()).abs()
    if w.mode == "replicate":
        return at.clamp(0, size - 1)
    if w.mode == "circular":
        return at % size
    outside = torch.where((at < -w.before) | (at >= size + w.after), _BEYOND, _PADDED) if w.counted else _PADDED
    return torch.where((at >= 0) & (at < size), at, outside)


def _by(sizes: tuple[int, ...]) -> str:
    return " x ".join(map(str, sizes))
