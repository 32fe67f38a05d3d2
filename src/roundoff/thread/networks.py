"""The network of the question in its forms."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

WIDTHS = (256, 64, 128, 256, 4)


class Tensordot(nn.Module):
    """A linear layer written as a tensordot over the last of three dimensions."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width_out, width_in))
        self.bias = nn.Parameter(torch.empty(width_out))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, samples, width_in] to [batch, samples, width_out]."""
        y: Tensor = torch.tensordot(x, self.weight, dims=([2], [1])) + self.bias
        return y


class LinearNetwork(nn.Module):
    """The network with linear layers: [batch, samples, 256] to logits [.., 4] and features [.., 256]."""

    make: Callable[[int, int], nn.Module] = nn.Linear

    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(type(self).make(i, o) for i, o in pairwise(WIDTHS))
        self.activation = activation

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The logits, and the features from which the last layer makes them."""
        *hidden, last = self.layers
        for layer in hidden:
            x = self.activation(layer(x))
        return last(x), x


class TensordotNetwork(LinearNetwork):
    """The same with tensordot."""

    make = Tensordot


class ConvNetwork(LinearNetwork):
    """The same with 1x1 convolutions, the samples being the height of an image of width 1."""

    @staticmethod
    def make(width_in: int, width_out: int) -> nn.Module:
        """A 1x1 convolution."""
        return nn.Conv2d(width_in, width_out, kernel_size=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The same outputs, permuted back."""
        logits, features = super().forward(to_image(x))
        return from_image(logits), from_image(features)


FORMS: dict[str, type[LinearNetwork]] = {"conv": ConvNetwork, "tensordot": TensordotNetwork}


def to_image(x: Tensor) -> Tensor:
    """[batch, samples, width] to [batch, width, samples, 1]."""
    return x.unsqueeze(3).permute(0, 2, 1, 3)


def from_image(x: Tensor) -> Tensor:
    """[batch, width, samples, 1] to [batch, samples, width]."""
    return x.permute(0, 2, 1, 3).squeeze(3)


def with_weights_of(source: nn.Module, module: nn.Module) -> nn.Module:
    """``module`` with the parameters of ``source``, in order, bit for bit."""
    with torch.no_grad():
        for p, q in zip(source.parameters(), module.parameters(), strict=True):
            q.copy_(p.reshape(q.shape))
    return module.to(next(source.parameters()).device)
