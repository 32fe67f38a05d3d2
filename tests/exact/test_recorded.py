"""Bits that were recorded on one machine, and training that gives the same weights in both forms."""

from __future__ import annotations

import json

import pytest
import torch
from tests.exact.recorded import FILE, adamw, cases, hashed, pair, sgd, started, trained
from tests.suite import minilm

from roundoff import make_exact
from roundoff.formats import same_bits

RECORDED = json.loads(FILE.read_text())
CASES = dict(cases())


def test_all_is_recorded() -> None:
    assert set(RECORDED) == set(CASES)


@pytest.mark.parametrize("name", RECORDED)
def test_the_recorded_bits(name: str) -> None:
    assert hashed(CASES[name]()) == RECORDED[name]


def test_another_bit_has_another_hash() -> None:
    x = torch.ones(3)
    assert hashed([x]) != hashed([torch.nextafter(x, 2 * x)]) != hashed([-x])


@pytest.mark.parametrize(("name", "steps", "batch", "optimizer"), [("linear", 12, 48, adamw), ("kernel", 4, 24, sgd)])
def test_training_gives_the_same_weights_in_both_forms(name: str, steps: int, batch: int, optimizer: object) -> None:
    first, second = pair(name, started(name))
    trained(first, steps, batch, optimizer)  # type: ignore[arg-type]
    if name == "kernel":
        torch.set_num_threads(2)
    trained(second, steps, batch, optimizer)  # type: ignore[arg-type]
    before = started(name).values()
    for a, b, c in zip(first.state_dict().values(), second.state_dict().values(), before, strict=True):
        assert same_bits(a, b.reshape(a.shape))
        assert not same_bits(a, c)
    plain = [pair(name, started(name))[i] for i in (0, 1)]
    x = torch.rand(9, 1, 8, 8)
    with torch.no_grad():
        assert not same_bits(
            *(net.eval()(x) for net in plain)
        )  # PyTorch's own forms differ, so something was made equal


def test_a_transformer_in_both_forms() -> None:
    ids, mask = minilm.tokens()
    with torch.no_grad():
        right = make_exact(minilm.fused()).model(ids, mask)
        other = make_exact(minilm.separate())
        assert other.declined == () and same_bits(other.model(ids[:2], mask[:2]), right[:2])
        assert same_bits(other.model(ids[2:3], mask[2:3]), right[2:3])
        assert other.model.inexact == ()
