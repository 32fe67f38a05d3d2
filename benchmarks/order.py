"""How many calls and how much time an order takes to reveal, against the published basic method.

    python benchmarks/order.py [--longest 4096]

The basic method measures every pair of summands with one call each; above 64 summands its calls are counted, n (n - 1) / 2,
and its time is that of as many calls as were timed at that length. Each row also says whether the replay gave the kernel's
own bits.
"""

from __future__ import annotations

import argparse
import time
from itertools import groupby

import torch

from roundoff.order.kernels import Shape, kernel_of
from roundoff.order.probe import Probe
from roundoff.order.reveal import reveal
from roundoff.order.tree import SumTree

CASES = [
    ("linear", True, "contiguous"),
    ("linear", False, "contiguous"),
    ("conv2d", True, "contiguous"),
    ("conv2d", True, "channels_last"),
    ("conv2d", False, "contiguous"),
    ("conv2d", False, "channels_last"),
    ("tensordot", True, "contiguous"),
    ("tensordot", False, "contiguous"),
    ("sum", False, "contiguous"),
]
TIMED = 64


def basic(length: int, probe: Probe, bias: bool) -> SumTree:
    """Every pair, one call each; then the parts are joined, the smallest first."""
    pairs = [(i, j) for i in range(length) for j in range(i + 1, length)]
    sizes = [probe.meetings([pair])[0] for pair in pairs]
    part = list(range(length))
    additions: list[list[int]] = []
    for _, same in groupby(sorted(zip(sizes, pairs, strict=True)), key=lambda found: found[0]):
        joined = {p: {p} for p in part}
        for _, (i, j) in same:
            together = joined[part[i]] | joined[part[j]]
            for p in together:
                joined[p] = together
        for together in {frozenset(t) for t in joined.values() if len(t) > 1}:
            additions.append(sorted(together))
            part = [length + len(additions) - 1 if p in together else p for p in part]
    return SumTree.of(length, additions, bias)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--longest", type=int, default=4096)
    longest = parser.parse_args().longest
    torch.set_num_threads(1)
    lengths = [n for n in (8, 64, 256, 1024, 4096) if n <= longest]
    print(f"PyTorch {torch.__version__}, one thread, batch 16, out 64, float32\n")
    print("| operator | k | calls | seconds | basic: calls | seconds | same tree | certified |")
    print("|---|---|---|---|---|---|---|---|")
    for op, bias, layout in CASES:
        for k in lengths:
            shape = Shape(k, bias, 16, 64, torch.float32, layout, {})
            found = reveal(op, shape, None)
            with torch.no_grad():
                calls, seconds, same = against_basic(op, shape, found.tree)
            name = f"{op}{', bias' if bias else ''}, {layout}"
            said = f"{found.matching} of {found.sampled}" if found.variants else "no tree"
            print(
                f"| {name} | {k} | {found.calls} | {found.seconds:.2f} | {calls:,} | {seconds} | {same} | {said} |",
                flush=True,
            )


def against_basic(op: str, shape: Shape, tree: SumTree | None) -> tuple[int, str, str]:
    kernel = kernel_of(op, shape)
    probe, n = Probe(kernel, 0), kernel.length
    calls = n * (n - 1) // 2
    start = time.perf_counter()
    if n <= TIMED + 1:
        same = "yes" if basic(n, probe, kernel.bias) == tree else "no"
        return calls, f"{time.perf_counter() - start:.2f}", same
    for i in range(TIMED):
        probe.meetings([(i, n - 1)])
    return calls, f"about {(time.perf_counter() - start) / TIMED * calls:,.0f}", "-"


if __name__ == "__main__":
    main()
