"""Gradients of the operators, made of the same operators and of single roundings."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from roundoff.exact.ops import (
    add_up,
    bags,
    convolution,
    convolution_input,
    convolution_weight,
    each,
    power,
    products,
    windows,
)
from roundoff.exact.slow import SELU_ALPHA, SELU_SCALE
from roundoff.exact.windows import covering, divisors, split


def reduce_to(grad: Tensor, shape: Sequence[int]) -> Tensor:
    """The gradient of broadcasting: summed back to ``shape``, rounded once."""
    extra = grad.dim() - len(shape)
    dims = [d for d in range(grad.dim()) if d < extra or (shape[d - extra] == 1 and grad.shape[d] != 1)]
    return (add_up(grad, dims, 1) if dims else grad).reshape(tuple(shape))


class _Expand(torch.autograd.Function):
    """Broadcasting whose gradient is summed with one rounding."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        ctx.shape = x.shape
        return x.expand(shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return reduce_to(grad, ctx.shape), None


def expand(x: Tensor, shape: Sequence[int]) -> Tensor:
    """``x`` broadcast to ``shape``; its gradient is a sum rounded once."""
    if tuple(x.shape) == tuple(shape):
        return x
    y: Tensor = _Expand.apply(x, tuple(shape))  # type: ignore[no-untyped-call]
    return y


def _keep_products(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    left, right, bias = inputs
    ctx.save_for_backward(left, right)
    ctx.bias = None if bias is None else tuple(bias.shape)


def _products_back(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    left, right = ctx.saved_tensors
    needs = ctx.needs_input_grad
    return (
        products(grad, right.transpose(1, 2)) if needs[0] else None,
        products(left.transpose(1, 2), grad) if needs[1] else None,
        reduce_to(grad, ctx.bias) if ctx.bias is not None and needs[2] else None,
    )


def _keep_convolution(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.biased, ctx.how = inputs[2] is not None, inputs[3:]


def _bias_of(grad: Tensor) -> Tensor:
    return add_up(grad, [0, *range(2, grad.dim())], 1).reshape(-1)


def _convolution_back(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    needs = ctx.needs_input_grad
    return (
        convolution_input(grad, weight, None, x.shape[2:], *ctx.how) if needs[0] else None,
        convolution_weight(x, grad, weight.shape[2:], *ctx.how) if needs[1] else None,
        _bias_of(grad) if ctx.biased and needs[2] else None,
        *[None] * 4,
    )


def _first(x: Tensor, like: Tensor) -> Tensor:
    return x[(slice(None),) * 2 + tuple(slice(n) for n in like.shape[2:])]


def _convolution_input_back(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    g, weight = ctx.saved_tensors
    needs, how = ctx.needs_input_grad, ctx.how[1:]
    return (
        _first(convolution(grad, weight, None, *how), g) if needs[0] else None,
        convolution_weight(grad, g, weight.shape[2:], *how) if needs[1] else None,
        _bias_of(grad) if ctx.biased and needs[2] else None,
        *[None] * 5,
    )


def _convolution_weight_back(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, g = ctx.saved_tensors
    needs, how = ctx.needs_input_grad, ctx.how
    return (
        convolution_input(g, grad, None, x.shape[2:], *how) if needs[0] else None,
        convolution(x, grad, None, *how) if needs[1] else None,
        *[None] * 5,
    )


def _keep_weight(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.how = inputs[3:]


def _keep_sum(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.shape, ctx.divisor = inputs[0].shape, inputs[2]


def _sum_back(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    if ctx.divisor != 1:
        grad = grad / torch.full((), ctx.divisor, dtype=grad.dtype, device=grad.device)
    return expand(grad, ctx.shape), None, None


def _keep_each(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(inputs[0], output)
    ctx.name = inputs[1]


_TWO_OVER_ROOT_PI = 2 / math.sqrt(math.pi)


def _density(x: Tensor) -> Tensor:
    return each(x * x * -0.5, "exp") * (1 / math.sqrt(2 * math.pi))


def _gelu_tanh_slope(x: Tensor, y: Tensor) -> Tensor:
    inner = (x + x * x * x * 0.044715) * math.sqrt(2 / math.pi)
    t = each(inner, "tanh")
    slope = (x * x * (3 * 0.044715) + 1) * math.sqrt(2 / math.pi)
    flat = 1 - t * t
    return (t + 1) * 0.5 + x * 0.5 * torch.where(flat == 0, 0.0, flat * slope)  # the slope may be infinite


def _silu_slope(x: Tensor, y: Tensor) -> Tensor:
    s = each(x, "sigmoid")
    return s * (x * (1 - s) + 1)


def _mish_slope(x: Tensor, y: Tensor) -> Tensor:
    t = each(each(x, "softplus"), "tanh")
    return t + x * each(x, "sigmoid") * (1 - t * t)


#: Derivatives as one expression of single roundings each, of the argument x and the value y.
SLOPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "exp": lambda x, y: y,
    "exp2": lambda x, y: y * math.log(2),
    "expm1": lambda x, y: each(x, "exp"),
    "log": lambda x, y: 1 / x,
    "log1p": lambda x, y: 1 / (x + 1),
    "log2": lambda x, y: 1 / (x * math.log(2)),
    "log10": lambda x, y: 1 / (x * math.log(10)),
    "sqrt": lambda x, y: 0.5 / y,
    "rsqrt": lambda x, y: y / x * -0.5,
    "sin": lambda x, y: each(x, "cos"),
    "cos": lambda x, y: -each(x, "sin"),
    "tanh": lambda x, y: 1 - y * y,
    "sigmoid": lambda x, y: y * (1 - y),
    "softplus": lambda x, y: each(x, "sigmoid"),
    "logsigmoid": lambda x, y: each(-x, "sigmoid"),
    "silu": _silu_slope,
    "mish": _mish_slope,
    "selu": lambda x, y: torch.where(x > 0, SELU_SCALE, each(x, "exp") * (SELU_ALPHA * SELU_SCALE)).to(y.dtype),
    "erf": lambda x, y: each(-(x * x), "exp") * _TWO_OVER_ROOT_PI,
    "erfc": lambda x, y: each(-(x * x), "exp") * -_TWO_OVER_ROOT_PI,
    "gelu": lambda x, y: (each(x * math.sqrt(0.5), "erf") + 1) * 0.5 + x * _density(x),
    "gelu_tanh": _gelu_tanh_slope,
}


def _each_back(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, y = ctx.saved_tensors
    return grad * SLOPES[ctx.name](x, y), None


def _keep_power(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(inputs[0])
    ctx.exponent = inputs[1]


def _power_back(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (x,) = ctx.saved_tensors
    if ctx.exponent == 0:
        return torch.zeros_like(x), None
    return grad * (power(x, ctx.exponent - 1) * ctx.exponent), None


def _keep_windows(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    x, ctx.sizes, starts, ends, ctx.counts, ctx.divisor = inputs
    ctx.space = x.shape[x.dim() - len(ctx.sizes) :]
    ctx.starts, ctx.ends = split(ctx.sizes, starts), split(ctx.sizes, ends)


def _windows_back(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    part = grad / divisors(ctx.sizes, ctx.counts, ctx.divisor, grad.device).to(grad.dtype)
    over = [covering(s, e, n) for s, e, n in zip(ctx.starts, ctx.ends, ctx.space, strict=True)]
    first, last = ([i for part in side for i in part] for side in zip(*over, strict=True))
    return windows(part, list(ctx.space), first, last, [1] * len(first), 1), *[None] * 5


def _keep_bags(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    rows, weights, segment, ctx.count, ctx.mean = inputs
    ctx.save_for_backward(rows, weights, segment)


def _bags_back(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    rows, weights, segment = ctx.saved_tensors
    needs = ctx.needs_input_grad
    each_row = take(grad, segment)
    of_weights = None
    if weights is not None and needs[1]:
        of_weights = products(rows[:, None], each_row[:, :, None]).reshape(-1)
    if ctx.mean:
        each_row = each_row / torch.bincount(segment, minlength=ctx.count)[segment][:, None].to(grad.dtype)
    elif weights is not None:
        each_row = each_row * expand(weights[:, None], each_row.shape)
    return each_row if needs[0] else None, of_weights, None, None, None


def _keep_multiply_add(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[1:])


def _multiply_add_back(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    a, b = ctx.saved_tensors
    needs = ctx.needs_input_grad
    return grad, grad * b if needs[1] else None, grad * a if needs[2] else None


class _Take(torch.autograd.Function):
    """Rows of a table; the gradient of one that is taken more than once is one sum."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, which: Tensor, without: int | None) -> Tensor:
        ctx.save_for_backward(which)
        ctx.count, ctx.without = len(table), without
        return table.index_select(0, which.reshape(-1)).reshape(*which.shape, *table.shape[1:])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (which,) = ctx.saved_tensors
        flat = which.reshape(-1)
        total = bags(grad.reshape(len(flat), -1), None, flat, ctx.count, False)
        if ctx.without is not None:
            total[ctx.without] = 0.0
        return total.reshape(ctx.count, *grad.shape[which.dim() :]), None, None


def take(table: Tensor, which: Tensor, without: int | None = None) -> Tensor:
    """``table[which]`` for int64 ``which`` from 0; the gradient of each row is one sum, and 0 for the row ``without``."""
    y: Tensor = _Take.apply(table, which, without)  # type: ignore[no-untyped-call]
    return y


torch.library.register_autograd("roundoff::products", _products_back, setup_context=_keep_products)
torch.library.register_autograd("roundoff::convolution", _convolution_back, setup_context=_keep_convolution)
torch.library.register_autograd("roundoff::convolution_input", _convolution_input_back, setup_context=_keep_convolution)
torch.library.register_autograd("roundoff::convolution_weight", _convolution_weight_back, setup_context=_keep_weight)
torch.library.register_autograd("roundoff::add_up", _sum_back, setup_context=_keep_sum)
torch.library.register_autograd("roundoff::each", _each_back, setup_context=_keep_each)
torch.library.register_autograd("roundoff::power", _power_back, setup_context=_keep_power)
torch.library.register_autograd("roundoff::windows", _windows_back, setup_context=_keep_windows)
torch.library.register_autograd("roundoff::bags", _bags_back, setup_context=_keep_bags)
torch.library.register_autograd("roundoff::multiply_add", _multiply_add_back, setup_context=_keep_multiply_add)
