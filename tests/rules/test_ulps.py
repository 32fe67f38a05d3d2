"""The stored constants: complete, measured against a reference that is good enough, and measured rightly."""

from __future__ import annotations

from collections.abc import Callable

import mpmath
import pytest
import torch
from benchmarks.measure_ulps import PAIRS, in_ulps, measure, of_one, of_two
from torch import Tensor

from roundoff.rules.elementwise import FUNCTIONS, Function
from roundoff.rules.slopes import SLOPES
from roundoff.rules.ulps import roundings, table

BY_NAME = {f.name: f for f in FUNCTIONS}

EXACT: dict[str, Callable[[mpmath.mpf], mpmath.mpf]] = {
    "acos": mpmath.acos, "asin": mpmath.asin, "atan": mpmath.atan, "asinh": mpmath.asinh, "acosh": mpmath.acosh,
    "atanh": mpmath.atanh, "cos": mpmath.cos, "sin": mpmath.sin, "tan": mpmath.tan, "cosh": mpmath.cosh,
    "sinh": mpmath.sinh, "tanh": mpmath.tanh, "exp": mpmath.exp, "expm1": mpmath.expm1, "log": mpmath.log,
    "log1p": mpmath.log1p, "erf": mpmath.erf, "erfc": mpmath.erfc, "sqrt": mpmath.sqrt, "lgamma": mpmath.loggamma,
    "exp2": lambda x: mpmath.mpf(2) ** x,
    "log2": lambda x: mpmath.log(x, 2),
    "log10": lambda x: mpmath.log(x, 10),
    "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
    "silu": lambda x: x / (1 + mpmath.exp(-x)),
    "softplus": lambda x: x if x > 20 else mpmath.log1p(mpmath.exp(x)),
    "log_sigmoid_forward": lambda x: -mpmath.log1p(mpmath.exp(-x)),
    "mish": lambda x: x * mpmath.tanh(mpmath.log1p(mpmath.exp(x))),
    "gelu": lambda x: x * (1 + mpmath.erf(x / mpmath.sqrt(2))) / 2,
    "elu": lambda x: x if x > 0 else mpmath.expm1(x),
    "rsqrt": lambda x: 1 / mpmath.sqrt(x),
    "reciprocal": lambda x: 1 / x,
    "i0": lambda x: mpmath.besseli(0, x),
}  # fmt: skip


@pytest.mark.parametrize("name", [f.name for f in (*FUNCTIONS, *SLOPES)] + list(PAIRS))
def test_every_function_was_measured(name: str) -> None:
    row = table()["functions"][name]
    assert 0.4 < row["ulp"] < 200
    assert row["arguments"] > 2_000_000
    assert roundings(name) == 2 * (4 * row["ulp"] + 2)


def test_nothing_else_is_stored() -> None:
    assert set(table()["functions"]) == {f.name for f in (*FUNCTIONS, *SLOPES)} | set(PAIRS)
    assert all(row["build"].startswith("PyTorch 2") for row in table()["functions"].values())


def arguments(function: Function) -> Tensor:
    x = torch.cat([torch.randn(40), torch.randn(20) * 10, torch.exp2(torch.rand(20) * 12 - 9)]).double()
    if function.low > -2 and function.high < 2:
        x = x.tanh()
    return x[(x > function.low) & (x < function.high) & (x != 0)]


@pytest.mark.parametrize("name", EXACT)
def test_float64_is_good_enough_a_reference(name: str) -> None:
    """Within 2^-20 of a float32 ulp of the value in 30 digits, so that the constants are the kernels' own."""
    function = BY_NAME[name]
    x = arguments(function)
    measured = of_one(function)
    y = measured(x)
    size = measured.size(y, x)
    with mpmath.workdps(30):
        for at, value, room in zip(x.tolist(), y.tolist(), size.tolist(), strict=True):
            exact = EXACT[name](mpmath.mpf(at))
            if isinstance(exact, mpmath.mpc):
                exact = exact.real
            assert abs(exact - value) <= 2.0**-43 * room, (at, value, exact)


def test_a_known_error_is_measured() -> None:
    exp = of_one(BY_NAME["exp"])
    x = torch.linspace(-5, 5, 1001)
    exact = x.double().exp()
    off = exact * (1 + 3 * 2.0**-23)  # between 1.5 and 3 ulp, as the fraction grows from 1 to 2
    error = in_ulps(exp, off, exact, x.double())
    assert 1.49 < error.max() <= 6
    assert error.min() > 1.49
    assert in_ulps(exp, exact, exact, x.double()).max() == 0


@pytest.mark.parametrize("name", ["exp", "tanh", "gelu", "sqrt"])
def test_measuring_again_finds_no_more(name: str) -> None:
    """On the build that was measured; on another one no more than the rule allows."""
    row = measure(of_one(BY_NAME[name]), every=100_003)
    stored = table()["functions"][name]
    assert row["ulp"] <= (stored["ulp"] + 0.01 if row["build"] == stored["build"] else roundings(name) / 2)


def test_functions_of_two_numbers_are_measured_too() -> None:
    row = measure(of_two("hypot"), every=1 << 20)
    assert 0.4 < row["ulp"] < 3
