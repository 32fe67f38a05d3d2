"""The operators that round once, known to PyTorch: they record, export, compile and have gradients.

``roundoff::products``, ``convolution``, ``convolution_weight``, ``add_up`` and ``each``. Their gradients are made of the
same operators and of single additions and multiplications, which IEEE arithmetic rounds once as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, cast

import torch
from torch import Tensor

from roundoff.exact import convolutions, elementwise, sums
from roundoff.exact import products as of_rows
from roundoff.exact.rounding import short_dtype

P = ParamSpec("P")


def _operator(f: Callable[P, Tensor]) -> Callable[P, Tensor]:
    return cast("Callable[P, Tensor]", torch.library.custom_op(f"roundoff::{f.__name__}", mutates_args=())(f))


def _fake(name: str) -> Callable[[Callable[P, Tensor]], Callable[P, Tensor]]:
    def register(f: Callable[P, Tensor]) -> Callable[P, Tensor]:
        torch.library.register_fake(f"roundoff::{name}")(f)
        return f

    return register


@_operator
def products(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """Σ_k left[b, m, k] right[b, k, n] + bias, which broadcasts to [B, M, N]; each element rounded once."""
    return of_rows.products(left, right, bias, left.dtype)


@_operator
def convolution(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int], padding: Sequence[int],
                dilation: Sequence[int], groups: int) -> Tensor:  # fmt: skip
    """x [N, C, *in] with weight [O, C / groups, *kernel]; each element rounded once, bias included."""
    return convolutions.convolution(x, weight, bias, stride, padding, dilation, groups)


@_operator
def convolution_input(grad: Tensor, weight: Tensor, bias: Tensor | None, space: Sequence[int], stride: Sequence[int],
                      padding: Sequence[int], dilation: Sequence[int], groups: int) -> Tensor:  # fmt: skip
    """The gradient of a convolution in its input of size ``space``, and so a transposed convolution."""
    return convolutions.of_input(grad, weight, bias, space, stride, padding, dilation, groups)


@_operator
def convolution_weight(x: Tensor, grad: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int],
                       dilation: Sequence[int], groups: int) -> Tensor:  # fmt: skip
    """The gradient of a convolution in its weight."""
    return convolutions.of_weight(x, grad, kernel, stride, padding, dilation, groups)


@_operator
def add_up(x: Tensor, dims: Sequence[int], divisor: int) -> Tensor:
    """The sum over ``dims``, which are kept with size 1, over ``divisor``; rounded once."""
    kept = [d for d in range(x.dim()) if d not in dims]
    rows = x.permute(*kept, *dims).reshape(math.prod(x.shape[d] for d in kept), -1 if x.numel() else 0)
    y = sums.row_sums(rows, divisor, x.dtype)
    return y.reshape([1 if d in dims else x.shape[d] for d in range(x.dim())])


@_operator
def each(x: Tensor, name: str) -> Tensor:
    """The function ``name`` at each element, rounded once."""
    return elementwise.each(x, name)


@_operator
def power(x: Tensor, exponent: int) -> Tensor:
    """A whole power of each element, rounded once."""
    return elementwise.power(x, exponent)


@_fake("products")
def _(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    return left.new_empty((left.shape[0], left.shape[1], right.shape[2]))


@_fake("convolution")
def _(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int], padding: Sequence[int],
      dilation: Sequence[int], groups: int) -> Tensor:  # fmt: skip
    kernel = weight.shape[2:]
    space = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(x.shape[2:], kernel, stride, padding, dilation, strict=True)
    ]
    return x.new_empty((x.shape[0], weight.shape[0], *space))


@_fake("convolution_input")
def _(grad: Tensor, weight: Tensor, bias: Tensor | None, space: Sequence[int], stride: Sequence[int],
      padding: Sequence[int], dilation: Sequence[int], groups: int) -> Tensor:  # fmt: skip
    return grad.new_empty((grad.shape[0], weight.shape[1] * groups, *space))


@_fake("convolution_weight")
def _(x: Tensor, grad: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int],
      dilation: Sequence[int], groups: int) -> Tensor:  # fmt: skip
    return x.new_empty((grad.shape[1], x.shape[1] // groups, *kernel))


@_fake("add_up")
def _(x: Tensor, dims: Sequence[int], divisor: int) -> Tensor:
    return x.new_empty([1 if d in dims else x.shape[d] for d in range(x.dim())])


@_fake("each")
def _(x: Tensor, name: str) -> Tensor:
    return torch.empty_like(x)


@_fake("power")
def _(x: Tensor, exponent: int) -> Tensor:
    return torch.empty_like(x)


def reduce_to(grad: Tensor, shape: Sequence[int]) -> Tensor:
    """The gradient of broadcasting: summed back to ``shape``, rounded once."""
    extra = grad.dim() - len(shape)
    dims = [d for d in range(grad.dim()) if d < extra or (shape[d - extra] == 1 and grad.shape[d] != 1)]
    return (add_up(grad, dims, 1) if dims else grad).reshape(tuple(shape))


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
    return (grad / ctx.divisor if ctx.divisor != 1 else grad).expand(ctx.shape), None, None


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
    return (t + 1) * 0.5 + x * 0.5 * ((1 - t * t) * slope)


def _silu_slope(x: Tensor, y: Tensor) -> Tensor:
    s = each(x, "sigmoid")
    return s * (x * (1 - s) + 1)


#: Derivatives as one expression of single roundings each, of the argument x and the value y.
SLOPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "exp": lambda x, y: y,
    "expm1": lambda x, y: y + 1,
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
    "silu": _silu_slope,
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
    return grad * (power(x, ctx.exponent - 1) * ctx.exponent), None


torch.library.register_autograd("roundoff::products", _products_back, setup_context=_keep_products)
torch.library.register_autograd("roundoff::convolution", _convolution_back, setup_context=_keep_convolution)
torch.library.register_autograd("roundoff::convolution_input", _convolution_input_back, setup_context=_keep_convolution)
torch.library.register_autograd("roundoff::convolution_weight", _convolution_weight_back, setup_context=_keep_weight)
torch.library.register_autograd("roundoff::add_up", _sum_back, setup_context=_keep_sum)
torch.library.register_autograd("roundoff::each", _each_back, setup_context=_keep_each)
torch.library.register_autograd("roundoff::power", _power_back, setup_context=_keep_power)

__all__ = [
    "add_up",
    "convolution",
    "convolution_input",
    "convolution_weight",
    "each",
    "power",
    "products",
    "short_dtype",
]
