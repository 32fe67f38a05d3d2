"""What ``to="fastest"`` gains: against the original, all linear, all convolutions, and torch.compile.

    python benchmarks/fastest.py [--threads 1] [--busy] [name ...]
    python benchmarks/fastest.py --alone [name ...]

All networks of a row take turns in one process; each number is the original's time over theirs, the median of the rounds.
``--busy``, for a machine that others use: one thread and processor time, which waiting does not count in. ``--alone`` runs
the original, channels last, activations in place, both, and torch.compile in a process each, so that none finds memory that
another has freed, and counts the pages that the system had to give.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from itertools import pairwise, product
from resource import RUSAGE_SELF, getrusage
from statistics import mean, median
from subprocess import run
from time import perf_counter, process_time
from typing import Any

import torch
from torch import Tensor, nn

import roundoff
from roundoff.api import fastest as api
from roundoff.forms.fastest import fastest
from roundoff.forms.fastest.in_place import in_place
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


def by_itself(name: str, way: str) -> None:
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    net, x = make().eval(), torch.randn(*shape)
    if "in place" in way:
        in_place(net)
    if "last" in way:
        net, x = net.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    network = torch.compile(net) if way == "compiled" else net
    times, pages = [], []
    with torch.no_grad():
        for _ in range(90):
            before, start = getrusage(RUSAGE_SELF).ru_minflt, process_time()
            network(x)
            times.append(1e3 * (process_time() - start))
            pages.append(getrusage(RUSAGE_SELF).ru_minflt - before)
    print(
        f"  {way:15} {median(times[10:]):.2f} ms, least {min(times[10:]):.2f}, {mean(pages[10:]):.0f} pages", flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", default=list(NETWORKS))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--alone", action="store_true")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    threads = 1 if asked.busy or asked.alone else asked.threads
    torch.set_num_threads(threads)
    clock = process_time if asked.busy else perf_counter
    if asked.way:
        return by_itself(asked.names[0], asked.way)
    print(f"PyTorch {torch.__version__}, {threads} threads")
    if asked.alone:
        for name, way in product(asked.names, ("original", "last", "in place", "last, in place", "compiled")):
            run([sys.executable, __file__, "--alone", "--way", way, name], check=True)
        return
    api.fastest = partial(fastest, clock=clock)
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
            times = in_turns([partial(row, x) for row in rows.values()], 41, 20.0, 11, clock)
        print(f"{name} {list(shape)}: {1e3 * median(times[0]):.2f} ms; converted in {spent:.1f} s; {done.fastest}")
        for name, taken in zip(list(rows)[1:], times[1:], strict=True):
            print(f"  {name}: {median(a / b for a, b in zip(times[0], taken, strict=True)):.2f} x")


if __name__ == "__main__":
    main()
