"""Orders of addition that are known, and kernels that add in them."""

from __future__ import annotations

import torch
from torch import Tensor

from roundoff.order.kernel import Kernel, drawn_kernel
from roundoff.order.replay import Arithmetic, replay_in
from roundoff.order.tree import Nested, SumTree


def sequential(parts: list[Nested]) -> Nested:
    total = parts[0]
    for part in parts[1:]:
        total = (total, part)
    return total


def pairwise(parts: list[Nested]) -> Nested:
    while len(parts) > 1:
        parts = [tuple(parts[i : i + 2]) if i + 1 < len(parts) else parts[i] for i in range(0, len(parts), 2)]
    return parts[0]


def at_once(parts: list[Nested], ways: int) -> Nested:
    """``ways`` more at a time, as matrix units do."""
    total: list[Nested] = []
    for i in range(0, len(parts), ways):
        total = [tuple(total + parts[i : i + ways]) if len(total + parts[i : i + ways]) > 1 else parts[i]]
    return total[0]


def order_of(kind: str, n: int) -> Nested:
    """A named order of ``n`` summands."""
    numbers: list[Nested] = list(range(n))
    size = max(2, n // 4)
    if kind == "sequential":
        return sequential(numbers)
    if kind == "backwards":
        return sequential(numbers[::-1])
    if kind == "pairwise":
        return pairwise(numbers)
    if kind == "blocked":
        return sequential([sequential(numbers[i : i + size]) for i in range(0, n, size)])
    if kind == "strided":
        return pairwise([sequential(numbers[i::4]) for i in range(min(4, n))])
    if kind == "4 at once":
        return at_once(numbers, 4)
    assert kind == "8 at once"
    return at_once(numbers, 8)


KINDS = ("sequential", "backwards", "pairwise", "blocked", "strided", "4 at once", "8 at once")


def with_bias(nested: Nested, n: int, where: str) -> SumTree:
    """Summand ``n`` is the bias: added first, last, or where the first part with half of the summands is complete."""
    if where == "last":
        return SumTree.from_nested((nested, n), bias=True)
    plain = SumTree.from_nested(nested)
    part = 0 if where == "first" else next(i for i in range(n, 2 * n) if 2 * plain.sizes[i] >= n)
    numbers = [*range(n), *range(n + 1, n + 1 + len(plain.nodes))]  # the bias takes number n
    extra = n + 1 + len(plain.nodes)
    additions = [[extra if i == part else numbers[i] for i in node] for node in plain.nodes]
    return SumTree.of(n + 1, [*additions, [numbers[part], n]], bias=True)


def could_be_fused(tree: SumTree, products: int) -> frozenset[int]:
    """Every product that is added to a result, the bias, or the product before it."""
    found = set()
    for node in tree.nodes:
        able = [i for i in node if i < products]
        if len(node) == 2 and able:
            found.add(able[-1])
    return frozenset(found)


def kernel_that_adds(
    tree: SumTree, fused: frozenset[int], dtype: torch.dtype = torch.float32, rows: int = 3, cols: int = 5
) -> Kernel:
    """A linear layer that adds in the order of ``tree``."""
    k = tree.length - tree.bias
    how = Arithmetic(torch.float64 if dtype == torch.float64 else torch.float32, extra=2 if tree.widest > 2 else None)

    def run(x: Tensor, w: Tensor | None, b: Tensor | None) -> Tensor:
        assert w is not None
        each = x.repeat_interleave(len(w), 0), w.repeat(len(x), 1), None if b is None else b.repeat(len(x))
        return replay_in(tree, fused, how, *each).view(len(x), len(w))

    return drawn_kernel("planted", k, tree.bias, rows, cols, dtype, run)
