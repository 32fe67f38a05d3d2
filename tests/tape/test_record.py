"""A tape keeps a run's steps, and replays them to the last bit."""

from __future__ import annotations

import pytest
import torch
from tests.tape.cases import CASES, DRAWN, MODES, Case, each, ready
from tests.tape.nets import mlp
from torch import Tensor, nn

import roundoff
from roundoff.errors import RoundoffError
from roundoff.formats import same_bits
from roundoff.tape.leaves import tensors
from roundoff.tape.trace import random_state, set_random_state


@pytest.mark.parametrize(("case", "mode"), each(*CASES, *DRAWN))
def test_a_replay_gives_the_same_bits(case: Case, mode: str) -> None:
    network = ready(case, mode)
    randomness = random_state()
    with network.mode():
        tape = roundoff.record(network.model, network.args, network.kwargs)
        set_random_state(randomness)
        expected = tensors(network.model(*network.args, **network.kwargs))
    for elsewhere in ("grad", mode, "autocast"):
        with MODES[elsewhere]():
            replayed = tape.replay()
        assert len(replayed) == len(expected)
        for name, x, y in zip(tape.names, replayed, expected, strict=True):
            assert same_bits(x, y), f"{name} in {elsewhere}"


def test_a_tape_is_a_sequence_that_prints() -> None:
    tape = roundoff.record(mlp(), torch.randn(5, 6))
    assert [str(step.op) for step in tape] == [
        "aten.t.default",
        "aten.addmm.default",
        "aten.gelu.default",
        "aten.native_layer_norm.default",
        "aten.t.default",
        "aten.addmm.default",
    ]
    assert len(tape) == 6 and tape[1] is list(tape)[1] and tape[-1].index == 5
    lines = str(tape).splitlines()
    assert len(lines) == 6
    assert lines[1].split()[:4] == ["1", "aten.addmm.default", "->", "float32[5,"]


def test_a_step_without_a_tensor_says_so() -> None:
    tape = roundoff.record(lambda x: x * x.sum().item(), torch.ones(2))
    assert "aten._local_scalar_dense.default -> no tensor" in str(tape)


def test_an_input_that_is_overwritten_keeps_its_old_content() -> None:
    x = torch.arange(6.0).reshape(2, 3)

    def twice(x: Tensor) -> Tensor:
        return x.mul_(2).add_(1)

    tape = roundoff.record(twice, x)
    expected = torch.arange(6.0).reshape(2, 3) * 2 + 1
    for _ in range(2):
        assert torch.equal(tape.replay()[0], expected)
    x.zero_()  # the tape holds its own copy
    assert torch.equal(tape.replay()[0], expected)


def test_a_replay_overwrites_nothing_and_draws_nothing() -> None:
    norm, x = nn.BatchNorm1d(4), torch.randn(8, 4)
    tape = roundoff.record(nn.Sequential(norm, nn.Dropout()), x)
    content, randomness = norm.running_mean.clone(), torch.get_rng_state()
    first, second = tape.replay(), tape.replay()
    assert same_bits(first[0], second[0])
    assert torch.equal(norm.running_mean, content)
    assert torch.equal(torch.get_rng_state(), randomness)


def test_weights_may_change_after_the_recording() -> None:
    layer, x = nn.Linear(3, 2), torch.randn(4, 3)
    tape, before = roundoff.record(layer, x), layer(x)
    with torch.no_grad():
        layer.weight.zero_()
    assert same_bits(tape.replay()[0], before)


@pytest.mark.parametrize("made", [lambda x: x.to_sparse() * 2, lambda x: x.to_sparse_csr() * 2])
def test_sparse_tensors_are_refused(made: object) -> None:
    with pytest.raises(RoundoffError, match=r"sparse_\w+ tensor cannot be recorded"):
        roundoff.record(made, torch.eye(3))  # type: ignore[arg-type]


def test_what_the_network_raises_goes_through() -> None:
    def broken(x: Tensor) -> Tensor:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        roundoff.record(broken, torch.ones(1))


def test_names_of_the_outputs() -> None:
    tape = roundoff.record(lambda x: {"a": x + 1, "b": (x, [x * 2])}, torch.ones(2))
    assert tape.names == ("['a']", "['b'][0]", "['b'][1][0]")
    assert roundoff.record(torch.sin, torch.ones(2)).names == ("output",)
