"""What is known of the exact operators: rounded once, half an ulp. In float64 they are PyTorch's own functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from roundoff.exact.elementwise import FUNCTIONS
from roundoff.rules import Nature, Rule, register

SOURCE = "correctly rounded: half an ulp, which every rule allows for the rounding of the result"


def _products(left: Tensor, right: Tensor, bias: Tensor | None = None, *, native: Any = None) -> Tensor:
    y = left @ right
    return y if bias is None else y + bias


def _convolution(x: Tensor, w: Tensor, b: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int, *,
                 native: Any = None) -> Tensor:  # fmt: skip
    none = [0] * (w.dim() - 2)
    return torch.ops.aten.convolution(x, w, b, stride, padding, dilation, False, none, groups)  # type: ignore[no-any-return]


def _convolution_input(grad: Tensor, w: Tensor, b: Tensor | None, space: Any, stride: Any, padding: Any, dilation: Any,
                       groups: int, *, native: Any = None) -> Tensor:  # fmt: skip
    more = [
        n - ((g - 1) * s - 2 * p + d * (k - 1) + 1)
        for n, g, s, p, d, k in zip(space, grad.shape[2:], stride, padding, dilation, w.shape[2:], strict=True)
    ]
    return torch.ops.aten.convolution(grad, w, b, stride, padding, dilation, True, more, groups)  # type: ignore[no-any-return]


def _add_up(x: Tensor, dims: Any, divisor: int, *, native: Any = None) -> Tensor:
    return x.sum(list(dims), keepdim=True) / divisor if len(dims) else x / divisor


def _each(x: Tensor, name: str, *, native: Any = None) -> Tensor:
    return FUNCTIONS[name](x)


def _power(x: Tensor, exponent: int, *, native: Any = None) -> Tensor:
    return x**exponent


_WIDE: dict[str, Callable[..., Any]] = {
    "products": _products,
    "convolution": _convolution,
    "convolution_input": _convolution_input,
    "add_up": _add_up,
    "each": _each,
    "power": _power,
}
for _op, _wide in _WIDE.items():
    register(Rule((f"roundoff.{_op}",), Nature.ROUNDS, lambda call: 0.0, source=SOURCE, wide=_wide))
