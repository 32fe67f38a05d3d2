"""The same sums in two runs: do their kernels add in different orders?"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from roundoff.errors import RoundoffError
from roundoff.order.build import NoTree
from roundoff.order.kernel import Kernel
from roundoff.order.order import Order, Variant
from roundoff.order.probe import NotShared, Probe
from roundoff.order.reveal import reveal_kernel
from roundoff.order.seen import Seen, matching
from roundoff.order.steps import kernel_of_step
from roundoff.order.tree import SumTree
from roundoff.order.words import differences

MOST = 3  # pairs of kernels that are looked at, those with the largest shares
ASKED, CALLS = 32, 4  # pairs of summands that are asked about without a whole tree, and calls that this may take
LONGEST, LARGEST = 8192, 2**31  # summands, and products of one call, above which no whole order is revealed


@dataclass(frozen=True)
class SameSum:
    """A reduction that both runs compute, each by a kernel of its own: where, in which steps, by which operators, and what
    share of the difference these made, without its sign."""

    where_a: str
    where_b: str
    steps_a: tuple[int, ...]
    steps_b: tuple[int, ...]
    op_a: str
    op_b: str
    share: float


@dataclass(frozen=True)
class Compared:
    """The orders of a sum that both runs compute. ``differ``: it was seen that they differ; ``told`` is that in words. ``a``
    and ``b`` are the orders where they were asked for, with B's summands numbered as A's; ``apart`` is then what differs
    between them, without the orders themselves."""

    sum: SameSum
    differ: bool
    told: str
    a: Order | None = None
    b: Order | None = None
    apart: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            **asdict(self.sum),
            "differ": self.differ,
            "text": self.told,
            "a": None if self.a is None else self.a.to_dict(),
            "b": None if self.b is None else self.b.to_dict(),
        }


def compare_orders(
    a: Sequence[Seen],
    b: Sequence[Seen],
    shares: Mapping[tuple[str, int], float],
    *,
    whole: bool,
    say: Callable[[int, int, str], None],
) -> tuple[Compared, ...]:
    """Of the sums that both runs compute by different kernels, those with the largest shares (by side and step).

    Without ``whole`` some pairs of summands are asked about where they meet; with it both orders are revealed.
    """
    pairs = [
        (sum(abs(shares.get((side, i), 0.0)) for side, seen in (("A", s), ("B", t)) for i in seen.steps), s, t, places)
        for s, t, places in _pairs(a, b)
        if not s.reduction.is_as(t.reduction)
    ]
    chosen = sorted((pair for pair in pairs if pair[0] > 0), key=lambda pair: -pair[0])[:MOST]
    found = []
    for done, (share, s, t, places) in enumerate(chosen):
        say(done, len(chosen), "asking two kernels for their orders")
        mine, theirs = kernel_of_step(s.reduction), kernel_of_step(t.reduction)
        if mine is None or theirs is None:
            continue
        same = SameSum(s.where, t.where, s.steps, t.steps, mine.name, theirs.name, share)
        with torch.no_grad():
            found.append(_whole(same, s, t, mine, theirs, places) if whole else _quick(same, mine, theirs, places))
    return tuple(found)


def _pairs(a: Sequence[Seen], b: Sequence[Seen]) -> list[tuple[Seen, Seen, list[int]]]:
    """The same sums on both sides, each once, in order, with which of A's products each of B's is. Where a product and the
    bias after it are found together, the product alone is not told."""
    taken: set[int] = set()
    found = []
    for s in a:
        for j, t in enumerate(b):
            places = None if j in taken else matching(s, t)
            if places is not None:
                taken.add(j)
                found.append((s, t, places.tolist()))
                break
    inside = {("A", s.steps[:1]) for s, _, _ in found if len(s.steps) > 1}
    inside |= {("B", t.steps[:1]) for _, t, _ in found if len(t.steps) > 1}
    return [
        (s, t, places)
        for s, t, places in found
        if max(len(s.steps), len(t.steps)) > 1 or not {("A", s.steps), ("B", t.steps)} & inside
    ]


def _quick(same: SameSum, a: Kernel, b: Kernel, places: list[int]) -> Compared:
    """Whether some summands meet in other partial sums; asked with masks, in a few calls."""
    n, draw = a.length, random.Random(a.length)
    theirs = {place: i for i, place in enumerate(places)}  # a summand of A as B has it
    theirs[a.products] = a.products  # the bias
    pairs = list(dict.fromkeys([(0, n - 1), (0, a.products - 1), (0, 1), (0, n // 2)]))
    count = min(ASKED, CALLS * min(Probe(a).slots, Probe(b).slots))
    pairs += [tuple(sorted(draw.sample(range(n), 2))) for _ in range(count)]  # type: ignore[misc]
    pairs = [(i, j) for i, j in pairs if i != j][: max(count, 4)]
    try:
        mine = Probe(a).meetings(pairs)
        others = Probe(b).meetings([(theirs[i], theirs[j]) for i, j in pairs])
    except (NotShared, NoTree, RoundoffError) as error:
        why = str(error) or "not all outputs add in the same order"
        return Compared(same, False, f"It was not told in a few calls whether their orders differ: {why}.")
    apart = [(pair, x, y) for pair, x, y in zip(pairs, mine, others, strict=True) if x != y]
    if not apart:
        return Compared(same, False, "In a few calls no difference between their orders was seen.")
    (i, j), x, y = apart[0]
    return Compared(
        same,
        True,
        f"{_both(same, a)}, in different orders: {_summand(i, a)} and {_summand(j, a)} meet in a partial sum of {x} "
        f"summands in A, and in one of {y} in B. explain(orders=True), --orders on the command line, reveals both orders.",
    )


def _both(same: SameSum, a: Kernel) -> str:
    bias = ", one of which is the bias," if a.bias else ""
    by = f"by {same.op_a} in A and by {same.op_b} in B" if same.op_a != same.op_b else f"by {same.op_a} on both sides"
    return f"The same {a.length} summands{bias} are added {by}"


def _summand(i: int, a: Kernel) -> str:
    return "the bias" if i == a.products else f"summand {i}"


def _whole(same: SameSum, s: Seen, t: Seen, a: Kernel, b: Kernel, places: list[int]) -> Compared:
    largest = max(kernel.rows * max(kernel.cols, 1) * kernel.products for kernel in (a, b))
    if a.length > LONGEST or largest > LARGEST:
        return replace(
            _quick(same, a, b, places),
            told=f"{_both(same, a)}; the orders of {a.length} summands and {largest:.2g} products were not revealed: that "
            "would take long.",
        )
    try:
        one, two = reveal_kernel(a, s.reduction.told), reveal_kernel(b, t.reduction.told)
    except RoundoffError as error:
        return Compared(same, False, f"The orders were not revealed: {error}")
    two = _numbered(two, places)
    differ = _differ(one, two)
    start, shared = _start(same, a, one, two, differ), _shared(one, two)
    told = f"{start}. A: {one.story} B: {two.story}{shared}"
    return Compared(same, differ, told, one, two, f"{start}.{shared}")


def _start(same: SameSum, kernel: Kernel, a: Order, b: Order, differ: bool) -> str:
    sure = all(order.certified or order.tree is None for order in (a, b))
    if differ:
        return f"{_both(same, kernel)}, in different orders" + ("" if sure else ", by a guess that is not certified")
    return f"{_both(same, kernel)}, in the same order" + ("" if sure else ", by a guess that is not certified")


def _shared(a: Order, b: Order) -> str:
    """What two different trees have in common."""
    if a.tree is None or b.tree is None or a.tree == b.tree:
        return ""
    return f" {differences(a.tree, b.tree, ('A', 'B'), brief=True)}"


def _differ(a: Order, b: Order) -> bool:
    """Whether the trees differ, or what is fused where both are known."""
    if len(a.variants) != len(b.variants):
        return True
    for v, w in zip(a.variants, b.variants, strict=True):
        if v.tree != w.tree or (v.fused != w.fused and None not in (v.fused, w.fused)):
            return True
    return False


def _numbered(order: Order, places: list[int]) -> Order:
    """The order with its products numbered as the other side's are."""
    if places == list(range(len(places))):
        return order
    variants = []
    for v in order.variants:
        n = v.tree.length
        names = [*places, *range(len(places), n)]
        nodes = [[names[i] if i < n else i for i in node] for node in v.tree.nodes]
        fused = None if v.fused is None else frozenset(names[i] for i in v.fused)
        variants.append(Variant(SumTree.of(n, nodes, v.tree.bias), fused, v.arithmetic, v.matching))
    return replace(order, variants=tuple(variants))
