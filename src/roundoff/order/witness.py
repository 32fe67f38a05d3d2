"""Operands that show which two of three summands meet first.

Of +v, -v and a number t that is small beside them, all else being 0, the sum is t where +v and -v meet first, and t rounded
as it is added to v where they do not. Sums of many numbers hide the order of the first additions, whose roundings are
lost in later ones; here there are no others. Which meet is asked at every addition of the tree.
"""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor

from roundoff.formats import bits, unit_roundoff
from roundoff.order.kernel import Kernel, normal
from roundoff.order.replay import Arithmetic, replay_in
from roundoff.order.tree import SumTree

CALLS, NUMBERS = 2048, 2**27  # of the kernel, and in the operands: where a tree takes more, some places are drawn
#: How small t is, as a power of two beside v: a few digits are left of it, and the others are lost.
SMALL = {torch.float64: 48, torch.float32: 20, torch.bfloat16: 22, torch.float16: 19}


@dataclass(frozen=True)
class Place:
    """Two additions of a tree, by number, the ``outer`` of which adds the result of the ``inner``; of the ``summands`` the
    first two are in two parts of the inner one and the third in a part of the outer one, so that it meets them later."""

    inner: int
    outer: int
    summands: tuple[int, int, int]


@dataclass(frozen=True)
class Witnesses:
    """Outputs of a kernel, each about the place with the number ``of``: the operands x and w at its three summands, [n, 3],
    the result y [n], and which of the three is small, [n]."""

    places: tuple[Place, ...]
    of: Tensor
    x: Tensor
    w: Tensor | None
    y: Tensor
    small: Tensor


def find_places(tree: SumTree, count: int) -> tuple[Place, ...]:
    """Places that have every part of every addition, or ``count`` of them drawn at random."""
    n, draw = tree.length, random.Random(tree.length)

    def summand(part: int) -> int:
        while part >= n:
            part = draw.choice(tree.nodes[part - n])
        return part

    found = []
    for m, node in enumerate(tree.nodes):
        for c in (i for i in node if i >= n):
            inner, outer = list(tree.nodes[c - n]), [i for i in node if i != c]
            draw.shuffle(inner)
            for at in range(max(len(inner) - (len(inner) == 2), len(outer))):
                parts = inner[at % len(inner)], inner[(at + 1) % len(inner)], outer[at % len(outer)]
                first, second, third = map(summand, parts)
                found.append(Place(c - n, m, (first, second, third)))
    return tuple(found if len(found) <= count else draw.sample(found, count))


def ask(kernel: Kernel, tree: SumTree, element: int | None = None) -> Witnesses | None:
    """Ask the kernel at the places of ``tree``, at all outputs or at one; None where the tree has no such place."""
    by_columns = kernel.cols > 0 and (kernel.cols >= kernel.rows or kernel.bias)
    slots = 1 if element is not None else kernel.cols if by_columns else kernel.rows
    times = 2 if kernel.dtype in (torch.float64, torch.float32) else 4  # coarse results may hide what was lost
    places = find_places(tree, max(1, min(CALLS * slots, NUMBERS // tree.length) // times))
    if not places:
        return None
    summands = torch.tensor([place.summands for place in places]).repeat_interleave(times, 0)
    values, small = _values(kernel, tree, summands)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    cols = max(kernel.cols, 1)
    for at in range(0, len(values), slots):
        here = summands[at : at + slots]
        vectors = torch.zeros(kernel.cols if by_columns else kernel.rows, kernel.length, dtype=kernel.dtype)
        vectors[: len(here)].scatter_(1, here, values[at : at + slots])
        if element is not None:
            vectors = vectors[:1].expand(len(vectors), -1)
        other = normal(at, kernel.dtype)(kernel.rows if by_columns else cols)
        y = _run(kernel, vectors, other, by_columns)
        slot = torch.arange(len(here))
        alone = (slot * 7 + at) % len(other)  # any of the outputs of a vector will do
        r, c = (alone, slot) if by_columns else (slot, alone)
        if element is not None:
            r, c = torch.tensor([element // cols]), torch.tensor([element % cols])
        parts.append((y[r, c], other[r if by_columns else c], slot))
    y, other = (torch.cat([part[i] for part in parts]) for i in (0, 1))
    w = None
    if kernel.cols:
        w = other[:, None].expand(-1, 3).clone()
        w[summands >= kernel.products] = 1  # the bias
    return Witnesses(places, torch.arange(len(values)) // times, values, w, y, small)


def _values(kernel: Kernel, tree: SumTree, summands: Tensor) -> tuple[Tensor, Tensor]:
    """The numbers at the three summands, [n, 3], and which of them is small, [n]."""
    n, drawn = len(summands), normal(7, torch.float64)
    small = torch.where(torch.arange(n) % 4 == 0, 2, torch.arange(n) % 2)  # the third one now and then
    if tree.bias:  # no product is its opposite, so that it must be the small one
        has = summands == tree.length - 1
        small = torch.where(has.any(1), has.long().argmax(1), small)
    size = 2.0 ** (11 if kernel.divided else 6) if kernel.dtype == torch.float16 else 1.0
    v, t = drawn(n) * size, drawn(n) * size * 2.0 ** -(SMALL[kernel.dtype] + torch.arange(n) // 4 % 3).double()
    values = v[:, None].expand(-1, 3).clone()
    rows = torch.arange(n)
    values[rows, (small + 1) % 3] *= -1
    values[rows, small] = t
    return values.to(kernel.dtype), small


def _run(kernel: Kernel, vectors: Tensor, other: Tensor, by_columns: bool) -> Tensor:
    """One call: vectors of summands, and in the other operand one number in each row."""
    k = kernel.products
    mine = vectors[:, :k].clone(memory_format=torch.contiguous_format)
    if kernel.cols == 0:
        return kernel.run(mine, None, None)
    alone = other[:, None].expand(-1, k).contiguous()
    b = vectors[:, k].clone() if kernel.bias else None
    return kernel.run(alone, mine, b) if by_columns else kernel.run(mine, alone, b)


def tells(found: Witnesses, divided: int) -> bool:
    """Whether at each place digits were lost that would not be if other summands met first: without that, equal bits
    mean nothing. A place whose small one is always the third is not asked: it must have lost nothing. ``divided``: by
    how much the sum is divided."""
    products = found.x.double() if found.w is None else found.x.double() * found.w.double()
    small = products.gather(1, found.small[:, None])[:, 0] / divided
    kept = (found.y.double() - small).abs() <= 2 * unit_roundoff(found.y.dtype) * small.abs()
    inner = found.small < 2
    count = torch.zeros(len(found.places), dtype=torch.long)
    lost = count.index_add(0, found.of, (~kept & inner).long())
    asked = count.index_add(0, found.of, inner.long())
    return bool((lost > 0)[asked > 0].all())


def agree(tree: SumTree, fused: frozenset[int], how: Arithmetic, found: Witnesses) -> Tensor:
    """On which witnesses the replay gives the kernel's own bits. Only the additions of the three are replayed."""
    groups: dict[tuple[SumTree, frozenset[int]], list[int]] = defaultdict(list)
    for number, place in enumerate(found.places):
        groups[_small_tree(tree, fused, how, place)].append(number)
    same = torch.zeros(len(found.y), dtype=torch.bool)
    for (small, small_fused), numbers in groups.items():
        at = torch.isin(found.of, torch.tensor(numbers)).nonzero()[:, 0]
        x, w = (None if t is None else _padded(t[at], small.length) for t in (found.x, found.w))
        assert x is not None
        y = replay_in(small, small_fused, how, x, w, None, tree.length)
        same[at] = bits(y) == bits(found.y[at])
    return same


def _small_tree(tree: SumTree, fused: frozenset[int], how: Arithmetic, place: Place) -> tuple[SumTree, frozenset[int]]:
    """What is left of the tree where all but three summands are 0: these are 0, 1 and 2, and zeros follow."""
    zeros, nodes = [3], list[list[int]]()
    kept = frozenset(i for i, summand in enumerate(place.summands) if summand in fused)

    def zero() -> int:
        zeros[0] += 1
        return zeros[0] - 1

    def added(parts: list[int], node: int) -> int:
        """An addition of these parts and of zeros, if it adds more than two."""
        if len(tree.nodes[node]) > 2 or len(parts) == 1:
            parts = parts + [zero() for _ in range((3 if len(tree.nodes[node]) > 2 else 2) - len(parts))]
        nodes.append(parts)
        return -len(nodes)

    def first(i: int) -> int:
        """A summand, or what it becomes where it is added to zeros before it meets another."""
        node = tree.parents[place.summands[i]] - tree.length
        return i if node == (place.inner if i < 2 else place.outer) else added([i], node)

    top = added([added([first(0), first(1)], place.inner), first(2)], place.outer)
    if how.early and place.outer != len(tree.nodes) - 1:
        added([top], len(tree.nodes) - 1)
    n = zeros[0]
    return SumTree.of(n, [[i if i >= 0 else n - i - 1 for i in node] for node in nodes]), kept


def _padded(x: Tensor, length: int) -> Tensor:
    return torch.cat([x, x.new_zeros(len(x), length - x.shape[1])], 1)
