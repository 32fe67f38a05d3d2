"""Tensors are found wherever networks put them, each with its place."""

from __future__ import annotations

from collections import OrderedDict, UserDict, deque, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from roundoff.tape.leaves import is_wrapper, leaves, map_operands, operands, tensors

X, Y, Z = torch.ones(1), torch.ones(2), torch.ones(3)
Point = namedtuple("Point", "x y")


@dataclass
class Record:
    first: Tensor
    second: Any


class Plain:
    def __init__(self) -> None:
        self.inside = X
        self.text = "t"


@pytest.mark.parametrize(
    ("value", "places"),
    [
        (X, [""]),
        (None, [""]),
        ((X, [Y, (Z,)]), ["[0]", "[1][0]", "[1][1][0]"]),
        ({"a": X, 3: Y}, ["['a']", "[3]"]),
        (OrderedDict(b=X), ["['b']"]),
        (Point(X, {"k": Y}), [".x", ".y['k']"]),
        (Record(X, [Y]), [".first", ".second[0]"]),
        (Plain(), [".inside", ".text"]),
        ([X, 1, "s", None, 2.5], ["[0]", "[1]", "[2]", "[3]", "[4]"]),
        ([], []),
    ],
)
def test_places(value: Any, places: list[str]) -> None:
    assert [place for place, _ in leaves(value)] == places


def test_tensors_are_given_in_order_and_themselves() -> None:
    found = tensors({"a": (X, 1), "b": Record(Y, None), "c": Point(Z, X)})
    assert [id(x) for x in found] == [id(x) for x in (X, Y, Z, X)]


def test_outputs_of_model_libraries_are_mappings() -> None:
    transformers = pytest.importorskip("transformers")
    out = transformers.modeling_outputs.BaseModelOutput(last_hidden_state=X, hidden_states=(Y, Z))
    assert [place for place, _ in leaves(out)] == [
        "['last_hidden_state']",
        "['hidden_states'][0]",
        "['hidden_states'][1]",
    ]
    assert [place for place, _ in leaves(UserDict(ids=X))] == ["['ids']"]


def test_a_packed_sequence_is_a_tuple() -> None:
    packed = torch.nn.utils.rnn.pack_sequence([Z, Y])
    assert [place for place, x in leaves(packed) if x is not None] == [".data", ".batch_sizes"]


def test_what_holds_itself_ends() -> None:
    ring: list[Any] = [X]
    ring.append(ring)
    assert tensors(ring) == [X]


def test_what_is_called_is_a_leaf_and_a_module_holds_its_tensors() -> None:
    layer = torch.nn.Linear(1, 1)
    assert [(place, value) for place, value in leaves([len])] == [("[0]", len)]
    assert [place for place, _ in leaves([layer])] == ["[0].weight", "[0].bias"]


def test_slots_queues_and_views_of_mappings_are_entered() -> None:
    class Slotted:
        __slots__ = ("x",)

        def __init__(self) -> None:
            self.x = X

    found = list(leaves((Slotted(), deque([X]), {"a": Y}.values())))
    assert [place for place, _ in found] == ["[0].x", "[1][0]", "[2][0]"]


def test_operands_are_found_in_lists_tuples_and_keywords() -> None:
    found = operands(((X, [Y, None], 3), {"out": (Z,)}))
    assert [id(x) for x in found] == [id(X), id(Y), id(Z)]
    doubled = map_operands(lambda v: v * 2 if isinstance(v, Tensor) else v, {"a": [X, (1, Y)]})
    assert doubled["a"][1][0] == 1 and torch.equal(doubled["a"][1][1], Y * 2)


def test_wrappers_are_told_from_plain_kinds() -> None:
    class Plain(Tensor):
        pass

    class Wrapper(Tensor):
        @classmethod
        def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            raise AssertionError

    assert not is_wrapper(X) and not is_wrapper(torch.nn.Parameter(X)) and not is_wrapper(X.as_subclass(Plain))
    assert is_wrapper(Tensor._make_subclass(Wrapper, X))
