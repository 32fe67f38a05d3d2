from __future__ import annotations

import pytest
from tests.order.planted import order_of, pairwise, sequential, with_bias

from roundoff.order.tree import SumTree
from roundoff.order.words import differences

CASES = [
    (SumTree.from_nested(order_of("sequential", 12)), "12 sequential"),
    (SumTree.from_nested(order_of("backwards", 12)), "12 sequential (backwards)"),
    (SumTree.from_nested(order_of("pairwise", 16)), "16 pairwise"),
    (SumTree.from_nested(order_of("blocked", 16)), "4 blocks of 4 sequential, one after another"),
    (SumTree.from_nested(order_of("strided", 16)), "4 blocks of 4 sequential (every 4th), pairwise"),
    (SumTree.from_nested(order_of("4 at once", 4)), "4 at once"),
    (SumTree.from_nested(order_of("4 at once", 16)), "4 times 4 at once"),
    (with_bias(order_of("sequential", 8), 8, "first"), "bias, then 8 sequential"),
    (with_bias(order_of("sequential", 8), 8, "last"), "8 sequential, + bias"),
    (with_bias(order_of("sequential", 256), 256, "middle"), "128 sequential, + bias, then 128 sequential"),
    (
        SumTree.from_nested(((sequential(list(range(128))), 256), sequential(list(range(128, 256)))), bias=True),
        "128 sequential, + bias, then a block of 128 sequential",
    ),
]


@pytest.mark.parametrize(("tree", "words"), CASES)
def test_words(tree: SumTree, words: str) -> None:
    assert tree.describe() == words


def test_repetitions_are_told_once() -> None:
    parts: list = [sequential([0, 1, 2, 3])]
    for at in range(4, 64, 8):
        parts += [sequential(list(range(at, at + 4))), *range(at + 4, at + 8)]
    tree = SumTree.from_nested(sequential([0, 1, 2, 3, *parts[1:]]))
    assert len(tree.describe()) < 130 and " times (" in tree.describe()


def test_rounds() -> None:
    tree = SumTree.from_nested(sequential([j for i in range(9) for j in range(i, 144, 9)]))
    assert tree.describe() == "144 sequential (9 rounds of every 9th)"


def test_differences() -> None:
    a, b = SumTree.from_nested(sequential(list(range(8)))), SumTree.from_nested(pairwise(list(range(8))))
    assert differences(a, a) == "Both add 8 sequential."
    assert differences(a, b) == (
        "The first adds 8 sequential (depth 7); the second 8 pairwise (depth 3). 3 of 7 partial sums are of the same "
        "summands."
    )
    assert "8 and 4 summands" in differences(a, SumTree.from_nested(pairwise([0, 1, 2, 3])))
