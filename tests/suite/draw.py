"""Parameters and inputs drawn by name, so that two ways to write a network hold the same numbers."""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

#: Sizes of weights: PyTorch's own default (uniform within 1/sqrt of the inputs), standard normal, tiny, and all equal.
SCALES = ("default", "normal", "tiny", "ones")

Edit = Callable[[Tensor], Tensor]


@dataclass
class Draw:
    """Draws tensors that depend on the seed, the name and the shape alone, whatever order they are asked for in.

    ``edits`` change the drawn tensor of a name: that plants the same change whatever form the network is written in.
    """

    seed: int
    scale: str = "default"
    input_scale: float = 1.0
    dtype: torch.dtype = torch.float32
    edits: dict[str, Edit] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def _generator(self, name: str) -> torch.Generator:
        return torch.Generator().manual_seed(zlib.crc32(f"{self.seed}/{name}".encode()))

    def _normal(self, name: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(shape, generator=self._generator(name), dtype=dtype)

    def _finish(self, name: str, value: Tensor) -> Tensor:
        self.shapes[name] = tuple(value.shape)
        value = value.to(self.dtype)
        return self.edits[name](value) if name in self.edits else value

    def weight(self, name: str, *shape: int, fan: int | None = None) -> Tensor:
        """A weight or bias of the chosen size; ``fan`` is the number of inputs (default: all but the first axis)."""
        fan = math.prod(shape[1:]) if fan is None else fan
        if self.scale == "ones":
            return self._finish(name, torch.ones(shape))
        value = self._normal(name, shape)
        if self.scale == "default":  # inverse of the normal distribution function: uniform
            value = torch.erf(value / math.sqrt(2)) / math.sqrt(fan)
        elif self.scale == "tiny":
            value = value * 1e-3
        return self._finish(name, value)

    def gain(self, name: str, *shape: int) -> Tensor:
        """A positive factor near 1: the gain of a normalisation, a running variance."""
        return self._finish(name, (self._normal(name, shape) * 0.2).exp())

    def shift(self, name: str, *shape: int) -> Tensor:
        """A standard normal offset of a tenth: the bias of a normalisation, a running mean."""
        return self._finish(name, self._normal(name, shape) * 0.1)

    def input(self, name: str, *shape: int) -> Tensor:
        """A standard normal input times ``input_scale``."""
        return (self._normal(name, shape) * self.input_scale).to(self.dtype)

    def tokens(self, name: str, high: int, *shape: int) -> Tensor:
        """Random integers from 0 up to, not including, ``high``."""
        return torch.randint(high, shape, generator=self._generator(name))

    def order(self, name: str, n: int) -> Tensor:
        """A random order of ``n`` things, never the one that they have."""
        found = torch.randperm(n, generator=self._generator(name))
        return found if n < 2 or bool((found != torch.arange(n)).any()) else found.flip(0)


def nudged(ulps: int, position: float) -> Edit:
    """Move one element by ``ulps`` representable numbers; ``position`` in [0, 1) says which."""

    def edit(value: Tensor) -> Tensor:
        flat = value.clone().flatten()
        i = int(position * flat.numel())
        for _ in range(ulps):
            flat[i] = torch.nextafter(flat[i], flat.new_tensor(math.inf))
        return flat.view(value.shape)

    return edit


def transposed(value: Tensor) -> Tensor:
    """A square weight the wrong way round."""
    return value.transpose(0, 1).contiguous()


def swapped_rows(value: Tensor) -> Tensor:
    """The first two output channels exchanged."""
    return torch.cat([value[1:2], value[:1], value[2:]])


def zeroed(value: Tensor) -> Tensor:
    """A parameter that was forgotten."""
    return torch.zeros_like(value)


def dice(*what: object) -> random.Random:
    """A random source of its own for everything that is named alike."""
    return random.Random("/".join(map(str, what)))
