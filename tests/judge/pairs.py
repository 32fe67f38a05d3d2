"""Small pairs of networks whose truth is known, and short ways to ask about them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from roundoff import Comparison
from roundoff.judge.case import Case, open_case
from roundoff.replay.run import Side
from roundoff.tape.trace import random_state


def product(x: Tensor, w: Tensor) -> Tensor:
    """``x @ w``."""
    return x @ w


def backwards(x: Tensor, w: Tensor) -> Tensor:
    """The same product with its terms added from the last to the first: other bits, the same function."""
    return x.flip(-1) @ w.flip(0)


def case(a: Callable[..., Any], b: Callable[..., Any], *args: Any) -> Case:
    """Both sides, run and checked, before anything is judged."""
    state = random_state()
    return open_case(Side("A", a, args, {}, state), Side("B", b, args, {}, state), lambda done, total, text: None)


def kinds(c: Comparison) -> set[str]:
    """The kinds of the findings."""
    return {str(finding.kind) for finding in c.findings}


def told(c: Comparison, kind: str) -> str:
    """Where and what the findings of one kind say, each on a line."""
    return "\n".join(f"{f.where}: {f.text}" for f in c.findings if f.kind == kind)


def nudged(net: nn.Module, name: str, *index: int) -> nn.Module:
    """A copy of ``net`` in which one element of one parameter is the next number towards infinity."""
    net = copy.deepcopy(net)
    with torch.no_grad():
        x = net.get_parameter(name)
        x[index] = torch.nextafter(x[index], torch.tensor(torch.inf))
    return net


class Perceptron(nn.Module):
    """16 -> 24 -> 4, with a GELU in between."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.inner = nn.Linear(16, width)
        self.outer = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = nn.functional.gelu(self.inner(x))
        return self.outer(h)
