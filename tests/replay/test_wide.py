"""Each step once more in float64: what is recomputed, what native values steer, and what cannot be followed."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.tape.nets import noise, shift_
from torch import Tensor, nn

from roundoff.formats import same_bits, widen
from roundoff.replay.run import Ran, Side, run_wide
from roundoff.tape.trace import random_state

TENTH = 0.1  # in float32 larger than 0.1 by 1.5e-9


def run(model: Any, *args: Any, **options: Any) -> Ran:
    return run_wide(Side("A", model, args, {}, random_state()), **options)[0]


def wide(model: Any, *args: Any) -> Any:
    (leaf,) = run(model, *args).leaves
    assert leaf.wide is not None
    return leaf.wide


# -- masks, indices and whole numbers are recomputed ------------------------------------------------------------------------


def almost_half(x: Tensor) -> Tensor:
    """0.5 + 2^-30 in exact arithmetic, 0.5 in float32, and less than that after the rounding of 2^-30 is lost."""
    return x + 2**-30


HALF = torch.tensor([0.5, 0.25])


@pytest.mark.parametrize(
    ("choose", "native", "expected"),
    [
        (lambda y: y > 0.5, [False, False], [True, False]),
        (lambda y: (y > 0.5).long() * 3, [0, 0], [3, 0]),
        (lambda y: torch.where(y > 0.5, 7.0, y * 0), [0.0, 0.0], [7.0, 0.0]),
        (lambda y: (y * 2 + 1e-20).floor(), [1.0, 0.0], [1.0, 0.0]),
        (lambda y: (y - 0.5).sign(), [0.0, -1.0], [1.0, -1.0]),
        (lambda y: ((y - 0.5) * 2**30).long(), [0, -(2**28)], [1, -(2**28) + 1]),
        (lambda y: torch.stack([HALF[0].expand(2), y]).argmax(0), [0, 0], [1, 0]),
        (lambda y: torch.bucketize(y, HALF[:1], right=True), [1, 0], [1, 0]),
        (lambda y: y.masked_fill(y > 0.5, 9.0), [0.5, 0.25], [9.0, 0.25 + 2**-30]),
        (lambda y: torch.tensor([10.0, 20.0])[(y > 0.5).long()], [10.0, 10.0], [20.0, 10.0]),
    ],
)
def test_choices_are_made_again(choose: Callable[[Tensor], Tensor], native: list[Any], expected: list[Any]) -> None:
    ran = run(lambda x: choose(almost_half(x)), HALF)
    (leaf,) = ran.leaves
    assert leaf.wide is not None
    assert leaf.native.tolist() == native and leaf.wide.tolist() == expected
    assert bool(ran.wide.crossings) == (leaf.native.double()[0] != leaf.wide.double()[0])


def test_a_crossing_says_where_and_how_often() -> None:
    ran = run(lambda x: (almost_half(x) > 0.5) * x, HALF.repeat(3))
    (crossing,) = ran.wide.crossings
    assert (crossing.op, crossing.count, crossing.step) == ("aten.gt.Scalar", 3, 1)
    assert "test_wide.py" in crossing.where


def test_a_choice_by_a_number_that_the_format_cannot_hold() -> None:
    """float32's 0.1 is larger than 0.1, so exactly it is; natively the two are the same number."""
    x = torch.tensor([TENTH, 0.5])
    direct, computed = run(lambda x: x > TENTH, x), run(lambda x: x * 1 > TENTH, x)
    for ran in (direct, computed):
        (leaf,) = ran.leaves
        assert leaf.wide is not None
        assert leaf.native.tolist() == [False, True] and leaf.wide.tolist() == [True, True]
        assert len(ran.wide.crossings) == 1
    assert run(lambda x: x > 0.5, x).wide.crossings == []


def test_python_follows_the_native_run() -> None:
    def network(x: Tensor) -> Tensor:
        y = almost_half(x)
        return y * 2 if bool((y > 0.5).any()) else y * 3

    assert wide(network, HALF).tolist() == [(0.5 + 2**-30) * 3, (0.25 + 2**-30) * 3]


@pytest.mark.parametrize(
    "select",
    [
        lambda y: y[y > 0.5] * 2,
        lambda y: torch.masked_select(y, y > 0.5),
        lambda y: (y > 0.5).nonzero(),
        lambda y: y.repeat_interleave((y > 0.5).long()),
    ],
)
def test_shapes_that_depend_on_data_are_the_native_ones(select: Callable[[Tensor], Tensor]) -> None:
    ran = run(lambda x: select(almost_half(x)), HALF)
    (leaf,) = ran.leaves
    assert leaf.wide is not None and leaf.wide.shape == leaf.native.shape
    assert ran.wide.crossings and ran.wide.opaque == []


def test_values_that_are_put_where_a_native_mask_says() -> None:
    def network(x: Tensor) -> Tensor:
        y = almost_half(x)
        y[y > 0.5] *= 5
        return y

    ran = run(network, HALF)
    (leaf,) = ran.leaves
    assert leaf.wide is not None and leaf.wide.tolist() == [0.5 + 2**-30, 0.25 + 2**-30]
    assert ran.wide.crossings and ran.wide.opaque == []


def test_whole_numbers_from_whole_numbers_have_no_twins() -> None:
    ran = run(lambda i: (i * 3 // 2, i.sum() > 3), torch.arange(4))
    assert len(ran.wide.twins._of) == 0
    assert [leaf.wide.tolist() for leaf in ran.leaves if leaf.wide is not None] == [[0, 1, 3, 4], True]


# -- formats ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cast",
    [
        lambda y: y.half().float(),
        lambda y: y.bfloat16(),
        lambda y: y.to(torch.float16).to(torch.float64),
        lambda y: y.type(torch.bfloat16),
        lambda y: y.to(torch.zeros(1, dtype=torch.float16)),
        lambda y: torch.empty(2, dtype=torch.float16).copy_(y),
        lambda y: y.to(torch.float8_e5m2).float(),
        lambda y: torch.cat([y.half(), y.half()])[:2],
        lambda y: y.sum(0, dtype=torch.float16, keepdim=True).expand(2) / 2,
    ],
)
def test_casts_round_natively_and_not_wide(cast: Callable[[Tensor], Tensor]) -> None:
    x = torch.ones(2)
    (leaf,) = run(lambda x: cast(x * TENTH), x).leaves
    assert leaf.wide is not None
    assert leaf.wide.dtype == torch.float64 and leaf.wide.tolist() == [TENTH] * 2
    assert leaf.native.double().tolist() != [TENTH] * 2


def test_a_cast_to_whole_numbers_is_a_cast() -> None:
    out = wide(lambda x: (x * 10 * TENTH * 2.5).int(), torch.ones(2))
    assert out.dtype == torch.int32 and out.tolist() == [2, 2]


def test_a_float64_network_is_followed_in_float64() -> None:
    layer, x = nn.Linear(3, 2).double(), torch.randn(4, 3, dtype=torch.float64)
    (leaf,) = run(layer, x).leaves
    assert leaf.wide is not None and same_bits(leaf.wide, leaf.native)
    assert leaf.wide.data_ptr() != leaf.native.data_ptr()


def test_writing_to_a_float64_input_happens_once() -> None:
    """Its wide value is its own memory: the wide run must not write to it."""
    x = torch.ones(2, dtype=torch.float64)
    (leaf,) = run(lambda x: x.mul_(2).add_(1), x).leaves
    assert leaf.wide is not None and leaf.wide.tolist() == leaf.native.tolist() == [3.0, 3.0]
    assert x.tolist() == [1.0, 1.0]


def test_the_default_format_is_put_back_in_between() -> None:
    seen = []

    def network(x: Tensor) -> Tensor:
        y = torch.arange(3) / 3
        seen.append(torch.get_default_dtype())
        return y

    assert wide(network, HALF).tolist() == [0.0, 1 / 3, 2 / 3]
    assert seen == [torch.float32]


# -- memory -----------------------------------------------------------------------------------------------------------------


def test_an_operator_that_gives_back_its_operand_does_not_tie_them() -> None:
    """Dropout with nothing to drop: natively a copy."""

    def network(x: Tensor) -> tuple[Tensor, Tensor]:
        y = x * TENTH
        z, _ = torch.native_dropout(y, 0.0, True)
        z.mul_(2)
        return y, z

    y, z = (leaf.wide for leaf in run(network, torch.ones(2)).leaves)
    assert y is not None and z is not None
    assert y.tolist() == [TENTH] * 2 and z.tolist() == [2 * TENTH] * 2


def test_the_native_run_is_not_written_to_by_an_operator_that_gives_back_its_operand() -> None:
    x = torch.ones(2, dtype=torch.float64)
    ran, again = run_wide(
        Side("A", lambda x: torch.native_dropout(x, 0.0, True)[0].mul_(2), (x,), {}, random_state()), repeat=True
    )
    assert again is not None and same_bits(ran.leaves[0].native, again[0].native)


def test_running_statistics_move_wide_too() -> None:
    norm, x = nn.BatchNorm1d(3, momentum=0.3), torch.randn(8, 3)

    def network(x: Tensor) -> Tensor:
        norm(x)
        return norm.running_mean * 1

    assert torch.allclose(wide(network, x), x.double().mean(0) * 0.3, rtol=1e-15, atol=0)
    assert not norm.running_mean.any()


def test_operators_that_return_nothing_are_followed() -> None:
    def network(x: Tensor) -> tuple[Tensor, ...]:
        a, b, c = x * TENTH, x * 0.3, x * TENTH
        torch._foreach_add_([a, b], [b, b])
        shift_(c, 0.7)
        return a, b, c

    a, b, c = (leaf.wide for leaf in run(network, torch.ones(2)).leaves)
    assert a is not None and b is not None and c is not None
    assert a.tolist() == [TENTH + 0.3] * 2 and b.tolist() == [0.6] * 2 and c.tolist() == [TENTH + 0.7] * 2


# -- draws ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "draw",
    [
        lambda x: torch.rand(5),
        lambda x: torch.randn_like(x),
        lambda x: torch.empty(5).uniform_(),
        lambda x: (x * TENTH).bernoulli(0.5),
        lambda x: torch.randperm(5),
        lambda x: torch.multinomial(x.abs() + 1, 3),
        lambda x: torch.normal(x, 1.0),
    ],
)
def test_a_draw_is_its_own_wide_value(draw: Callable[[Tensor], Tensor]) -> None:
    ran = run(draw, torch.randn(5))
    (leaf,) = ran.leaves
    assert leaf.wide is not None and torch.equal(leaf.wide, widen(leaf.native))
    assert len(ran.wide.draws) == 1 and ran.wide.opaque == []


def test_an_unknown_operator_that_draws_is_not_run_again() -> None:
    def network(x: Tensor) -> tuple[Tensor, Tensor]:
        return noise(x), torch.rand(3)

    side = Side("A", network, (torch.zeros(3),), {}, random_state())
    ran, again = run_wide(side, repeat=True)
    assert again is not None
    assert all(same_bits(x.native, y.native) for x, y in zip(ran.leaves, again, strict=True))
    assert [opaque.why for opaque in ran.wide.opaque] == ["it draws random numbers"]


@pytest.mark.parametrize("draw", [random.random, np.random.rand])
def test_an_unknown_operator_that_draws_elsewhere_is_not_run_again(draw: Callable[[], float]) -> None:
    calls = []

    def body(x: Tensor) -> Tensor:
        calls.append(draw())
        return x + calls[-1]

    name = f"roundoff_tests::{draw.__name__}_{id(draw)}"
    op = torch.library.custom_op(name, body, mutates_args=(), schema="(Tensor x) -> Tensor")
    ran = run(op, torch.zeros(1))
    assert len(calls) == 1 and len(ran.wide.opaque) == 1


def test_neutral_draws_are_all_alike() -> None:
    (leaf,) = run(lambda x: torch.rand(3) + torch.empty(3).normal_(), torch.zeros(1), neutral=True).leaves
    assert leaf.wide is not None and leaf.wide.tolist() == [1.0, 1.0, 1.0]


# -- what cannot be followed ------------------------------------------------------------------------------------------------


@torch.library.custom_op("roundoff_tests::only_float", mutates_args=())
def only_float(x: Tensor) -> Tensor:
    if x.dtype != torch.float32:
        raise RuntimeError("only float32 here\nand a second line")
    return x * 2


@torch.library.custom_op("roundoff_tests::only_float_", mutates_args=("x",))
def only_float_(x: Tensor) -> None:
    if x.dtype != torch.float32:
        raise ValueError("only float32 here")
    x.mul_(2)


@torch.library.custom_op("roundoff_tests::narrow", mutates_args=())
def narrow(x: Tensor) -> Tensor:
    return x.to(torch.float32) * 2


@pytest.mark.parametrize(
    ("network", "why"),
    [
        (lambda x: only_float(x * TENTH), "float64: only float32 here"),
        (lambda x: narrow(x * TENTH), "float64: the result is torch.float32 on float64 operands"),
        (lambda x: (x * TENTH).relu().to_sparse().to_dense(), "a sparse or nested tensor"),
        (lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.quint8).dequantize(), "float64: "),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_from_there_on_the_native_result_stands_for_the_wide_one(network: Callable[..., Tensor], why: str) -> None:
    ran = run(network, torch.eye(2))
    (leaf,) = ran.leaves
    assert leaf.wide is not None and torch.equal(leaf.wide, leaf.native.double())
    assert ran.wide.opaque[0].why.startswith(why) and "\n" not in ran.wide.opaque[0].why
    assert "test_wide.py" in ran.wide.opaque[0].where


def test_what_was_overwritten_by_an_operator_that_cannot_be_followed() -> None:
    def network(x: Tensor) -> Tensor:
        y = x * TENTH
        only_float_(y)
        return y * 3

    ran = run(network, torch.ones(2))
    (leaf,) = ran.leaves
    assert leaf.wide is not None and len(ran.wide.opaque) == 1
    assert leaf.wide.tolist() == [float(torch.tensor(TENTH) * 2) * 3] * 2


@torch.library.custom_op("roundoff_tests::halves_and_sums", mutates_args=("x",))
def halves_and_sums(x: Tensor) -> Tensor:
    if x.dtype != torch.float32:
        raise ValueError("only float32 here")
    return x.mul_(0.5).sum()


def test_what_was_overwritten_beside_the_result_of_an_operator_that_cannot_be_followed() -> None:
    def network(x: Tensor) -> tuple[Tensor, Tensor]:
        y = x * TENTH
        return halves_and_sums(y), y

    ran = run(network, torch.ones(2))
    for leaf in ran.leaves:
        assert leaf.wide is not None and torch.equal(leaf.wide, leaf.native.double())
    assert len(ran.wide.opaque) == 1


@pytest.mark.parametrize(
    ("choose", "offset", "count"),
    [
        (lambda y: torch.round(y, decimals=2), 0.005, 1),  # jumps by 0.01
        (lambda y: torch.remainder(y, 0.25), 0.0, 1),  # by 0.25
        (lambda y: torch.remainder(y * 4e8, torch.tensor(1e12)), 0.0, 0),  # off by more than one, and no jump
        (lambda y: torch.div(y * 1e9, 3.0, rounding_mode=None), 0.0, 0),
        (lambda y: torch.div(y, 0.25, rounding_mode="floor"), 0.0, 1),
        (lambda y: nn.functional.interpolate(y[None, None] * 4e9, scale_factor=2), 0.0, 0),
    ],
)
def test_a_crossing_is_a_jump_of_the_size_that_the_operator_has(
    choose: Callable[[Tensor], Tensor], offset: float, count: int
) -> None:
    """y is 1 and 2^-30 and the offset in exact arithmetic; natively the 2^-30 is lost, so that y is on the other side."""
    ran = run(lambda x: choose(x + (offset - 2**-30)), torch.tensor([1.0, 1.1]))
    assert [crossing.count for crossing in ran.wide.crossings] == [count] * bool(count)
