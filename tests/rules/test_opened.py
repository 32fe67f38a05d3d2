"""Bounds of operators without a rule, through decompositions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.rules.trial import tensors, wide
from torch import Tensor

from roundoff.formats import U64
from roundoff.rules import Call, Limit, lookup
from roundoff.rules.opened import opened, simulated

aten = torch.ops.aten
U = 2.0**-24


def rand(*shape: int) -> Tensor:
    return torch.randn(*shape)


def called(op: Any, args: tuple[Any, ...], u: float = U, typical: bool = False) -> Call:
    args = tuple(wide(a) for a in args)
    return Call(op, args, {}, tuple(tensors(op(*args))), u, typical)


CASES: list[tuple[Any, Any]] = [
    (aten.mish_backward.default, lambda: (rand(5, 7), rand(5, 7))),
    (aten.softplus_backward.default, lambda: (rand(5, 7), rand(5, 7), 1.0, 20.0)),
    (aten._softmax_backward_data.default, lambda: (rand(5, 7), rand(5, 7).softmax(-1), -1, torch.float32)),
    (aten.soft_margin_loss.default, lambda: (rand(5, 7), rand(5, 7).sign())),
    (aten.renorm.default, lambda: (rand(5, 7), 2, 0, 1.0)),
    (aten.hardswish_backward.default, lambda: (rand(40), rand(40))),
    (aten.binary_cross_entropy_backward.default, lambda: (rand(4000), torch.rand(4000), torch.rand(4000), None, 0)),
    (
        aten.native_group_norm_backward.default,
        lambda: (rand(5, 8), rand(5, 8), rand(5, 2), rand(5, 2), rand(8), 5, 8, 1, 2, [True] * 3),
    ),
]


@pytest.mark.parametrize(("op", "make"), CASES, ids=[str(op) for op, _ in CASES])
def test_a_kernel_keeps_the_bound_and_a_fault_breaks_it(op: Any, make: Any) -> None:
    assert lookup(op) is None, "it has a rule now: take another operator"
    args = make()
    call = called(op, tuple(a if a is not torch.float32 else torch.float64 for a in args))
    limits = opened(call)
    assert limits is not None
    for y, reference, limit in zip(tensors(op(*args)), call.out, limits, strict=True):
        assert isinstance(limit, Tensor)
        error = (y.double() - reference).abs()
        allowed = limit + U * reference.abs()
        assert (error <= allowed).all()
        at = reference.abs().argmax()
        assert reference.flatten()[at].abs() * 2**-9 > allowed.flatten()[at]


def test_the_same_bound_twice() -> None:
    call = called(aten.mish_backward.default, (rand(5, 7), rand(5, 7)))
    state = torch.get_rng_state()
    first, second = opened(call), opened(call)
    assert first is not None and second is not None
    assert torch.equal(torch.as_tensor(first[0]), torch.as_tensor(second[0]))
    assert torch.equal(state, torch.get_rng_state())


def test_operands_are_left_as_they_were() -> None:
    x = torch.rand(6, dtype=torch.float64)
    before = x.clone()
    opened(Call(aten.addcmul_.default, (x, x.clone(), x.clone()), {}, (x + x * x,), U))
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("op", "args"),
    [(aten.igamma.default, (torch.rand(5), torch.rand(5))), (aten.linalg_lu_factor_ex.default, (torch.eye(3),))],
)
def test_what_cannot_be_opened_stays_unknown(op: Any, args: tuple[Any, ...]) -> None:
    assert opened(called(op, args)) is None


def test_a_program_that_is_another_function_is_refused() -> None:
    x = torch.rand(6, dtype=torch.float64)
    call = Call(aten.exp.default, (x,), {}, (x.exp(),), U)
    assert simulated(call, lambda: torch.exp(x)) is not None
    assert simulated(call, lambda: torch.exp(x) * (1 + 1e-6)) is None
    assert simulated(call, lambda: torch.exp(x)[:5]) is None


def test_an_unknown_primitive_inside_makes_it_unknown() -> None:
    x = torch.rand(6, dtype=torch.float64)
    y = torch.special.gammainc(x, x)
    assert simulated(Call(aten.exp.default, (x,), {}, (y + 1,), U), lambda: torch.special.gammainc(x, x) + 1) is None


def test_infinities_in_between_do_not_spoil_the_bound() -> None:
    x = torch.randn(4, 9, dtype=torch.float64)
    hidden = torch.zeros(4, 9, dtype=torch.bool).index_fill_(1, torch.tensor([2, 5]), True)

    def program() -> Tensor:
        return torch.softmax(x.masked_fill(hidden, -float("inf")), -1)

    limits = simulated(Call(aten._softmax.default, (x, -1, False), {}, (program(),), U), program)
    assert limits is not None
    limit: Limit = limits[0]
    assert isinstance(limit, Tensor)
    assert limit.isfinite().all()
    assert limit.max() < 1e-4


def test_the_typical_size_is_that_of_float64() -> None:
    call = called(aten.silu_backward.default, (rand(50, 7), rand(50, 7)), U64, typical=True)
    limits = opened(call)
    assert limits is not None
    ratio = torch.as_tensor(limits[0]).mean() / call.out[0].abs().mean()
    assert U64 / 4 < ratio < 64 * U64
