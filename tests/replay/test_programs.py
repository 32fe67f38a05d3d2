"""Random programs: watched they give the same bits, wide they are their own float64 run, and a tape replays them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.replay.programs import KINDS, Line, execute
from tests.tape.snapshot import tensor
from torch import Tensor

import roundoff
from roundoff.formats import same_bits
from roundoff.replay.run import Side, run_wide
from roundoff.tape.trace import random_state

MODES = {"grad": torch.enable_grad, "no_grad": torch.no_grad, "inference": torch.inference_mode}

lines = st.sampled_from([(kind, name) for kind, names in KINDS.items() for name in names]).flatmap(
    lambda what: st.builds(Line, st.just(what[0]), st.just(what[1]), *[st.integers(0, 6)] * 3)
)
programs = st.lists(lines, min_size=1, max_size=14).map(tuple)
quick = settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def inputs() -> tuple[Tensor, Tensor]:
    """A block of memory and a part of another one, always the same."""
    g = torch.Generator().manual_seed(3)
    return torch.randn(4, 6, generator=g), torch.randn(6, 8, generator=g)[1:5, ::2]


def side(program: tuple[Line, ...], given: tuple[Tensor, ...]) -> Side:
    return Side("A", lambda *x: execute(program, x), given, {}, random_state())


def float64_run(program: tuple[Line, ...]) -> tuple[Tensor, ...]:
    a, b = inputs()
    assert b._base is not None
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        return execute(program, (a.double(), b._base.double()[1:5, ::2]))
    finally:
        torch.set_default_dtype(before)


@pytest.mark.parametrize("mode", MODES)
@quick
@given(programs)
def test_the_wide_run_is_the_float64_run(mode: str, program: tuple[Line, ...]) -> None:
    with MODES[mode]():
        ran, again = run_wide(side(program, inputs()), repeat=True)
    assert ran.wide.opaque == [] and again is not None
    for leaf, alone, expected in zip(ran.leaves, again, float64_run(program), strict=True):
        assert same_bits(leaf.native, alone.native)
        assert leaf.wide is not None and leaf.wide.shape == expected.shape
        largest = max(1.0, float(expected.abs().max())) if expected.numel() else 1.0
        # A few dozen roundings of 2^-53, each grown at most tenfold a line; float32 would be off by 1e-8.
        assert torch.allclose(leaf.wide, expected, rtol=0, atol=1e-11 * largest)


@quick
@given(programs)
def test_no_input_changes_and_no_twin_outlives_its_memory(program: tuple[Line, ...]) -> None:
    a, b = inputs()
    assert b._base is not None
    before = [tensor(x) for x in (a, b, b._base)]
    ran, _ = run_wide(side(program, (a, b)))
    assert [tensor(x) for x in (a, b, b._base)] == before
    twins = ran.wide.twins
    del ran
    alive = {x.untyped_storage()._cdata for x in (a, b)}
    assert set(twins._of._entries) <= alive


@quick
@given(programs)
def test_a_tape_replays_it(program: tuple[Line, ...]) -> None:
    tape = roundoff.record(lambda *x: execute(program, x), inputs())
    expected = execute(program, inputs())
    for x, y in zip(tape.replay(), expected, strict=True):
        assert same_bits(x, y)
