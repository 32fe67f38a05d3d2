"""Perturbed wide runs move results by the size of float64's own roundings, and exact ones not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.tape.cases import CASES, Case, each, ready
from torch import Tensor, nn

from roundoff.formats import U64, same_bits
from roundoff.replay.noise import perturb, typical_error
from roundoff.replay.run import Ran, Side, run_wide
from roundoff.replay.wide import Executed
from roundoff.tape.trace import random_state

X = torch.randn(20, 30, generator=torch.Generator().manual_seed(1))


def run(model: Any, *args: Any, alter: Any = None) -> Ran:
    return run_wide(Side("A", model, args, {}, random_state()), alter=alter)[0]


def wide(model: Any, *args: Any, alter: Any = None) -> Tensor:
    (leaf,) = run(model, *args, alter=alter).leaves
    assert leaf.wide is not None
    return leaf.wide


def moved(model: Any, *args: Any, **options: Any) -> Tensor:
    """How far each element of the output moves, in units of 2^-53 of itself."""
    plain, noisy = wide(model, *args), wide(model, *args, alter=perturb(1, **options))
    return (noisy - plain).abs() / (plain.abs() * U64)


def test_the_same_seed_moves_the_same_way_and_another_another() -> None:
    layer = nn.Linear(30, 8)
    a, b, c = (wide(layer, X, alter=perturb(seed)) for seed in (1, 1, 2))
    assert same_bits(a, b) and not same_bits(a, c)


def test_the_process_draws_nothing() -> None:
    layer, before = nn.Linear(30, 8), torch.get_rng_state()
    wide(layer, X, alter=perturb(1))
    assert torch.equal(torch.get_rng_state(), before)


def test_native_results_stay_as_they_are() -> None:
    layer = nn.Linear(30, 8)
    (leaf,) = run(layer, X, alter=perturb(1)).leaves
    assert same_bits(leaf.native, layer(X).detach())


@pytest.mark.parametrize("function", [torch.exp, torch.sin, lambda x: x / 3, lambda x: x.sum(1), lambda x: x @ X.t()])
def test_results_move_by_a_few_roundings_at_most(function: Callable[[Tensor], Tensor]) -> None:
    plain, noisy = wide(function, X), wide(function, X, alter=perturb(1))
    gap = (noisy - plain).abs()
    size = X.double().abs().sum(1).max() * X.double().abs().max()  # at least |x| |y| of each sum
    assert bool((gap > 0).any())
    assert float(gap.max()) <= 64 * U64 * max(float(size), float(plain.abs().max()))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.t().reshape(-1).flip(0),
        lambda x: x.argmax(1) * (x.argmin(1) > 3),
        lambda x: x.relu(),
        lambda x: x.amax(0),
        lambda x: torch.cat([x, x]),
        lambda x: -x,
        lambda x: x.half(),  # the wide run does not round
    ],
)
def test_what_computes_nothing_does_not_move(function: Callable[[Tensor], Tensor]) -> None:
    assert same_bits(wide(function, X), wide(function, X, alter=perturb(1)))


def test_a_result_that_is_exact_in_few_digits_does_not_move() -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    assert same_bits(wide(lambda x: x + x.t().reshape(3, 4), whole), wide(lambda x: x + x.t().reshape(3, 4), whole,
                     alter=perturb(1)))  # fmt: skip
    assert same_bits(wide(lambda x: x @ x.t(), whole), wide(lambda x: x @ x.t(), whole, alter=perturb(1)))


def test_strength_multiplies() -> None:
    weak, strong = moved(torch.exp, X).median(), moved(torch.exp, X, strength=1000.0).median()
    assert 300 < float(strong / weak) < 3000


def test_together_all_elements_of_a_step_move_one_way() -> None:
    plain, noisy = wide(torch.exp, X), wide(torch.exp, X, alter=perturb(3, together=True))
    assert len((noisy - plain).sign().unique()) == 1
    plain, noisy = wide(torch.exp, X), wide(torch.exp, X, alter=perturb(3))
    assert len((noisy - plain).sign().unique()) > 1


def test_values_that_are_not_finite_stay() -> None:
    x = torch.tensor([float("inf"), float("nan"), 1e30, 0.0])
    plain, noisy = wide(lambda x: x * x, x), wide(lambda x: x * x, x, alter=perturb(1))
    assert torch.equal(plain.isfinite(), noisy.isfinite()) and torch.equal(plain.isnan(), noisy.isnan())


@pytest.mark.parametrize(("case", "mode"), each(*CASES))
def test_every_network_can_be_perturbed(case: Case, mode: str) -> None:
    network = ready(case, mode)
    side = Side("A", network.model, network.args, network.kwargs, random_state())
    with network.mode():
        plain, noisy = (run_wide(side, alter=alter)[0] for alter in (None, perturb(1)))
    for a, b in zip(plain.leaves, noisy.leaves, strict=True):
        if a.wide is None or b.wide is None:
            continue
        assert same_bits(a.native, b.native)
        if a.wide.is_floating_point() and a.wide.numel():
            # Thousands of steps of a few roundings each, in networks that are well conditioned.
            assert float((a.wide - b.wide).abs().max()) <= 1e-10 * max(1.0, float(a.wide.abs().max()))


def test_the_typical_error_is_below_the_bound_and_not_far_below() -> None:
    found: list[tuple[Tensor, Tensor]] = []

    def observe(executed: Executed) -> None:
        if "addmm" in str(executed.step.op):
            (size,) = typical_error(executed)
            found.append((executed.wide[0], torch.as_tensor(size).expand_as(executed.wide[0]).clone()))

    layer = nn.Linear(30, 8)
    run_wide(Side("A", layer, (X,), {}, random_state()), observe=observe)
    ((y, size),) = found
    products = X.double().abs() @ layer.weight.detach().double().abs().t() + layer.bias.detach().double().abs()
    assert bool((size > 0).all()) and bool((size <= 31 * U64 * products).all())
    assert bool((size >= U64 * y.abs()).all())
