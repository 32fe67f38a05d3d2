"""Two trained networks on real digits, each written by hand in a second form.

``linear`` and ``conv`` are one fully connected network, as ``nn.Linear`` and as convolutions. ``flat`` and ``kernel`` are
one convolutional network whose last layer is ``nn.Linear`` after a flatten, or a convolution with a full kernel.
``mistaken`` is ``kernel`` with the height and the width of that kernel exchanged.

    python examples/digits.py --images digits.npy
    roundoff compare examples/digits.py:linear examples/digits.py:conv --args digits.npy
    roundoff compare examples/digits.py:flat examples/digits.py:mistaken --args digits.npy

Training takes seconds and gives the same weights each time. A file keeps them: ``digits.py:linear(weights="w.pt")``.
"""

from __future__ import annotations

import argparse
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

TRAINED = 1437  # images that are trained on, four fifths; the rest are for testing


def images() -> tuple[Tensor, Tensor]:
    """The digits of scikit-learn: float32 [1797, 1, 8, 8] from 0 to 1, and int64 [1797] labels."""
    data = load_digits()
    return torch.tensor(data.images / 16, dtype=torch.float32)[:, None], torch.tensor(data.target)


def fully_connected() -> nn.Sequential:
    """64 pixels, two hidden layers, 10 digits."""
    names = OrderedDict(
        pixels=nn.Flatten(),
        one=nn.Linear(64, 64),
        act1=nn.ELU(),
        two=nn.Linear(64, 32),
        act2=nn.ELU(),
        digits=nn.Linear(32, 10),
    )
    return nn.Sequential(names)


def convolutional() -> nn.Sequential:
    """Two convolutions with batch norm and pooling, then 10 digits from 24 channels of 2x2."""
    names = OrderedDict(
        conv1=nn.Conv2d(1, 12, 3, padding=1),
        norm1=nn.BatchNorm2d(12),
        act1=nn.ReLU(),
        pool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(12, 24, 3, padding=1),
        norm2=nn.BatchNorm2d(24),
        act2=nn.ReLU(),
        pool2=nn.MaxPool2d(2),
        pixels=nn.Flatten(),
        digits=nn.Linear(24 * 2 * 2, 10),
    )
    return nn.Sequential(names)


@cache
def trained(make: Callable[[], nn.Sequential], epochs: int = 12) -> dict[str, Tensor]:
    """The weights after training from a fixed seed, in one thread: the same bits each time."""
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(1)
    try:
        with torch.enable_grad():
            torch.manual_seed(0)
            net = make()
            x, y = (t[:TRAINED] for t in images())
            optimizer = torch.optim.Adam(net.parameters(), lr=4e-3)
            for _ in range(epochs):
                for batch in torch.randperm(TRAINED).split(48):
                    optimizer.zero_grad()
                    nn.functional.cross_entropy(net(x[batch]), y[batch]).backward()
                    optimizer.step()
    finally:
        torch.set_num_threads(threads)
        torch.set_rng_state(state)
    return {name: value.detach().clone() for name, value in net.state_dict().items()}


def weights_of(make: Callable[[], nn.Sequential], path: str | None) -> dict[str, Tensor]:
    """The trained weights; kept in the file ``path`` where one is given."""
    if path is None:
        return trained(make)
    if not Path(path).exists():
        torch.save(trained(make), path)
    return torch.load(path, weights_only=True)


def loaded(net: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    net.load_state_dict(weights)
    return net.eval()


def linear(weights: str | None = None) -> nn.Module:
    """The fully connected network with ``nn.Linear``: [n, 1, 8, 8] to [n, 10]."""
    return loaded(fully_connected(), weights_of(fully_connected, weights))


def conv(weights: str | None = None) -> nn.Module:
    """The same with convolutions: a kernel of the whole image, then kernels of one pixel."""
    held = dict(weights_of(fully_connected, weights))
    layers = {"one": nn.Conv2d(1, 64, 8), "two": nn.Conv2d(64, 32, 1), "digits": nn.Conv2d(32, 10, 1)}
    for name, layer in layers.items():
        held[f"{name}.weight"] = held[f"{name}.weight"].reshape(layer.weight.shape)
    one, two, digits = layers.values()
    names = OrderedDict(one=one, act1=nn.ELU(), two=two, act2=nn.ELU(), digits=digits, pixels=nn.Flatten())
    return loaded(nn.Sequential(names), held)


def flat(weights: str | None = None) -> nn.Module:
    """The convolutional network whose last layer is ``nn.Linear``: [n, 1, 8, 8] to [n, 10]."""
    return loaded(convolutional(), weights_of(convolutional, weights))


def kernel(weights: str | None = None, *, exchanged: bool = False) -> nn.Module:
    """The same with a last convolution whose kernel covers all that is left of the image."""
    held = dict(weights_of(convolutional, weights))
    full = held["digits.weight"].reshape(10, 24, 2, 2)
    held["digits.weight"] = full.transpose(2, 3).contiguous() if exchanged else full
    names = OrderedDict(convolutional().named_children())
    del names["pixels"]
    names["digits"] = nn.Conv2d(24, 10, 2)
    names["pixels"] = nn.Flatten()
    return loaded(nn.Sequential(names), held)


def mistaken(weights: str | None = None) -> nn.Module:
    """``kernel`` with the height and width of its last kernel exchanged: it still recognises most digits."""
    return kernel(weights, exchanged=True)


def accuracy(net: nn.Module) -> float:
    """The share of the test images that are recognised."""
    x, y = (t[TRAINED:] for t in images())
    with torch.no_grad():
        return (net(x).argmax(-1) == y).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Write the test images; train the networks and print how good they are."
    )
    parser.add_argument("--images", metavar="FILE", required=True, help="where to write float32 [360, 1, 8, 8] (.npy)")
    file = parser.parse_args().images
    np.save(file, images()[0][TRAINED:].numpy())
    print(f"{file}: {1797 - TRAINED} images of digits that no network was trained on")
    for make in (linear, conv, flat, kernel, mistaken):
        print(f"{make.__name__:9s} recognises {accuracy(make()):.1%}")


if __name__ == "__main__":
    main()
