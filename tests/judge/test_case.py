"""What is kept of one comparison."""

from __future__ import annotations

from math import nan
from typing import Any

import pytest
import torch
from tests.judge.pairs import case

from roundoff import RoundoffError
from roundoff.judge.case import repeated, same_value
from roundoff.records import Finding, Kind


def test_only_leaves_in_the_same_place_shape_and_format_are_comparable() -> None:
    def a(x: torch.Tensor) -> dict[str, Any]:
        return {"same": x, "shape": x, "dtype": x, "mine": x, "number": 1, "kind": x}

    def b(x: torch.Tensor) -> dict[str, Any]:
        return {"same": x + 0, "shape": x[:1], "dtype": x.double(), "yours": x, "number": 1, "kind": 2}

    opened = case(a, b, torch.randn(3))
    assert [name for name, _, _ in opened.comparable] == ["['same']"]


def test_findings_are_kept_once() -> None:
    opened = case(torch.sin, torch.sin, torch.randn(3))
    for _ in range(2):
        opened.find(Kind.MAGNITUDE, "here", "so")
    assert opened.findings == [Finding(Kind.MAGNITUDE, "here", "so")]


@pytest.mark.parametrize(
    ("x", "y", "same"),
    [
        (torch.tensor([nan, 1]), torch.tensor([nan, 1]), True),
        (torch.tensor(0.0), torch.tensor(-0.0), False),
        (torch.tensor(0), torch.tensor(0.0), False),
        (torch.ones(1), torch.ones(1, 1), False),
        (nan, nan, True),
        (1, 1, True),
        (1, 1.0, False),
        (1, True, False),
        ("a", "a", True),
        ("a", "b", False),
        (None, None, True),
        (None, 0, False),
        (1j, 1j, True),
    ],
)
def test_same_value(x: object, y: object, same: bool) -> None:
    assert same_value(x, y) is same


def test_a_run_is_repeated_without_being_watched() -> None:
    opened = case(torch.sin, torch.cos, torch.randn(3))
    for side, ran, _ in opened.sides:
        assert repeated(ran, opened.again[side.name])
        assert not repeated(ran, ())
    assert not repeated(opened.ran_a, opened.again["B"])


def test_the_side_that_raises_is_named() -> None:
    def fails(x: torch.Tensor) -> torch.Tensor:
        raise ValueError("no such width")

    with pytest.raises(RoundoffError, match=r"(?s)^B raised ValueError: no such width\n.*float32\[3\]"):
        case(torch.sin, fails, torch.randn(3))
