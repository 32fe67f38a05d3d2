"""Summation trees: in which order numbers are added."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from roundoff.errors import RoundoffError

SCHEMA = "roundoff.sumtree/1"
NESTED = 64  # above so many summands nested tuples are unreadable, and deep ones cannot even be printed

Nested = int | tuple["Nested", ...]


@dataclass(frozen=True, repr=False)
class SumTree:
    """The order in which ``length`` summands are added.

    ``nodes`` are the additions in post-order, the last one gives the sum. Each is the tuple of what it adds: a number
    below ``length`` is a summand, ``length + m`` the result of addition ``m``. An addition of more than two is one
    operation that rounds once. Of what an addition adds, the part with the smallest summand comes first; with ``bias``
    the last summand is the bias. Two equal trees have equal ``nodes``, so ``==`` and ``hash`` compare orders.

    Raises RoundoffError when the nodes are no such tree.

    >>> tree = SumTree.from_nested(((0, 1), (2, 3)))
    >>> tree.nodes
    ((0, 1), (2, 3), (4, 5))
    >>> tree.depth
    2
    """

    length: int
    nodes: tuple[tuple[int, ...], ...]
    bias: bool = False

    def __post_init__(self) -> None:
        used = [i for node in self.nodes for i in node]
        wanted = max(self.length + len(self.nodes) - 1, 0)
        later = any(i >= self.length + m for m, node in enumerate(self.nodes) for i in node)
        thin = any(len(node) < 2 for node in self.nodes)
        if self.length < 1 or thin or later or sorted(used) != list(range(wanted)):
            raise RoundoffError(
                f"These {len(self.nodes)} additions of {self.length} summands are no tree: each summand and each result "
                "but the last is added exactly once, after it was made. SumTree.from_nested() builds one from tuples."
            )
        if self._arranged() != self.nodes:
            raise RoundoffError(
                "These additions are a tree, but not in post-order with the smallest summand first. SumTree.of() puts "
                "them in order."
            )

    def _arranged(self) -> tuple[tuple[int, ...], ...]:
        return _arrange(self.length, self.nodes, self.length + len(self.nodes) - 1)

    @staticmethod
    def of(length: int, additions: Sequence[Sequence[int]], bias: bool = False) -> SumTree:
        """The tree of ``additions`` in any order; what is added by none of them is the sum."""
        added = {i for node in additions for i in node}
        roots = [i for i in range(length + len(additions)) if i not in added]
        if len(roots) != 1:
            raise RoundoffError(f"These additions end in {len(roots)} sums, not in one.")
        return SumTree(length, _arrange(length, additions, roots[0]), bias)

    @staticmethod
    def from_nested(nested: Nested, bias: bool = False) -> SumTree:
        """The tree of nested tuples of summands, such as ``((0, 1), (2, 3))``."""
        additions: list[list[int]] = []
        leaves: list[int] = []
        names: dict[int, int] = {}
        work: list[tuple[Any, list[int] | None]] = [(nested, None)]
        while work:
            part, above = work.pop()
            if isinstance(part, int):
                leaves.append(part)
                name = part
            else:
                additions.append([])
                name = -len(additions)  # numbered once the number of summands is known
                names[name] = len(additions) - 1
                work.extend((p, additions[-1]) for p in part)
            if above is not None:
                above.append(name)
        length = len(leaves)
        return SumTree.of(length, [[i if i >= 0 else length + names[i] for i in node] for node in additions], bias)

    @cached_property
    def parents(self) -> tuple[int, ...]:
        """For each summand and each result, by which addition it is added, numbered as in ``nodes``; -1 for the sum."""
        found = [-1] * (self.length + len(self.nodes))
        for m, node in enumerate(self.nodes):
            for i in node:
                found[i] = self.length + m
        return tuple(found)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """For each summand and each result, how many summands are in it."""
        found = [1] * self.length
        for node in self.nodes:
            found.append(sum(found[i] for i in node))
        return tuple(found)

    @cached_property
    def heights(self) -> tuple[int, ...]:
        """For each summand and each result, the longest way of additions that leads to it."""
        found = [0] * self.length
        for node in self.nodes:
            found.append(1 + max(found[i] for i in node))
        return tuple(found)

    @property
    def depth(self) -> int:
        """How many additions the longest way to the sum has."""
        return self.heights[-1]

    @property
    def widest(self) -> int:
        """The largest number of values that one addition adds."""
        return max((len(node) for node in self.nodes), default=1)

    def first(self, i: int) -> int:
        """The smallest summand in ``i``."""
        while i >= self.length:
            i = self.nodes[i - self.length][0]
        return i

    def meeting(self, i: int, j: int) -> int:
        """How many summands are in the first result that has both summands ``i`` and ``j``."""
        while i != j:
            i, j = (self.parents[i], j) if i < j else (i, self.parents[j])  # parents have larger numbers
        return self.sizes[i]

    def nested(self) -> Nested:
        """The tree as nested tuples, for at most 64 summands.

        >>> SumTree(3, ((0, 1), (3, 2))).nested()
        ((0, 1), 2)
        """
        if self.length > NESTED:
            raise RoundoffError(
                f"nested() is for at most {NESTED} summands, and there are {self.length}. nodes has the whole tree."
            )
        found: list[Nested] = list(range(self.length))
        for node in self.nodes:
            found.append(tuple(found[i] for i in node))
        return found[-1]

    def describe(self) -> str:
        """The order in words.

        >>> SumTree.from_nested((((0, 1), 3), 2), bias=True).describe()
        '2 sequential, + bias, then 1 sequential'
        """
        from roundoff.order.words import describe

        return describe(self)

    def to_dict(self) -> dict[str, Any]:
        """Plain data; :meth:`from_dict` reads it."""
        return {
            "schema": SCHEMA,
            "length": self.length,
            "bias": self.bias,
            "depth": self.depth,
            "nodes": [list(node) for node in self.nodes],
        }

    @staticmethod
    def from_dict(data: dict[str, Any]) -> SumTree:
        """The tree that :meth:`to_dict` gave."""
        if data.get("schema") != SCHEMA:
            raise RoundoffError(f"The schema is {data.get('schema')!r}, not {SCHEMA!r}: this is no SumTree.")
        return SumTree(data["length"], tuple(tuple(node) for node in data["nodes"]), data["bias"])

    def __repr__(self) -> str:
        bias = " with the bias" if self.bias else ""
        return f"<SumTree of {self.length} summands{bias}, depth {self.depth}: {self.describe()}>"


def _arrange(length: int, additions: Sequence[Sequence[int]], root: int) -> tuple[tuple[int, ...], ...]:
    """The additions in post-order, the part with the smallest summand first."""
    if root < length:
        return ()
    smallest: dict[int, int] = {i: i for i in range(length)}
    for i in _children_first(length, additions, root):
        smallest[i] = min(smallest[c] for c in additions[i - length])
    ordered = [sorted(node, key=lambda c: smallest.get(c, -1)) for node in additions]
    names: dict[int, int] = {i: i for i in range(length)}
    nodes: list[tuple[int, ...]] = []
    for i in _children_first(length, ordered, root):
        names[i] = length + len(nodes)
        nodes.append(tuple(names[c] for c in ordered[i - length]))
    return tuple(nodes)


def _children_first(length: int, additions: Sequence[Sequence[int]], root: int) -> Iterable[int]:
    """The additions below ``root``, each after those it adds, from the first to the last of its parts."""
    work = [(root, False)]
    while work:
        i, entered = work.pop()
        if entered:
            yield i
        elif i >= length:
            work.append((i, True))
            work.extend((c, False) for c in reversed(additions[i - length]))
