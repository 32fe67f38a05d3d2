"""Numbers that leave the tensors and come back, and random draws."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.judge.pairs import backwards, kinds, product, told
from torch import Tensor
from torch.nn import functional as F

import roundoff


def tail(x: Tensor) -> float:
    """A rounded number that leaves."""
    return (x @ x.t()).mean().item()


RETURNING: dict[str, Callable[[Tensor], Tensor]] = {
    "item": lambda x: product(x, x.t()) * tail(x),
    "float": lambda x: product(x, x.t()) * float((x @ x.t()).mean()),
    "tolist": lambda x: torch.tensor(product(x, x.t()).tolist()) * 2,
    "numpy": lambda x: torch.from_numpy(product(x, x.t()).numpy() * 2),
    "tensor": lambda x: product(x, x.t()) * torch.tensor(tail(x)),
    "full": lambda x: product(x, x.t()) + torch.full((1,), tail(x)),
}


@pytest.mark.parametrize("way", RETURNING)
def test_a_number_that_comes_back_leaves_it_undecided(way: str) -> None:
    net = RETURNING[way]

    def other(x: Tensor) -> Tensor:
        h = backwards(x, x.t())
        if way in ("tolist", "numpy"):
            return h * 2
        mean = h.mean()
        return h + mean if way == "full" else h * mean

    c = roundoff.compare(net, other, torch.randn(12, 30))
    assert c.verdict == "undecided", c.reason
    assert kinds(c) == {"opaque-operator"}
    assert "came back" in told(c, "opaque-operator") and told(c, "opaque-operator").startswith("A: ")


CONTROL: dict[str, Callable[[Tensor], bool]] = {
    "item": lambda x: (x @ x.t()).mean().item() > 1e9,
    "bool": lambda x: bool((x @ x.t()).mean() > 1e9),
    "any": lambda x: bool(((x @ x.t()) > 1e9).any()),
    "int": lambda x: int((x @ x.t()).mean()) > 10**9,
}


@pytest.mark.parametrize("way", CONTROL)
def test_control_flow_on_a_number_is_harmless(way: str) -> None:
    def net(x: Tensor) -> Tensor:
        return x if CONTROL[way](x) else product(x, x.t())

    c = roundoff.compare(net, lambda x: backwards(x, x.t()), torch.randn(12, 30))
    assert c.verdict == "roundoff", c.reason
    assert kinds(c) == set()


def test_an_exact_number_that_comes_back_is_harmless() -> None:
    """The largest element of the input is what it is, natively and wide."""
    x = torch.randn(12, 30)
    c = roundoff.compare(lambda x: product(x, x.t()) * x.max().item(), lambda x: backwards(x, x.t()) * x.max(), x)
    assert c.verdict == "roundoff", c.reason


def test_the_same_draws() -> None:
    c = roundoff.compare(F.dropout, lambda x: F.dropout(x, 0.5), torch.randn(9, 8))
    assert (c.verdict, c.evidence) == ("identical", "proved")


def test_the_same_draws_and_another_order_of_summation() -> None:
    x, w = torch.randn(9, 30), torch.randn(30, 8)
    c = roundoff.compare(lambda x: F.dropout(product(x, w)), lambda x: F.dropout(backwards(x, w)), x)
    assert c.verdict == "roundoff", c.reason


def test_draws_in_another_order_leave_it_undecided() -> None:
    def later_first(x: Tensor) -> Tensor:
        later = F.dropout(x[4:])
        return torch.cat([F.dropout(x[:4]), later])

    c = roundoff.compare(F.dropout, later_first, torch.randn(16, 8))
    assert c.verdict == "undecided", c.reason
    assert kinds(c) == {"not-deterministic"}
    assert "random draws alone" in c.reason and "eval mode" in c.reason


def test_one_more_draw_leaves_it_undecided() -> None:
    def another(x: Tensor) -> Tensor:
        torch.rand(3)
        return F.dropout(x)

    c = roundoff.compare(F.dropout, another, torch.randn(16, 8))
    assert c.verdict == "undecided", c.reason
    assert kinds(c) == {"not-deterministic"}


def test_draws_of_another_shape_leave_it_undecided() -> None:
    def padded(x: Tensor) -> Tensor:
        return F.dropout(F.pad(x, (3, 0)))[:, 3:]

    c = roundoff.compare(F.dropout, padded, torch.randn(16, 8))
    assert c.verdict == "undecided", c.reason
    assert kinds(c) == {"not-deterministic"}


@pytest.mark.parametrize("change", [1.0, 1e-6])
def test_a_mistake_beside_draws_that_cannot_be_matched_is_different(change: float) -> None:
    def padded(x: Tensor) -> Tensor:
        return F.dropout(F.pad(x, (3, 0)))[:, 3:] * (1 + change)

    c = roundoff.compare(F.dropout, padded, torch.randn(16, 8))
    assert c.verdict == "different", c.reason
    assert "not-deterministic" not in kinds(c)


def test_another_probability_is_different() -> None:
    c = roundoff.compare(F.dropout, lambda x: F.dropout(x, 0.4), torch.randn(16, 8))
    assert c.verdict == "different", c.reason


@pytest.mark.parametrize("draw", [random.random, lambda: float(np.random.rand())], ids=["python", "numpy"])
def test_draws_that_no_step_shows(draw: Callable[[], float]) -> None:
    """From the same state they are the same; with anything else beside them nothing can be said."""
    x = torch.randn(9, 30)

    def net(f: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor], Any]:
        return lambda x: f(x, x.t()) * draw()

    assert roundoff.compare(net(product), net(product), x).verdict == "identical"
    c = roundoff.compare(net(product), lambda x: backwards(x, x.t()), x)
    assert c.verdict == "undecided"
    assert kinds(c) == {"not-deterministic"}
    assert "Python's or NumPy's" in c.reason
