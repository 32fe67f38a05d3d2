"""What is compared to prove a dense network: it at the crop's size, and its exact cells on a larger image, each with the
original on that crop."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from roundoff.forms.dense.receptive import Dense
from roundoff.forms.second import second_input


class AtCrop(nn.Module):
    """A dense network on an image of the crop's size: the outputs of the original. ``ranks``: how many axes they have."""

    def __init__(self, model: nn.Module, ranks: tuple[int, ...]) -> None:
        super().__init__()
        self.model, self.ranks = model, ranks
        self.train(model.training)

    def forward(self, image: Tensor) -> Any:
        """Its one cell."""
        leaves, spec = tree_flatten(self.model(image))
        ranks = iter(self.ranks)
        cells = [x.reshape(x.shape[: next(ranks)]) if isinstance(x, Tensor) else x for x in leaves]
        return tree_unflatten(cells, spec)


class Crops(nn.Module):
    """The original on the crops of an image at ``offsets``, one after the other as samples."""

    def __init__(self, model: nn.Module, crop: tuple[int, ...], offsets: list[tuple[int, ...]]) -> None:
        super().__init__()
        self.model, self.crop, self.offsets = model, crop, offsets
        self.train(model.training)

    def forward(self, image: Tensor) -> Any:
        """[crops * N, ...]."""
        crops = []
        for offset in self.offsets:
            x = image
            for axis, (start, size) in enumerate(zip(offset, self.crop, strict=True)):
                x = x.narrow(axis + 2, start, size)
            crops.append(x)
        return self.model(torch.cat(crops))


class ExactCells(nn.Module):
    """The cells of a dense network that ``mask`` has, in the order of :class:`Crops`."""

    def __init__(self, model: nn.Module, ranks: tuple[int, ...], mask: Tensor) -> None:
        super().__init__()
        self.model, self.ranks, self.mask = model, ranks, mask
        self.train(model.training)

    def forward(self, image: Tensor) -> Any:
        """[cells * N, ...]."""
        leaves, spec = tree_flatten(self.model(image))
        ranks, dims = iter(self.ranks), self.mask.dim()

        def chosen(x: Tensor) -> Tensor:
            ones = [1] * dims if next(ranks) == x.dim() else []  # [N, K, 1, 1] in the original
            cells = x.flatten(-dims)[..., self.mask.flatten().to(x.device)].movedim(-1, 0).flatten(0, 1)
            return cells.reshape(*cells.shape, *ones)

        return tree_unflatten([chosen(x) if isinstance(x, Tensor) else x for x in leaves], spec)


def larger(image: Tensor, dense: Dense, cells: tuple[int, ...]) -> Tensor:
    """One image with so many cells, drawn from the values of the first sample of ``image``."""
    x = image[:1]
    for axis, size in enumerate(dense.image(*cells)):
        x = torch.cat([x] * -(-size // x.shape[axis + 2]), axis + 2).narrow(axis + 2, 0, size)
    drawn: Tensor = second_input((x,))[0]
    return drawn
