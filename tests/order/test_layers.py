from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from roundoff.order.layers import replay_layers


@pytest.mark.parametrize("form", ["linear", "tensordot", "conv"])
def test_a_network_is_replayed_to_the_bit(form: str) -> None:
    layers = [(torch.randn(32, 24), torch.randn(32)), (torch.randn(16, 32), torch.randn(16))]
    activation, x = nn.Sigmoid(), torch.randn(8, 2, 24)

    def network(x: torch.Tensor) -> torch.Tensor:
        for at, (w, b) in enumerate(layers):
            x = activation(x) if at else x
            if form == "linear":
                x = F.linear(x, w, b)
            elif form == "tensordot":
                x = torch.tensordot(x, w, dims=([2], [1])) + b
            else:
                image = x.permute(0, 2, 1).unsqueeze(3).contiguous()
                x = F.conv2d(image, w[:, :, None, None], b).squeeze(3).permute(0, 2, 1).contiguous()
        return x

    found = replay_layers(form, layers, activation, x)
    if not all(o.certified for o in found.orders):
        pytest.skip("a kernel of this machine adds in no certified order")
    assert found.matching(network(x)) == 8 * 2 * 16
    wrong = replay_layers(form, [layers[0], (layers[1][0], layers[1][1] + 1)], activation, x)
    assert wrong.matching(network(x)) == 0
