"""Which products are added without having been rounded.

A product (1 + e)^2 = 1 + 2e + e^2 whose e^2 is lost when it is rounded by itself is added to -(1 + 2e), all other
summands being 0. A fused multiply-add gives e^2, a product that was rounded first gives 0.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from roundoff.order.kernel import Kernel
from roundoff.order.probe import NotShared, Probe
from roundoff.order.tree import SumTree

#: e for each format: e^2 is less than half the distance between the numbers near 1, and 1 + 2e is one of them.
SMALL = {torch.float64: 2.0**-27, torch.float32: 2.0**-13}


def fused_products(kernel: Kernel, tree: SumTree, probe: Probe) -> frozenset[int] | None:
    """The products that are fused with their addition; None where it cannot be told: nothing is multiplied, or the
    products are exact in the format in which they are added."""
    if kernel.cols == 0 or kernel.dtype not in SMALL:
        return None
    pairs = list(_partners(kernel, tree))
    kept = _ask(kernel, probe, pairs)
    fused = {pair for pair, k in zip(pairs, kept, strict=True) if k}
    found = frozenset(i for i, _ in fused)
    if any((j, i) in fused for i, j in fused):
        return None  # of two products one at least must be rounded, if it is in this format that they are added
    return found


def _partners(kernel: Kernel, tree: SumTree) -> Iterator[tuple[int, int]]:
    """Each product that is added to one other part, with a summand of that part."""
    for node in tree.nodes:
        if len(node) == 2:
            for i, other in (node, node[::-1]):
                if i < kernel.products:
                    yield i, tree.first(other)


def _ask(kernel: Kernel, probe: Probe, pairs: list[tuple[int, int]]) -> list[bool]:
    """Whether e^2 of the first of each pair is kept when the second is -(1 + 2e)."""
    e = SMALL[kernel.dtype]
    found: dict[int, bool] = {}
    waiting = list(range(len(pairs)))
    while waiting:
        firsts: set[int] = set()
        seconds: set[int] = set()
        now: list[int] = []
        later: list[int] = []
        for at in waiting:  # those that go together: no summand is the first of one pair and the second of another
            i, j = pairs[at]
            if len(now) < probe.slots and i not in seconds and j not in firsts:
                firsts.add(i)
                seconds.add(j)
                now.append(at)
            else:
                later.append(at)
        waiting = later
        here = torch.ones(kernel.length, dtype=kernel.dtype)
        here[list(firsts)] = 1 + e
        there = torch.zeros(probe.slots, kernel.length, dtype=kernel.dtype)
        for slot, at in enumerate(now):
            i, j = pairs[at]
            there[slot, i], there[slot, j] = 1 + e, -(1 + 2 * e)
        for at, value in zip(now, _products(probe, here, there), strict=False):
            found[at] = value == e * e
    return [found[at] for at in range(len(pairs))]


def _products(probe: Probe, here: torch.Tensor, there: torch.Tensor) -> list[float]:
    """The sums of the products of ``here`` with each row of ``there``."""
    y = probe.run(here[None], there) if probe.by_columns else probe.run(there, here[None])
    if probe.element is not None:
        return [float(y.flatten()[probe.element])]
    along, across = (y[0], y) if probe.by_columns else (y[:, 0], y.t())
    if not bool((across == along).all()):
        raise NotShared
    return [float(value) for value in along]
