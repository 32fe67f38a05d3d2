"""Functions on balls against mpmath: float64's own kernels, and the ends of the balls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath
import pytest
import torch
from mpmath import mp, mpf
from torch import Tensor

from roundoff.replay.enclosure.ball import Ball
from roundoff.replay.enclosure.functions import (
    SMOOTH,
    clamped,
    exp,
    exp_of,
    kernel_error,
    log,
    power,
    reciprocal,
    rsqrt,
    smooth,
    sqrt_of,
    stepped,
)

mp.dps = 60


def _gelu_tanh(x: Any) -> Any:
    return x / 2 * (1 + mp.tanh(mp.sqrt(2 / mp.pi) * (x + mpf("0.044715") * x**3)))


EXACT: dict[str, Callable[[Any], Any]] = {
    "tanh": mp.tanh,
    "sigmoid": lambda x: 1 / (1 + mp.exp(-x)),
    "erf": mp.erf,
    "erfc": mp.erfc,
    "gelu": lambda x: x * mp.erfc(-x / mp.sqrt(2)) / 2,
    "gelu_tanh": _gelu_tanh,
    "silu": lambda x: x / (1 + mp.exp(-x)),
    "mish": lambda x: x * mp.tanh(mp.log1p(mp.exp(x))),
    "softplus": lambda x: mp.log1p(mp.exp(x)),
    "log_sigmoid_forward": lambda x: -mp.log1p(mp.exp(-x)),
    "sin": mp.sin,
    "cos": mp.cos,
    "atan": mp.atan,
    "asinh": mp.asinh,
    "exp": mp.exp,
    "exp2": lambda x: mpf(2) ** x,
    "expm1": mp.expm1,
    "log": mp.log,
    "log2": lambda x: mp.log(x, 2),
    "log10": mp.log10,
    "log1p": mp.log1p,
    "sqrt": mp.sqrt,
    "rsqrt": lambda x: 1 / mp.sqrt(x),
    "reciprocal": lambda x: 1 / x,
    "power 3": lambda x: x**3,
    "power 2.5": lambda x: x ** mpf(2.5),
    "power -1.5": lambda x: x ** mpf(-1.5),
}
POSITIVE = {"log", "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal", "power 2.5", "power -1.5"}


def ball_of(name: str, x: Ball) -> Ball:
    if name in SMOOTH:
        return smooth(name, x)
    if name.startswith("power"):
        return power(x, float(name.split()[1]))
    if name.startswith("log"):
        return log(x, name)
    if name in ("exp2", "expm1"):
        return exp_of(name, x)
    return {"exp": exp, "sqrt": sqrt_of, "rsqrt": rsqrt, "reciprocal": reciprocal}[name](x)


def points(name: str) -> Tensor:
    g = torch.Generator().manual_seed(0)
    x = torch.cat([torch.randn(60, generator=g), torch.randn(30, generator=g) * 8, torch.randn(30, generator=g) * 1e-3])
    return (x.abs() + 1e-9 if name in POSITIVE else x).to(torch.float64)


def excess(name: str, x: Ball, at: Tensor) -> float:
    """How far the exact values at ``at`` lie from the middle of the result, in its radii."""
    y = ball_of(name, x)
    worst = mpf(0)
    for middle, radius, point in zip(y.mid.tolist(), y.radius.tolist(), at.tolist(), strict=True):
        if radius < float("inf"):
            worst = max(worst, abs(EXACT[name](mpf(point)) - mpf(middle)) / mpf(radius))
    return float(worst)


@pytest.mark.parametrize("name", EXACT)
def test_exact_arguments(name: str) -> None:
    x = points(name)
    assert excess(name, Ball(x), x) <= 1


@pytest.mark.parametrize("size", [1e-12, 1e-5, 0.3])
@pytest.mark.parametrize("name", EXACT)
def test_the_ends_and_what_lies_between(name: str, size: float) -> None:
    x = points(name)
    rad = x.abs() * size
    for share in (-1.0, -0.37, 0.61, 1.0):
        at = x + share * rad
        inside = torch.where((at - x).abs() <= rad, at, x)
        assert excess(name, Ball(x, rad), inside) <= 1


@pytest.mark.parametrize("name", EXACT)
def test_the_ends_are_reached(name: str) -> None:
    """A tenth of the radius would not do: the bounds are bounds, and not just large."""
    x = points(name)
    rad = x.abs() * 1e-3
    ball = ball_of(name, Ball(x, rad))
    far = max(excess(name, Ball(x, rad), x + share * rad * (1 - 1e-9)) for share in (-1.0, 1.0))
    assert 0.1 < far <= 1
    assert bool(ball.radius.isfinite().all())


@pytest.mark.parametrize("name", SMOOTH)
def test_no_second_derivative_is_larger(name: str) -> None:
    x = torch.linspace(-12, 12, 40001, dtype=torch.float64)
    step = x[1] - x[0]
    f = SMOOTH[name].value(x)
    bend = (f[2:] - 2 * f[1:-1] + f[:-2]) / step**2  # of a smooth function this is its second derivative nearby
    assert float(bend.abs().max()) <= SMOOTH[name].bend * (1 + 1e-6) + 1e-6
    assert float(bend.abs().max()) >= SMOOTH[name].bend * 0.8


@pytest.mark.parametrize("name", SMOOTH)
def test_slopes_are_those_of_mpmath(name: str) -> None:
    x = points(name)[::3]
    slopes = SMOOTH[name].slope(x).tolist()
    for point, slope in zip(x.tolist(), slopes, strict=True):
        assert abs(abs(mpmath.diff(EXACT[name], mpf(point))) - mpf(slope)) < 2.0**-44


def test_kernels_of_float64_keep_the_constants_of_float32() -> None:
    x = torch.randn(5, dtype=torch.float64)
    assert float(kernel_error("tanh", x, x.tanh()).max()) < 1e-14  # and test_exact_arguments says that it is enough


def test_functions_whose_argument_may_leave_their_domain_are_unknown() -> None:
    x = Ball(torch.tensor([1e-3], dtype=torch.float64), torch.tensor([1e-2], dtype=torch.float64))
    for unknown in (log(x), rsqrt(x), reciprocal(x), sqrt_of(x), power(x, 0.3)):
        assert bool(unknown.radius.isinf().all())
    assert float(sqrt_of(x, known=True).radius) >= (0.011**0.5 - 0.001**0.5) * (1 - 1e-12)


def test_what_is_cut_off_for_certain_has_no_error() -> None:
    x = Ball(torch.tensor([-1.0, -1e-3, 1e-3, 1.0], dtype=torch.float64), torch.full((4,), 0.1, dtype=torch.float64))
    y = clamped(x, Ball(torch.tensor(0.0, dtype=torch.float64)), None)
    assert y.radius[0] == 0
    assert torch.allclose(y.radius, torch.tensor([0.0, 0.099, 0.1, 0.1], dtype=torch.float64), rtol=1e-9)


def test_steps_within_reach_count() -> None:
    x = Ball(torch.tensor([1.5, 1.95, 2.0], dtype=torch.float64), torch.tensor([0.1, 0.1, 0.0], dtype=torch.float64))
    assert stepped(x, torch.floor).radius.gt(0.5).tolist() == [False, True, False]


@pytest.mark.parametrize("size", [1e-300, 1e-100, 1e100, 1e300])
@pytest.mark.parametrize("name", ["sqrt", "rsqrt", "reciprocal", "power 3", "power -3", "power 2.5", "power -1.5"])
def test_wide_exponents(name: str, size: float) -> None:
    """What a slope is made of may underflow, or overflow, where the error does not."""
    x = Ball(torch.tensor([size], dtype=torch.float64), torch.tensor([size * 1e-4], dtype=torch.float64))
    y = ball_of(name, x)
    with mp.workdps(60):
        power = {"sqrt": 0.5, "rsqrt": -0.5, "reciprocal": -1.0}.get(name) or float(name.split()[1])
        for end in (1, -1):
            off = abs(mp.power(mpf(size) + end * mpf(size * 1e-4), power) - mpf(float(y.mid)))
            for reach in (float(y.radius), float("inf") if y.norm is None else y.norm):
                assert reach == float("inf") or off <= mpf(reach)
