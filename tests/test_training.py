"""Training steps in one batch and in two: the gradients are the same function, and their kernels are right."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from roundoff import compare

Gradients = Callable[[Tensor], dict[str, Tensor]]

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "encoder": (lambda: nn.TransformerEncoderLayer(16, 4, 32, 0.0, "gelu", batch_first=True), (4, 7, 16)),
    "lstm": (lambda: nn.LSTM(16, 12, batch_first=True), (4, 7, 16)),
    "gru": (lambda: nn.GRU(16, 12, batch_first=True), (4, 7, 16)),
    "convolutions": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.ConvTranspose2d(8, 4, 3, 2), nn.GELU("tanh")),
        (4, 3, 9, 9),
    ),
    "norms": (
        lambda: nn.Sequential(nn.Linear(16, 32), nn.LayerNorm(32), nn.Tanh(), nn.RMSNorm(32), nn.Linear(32, 4)),
        (64, 16),
    ),
    "upsampled": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Upsample(scale_factor=2, mode="bilinear")),
        (4, 3, 9, 9),
    ),
    "weight norm": (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(16, 8)), (64, 16)),
}


def gradients(network: nn.Module, parts: int) -> Gradients:
    def call(x: Tensor) -> dict[str, Tensor]:
        outs = [network(part) for part in x.chunk(parts)]
        y = torch.cat([out if isinstance(out, Tensor) else out[0] for out in outs])
        given = torch.linspace(-1, 1, y.numel()).to(y.dtype).reshape(y.shape)
        names, parameters = zip(*network.named_parameters(), strict=True)
        return dict(zip(names, torch.autograd.grad(y, parameters, given), strict=True))

    return call


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NETWORKS)
def test_two_batches_give_the_gradients_of_one(name: str, dtype: torch.dtype) -> None:
    make, shape = NETWORKS[name]
    network = make().to(dtype)
    c = compare(gradients(network, 1), gradients(network, 2), torch.randn(*shape).to(dtype))
    assert c, c.reason


def test_a_gradient_that_misses_a_batch_is_different() -> None:
    make, shape = NETWORKS["norms"]
    network, x = make(), torch.randn(*shape)
    assert compare(gradients(network, 1), lambda x: gradients(network, 1)(x[:63]), x).verdict == "different"
