"""From how many summands survive beside two masks to the tree.

With +M at summand i, -M at summand j and units elsewhere, every unit that is added to a mask before the masks meet is
lost, and all others survive: the sum counts the summands outside of the smallest part that has both. Source: Xie et al.,
"Revealing Floating-Point Accumulation Orders in Software/Hardware Implementations", USENIX ATC 2025. Here the parts are
opened side by side, so that one call of the operator can carry many masks, and a part that turned out lopsided is opened
at a summand drawn at random, which keeps the number of rounds logarithmic whichever end a kernel starts from.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from roundoff.order.tree import SumTree

Pair = tuple[int, int]
Meetings = Callable[[Sequence[Pair]], list[int]]  # for each pair, the number of summands where the two meet


class NoTree(Exception):
    """What was counted fits no tree of additions; the message says what was seen."""


def build(length: int, meetings: Meetings, bias: bool = False) -> SumTree:
    """The tree in which each two summands meet as ``meetings`` says. Raises NoTree where there is none."""
    additions: list[list[int]] = []
    sizes: list[int] = []
    draw = random.Random(length)
    # What is still to be opened: summands that are whole parts of an addition (None: of nothing, they are the sum).
    tasks: list[tuple[list[int], int | None, bool]] = [(list(range(length)), None, False)]
    while tasks:
        pivots = [draw.choice(members) if lopsided else members[0] for members, _, lopsided in tasks]
        pairs = [(i, j) for i, (members, _, _) in zip(pivots, tasks, strict=True) for j in members if j != i]
        counted = iter(meetings(pairs))
        later: list[tuple[list[int], int | None, bool]] = []
        for i, (members, above, _) in zip(pivots, tasks, strict=True):
            groups: dict[int, list[int]] = {}
            for j in members:
                if j != i:
                    groups.setdefault(next(counted), []).append(j)
            limit = length if above is None else sizes[above]
            inside, part = 1, i
            for size, group in sorted(groups.items()):
                lopsided = 2 * len(group) > len(members)
                if above is not None and size == limit:  # further parts of the same addition
                    later.append((group, above, lopsided))
                    continue
                inside += len(group)
                if size != inside or size > limit:
                    raise NoTree(
                        f"summand {i} meets {len(group)} others among {size} summands, where a tree has room for "
                        f"{inside}"
                    )
                additions.append([part])
                sizes.append(size)
                part = length + len(additions) - 1
                later.append((group, len(additions) - 1, lopsided))
            if above is not None:
                additions[above].append(part)
        tasks = []
        for members, above, lopsided in later:
            if len(members) > 1:
                tasks.append((members, above, lopsided))
            elif above is not None:
                additions[above].append(members[0])
    return SumTree.of(length, additions, bias)
