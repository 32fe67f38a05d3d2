"""Two tapes beside each other: which steps hold the same values, with and without a place where they part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roundoff.judge.parting import Alignment, align, describe_parting
from roundoff.judge.parting.marks import read_marks
from roundoff.replay.run import Side
from roundoff.tape.trace import random_state

X = torch.randn(5, 8, generator=torch.Generator().manual_seed(1))
W = torch.randn(8, 8, generator=torch.Generator().manual_seed(2))


def aligned(a: Callable[..., Any], b: Callable[..., Any], *args: Tensor) -> Alignment:
    state = random_state()
    return align(Side("A", a, args, {}, state), Side("B", b, args, {}, state))


def ops(found: Alignment) -> list[tuple[str, str]]:
    """The operators of each pair."""
    a, b = ({step.step: step.op.split(".")[1] for step in steps} for steps in (found.steps_a, found.steps_b))
    return [(a[i], b[j]) for i, j in found.pairs]


def one(x: Tensor) -> Tensor:
    return torch.softmax(F.layer_norm(x @ W, (8,)), -1)


def two(x: Tensor) -> Tensor:
    """The same, transposed, and in more steps."""
    h = F.conv1d(x.t()[None], W.t()[:, :, None])[0]
    h = h - h.mean(0)
    h = h / torch.sqrt(h.square().mean(0) + 1e-5)
    return torch.softmax(h, 0).t()


def test_networks_that_do_not_part_are_aligned_too() -> None:
    found = aligned(one, two, X)
    assert ops(found) == [("mm", "convolution"), ("native_layer_norm", "div"), ("_softmax", "_softmax")]
    assert found.only_a == ()
    assert next(s.op for s in found.steps_b if s.step in found.only_b) == "aten.mean.dim"
    assert (found.parting_a, found.parting_b, found.apart) == (None, None, None)


def test_steps_are_either_paired_or_alone() -> None:
    found = aligned(one, lambda x: two(x * 1.5), X)
    for steps, paired, alone in (
        (found.steps_a, [i for i, _ in found.pairs], found.only_a),
        (found.steps_b, [j for _, j in found.pairs], found.only_b),
    ):
        assert sorted([*paired, *alone]) == [s.step for s in steps]
        assert len(set(paired)) == len(paired)
    assert found.pairs == ()
    assert found.parting_b is not None and found.parting_b.op == "aten.mul.Tensor"


def test_an_alignment_is_frozen_and_hashable() -> None:
    found = aligned(one, one, X)
    assert hash(found) == hash(aligned(one, one, X))
    with pytest.raises(FrozenInstanceError):
        found.pairs = ()  # type: ignore[misc]


def test_how_far_apart_the_values_are() -> None:
    found = aligned(one, lambda x: one(x) + 0.25 * (x > 0), X)
    assert found.parting_a is None
    found = aligned(lambda x: (x @ W).exp(), lambda x: F.linear(W.t(), x).exp().t() * 2, X)
    assert found.parting_a is None and found.parting_b is not None  # all that A has, B has as well
    found = aligned(lambda x: (x @ W) * 3, lambda x: F.linear(W.t(), x).t() * 2, X)
    assert found.apart == pytest.approx(float((X.double() @ W.double()).abs().max()))
    assert found.size == pytest.approx(3 * float((X.double() @ W.double()).abs().max()))
    assert "apart" in describe_parting(found)


def test_values_of_other_numbers_are_not_held_against_each_other() -> None:
    found = aligned(lambda x: (x * 2).sum(0), lambda x: x.sum(0).exp(), X)
    assert found.apart is None
    assert "differ" in describe_parting(found)


def wild(x: Tensor, late: float = 1.0) -> Tensor:
    """Each layer makes round-off some ten times larger."""
    for i in range(12):
        y = F.conv1d(x.t()[None], W.t()[:, :, None])[0].t()
        x = torch.sin(y * (6 * late if i == 4 else 6))  # layer
    return x


def plain(x: Tensor) -> Tensor:
    for _ in range(12):
        x = torch.sin(6 * (x @ W))  # layer
    return x


def test_the_room_for_rounding_grows_with_the_network() -> None:
    rooms = [m.room for m in read_marks(Side("A", plain, (X,), {}, random_state())).marks if "sin" in m.op]
    assert rooms[0] < 1e-12 < 1e-9 < rooms[-1]


def test_networks_that_amplify_round_off_part_late_or_not_at_all() -> None:
    found = aligned(plain, wild, X)
    assert (found.parting_a, found.parting_b) == (None, None)
    found = aligned(plain, lambda x: wild(x, 1.001), X)
    assert found.parting_b is not None
    fifth = [s.step for s in found.steps_b if s.op == "aten.mul.Tensor"][4]
    assert found.parting_b.step == fifth


def test_what_is_made_like_another_tensor_does_not_come_from_it() -> None:
    """Zeros of the shape of a wrong value lead on to values that both sides have."""

    def net(x: Tensor, factor: float) -> Tensor:
        h = x * factor
        return h + torch.zeros_like(h).sub(W[:5]).exp()

    found = aligned(lambda x: net(x, 1.5), lambda x: net(x, 1.25), X)
    assert found.parting_b is not None and found.parting_b.op == "aten.mul.Tensor"


def test_parts_of_memory_come_from_who_wrote_them() -> None:
    """Both halves of a buffer are written; a wrong first half is not excused by the second, which is right."""

    def net(x: Tensor, factor: float) -> Tensor:
        buffer = x.new_empty(5, 16)
        buffer[:, :8] = x.sin() * factor
        buffer[:, 8:] = x.cos()
        return buffer[:, :8].exp() @ buffer[:, 8:].exp().t()

    found = aligned(lambda x: net(x, 1.5), lambda x: net(x, 1.25), X)
    assert found.parting_b is not None and found.parting_b.op == "aten.mul.Tensor"


def test_outputs_in_other_places() -> None:
    found = aligned(lambda x: (x @ W).exp(), lambda x: (x @ W).exp()[:, [1, 0, 2, 3, 4, 5, 6, 7]], X)
    assert found.places_only
    assert found.parting_a is None
    assert found.parting_b is not None and found.parting_b.op == "aten.index.Tensor"


def test_rows_of_a_weight_that_are_exchanged() -> None:
    """The values are the same numbers until the next layer reads them: the first layer is named."""
    torch.manual_seed(0)
    first, second = nn.Linear(8, 6), nn.Linear(6, 3)
    other = nn.Linear(8, 6)
    with torch.no_grad():
        other.weight.copy_(first.weight[[1, 0, 2, 3, 4, 5]])
        other.bias.copy_(first.bias[[1, 0, 2, 3, 4, 5]])
    found = aligned(nn.Sequential(first, nn.Tanh(), second), nn.Sequential(other, nn.Tanh(), second), X)
    assert found.places_only
    assert found.parting_a is not None and found.parting_a.where.startswith("0")
    assert found.parting_b is not None and found.parting_b.where.startswith("0")
