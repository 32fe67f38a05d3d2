"""Networks that were trained on scikit-learn's digits: in both forms and back, and training that goes on in the other."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import roundoff
from roundoff.forms import rewrite

datasets = pytest.importorskip(
    "sklearn.datasets", reason="scikit-learn is not installed: pip install roundoff[examples]"
)


def fully_connected() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def pointwise() -> nn.Module:
    """The same, as it is written with convolutions."""
    layers = [nn.Unflatten(1, (64, 1, 1)), nn.Conv2d(64, 32, 1), nn.ReLU(), nn.Conv2d(32, 10, 1)]
    return nn.Sequential(nn.Flatten(), *layers, nn.Flatten())


def lenet() -> nn.Module:
    """Its last convolution covers its whole input, as in LeNet-5, so that each form has layers of the other."""
    convs = [nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(5), nn.Conv2d(6, 24, 5), nn.ReLU()]
    return nn.Sequential(*convs, nn.Flatten(), nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 10))


NETS: dict[str, tuple[Callable[[], nn.Module], str, int]] = {
    "fully connected": (fully_connected, "conv", 2),
    "fully connected, by convolutions": (pointwise, "linear", 2),
    "LeNet to conv": (lenet, "conv", 2),
    "LeNet to linear": (lenet, "linear", 1),
}


@cache
def digits() -> tuple[Tensor, Tensor]:
    found = datasets.load_digits()
    return torch.tensor(found.images, dtype=torch.float32)[:, None] / 16, torch.tensor(found.target)


@cache
def trained(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    net, (x, y) = make(), digits()
    optimiser = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(60):
        optimiser.zero_grad()
        F.cross_entropy(net(x[:400]), y[:400]).backward()
        optimiser.step()
    optimiser.zero_grad()
    return net.eval()


@pytest.mark.parametrize("name", list(NETS))
def test_there_and_back_bit_for_bit(name: str) -> None:
    make, to, count = NETS[name]
    net, (x, y) = trained(make), digits()
    assert (net(x[1000:]).argmax(1) == y[1000:]).float().mean() > 0.85  # it has learned something
    done = roundoff.convert(net, x[1000:1064], to)
    assert len(done.converted) == count and done.comparison and done.second
    back = roundoff.convert(done.model, x[1000:1064], "linear" if to == "conv" else "conv")
    assert [repr(m) for m in done.model] != [repr(m) for m in net]
    state = net.state_dict()
    for key, value in done.state_dict_from(done.model.state_dict()).items():
        assert torch.equal(value, state[key])
    names = {c.module for c in done.converted}
    for module in names:  # the layers that were rewritten are PyTorch's own again, with the same bits
        was, now = net.get_submodule(module), back.model.get_submodule(module)
        assert repr(now) == repr(was)
        for p, q in zip(was.parameters(), now.parameters(), strict=True):
            assert torch.equal(p, q)


def training(model: nn.Module, like: nn.Module, y: Tensor) -> Any:
    """Steps with momentum of a copy: the loss curve, and the parameters in the shapes of ``like``."""
    shapes = [p.shape for p in like.parameters()]

    def run(x: Tensor) -> Any:
        net, losses = copy.deepcopy(model), []
        optimiser = torch.optim.SGD(net.parameters(), 0.1, 0.9)
        for _ in range(4):
            optimiser.zero_grad()
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            optimiser.step()
            losses.append(loss.detach())
        return torch.stack(losses), [p.detach().reshape(s) for p, s in zip(net.parameters(), shapes, strict=True)]

    return run


@pytest.mark.parametrize("name", list(NETS))
def test_training_goes_on_in_the_other_form(name: str) -> None:
    """The same function of the images as training in the first form: loss curve and parameters, to their round-off."""
    make, to, _ = NETS[name]
    net, (x, y) = trained(make), digits()
    x, y = x[:32], y[:32]
    other = rewrite(net, (x,), {}, to).model
    found = roundoff.compare(training(net, net, y), training(other, net, y), x)
    assert found.verdict in ("identical", "roundoff"), found.reason
    assert found.outputs[0].shape == (4,) and found.outputs[0].real_abs <= found.outputs[0].floor_abs


def test_training_from_other_weights_is_told() -> None:
    net, (x, y) = trained(pointwise), digits()
    other = rewrite(net, (x[:16],), {}, "linear").model
    with torch.no_grad():
        next(other.parameters())[0, 7] *= 1 + 1e-5
    assert roundoff.compare(training(net, net, y[:16]), training(other, net, y[:16]), x[:16]).verdict == "different"
