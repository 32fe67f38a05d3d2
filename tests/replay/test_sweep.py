"""Going backwards: what is booked on the steps adds up to the whole error, whatever the program does with memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.replay.programs import KINDS, Line, execute
from torch import Tensor, nn

from roundoff.formats import widen
from roundoff.replay import apart
from roundoff.replay import sweep as sweep_module
from roundoff.replay.adjoints import Adjoints
from roundoff.replay.keep import Keeper, Kept
from roundoff.replay.run import Side, run_wide
from roundoff.replay.sweep import Pulled, entered, pull
from roundoff.tape.modes import PLAIN
from roundoff.tape.trace import random_state

lines = st.sampled_from([(kind, name) for kind, names in KINDS.items() for name in names]).flatmap(
    lambda what: st.builds(Line, st.just(what[0]), st.just(what[1]), *[st.integers(0, 6)] * 3)
)
programs = st.lists(lines, min_size=1, max_size=14).map(tuple)


def sweep(
    model: Callable[..., Any], *inputs: Tensor, **keywords: Any
) -> tuple[float, float, list[tuple[Kept, Pulled]]]:
    """The error of the weighted sum of all outputs, what was booked of constants, and every step with its part."""
    keeper = Keeper(lambda *what: None, 1e9)
    ran, _ = run_wide(Side("A", model, inputs, keywords, random_state()), observe=keeper, keep_old=True, also=[keeper])
    with PLAIN.again():
        adjoints, whole = Adjoints(), 0.0
        generator = torch.Generator().manual_seed(1)
        for leaf in ran.leaves:
            place = keeper.place(leaf.of) if leaf.of is not None else None
            if place is None or not leaf.native.is_floating_point():
                continue
            weight = torch.randn(leaf.native.shape, dtype=torch.float64, generator=generator)
            off = widen(leaf.native) - leaf.wide
            whole += float((weight * torch.where(off.isfinite(), off, 0.0)).sum())
            adjoints.add(place, weight)
        steps = [(step, pull(step, [adjoints])[0]) for step in reversed(keeper.kept)]
        constants = sum(entered(c, adjoints).local for c in keeper.constants.values())
    return whole, constants, steps


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(programs)
def test_what_is_booked_is_the_whole(program: tuple[Line, ...]) -> None:
    g = torch.Generator().manual_seed(3)
    given = torch.randn(4, 6, generator=g), torch.randn(6, 8, generator=g)[1:5, ::2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(apart, "_SMALL", float("inf"))  # kept in float64, so that the sums are good to its rounding
        whole, constants, steps = sweep(lambda *x: execute(program, x), *given)
    parts = [p.local + p.bend for _, p in steps] + [constants]
    # Float64 sums of a few hundred numbers; amplification is the size of the largest part.
    assert sum(parts) == pytest.approx(whole, abs=1e-12 * (abs(whole) + sum(map(abs, parts))) + 1e-18)


class Twice(nn.Module):
    """A quotient, then a product: the error of the first arrives multiplied."""

    def forward(self, x: Tensor) -> Tensor:
        return (x / 3) * 1024


def test_an_error_arrives_by_its_derivative() -> None:
    x = torch.tensor([1.0, 2.0, 5.0])
    _, _, steps = sweep(Twice(), x)
    by_op = {str(step.step.op): (step, part) for step, part in steps}
    quotient, part = by_op["aten.div.Tensor"]
    weight = torch.randn(3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    made = widen(x / 3) - x.double() / 3
    assert part.local == pytest.approx(float((weight * made).sum()) * 1024, rel=1e-6)
    assert quotient.measured.local_abs == float(made.abs().max())
    assert part.gain == pytest.approx(float(weight.norm()) * 1024, rel=1e-12)
    product, part = by_op["aten.mul.Tensor"]
    assert product.measured.local_abs == 0.0 and part.local == 0.0, "a power of two only moves the point"


def test_data_movement_makes_nothing() -> None:
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    _, _, steps = sweep(lambda x: (x / 3).t().reshape(-1).flip(0).view(2, 6).transpose(0, 1).contiguous(), x)
    for step, part in steps:
        moved = step.step.op._schema.name != "aten::div"
        assert not moved or part.local == step.measured.local_abs == 0.0, step.step.op
        assert abs(part.bend) < 1e-20, "sums of numbers of 1e-8 in float64"


def test_a_crossed_kink_is_the_bend_of_its_step() -> None:
    # Natively 1/3 * 3 - 1 rounds to 0; wide it is of the order of 2^-53 or 0, and 2^-25 is lost natively.
    x = torch.tensor([1.0])

    def model(x: Tensor) -> Tensor:
        h = (x + 2.0**-25) - 1.0  # natively 0, wide 2^-25
        return torch.relu(h - 2.0**-26) * 4  # natively below the kink, wide above it

    whole, _, steps = sweep(model, x)
    bends = {str(step.step.op): part.bend for step, part in steps if part.bend}
    assert set(bends) == {"aten.relu.default"}
    assert sum(part.local + part.bend for _, part in steps) == pytest.approx(whole, rel=1e-6)
    assert abs(bends["aten.relu.default"]) > 0.1 * abs(whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_smooth_functions_leave_no_bend(dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.LayerNorm(32), nn.Linear(32, 8), nn.Softmax(-1)).to(dtype)
    _, _, steps = sweep(net, torch.randn(5, 16, generator=g).to(dtype))
    booked, bent = sum(p.local for _, p in steps), sum(abs(p.bend) for _, p in steps)
    assert 0 < bent < 1e-3 * abs(booked)


def test_a_constant_that_is_rounded_is_booked() -> None:
    whole, constants, steps = sweep(lambda x: x * torch.tensor(0.1), torch.tensor([8.0, 4.0]))
    assert constants == pytest.approx(whole, rel=1e-6) and whole != 0
    assert all(part.local == 0 for _, part in steps)


def test_within_a_budget_the_last_steps_are_kept_and_the_rest_can_be_had_again() -> None:
    net = nn.Sequential(*[nn.Linear(64, 64) for _ in range(6)])
    x = torch.randn(32, 64)
    keeper = Keeper(lambda *what: None, 3 * 32 * 64 * 8)
    run_wide(Side("A", net, (x,), {}, random_state()), observe=keeper, keep_old=True, also=[keeper])
    assert keeper.first > 0 and len(keeper.kept) + keeper.first == 12
    again = Keeper(lambda *what: None, 1e9, keeper.first)
    run_wide(Side("A", net, (x,), {}, random_state()), observe=again, keep_old=True, also=[again])
    assert [k.step.index for k in again.kept] == list(range(keeper.first))


def test_what_has_no_derivative_is_booked_as_its_bend() -> None:
    @torch.library.custom_op("roundoff_test::doubled", mutates_args=())
    def doubled(x: Tensor) -> Tensor:
        return x * 2

    whole, _, steps = sweep(lambda x: doubled(x / 3), torch.tensor([1.0, 2.0]))
    (bend,) = [part.bend for step, part in steps if "doubled" in str(step.step.op)]
    assert bend == pytest.approx(whole, rel=1e-6) and whole != 0


# -- large steps, whose derivatives are taken in float32 ------------------------------------------------------------------

W, TABLE, AT = torch.randn(96, 96) / 10, torch.randn(50, 96), torch.randint(50, (256,))
LARGE: dict[str, Callable[[Tensor], Tensor]] = {
    "index": lambda x: (x @ W)[:, torch.arange(95, -1, -1)] @ W,
    "embedding": lambda x: (x @ W + nn.functional.embedding(AT, TABLE)) @ W,
    "gather": lambda x: (x @ W).gather(0, AT[:, None].expand(256, 96)) @ W,
    "where": lambda x: torch.where(x > 0, x @ W, 0.0) @ W,
    "loss": lambda x: nn.functional.cross_entropy(x @ W, AT, reduction="none"),
    "small numbers": lambda x: ((x @ W) * 1e-30 @ W) * 1e30,
    "large numbers": lambda x: ((x @ W) * 1e30 @ W) * 1e-30,
    "square root of zeros": lambda x: (x @ W).relu().sqrt() @ W,
    "softmax": lambda x: ((x @ W) * 30).softmax(-1) @ W,
    "layer norm": lambda x: nn.functional.layer_norm((x @ W) * 1e-4, (96,)) @ W,
    "in place": lambda x: (x @ W).mul_(3).add_(1).relu_().exp_().log1p_() @ W,
}


@pytest.mark.parametrize("name", LARGE)
def test_derivatives_in_float32_give_the_parts_that_float64_gives(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(256, 96, generator=torch.Generator().manual_seed(4))
    asked: list[bool] = []
    enough = sweep_module._enough_in_float32

    def noted(kept: Kept) -> bool:
        asked.append(enough(kept))
        return asked[-1]

    monkeypatch.setattr(sweep_module, "_enough_in_float32", noted)
    whole, _, short = sweep(LARGE[name], x)
    monkeypatch.setattr(sweep_module, "_enough_in_float32", lambda kept: False)
    _, _, long = sweep(LARGE[name], x)
    assert any(asked)
    # A step whose derivatives leave more than this share of what passes through it is done again in float64.
    slack = len(long) * sweep_module._ENOUGH * max(abs(part.local) for _, part in long)
    for (_, mine), (step, theirs) in zip(short, long, strict=True):
        assert abs(mine.local - theirs.local) <= slack, step.step.op
        assert mine.gain == pytest.approx(theirs.gain, rel=len(long) * sweep_module._ENOUGH)
    kinks = sum(part.bend for step, part in short if step.step.op is torch.ops.aten.relu.default)
    assert sum(part.local for _, part in short) + kinks == pytest.approx(whole, rel=1e-3)
