from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.order.planted import KINDS, order_of

from roundoff.order.build import NoTree, build
from roundoff.order.tree import Nested, SumTree


@st.composite
def trees(draw: st.DrawFn, longest: int = 40) -> SumTree:
    """Any tree: parts drawn at random are joined, two or more at a time."""
    n = draw(st.integers(2, longest))
    parts: list[Nested] = list(draw(st.permutations(range(n))))
    while len(parts) > 1:
        ways = draw(st.integers(2, min(len(parts), 5)))
        chosen = [parts.pop(draw(st.integers(0, len(parts) - 1))) for _ in range(ways)]
        parts.append(tuple(chosen))
    return SumTree.from_nested(parts[0])


@given(trees())
@settings(max_examples=200, deadline=None)
def test_every_tree_is_built_from_its_meetings(tree: SumTree) -> None:
    assert build(tree.length, lambda pairs: [tree.meeting(i, j) for i, j in pairs]) == tree


@pytest.mark.parametrize("kind", KINDS)
def test_few_pairs_are_needed(kind: str) -> None:
    tree = SumTree.from_nested(order_of(kind, 512))
    asked, rounds = 0, 0

    def meetings(pairs: Sequence[tuple[int, int]]) -> list[int]:
        nonlocal asked, rounds
        asked, rounds = asked + len(pairs), rounds + 1
        return [tree.meeting(i, j) for i, j in pairs]

    assert build(512, meetings) == tree
    # a part that is opened at random is halved on average: a few times n log2 n, where all pairs are n^2 / 2
    assert asked <= 3 * 512 * 9 and rounds <= 30


def test_every_unit_surviving_is_no_tree() -> None:
    with pytest.raises(NoTree, match="room for"):
        build(5, lambda pairs: [2] * len(pairs))
