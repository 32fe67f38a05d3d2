"""What ``to="fastest"`` gains: against the original, all linear, all convolutions, and torch.compile.

    python benchmarks/fastest.py [--threads 1] [name ...]

All networks of a row take turns in one process; each number is the original's time over theirs, the median of the rounds.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

import roundoff
from roundoff.forms.fastest.race import in_turns


class Permuted(nn.Module):
    """1x1 convolutions with a permute around each: a fully connected network written as the forum question has it."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(i, o, 1) for i, o in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.relu(layer(x.unsqueeze(3).permute(0, 2, 1, 3)).permute(0, 2, 1, 3).squeeze(3))
        return x


def convolutions() -> nn.Module:
    def block(i: int, o: int, stride: int) -> list[nn.Module]:
        return [nn.Conv2d(i, o, 3, stride, 1), nn.BatchNorm2d(o), nn.ReLU(), nn.Conv2d(o, o, 1), nn.ReLU()]

    layers = [*block(3, 32, 1), *block(32, 64, 2), *block(64, 128, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(128, 10))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "forum": (lambda: Permuted(256, 64, 128, 256, 4), (16, 5, 256)),
    "forum, large": (lambda: Permuted(512, 512, 512, 512), (32, 196, 512)),
    "fully connected": (lambda: nn.Sequential(nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 1024)), (256, 1024)),
    "convolutions": (convolutions, (8, 3, 64, 64)),
    "patches of video": (lambda: nn.Sequential(nn.Conv3d(3, 192, (2, 16, 16), (2, 16, 16)), nn.Flatten(2)),
                         (2, 3, 16, 112, 112)),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", default=list(NETWORKS))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    print(f"PyTorch {torch.__version__}, {asked.threads} threads")
    for name in asked.names:
        torch.manual_seed(0)
        make, shape = NETWORKS[name]
        net, x = make().eval(), torch.randn(*shape)
        start = perf_counter()
        done = roundoff.convert(net, x, "fastest")
        spent = perf_counter() - start
        rows: dict[str, Any] = {"original": net, "fastest": done.model}
        for to in ("linear", "conv"):
            rows[f"all {to}"] = roundoff.convert(net, x, to).model
        try:
            compiled = torch.compile(net)
            with torch.no_grad():
                compiled(x)
            rows["torch.compile"] = compiled
        except Exception as error:  # no compiler here, for example
            print(f"  torch.compile: {type(error).__name__}")
        with torch.no_grad():
            times = in_turns([partial(row, x) for row in rows.values()], 41, 20.0, 11)
        print(f"{name} {list(shape)}: {1e3 * median(times[0]):.2f} ms; converted in {spent:.1f} s; {done.fastest}")
        for name, taken in zip(list(rows)[1:], times[1:], strict=True):
            print(f"  {name}: {median(a / b for a, b in zip(times[0], taken, strict=True)):.2f} x")


if __name__ == "__main__":
    main()
