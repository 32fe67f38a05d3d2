"""Bugs planted in networks whose two sides are built differently: the line that is named is the one with the bug.

Lines carry the names of their bugs in the comment behind them. Where a bug is something that is missing, the next line
that uses what came of it carries the name: there the values are first such as the other side has not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.judge.parting import planted_attention, planted_sequence, planted_vision
from tests.judge.parting.planted_vision import shaken

from roundoff.judge.parting import Alignment, align, describe_parting
from roundoff.replay.run import Side
from roundoff.tape.trace import random_state

FAMILIES: dict[str, tuple[Callable[[], Any], Callable[[Any, str], Any], Callable[[], torch.Tensor], str]] = {
    "attention": (
        planted_attention.Block,
        planted_attention.by_hand,
        lambda: torch.randn(planted_attention.N, planted_attention.L, planted_attention.D),
        "eps variance centre affine split swapped kv bias-q value scale mask axis twice permuted merged order residual "
        "weight relu gelu skip",
    ),
    "vision": (
        planted_vision.Convs,
        planted_vision.channels_last,
        lambda: torch.randn(planted_vision.N, 3, planted_vision.S, planted_vision.S),
        "pad kernel weights channels dilation variance eps shift before activation groups swapped rows residual stride "
        "pool offset flatten bias head",
    ),
    "recurrent": (
        planted_sequence.Recurrent,
        planted_sequence.unrolled,
        lambda: torch.randint(0, 11, (planted_sequence.N, planted_sequence.SHORT)),
        "words gates cell start backwards reset update last logs",
    ),
    "rotary": (
        planted_sequence.Rotary,
        planted_sequence.grouped,
        lambda: torch.randn(planted_sequence.N, planted_sequence.L, planted_sequence.D),
        "root angle pairs base offset repeat causal window late silu swap half groups",
    ),
}
#: What B does not have at its end cannot be named on its side.
ENDS_EARLY = {("attention", "skip"), ("vision", "bias")}


def aligned(family: str, bug: str) -> Alignment:
    make, write, draw, _ = FAMILIES[family]
    torch.manual_seed(0)
    net, x, state = shaken(make()), draw(), random_state()
    return align(Side("A", net, (x,), {}, state), Side("B", write(net, bug), (x,), {}, state))


#: What may be wrong with what the attention module of A does inside.
INSIDE = ["axis", "scale", "mask", "bias-q", "swapped", "split", "permuted", "merged", "twice", "value", "kv"]


def names(where: str) -> list[str]:
    """The names behind the line of a place."""
    found = where.rpartition("  # ")[2].split()
    return INSIDE if found == ["inside"] else found


@pytest.mark.parametrize(("family", "bug"), [(f, bug) for f, (*_, bugs) in FAMILIES.items() for bug in bugs.split()])
def test_the_planted_line_is_named(family: str, bug: str) -> None:
    found = aligned(family, bug)
    assert found.parting_a is not None
    assert bug in names(found.parting_a.where)
    if (family, bug) in ENDS_EARLY:
        assert found.parting_b is None
    else:
        assert found.parting_b is not None
        assert bug in names(found.parting_b.where)
    said = describe_parting(found)
    assert found.parting_a.op in said
    assert "apart" in said or "differ" in said or found.places_only


@pytest.mark.parametrize("family", FAMILIES)
def test_without_the_bug_they_do_not_part(family: str) -> None:
    found = aligned(family, "")
    assert (found.parting_a, found.parting_b) == (None, None)
    assert found.pairs


@pytest.mark.parametrize(("family", "bug"), [("attention", "permuted"), ("attention", "split"), ("vision", "swapped")])
def test_numbers_in_other_places_are_called_so(family: str, bug: str) -> None:
    found = aligned(family, bug)
    assert found.places_only
    assert "in other places" in describe_parting(found)
