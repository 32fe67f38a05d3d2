"""Gradients of functions of one number: g f'(x), in one kernel.

Near a zero of f' its terms cancel, so their sizes count and not that of the result. ``gelu_backward`` is measured: on the
vector path its error function is a formula of Abramowitz and Stegun (7.1.26), off by 1.5e-7 whatever the result is. The
others are a few operations, counted one by one; c is what is allowed for the kernel of the sigmoid.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf, pi, sqrt
from typing import Any

import torch
from torch import Tensor

from roundoff.rules.elementwise import FLUSHED, Function
from roundoff.rules.registry import register
from roundoff.rules.rule import Call, Limit, Nature, Rule
from roundoff.rules.samples import Operands, given
from roundoff.rules.ulps import roundings

_COUNTED = "its operations, rounded one by one; Higham (2002), §3.1"


def _gelu(x: Tensor, y: Tensor) -> Tensor:
    """½(1 + erf(x / √2)) + x φ(x): the density's argument x²/2 is rounded too."""
    density = torch.exp(-x.square() / 2) / sqrt(2 * pi)
    return 0.5 * (1 + torch.erf(x.abs() / sqrt(2))) + x.abs() * density * (1 + x.square())


def _gelu_tanh(x: Tensor, y: Tensor) -> Tensor:
    """½(1 + t) + ½ x (1 - t²) z', with t the tanh of z = √(2/π) (x + 0.044715 x³)."""
    z = sqrt(2 / pi) * (x + 0.044715 * x**3)
    slope = sqrt(2 / pi) * (1 + 3 * 0.044715 * x.square())
    t = z.tanh().abs()
    return 0.5 * (1 + t) + 0.5 * x.abs() * slope * torch.where(z.abs() > 20, 1 - t.square(), 1.0)


#: Those whose error is measured, at a gradient of 1; ``x`` follows it.
SLOPES = (
    Function("gelu_slope", near=(0, -0.7517916, -5), size=_gelu, op="gelu_backward"),
    Function("gelu_tanh_slope", -1e6, 1e6, (0, -0.7524614, -5), _gelu_tanh, op="gelu_backward",
             kwargs={"approximate": "tanh"}),
)  # fmt: skip
_BY_NAME = {f.name: f for f in SLOPES}


def _measured(call: Call) -> Limit:
    g, x = call.args[:2]
    function = _BY_NAME["gelu_tanh_slope" if str(call.kwargs.get("approximate", "none")) == "tanh" else "gelu_slope"]
    assert function.size is not None
    size: Tensor = function.size(x, x).nan_to_num_(0.0) * g.abs()  # an infinite x has a density of 0
    size = size.mul_(call.gamma(roundings(function.name) + 2)).add_((FLUSHED + g.abs()) * call.tiny)
    return size.masked_fill_(x.abs() > 2.0**60, inf)  # its square overflows in float32


def _tanh(call: Call) -> Limit:
    """g (1 - y²)."""
    g, y = call.args
    square = y.square()
    limit: Tensor = (square * call.gamma(2)).add_((1 - square).abs() * call.gamma(3)) * g.abs()
    return limit.add_((1 + g.abs()) * call.tiny)


def _sigmoid(call: Call) -> Limit:
    """g (1 - y) y; the subtraction is rounded at the size of its result, and in float16 to float16, as the products are."""
    g, y = call.args
    limit: Tensor = (g * (1 - y) * y).abs() * call.gamma_out(4)
    return limit.add_((1 + g.abs()) * call.tiny)


def _silu(call: Call) -> Limit:
    """g s (1 + x (1 - s)) with s = sigmoid(x), off by c u s; so is 1 - s, or lost, where 1 + exp(-x) is rounded to 1."""
    g, x = call.args
    c = roundings("sigmoid")
    s, rest = x.sigmoid(), (-x).sigmoid()
    size = x.abs() * rest
    lost = torch.where(rest > call.u / 8, x.abs() * s * call.gamma(c), size)
    limit: Tensor = (1 + size) * call.gamma(c + 4) + size * call.gamma(3) + lost
    limit = (limit * s).nan_to_num_(0.0) * g.abs()  # an infinite x
    return limit.add_((FLUSHED + g.abs()) * call.tiny)


def _hardsigmoid(call: Call) -> Limit:
    """g times 1/6, which is rounded, between -3 and 3."""
    return call.out[0].abs() * call.gamma(2) + call.tiny


def _shrink(call: Call) -> Limit:
    """g where |x| is above a written number, and 0 elsewhere: a jump where the rounding of that number decides."""
    g, x, at = call.args
    error = call.scalar(float(at))
    return ((x.abs() - float(at)).abs() <= error) * g.abs() if error else 0.0


def _gradients(r: Operands, x: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    g = r.normal(*x.shape)
    yield g, x
    yield r.strided(g), r.strided(x)
    yield torch.ones_like(x), x


def _of_gelu(r: Operands) -> Iterable[Any]:
    for function in SLOPES:
        for g, x in _gradients(r, r.line(-1e4, 1e4, function.near)):
            yield g, x, dict(function.kwargs)


register(Rule(("aten.gelu_backward",), Nature.ROUNDS, _measured, source="measured: benchmarks/measure_ulps.py",
              samples=given(_of_gelu)))  # fmt: skip
register(Rule(("aten.tanh_backward",), Nature.ROUNDS, _tanh, source=_COUNTED,
              samples=given(lambda r: _gradients(r, r.line(near=(0,)).tanh()))))  # fmt: skip
register(Rule(("aten.sigmoid_backward",), Nature.ROUNDS, _sigmoid, source=_COUNTED,
              samples=given(lambda r: _gradients(r, r.line(near=(0,)).sigmoid()))))  # fmt: skip
register(Rule(("aten.silu_backward",), Nature.ROUNDS, _silu, source=_COUNTED,
              samples=given(lambda r: _gradients(r, r.line(-1e4, 1e4, (0, -1.2784645))))))  # fmt: skip
register(Rule(("aten.hardsigmoid_backward",), Nature.ROUNDS, _hardsigmoid, source=_COUNTED,
              samples=given(lambda r: _gradients(r, r.line(near=(-3, 3))))))  # fmt: skip
register(
    Rule(
        ("aten.hardshrink_backward", "aten.softshrink_backward"),
        Nature.ROUNDS,
        _shrink,
        source="selects; the threshold is rounded to the format of its operand once",
        samples=given(lambda r: ((g, x, 0.1) for g, x in _gradients(r, r.line(near=(0.1, -0.1))))),
    )
)
