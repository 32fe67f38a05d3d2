"""How much faster a dense network is than the crops one by one, and whether its mask is right.

    python benchmarks/dense.py                 AlexNet in full width, random weights, a map of 10 x 10 cells
    python benchmarks/dense.py --attack 400    random networks: exact cells that are not, and exact ones that are missed

The dense network and the original on the batch of all crops take turns in one process; the ratio is the median of the
ratios of neighbouring runs, with the smallest and the largest of them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from torch import Tensor, nn

from roundoff.forms.dense import densify

CELLS = 10


def alexnet(padded: bool) -> nn.Sequential:
    """The layers of AlexNet as torchvision has them; without padding the crop must be larger for the same 6 x 6 map."""
    p = int(padded)
    features = [
        nn.Conv2d(3, 64, 11, 4, 2 * p), nn.ReLU(True), nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, 1, 2 * p), nn.ReLU(True), nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, 1, p), nn.ReLU(True), nn.Conv2d(384, 256, 3, 1, p), nn.ReLU(True),
        nn.Conv2d(256, 256, 3, 1, p), nn.ReLU(True), nn.MaxPool2d(3, 2), nn.AdaptiveAvgPool2d(6),
    ]  # fmt: skip
    head = [nn.Flatten(), nn.Dropout(), nn.Linear(9216, 4096), nn.ReLU(True), nn.Dropout(), nn.Linear(4096, 4096),
            nn.ReLU(True), nn.Linear(4096, 1000)]  # fmt: skip
    return nn.Sequential(*features, *head).eval()


def measure(name: str, net: nn.Module, size: int, rounds: int) -> None:
    made = densify(net, (torch.randn(1, 3, size, size),), {})
    whole = made.dense.image(CELLS, CELLS)
    image = torch.randn(1, 3, *whole)
    crops = torch.cat([image[:, :, i : i + size, j : j + size] for i, j in made.dense.offsets(*whole)])
    mask = made.dense.mask(*whole)
    found, each = made.model(image), net(crops).T.reshape(1, 1000, CELLS, CELLS)
    exact = (found - each).abs()[:, :, mask].max().item() if mask.any() else float("nan")
    spread = ((found - each).std((0, 1)) / each.std((0, 1)))[~mask]
    times: list[tuple[float, float]] = []
    for _ in range(rounds):
        times.append((seconds(made.model, image), seconds(net, crops)))
    ratios = sorted(b / a for a, b in times)
    print(
        f"{name}: crop {size}, image {whole[0]} x {whole[1]}, stride {made.dense.stride[0]}\n"
        f"  dense {median(a for a, _ in times):.3f} s, "
        f"{CELLS * CELLS} crops in one batch {median(b for _, b in times):.3f} s: "
        f"{median(ratios):.2f} x ({ratios[0]:.2f} to {ratios[-1]:.2f})\n"
        f"  exact cells {int(mask.sum())} of {mask.numel()}, largest difference there {exact:.1e}"
        + (f"; the others differ by {spread.median():.2f} standard deviations" if spread.numel() else "")
    )


def seconds(net: nn.Module, x: Tensor) -> float:
    start = perf_counter()
    net(x)
    return perf_counter() - start


def attack(count: int) -> None:
    """Random networks in float64: every cell is either exact to 1e-10, or said not to be."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.forms.dense_nets import disagreement

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
            measure("AlexNet", alexnet(True), 224, asked.rounds)
            measure("AlexNet without padding", alexnet(False), 355, asked.rounds)
