"""Functions, softmax and attention of pairs against mpmath."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import product
from typing import Any

import pytest
import torch
from mpmath import mp, mpf
from torch import Tensor

from roundoff.replay.enclosure.ball import Ball
from roundoff.replay.enclosure.pairs.pair import Pair
from roundoff.replay.enclosure.pairs.registry import pairs_of
from roundoff.replay.enclosure.pairs.softmax import attention, softmax
from roundoff.replay.enclosure.registry import Operation

ops = torch.ops.aten


@pytest.fixture(autouse=True)
def digits() -> Iterator[None]:
    """Enough for 1 / (1 + exp(-700)), whatever other tests ask for."""
    with mp.workdps(350):
        yield


def _gelu(x: Any) -> Any:
    with mp.workdps(80):  # it decays with all its digits
        return x * mp.erfc(-x / mp.sqrt(2)) / 2


def _gelu_tanh(x: Any) -> Any:
    return x / (1 + mp.exp(-2 * mp.sqrt(2 / mp.pi) * (x + mpf("0.044715") * x**3)))


FUNCTIONS: dict[str, tuple[Any, dict[str, str], Callable[[Any], Any]]] = {
    "exp": (ops.exp.default, {}, mp.exp),
    "gelu": (ops.gelu.default, {}, _gelu),
    "gelu_tanh": (ops.gelu.default, {"approximate": "tanh"}, _gelu_tanh),
    "erf": (ops.erf.default, {}, mp.erf),
    "tanh": (ops.tanh.default, {}, mp.tanh),
    "sigmoid": (ops.sigmoid.default, {}, lambda x: 1 / (1 + mp.exp(-x))),
    "silu": (ops.silu.default, {}, lambda x: x / (1 + mp.exp(-x))),
}


def called(name: str, x: Pair) -> Pair:
    op, kwargs, _ = FUNCTIONS[name]
    (y,) = pairs_of(op, Operation(op, (x,), dict(kwargs), (op(x.mid, **kwargs),)))
    assert isinstance(y, Pair)
    return y


def points() -> Tensor:
    g = torch.Generator().manual_seed(0)
    sizes = [(40, 1.0), (30, 5.0), (20, 1e-3), (10, 1e-10), (5, 1e-200), (20, 50.0), (20, 200.0)]
    drawn = [torch.randn(n, generator=g, dtype=torch.float64) * size for n, size in sizes]
    odd = [0.0, 5e-324, -1e-308, 12.0, -12.0, 12.0000001, 708.9, -690.0, -689.999, -745.2, -2000.0, 0.0013538]
    return torch.cat([*drawn, torch.linspace(-13, 13, 60).double(), torch.tensor(odd, dtype=torch.float64)]).clamp_max(
        709
    )


def number(x: Any) -> Any:
    return mpf(float(x))


@pytest.mark.parametrize("error", [0.0, 1e-30, 1e-8, 0.3])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_number_of_a_pair_is_held(name: str, error: float) -> None:
    x = points()
    low = x * 2.0**-54 * torch.rand(len(x), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rad = torch.full_like(x, error) if error > 0.1 else x.abs() * error
    y = called(name, Pair(x, Ball(low, rad if error else None)))
    exactly = FUNCTIONS[name][2]
    for i in range(len(x)):
        for end in (0,) if not error else (-1, 1):
            right = exactly(number(x[i]) + number(low[i]) + end * number(rad[i]))
            assert abs(number(y.mid[i]) + number(y.low[i]) - right) <= number(y.error[i]), (float(x[i]), end)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_twice_the_digits(name: str) -> None:
    x = torch.linspace(-8, 8, 200).double()
    y = called(name, Pair(x, Ball(x * 1e-17)))
    assert float((y.error / torch.maximum(y.mid.abs(), torch.ones_like(x))).max()) < 2.0**-95
    off = [number(y.mid[i]) + number(y.low[i]) - FUNCTIONS[name][2](number(x[i]) + number(x[i] * 1e-17))
           for i in range(len(x))]  # fmt: skip
    assert max(map(abs, off)) > mpf(2) ** -112  # something is lost, so that a radius of nothing would be found


def test_odd_numbers() -> None:
    x = torch.tensor([float("inf"), -float("inf"), float("nan"), 1e308, -1e308, 720.0], dtype=torch.float64)
    y = called("exp", Pair(x))
    assert y.mid.tolist()[:2] == [float("inf"), 0] and y.error.tolist()[:3] == [0, 0, 0]
    assert float(y.error[3]) == float("inf") == float(y.error[5]) and float(y.error[4]) > 0
    for name in ("gelu", "erf", "tanh", "sigmoid"):
        y = called(name, Pair(x))
        assert bool(y.mid[2].isnan()) and float(y.mid[0]) == (1 if name != "gelu" else float("inf"))


def test_the_norm_of_all_errors() -> None:
    g = torch.Generator().manual_seed(3)
    x = torch.randn(40, generator=g, dtype=torch.float64)
    rad = torch.full_like(x, 1e-6)
    for name in FUNCTIONS:
        y = called(name, Pair(x, Ball(x * 0, rad, 2e-6)))  # of all numbers, four may be at their ends
        off = mpf(0)
        for i in range(4):
            off += (FUNCTIONS[name][2](number(x[i]) + mpf(1e-6)) - number(y.mid[i]) - number(y.low[i])) ** 2
        assert y.tail is not None and mp.sqrt(off) <= y.tail.far


# -- softmax and attention --------------------------------------------------------------------------------------------


def softened(row: list[Any]) -> list[Any]:
    weights = [mp.exp(v) for v in row]
    return [w / mp.fsum(weights) for w in weights]


@pytest.mark.parametrize("size", [0.1, 3.0, 60.0, 900.0])
@pytest.mark.parametrize("error", [0.0, 1e-30, 1e-9, 0.05, 2.0])
def test_softmax(size: float, error: float) -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(3, 6, generator=g, dtype=torch.float64) * size
    x[1, 2:] = -float("inf")
    low = torch.where(x.isfinite(), x * 1e-17, 0.0)
    rad = torch.where(x.isfinite(), torch.full_like(x, error), 0.0)
    y = softmax(Pair(x, Ball(low, rad if error else None)), -1)
    patterns = [[0] * 6] if not error else [[1] * 6, [1, -1] * 3, [1] + [-1] * 5, [-1] + [1] * 5, [0, 0, 1, -1, 0, 0]]
    for i, ends in product(range(3), patterns):
        exact = softened([number(v) + number(w) + e * number(r) for v, w, r, e in
                          zip(x[i], low[i], rad[i], ends, strict=True)])  # fmt: skip
        off = [abs(number(m) + number(w) - e) for m, w, e in zip(y.mid[i], y.low[i], exact, strict=True)]
        assert all(o <= number(r) for o, r in zip(off, y.error[i], strict=True))
        assert y.tail is not None and mp.sqrt(mp.fsum(o**2 for o in off)) <= y.tail.far
    if error <= 1e-30:
        assert float(y.error.max()) < 1e-28


def test_rows_without_anything_to_attend_to_are_unknown() -> None:
    y = softmax(Pair(torch.full((1, 3), -float("inf"), dtype=torch.float64)), -1)
    assert bool(y.error.isinf().all())


@pytest.mark.parametrize("kind", ["plain", "causal", "boolean", "float"])
def test_attention(kind: str) -> None:
    g = torch.Generator().manual_seed(0)
    parts = [torch.randn(1, 1, 4, 3, generator=g, dtype=torch.float64) for _ in range(3)]
    pairs = [Pair(t, Ball(t * 1e-17, t.abs() * 1e-28)) for t in parts]
    allowed = torch.ones(4, 4).tril().bool() if kind in ("causal", "boolean") else torch.ones(4, 4).bool()
    bias = torch.randn(4, 4, generator=g, dtype=torch.float64) if kind == "float" else torch.zeros(4, 4).double()
    mask: Any = {"boolean": Ball(allowed), "float": Pair(bias)}.get(kind)
    y = attention(*pairs, mask, kind == "causal", None)
    for signs in product((1, -1), repeat=3):
        q, k, v = (
            [[number(a) * (1 + mpf(1e-17) + s * mpf(1e-28) * (1 if i % 2 else -1)) for a in row]
             for i, row in enumerate(t[0, 0])]
            for t, s in zip(parts, signs, strict=True)
        )  # fmt: skip
        for i in range(4):
            scores = [mp.fsum(a * c for a, c in zip(q[i], k[j], strict=True)) / mp.sqrt(3) + number(bias[i, j])
                      if allowed[i, j] else mpf("-inf") for j in range(4)]  # fmt: skip
            weights = softened(scores)
            for d in range(3):
                exact = mp.fsum(w * v[j][d] for j, w in enumerate(weights))
                off = abs(number(y.mid[0, 0, i, d]) + number(y.low[0, 0, i, d]) - exact)
                assert off <= number(y.error[0, 0, i, d])
    assert float(y.error.max()) < 1e-25


def test_fractions_of_the_scale() -> None:
    """1 / √8 is what is meant by 8 ** -0.5, and not the float64 number near it."""
    q = Pair(torch.eye(8, dtype=torch.float64)[None, None])
    y = attention(q, q, q, None, False, None)
    weights = softened([1 / mp.sqrt(8)] + [mpf(0)] * 7)
    got = Fraction(float(y.mid[0, 0, 0, 0])) + Fraction(float(y.low[0, 0, 0, 0]))
    assert abs(mpf(got.numerator) / got.denominator - weights[0]) <= number(y.error[0, 0, 0, 0]) < mpf(10) ** -28
