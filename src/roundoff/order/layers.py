"""Whole layers, and networks of them, in the order in which their kernels add."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from roundoff.formats import bits
from roundoff.order.kernels import Shape
from roundoff.order.order import Order
from roundoff.order.reveal import reveal


@dataclass(frozen=True)
class Replayed:
    """The outputs of a network whose layers were added up by software, and the order of each layer."""

    outputs: Tensor
    orders: tuple[Order, ...]

    def matching(self, native: Tensor) -> int:
        """How many outputs have the bits of ``native``."""
        return int((bits(self.outputs) == bits(native)).sum())


def replay_layers(
    form: str,
    layers: Sequence[tuple[Tensor, Tensor]],
    activation: Callable[[Tensor], Tensor],
    x: Tensor,
) -> Replayed:
    """A network of layers w [out, k], b [out] on x [batch, samples, k], with ``activation`` between them: to
    [batch, samples, out]. ``form`` is ``linear``, ``tensordot``, or ``conv``: 1x1 convolutions over an image of height
    samples and width 1.

    The orders are those of the operators at these shapes. Raises RoundoffError where a layer has no one order.
    """
    orders = []
    batch, samples, _ = x.shape
    with torch.no_grad():
        for at, (w, b) in enumerate(layers):
            if at:
                x = activation(x)
            out, k = w.shape
            conv = form == "conv"
            size = {"size": (samples, 1) if conv else (samples,)}
            shape = Shape(k, True, batch, out, x.dtype, "contiguous", size)
            orders.append(reveal("conv2d" if conv else form, shape, None))
            x = orders[-1].replay(x.reshape(-1, k), w.detach(), b.detach()).view(batch, samples, out)
    return Replayed(x, tuple(orders))
