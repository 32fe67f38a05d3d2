"""How much faster a dense network is than the crops one by one, and whether its mask is right.

    python benchmarks/dense.py [name ...]      AlexNet and VGG-16 in full width, random weights, a map of 10 x 10 cells
    python benchmarks/dense.py --attack 400    random networks: exact cells that are not, and exact ones that are missed

The dense network and the original on the crops (AlexNet on the batch of all; VGG on batches of 25, for memory) take turns
in one process; the ratio is the median of the ratios of neighbouring runs, with the smallest and the largest of them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from roundoff.forms.dense import densify

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.forms.dense_nets import disagreement
from tests.forms.nets import alexnet, vgg

CELLS = 10
ALEXNET: dict[str, Any] = {"widths": (64, 192, 384, 256, 256), "size": 6, "hidden": 4096, "classes": 1000}
VGG: dict[str, Any] = {"width": 64, "blocks": (2, 2, 3, 3, 3), "hidden": 4096, "classes": 1000}
#: By name: the network, its crop, and how many crops the original is given at once.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "AlexNet": (lambda: alexnet(1, **ALEXNET), 224, 100),
    "AlexNet without padding": (lambda: alexnet(0, **ALEXNET), 355, 100),
    "VGG-16": (lambda: vgg(1, **VGG), 224, 25),
    "VGG-16 without padding": (lambda: vgg(0, **VGG), 212, 25),
}


def measure(name: str, rounds: int) -> None:
    make, size, batch = NETWORKS[name]
    net = make()
    made = densify(net, (torch.randn(1, 3, size, size),), {})
    whole = made.dense.image(CELLS, CELLS)
    image = torch.randn(1, 3, *whole)
    crops = torch.cat([image[:, :, i : i + size, j : j + size] for i, j in made.dense.offsets(*whole)])
    mask = made.dense.mask(*whole)
    each = in_batches(net, batch, crops).T.reshape(1, 1000, CELLS, CELLS)
    found = made.model(image)
    exact = (found - each).abs()[:, :, mask].max().item() if mask.any() else float("nan")
    spread = ((found - each).std((0, 1)) / each.std((0, 1)))[~mask]
    times: list[tuple[float, float]] = []
    for _ in range(rounds):
        times.append((seconds(made.model, image), seconds(partial(in_batches, net, batch), crops)))
    ratios = sorted(b / a for a, b in times)
    print(
        f"{name}: crop {size}, image {whole[0]} x {whole[1]}, stride {made.dense.stride[0]}\n"
        f"  dense {median(a for a, _ in times):.3f} s, "
        f"{CELLS * CELLS} crops in batches of {batch} {median(b for _, b in times):.3f} s: "
        f"{median(ratios):.2f} x ({ratios[0]:.2f} to {ratios[-1]:.2f})\n"
        f"  exact cells {int(mask.sum())} of {mask.numel()}, largest difference there {exact:.1e}"
        + (f"; the others differ by {spread.median():.2f} standard deviations" if spread.numel() else "")
    )


def in_batches(net: nn.Module, batch: int, crops: Tensor) -> Tensor:
    return torch.cat([net(part) for part in crops.split(batch)])


def seconds(net: Callable[[Tensor], Tensor], x: Tensor) -> float:
    start = perf_counter()
    net(x)
    return perf_counter() - start


def attack(count: int) -> None:
    """Random networks in float64: every cell is either exact to 1e-10, or said not to be."""
    networks = cells = exact = wrong = missed = 0
    for seed in range(count):
        drawn = disagreement(seed)
        if drawn is None:
            continue
        mask, differs = drawn
        networks, cells, exact = networks + 1, cells + mask.numel(), exact + int(mask.sum())
        bad, good = int((differs[mask] > 1e-10).sum()), int((differs[~mask] < 1e-12).sum())
        wrong, missed = wrong + bad, missed + good
        if bad or good:
            print(f"seed {seed}: {bad} wrong, {good} missed")
    print(f"{networks} networks, {cells} cells, {exact} exact; {wrong} wrongly called exact, {missed} missed")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", choices=[*NETWORKS, []])
    parser.add_argument("--attack", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    with torch.no_grad():
        if asked.attack:
            attack(asked.attack)
        else:
            print(f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads")
            for name in asked.names or NETWORKS:
                measure(name, asked.rounds)
