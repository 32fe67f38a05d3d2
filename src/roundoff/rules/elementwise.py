"""Functions of one number at a time: exp, tanh, gelu and the like.

The error of a kernel is a few units in the last place, c of them, and c is measured (``ulps``). Where a kernel cancels,
as in the left tail of GELU, no number of ulp of the result holds; there the error is measured against |y| plus the size
of what cancels, which ``size`` of the function gives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import inf, pi
from typing import Any

import torch
from torch import Tensor

from roundoff.rules.registry import register
from roundoff.rules.rule import Call, Limit, Nature, Rule
from roundoff.rules.samples import Operands, given
from roundoff.rules.ulps import roundings

Size = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Function:
    """A function of one number as ``aten`` computes it.

    ``low`` and ``high`` bound its domain, ``near`` are points where it is delicate. ``size(x, y)`` is added to |y| where
    a kernel cancels. ``between`` counts roundings of intermediate results to the format of the output, where that is
    bfloat16 or float16, and ``level`` roundings of 1 where kernels on those use a shorter formula.
    ``args`` and ``kwargs`` follow the tensor.
    """

    name: str
    low: float = -inf
    high: float = inf
    near: tuple[float, ...] = ()
    size: Size | None = None
    between: int = 0
    level: float = 0.0
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    op: str = ""

    @property
    def aten(self) -> str:
        """The operator's name without ``aten.``; ``name`` itself where no other is given."""
        return self.op or self.name


def _one(x: Tensor, y: Tensor) -> Tensor:
    return torch.ones_like(y)


def _turns(x: Tensor, y: Tensor) -> Tensor:
    # sin(pi x) / (pi x): the rounding of pi x moves the sine by as much, until pi x overflows.
    return torch.where(x.abs() < 2.0**122, 1.0, inf)


def _left(x: Tensor, y: Tensor) -> Tensor:
    # x (1 + erf) / 2 and x (1 + tanh) / 2: the bracket is rounded at the size of 1, whatever is left of it.
    return x.clamp_max(0).neg_()


def _argument(x: Tensor, y: Tensor) -> Tensor:
    # exp(x) of a rounded argument, seen through log(1 + exp(x)): x times the slope, the sigmoid.
    return x.abs() * x.sigmoid()


def _reflected(x: Tensor, y: Tensor) -> Tensor:
    # Left of zero pi cot(pi x) enters, whose argument is rounded: x times the slope pi^2 + cot^2.
    left = x.neg().clamp_min(0)
    return 1 + left * (pi**2 + y.square())


FUNCTIONS: tuple[Function, ...] = (
    Function("acos", -1, 1, (-1, 0, 1)),
    Function("acosh", 1, inf, (1,), _one),
    Function("asin", -1, 1, (-1, 0, 1)),
    Function("asinh", near=(0,)),
    Function("atan"),
    Function("atanh", -1, 1, (-1, 0, 1)),
    Function("cos", near=(pi / 2, 3 * pi / 2, 1000 * pi / 2)),
    Function("cosh"),
    Function("deg2rad"),
    Function("digamma", near=(1.4616321, 0, -1, -2.5), size=_reflected),
    Function("elu", near=(0,)),
    Function("erf", near=(0,), level=8),
    Function("erfc", near=(0, 5, 9)),
    Function("erfinv", -1, 1, (-1, 0, 1)),
    Function("exp", near=(-87.3, 88.7)),
    Function("exp2", near=(-126, 128)),
    Function("expm1", near=(0,)),
    Function("gelu", near=(0, -5), size=_left),
    Function("gelu_tanh", near=(0, -5), size=_left, op="gelu", kwargs={"approximate": "tanh"}),
    Function("hardsigmoid", near=(-3, 3)),
    Function("hardswish", near=(-3, 0, 3)),
    Function("i0"),
    Function("lgamma", near=(1, 2, -0.5, -2.457), size=_reflected),
    Function("log", 0, inf, (1,)),
    Function("log10", 0, inf, (1,)),
    Function("log1p", -1, inf, (0, -1)),
    Function("log2", 0, inf, (1,)),
    Function("log_sigmoid_forward", near=(0,)),
    Function("logit", 0, 1, (0.5,), _one, between=2),
    Function("mish", near=(0,)),
    Function("rad2deg"),
    Function("reciprocal"),
    Function("rsqrt", 0, inf, between=1),
    Function("sigmoid", near=(0,)),
    Function("silu", near=(0,)),
    Function("sin", near=(0, pi, 1000 * pi)),
    Function("sinc", near=(0, 1, 5), size=_turns),
    Function("sinh", near=(0,)),
    Function("softplus", near=(0, 20), size=_argument),
    Function("special_entr", 0, inf, (1,), between=3),
    Function("special_erfcx", -9, inf),
    Function("special_i0e", between=6),
    Function("special_i1", near=(0,)),
    Function("special_i1e", near=(0,)),
    Function("special_log_ndtr", near=(0, -1)),
    Function("special_ndtri", 0, 1, (0.5,)),
    Function("sqrt", 0, inf),
    Function("tan", near=(pi / 2, pi)),
    Function("tanh", near=(0,)),
)


def error_size(function: Function, x: Tensor, y: Tensor) -> Tensor:
    """What the error of a kernel is measured against: |y|, and what cancels. ``x`` and ``y`` in float64."""
    size = y.abs()
    if x.is_complex():
        # No constants were measured: the parts mix, and an argument's rounding is seen through the slope.
        return (size + 1) * (1 + x.abs())
    return size if function.size is None else size.add_(function.size(x, y))


#: What is lost where exp(-|x|) underflows to zero, though x exp(-|x|) would not: |x| is below 128 there, in multiples of
#: the smallest normal number.
FLUSHED = 128.0


def _bound_of(function: Function) -> Callable[[Call], Limit]:
    def bound(call: Call) -> Limit:
        x, y = call.args[0], call.out[0]
        many = 32 if x.is_complex() else roundings(function.name)
        relative = call.gamma(many) + (call.gamma_out(function.between) if function.between else 0.0)
        limit = error_size(function, x, y).mul_(relative)
        reached = limit.numel() and not bool(limit.amax() <= relative * call.huge)
        absolute = call.gamma(function.level) if function.level and call.u_out > call.u else 0.0
        limit = limit.add_(FLUSHED * call.tiny + absolute)
        return limit.masked_fill_(y.abs() > call.huge, inf) if reached else limit

    return bound


def _samples_of(function: Function) -> Any:
    def cases(r: Operands) -> Iterable[Any]:
        x = r.line(function.low, function.high, function.near)
        for case in (x, r.strided(x), x[:1], x[1:18], x[:60].reshape(3, 20).t()):
            yield case, *function.args, dict(function.kwargs)

    return given(cases)


_SOURCE = "measured: benchmarks/measure_ulps.py"
_ASSUMES = "results in between overflow only where the result itself is within 2^-6 of overflowing"


def _by_argument(call: Call) -> Limit:
    """GELU is two functions under one name."""
    return _GELU[str(call.kwargs.get("approximate", "none"))](call)


_BY_NAME = {f.name: f for f in FUNCTIONS}
_GELU = {"none": _bound_of(_BY_NAME["gelu"]), "tanh": _bound_of(_BY_NAME["gelu_tanh"])}

for _function in FUNCTIONS:
    if _function.name in ("gelu", "gelu_tanh", "elu", "softplus", "log_sigmoid_forward", "logit"):
        continue
    register(
        Rule(
            (f"aten.{_function.aten}",),
            Nature.ROUNDS,
            _bound_of(_function),
            source=_SOURCE,
            assumes=_ASSUMES,
            samples=_samples_of(_function),
        )
    )


def _gelu_samples(dtype: torch.dtype, g: torch.Generator) -> Iterable[tuple[tuple[Any, ...], dict[str, Any]]]:
    for name in ("gelu", "gelu_tanh"):
        yield from _samples_of(_BY_NAME[name])(dtype, g)


register(Rule(("aten.gelu",), Nature.ROUNDS, _by_argument, source=_SOURCE, assumes=_ASSUMES, samples=_gelu_samples))


def _elu(call: Call) -> Limit:
    """x, or alpha (exp(z) - 1), times scale: z = input_scale x rounded moves it by |z| exp(z) u <= |expm1(z)| u."""
    y = call.out[0]
    scales = [call.arg(i, name, 1.0) for i, name in ((1, "alpha"), (2, "scale"), (3, "input_scale"))]
    if "celu" in str(call.op):  # alpha (exp(x / alpha) - 1)
        scales = [scales[0], 1.0, 1 / float(scales[0])]
    rough = 2 * sum(1 for s in scales if float(s) != 1)
    return y.abs().mul_(call.gamma(roundings("elu") + rough)).add_(call.tiny * (1 + abs(float(scales[0]))))


def _softplus(call: Call) -> Limit:
    """log(1 + exp(beta x)) / beta; past the threshold x itself, a jump where rounding decides on which side x is."""
    x, y = call.args[0], call.out[0]
    beta, threshold = float(call.arg(1, "beta", 1)), float(call.arg(2, "threshold", 20))
    z: Tensor = x * beta
    size = y.abs() + x.abs() * z.sigmoid()
    limit: Tensor = size.mul_(call.gamma(roundings("softplus") + 4)).add_(call.tiny * (1 + 1 / abs(beta)))
    on_the_edge = (z - threshold).abs() <= abs(threshold) * call.gamma(4)
    gap = torch.nn.functional.softplus(torch.tensor(-threshold, dtype=torch.float64)).item() / abs(beta)
    return limit.add_(on_the_edge * gap)


def _log_sigmoid(call: Call) -> tuple[Limit, ...]:
    """min(0, x) - log(1 + exp(-|x|)), and on the CPU a buffer with exp(-|x|)."""
    y = call.out[0]
    limit = y.abs().mul_(call.gamma(roundings("log_sigmoid_forward"))).add_(FLUSHED * call.tiny)
    return limit, call.gamma(roundings("exp")) + call.tiny


def _log_sigmoid_wide(x: Tensor, *, native: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    y, buffer = torch.ops.aten.log_sigmoid_forward(x)
    return y, buffer if buffer.shape == native[1].shape else native[1].to(y.dtype)


def _logit(call: Call) -> Limit:
    """log(x / (1 - x)) with x clamped to [eps, 1 - eps]: both ends are rounded."""
    y, eps = call.out[0], call.arg(1, "eps")
    limit = (y.abs() + 1).mul_(call.gamma(roundings("logit")) + call.gamma_out(2))
    if eps is not None and 0 < eps < 0.5:
        off = call.scalar(float(eps)) / float(eps) + max(call.u, call.u_out) / float(eps)
        limit = limit.add_(2 * off)
    return limit


register(
    Rule(
        ("aten.elu",),
        Nature.ROUNDS,
        _elu,
        source=_SOURCE + "; scaled arguments by the slope of expm1, which is at most 1",
        samples=given(
            lambda r: [
                r.line(near=(0,)),
                r.strided(r.line(near=(0,))),
                (r.line(), 0.3),
                (r.line(), 1.6732632423543772, 1.0507009873554805),
            ]
        ),
    )
)
register(
    Rule(
        ("aten.softplus",),
        Nature.ROUNDS,
        _softplus,
        source=_SOURCE,
        samples=given(lambda r: [r.line(near=(0, 20)), r.strided(r.line()), (r.line(near=(0.5,)), 1.7, 1.0)]),
    )
)
register(
    Rule(
        ("aten.log_sigmoid_forward",),
        Nature.ROUNDS,
        _log_sigmoid,
        source=_SOURCE,
        samples=_samples_of(_BY_NAME["log_sigmoid_forward"]),
        wide=_log_sigmoid_wide,
    )
)
register(
    Rule(
        ("aten.logit",),
        Nature.ROUNDS,
        _logit,
        source=_SOURCE,
        samples=given(lambda r: [r.line(0, 1, (0.5,)), (r.line(0, 1), 0.1)]),
    )
)
register(
    Rule(
        ("aten.celu",),
        Nature.ROUNDS,
        _elu,
        source=_SOURCE,
        samples=given(lambda r: [r.line(near=(0,)), (r.strided(r.line()), 0.3)]),
    )
)
