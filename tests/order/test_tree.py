from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from tests.order.planted import KINDS, order_of

from roundoff import RoundoffError
from roundoff.order.svg import svg
from roundoff.order.tree import SumTree

LONG = SumTree.of(4096, [(i + 4095 if i else 0, i + 1) for i in range(4095)])


def test_long_trees_do_not_recurse() -> None:
    again = SumTree.from_dict(json.loads(json.dumps(LONG.to_dict())))
    assert again == LONG and hash(again) == hash(LONG)
    assert pickle.loads(pickle.dumps(LONG)) == LONG
    assert repr(LONG) == "<SumTree of 4096 summands, depth 4095: 4096 sequential>"
    assert LONG.depth == 4095
    assert LONG.meeting(0, 4095) == 4096 and LONG.meeting(7, 3) == 8
    assert svg(LONG).endswith("</svg>\n")


@pytest.mark.parametrize("kind", KINDS)
def test_nested_and_back(kind: str) -> None:
    tree = SumTree.from_nested(order_of(kind, 21))
    assert SumTree.from_nested(tree.nested()) == tree
    assert tree.length == 21


def test_equal_orders_are_equal_trees() -> None:
    assert SumTree.from_nested(((3, 2), (1, 0))) == SumTree.from_nested(((0, 1), (2, 3)))
    assert SumTree.from_nested(((0, 1), (2, 3))) != SumTree.from_nested(((0, 2), (1, 3)))
    assert SumTree.from_nested(((0, 1), 2), bias=True) != SumTree.from_nested(((0, 1), 2))
    assert SumTree.from_nested((2, (1, 0))).nested() == ((0, 1), 2)


def test_depth_and_meetings() -> None:
    tree = SumTree.from_nested(((0, 1, 2), ((3, 4), 5)))
    assert (tree.depth, tree.widest) == (3, 3)
    assert [tree.meeting(0, j) for j in range(1, 6)] == [3, 3, 6, 6, 6]
    assert [tree.meeting(5, j) for j in range(5)] == [6, 6, 6, 3, 3]
    assert SumTree(1, ()).depth == 0


@pytest.mark.parametrize(
    ("length", "nodes"),
    [(3, ((0, 1),)), (3, ((0, 1), (1, 2))), (2, ((0, 2), (1, 2))), (2, ((0, 1), (2,))), (0, ()), (3, ((1, 2), (3, 0)))],
)
def test_what_is_no_tree_is_refused(length: int, nodes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(RoundoffError, match="tree"):
        SumTree(length, nodes)


def test_nested_is_for_small_trees() -> None:
    with pytest.raises(RoundoffError, match="at most 64"):
        LONG.nested()
    with pytest.raises(RoundoffError, match="schema"):
        SumTree.from_dict({"schema": "other"})


def test_a_picture_has_a_line_for_each_part(tmp_path: Path) -> None:
    picture = svg(SumTree.from_nested(((0, 1), 2), bias=True))
    assert picture.count("M") == 4 and picture.count("<circle") == 1
