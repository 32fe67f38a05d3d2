"""Gradients of functions of one number: kernels keep their bounds near the zeros of the slope, and faults break them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from roundoff.judge.kernels import KernelCheck
from roundoff.replay.run import Side, run_wide
from roundoff.rules import Call, lookup
from roundoff.rules.rule import limits_of, rounding
from roundoff.tape.trace import random_state

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "hardsigmoid": F.hardsigmoid,
    "hardshrink": lambda x: F.hardshrink(x, 0.1),
    "softshrink": lambda x: F.softshrink(x, 0.1),
    "logit": lambda x: torch.logit(x.sigmoid() * 0.98 + 0.01),
    "mish": F.mish,
    "softplus": F.softplus,
    "elu": F.elu,
    "logsigmoid": F.logsigmoid,
    "hardswish": F.hardswish,
    "bce": lambda x: F.binary_cross_entropy(x.sigmoid(), x.flip(0).sigmoid(), reduction="none"),
}


def faults(function: Callable[[Tensor], Tensor], x: Tensor) -> KernelCheck:
    def gradient(x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        y = function(x)
        return torch.autograd.grad(y, x, torch.linspace(-1, 1, y.numel()).to(y.dtype).reshape(y.shape))[0]

    check = KernelCheck()
    run_wide(Side("A", gradient, (x,), {}, random_state()), observe=check)
    return check


@pytest.mark.parametrize("scale", [0.01, 1.0, 4.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_correct_kernel_is_called_faulty(name: str, dtype: torch.dtype, scale: float) -> None:
    check = faults(FUNCTIONS[name], (torch.randn(256, 64) * scale).to(dtype))
    assert check.faults == []
    assert check.unknown == {} or (name == "bce" and scale == 4.0)  # 0 in a denominator: no bound


@pytest.mark.parametrize("name", ["gelu_backward", "silu_backward", "tanh_backward", "sigmoid_backward"])
def test_a_gradient_that_is_off_by_a_hundred_thousandth_is_a_fault(name: str) -> None:
    op = getattr(torch.ops.aten, name).default
    g, x = torch.ones(1000), torch.linspace(0.1, 0.9, 1000)
    y = op(g, x)
    rule = lookup(op)
    assert rule is not None
    reference = op(g.double(), x.double())
    (limit,) = limits_of(rule, Call(op, (g.double(), x.double()), {}, (reference,), 2.0**-24))
    allowed = limit + rounding(y, reference)
    assert bool(((y.double() - reference).abs() <= allowed).all())
    assert bool((reference.abs() * 1e-5 > allowed).all())
