"""The operators at an exact shape, each as sums of products: rows of operands against rows of weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from roundoff.errors import RoundoffError
from roundoff.order.convolution import Convolution, kernel_of_convolution
from roundoff.order.kernel import Kernel, drawn_kernel

CPU = torch.device("cpu")
LAYOUTS = ("contiguous", "transposed", "channels_last")
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Shape:
    """What the user asked for."""

    k: int
    bias: bool
    batch: int
    out: int
    dtype: torch.dtype
    layout: str
    args: dict[str, Any]
    device: torch.device = CPU


def kernel_of(op: str | Callable[[Tensor], Any], shape: Shape) -> Kernel:
    """The kernel of an operator's name, or of a function that adds up the values it is given."""
    if not isinstance(op, str) or op in ("sum", "mean"):
        shape = replace(shape, bias=False)
    check_shape(shape)
    if not isinstance(op, str):
        if not callable(op):
            raise RoundoffError(f"The operator is a {type(op).__name__}. Give one of {_names()}, or a function.")
        return _given(op, shape)
    if op not in OPERATORS:
        raise RoundoffError(
            f"There is no operator {op!r}. Give one of {_names()}, or a function that adds up a tensor."
        )
    options, make = OPERATORS[op]
    unknown = set(shape.args) - set(options)
    if unknown:
        takes = ", ".join(options) or "none"
        raise RoundoffError(f"{op} has no option {', '.join(sorted(unknown))} in op_args. It takes: {takes}.")
    if shape.layout == "channels_last" and op not in ("conv1d", "conv2d", "conv3d"):
        raise RoundoffError(
            f"The layout channels_last is for convolutions, not for {op}. Give contiguous or transposed."
        )
    if shape.layout == "transposed" and op.startswith("conv"):
        raise RoundoffError(f"The layout transposed is not for {op}. Give contiguous or channels_last.")
    return make(op, shape)


def check_shape(shape: Shape) -> None:
    """Refuse what has no order of additions."""
    if shape.dtype not in DTYPES:
        raise RoundoffError(f"The dtype is {shape.dtype}. Additions that round are in {', '.join(map(str, DTYPES))}.")
    if shape.k + shape.bias < 2 or shape.k < 1:
        raise RoundoffError(
            f"A sum of {shape.k} products{' and a bias' if shape.bias else ''} has no order: k must be at least 2."
        )
    if shape.batch < 1 or shape.out < 1:
        raise RoundoffError(f"batch is {shape.batch} and out is {shape.out}; both must be at least 1.")
    if shape.layout not in LAYOUTS:
        raise RoundoffError(f"There is no layout {shape.layout!r}. Give one of {', '.join(LAYOUTS)}, or None.")


def _names() -> str:
    return ", ".join(OPERATORS)


def _simple(
    name: str, shape: Shape, rows: int, cols: int, run: Any, *, divided: bool = False, given: bool = False
) -> Kernel:
    def on_device(x: Tensor, w: Tensor | None, b: Tensor | None) -> Tensor:
        moved = (None if t is None else t.to(shape.device) for t in (x, w, b))
        y: Tensor = run(*moved)
        return y.cpu()

    bias = shape.bias and cols > 0
    return drawn_kernel(name, shape.k, bias, rows, cols, shape.dtype, on_device, divided=divided, given=given)


def _stored(x: Tensor, layout: str) -> Tensor:
    """The same matrix, stored by columns if ``transposed``."""
    return x.t().contiguous().t() if layout == "transposed" else x.contiguous()


def _leading(shape: Shape) -> tuple[int, ...]:
    """The sizes before the last one: the batch, and ``size`` of op_args."""
    size = shape.args.get("size", ())
    return (shape.batch, *((size,) if isinstance(size, int) else size))


def _linear(op: str, shape: Shape) -> Kernel:
    leading = _leading(shape)

    def run(x: Tensor, w: Any, b: Tensor | None) -> Tensor:
        x = _stored(x, shape.layout).view(*leading, shape.k) if len(leading) > 1 else _stored(x, shape.layout)
        if op == "linear":
            y = F.linear(x, w, b)
        elif op == "tensordot":
            y = torch.tensordot(x, w, dims=([x.dim() - 1], [1]))
            y = y if b is None else y + b
        else:
            y = torch.matmul(x, w.t())
            y = y if b is None else y + b
        return y.reshape(-1, shape.out)

    if len(leading) > 1 and shape.layout == "transposed":
        raise RoundoffError("The layout transposed is for one batch size: leave size out of op_args.")
    return _simple(op, shape, math.prod(leading), shape.out, run)


def _einsum(op: str, shape: Shape) -> Kernel:
    equation = str(shape.args.get("equation", "bk,ok->bo")).replace(" ", "")
    first, _, rest = equation.partition(",")
    second, _, result = rest.partition("->")
    if sorted(first) != ["b", "k"] or sorted(second) != ["k", "o"] or sorted(result) != ["b", "o"]:
        raise RoundoffError(
            f"The equation is {equation!r}. Write it with b (batch), k (added) and o (out), such as 'bk,ok->bo' or "
            "'kb,ok->ob'."
        )

    def run(x: Tensor, w: Any, b: Tensor | None) -> Tensor:
        x = _stored(x, shape.layout)
        y = torch.einsum(equation, x if first == "bk" else x.t(), w if second == "ok" else w.t())
        y = y if result == "bo" else y.t()
        return y if b is None else y + b

    return _simple(op, shape, shape.batch, shape.out, run)


def _bmm(op: str, shape: Shape) -> Kernel:
    groups = int(shape.args.get("groups", 4))

    def run(x: Tensor, w: Any, b: Tensor | None) -> Tensor:
        parts = _stored(x, shape.layout).view(groups, shape.batch, shape.k) if shape.layout != "transposed" else (
            x.view(groups, shape.batch, shape.k).transpose(1, 2).contiguous().transpose(1, 2)
        )  # fmt: skip
        weights = w.t().expand(groups, shape.k, shape.out)
        y = torch.bmm(parts, weights) if b is None else torch.baddbmm(b.expand(groups, 1, -1), parts, weights)
        return y.reshape(-1, shape.out)

    return _simple(op, shape, groups * shape.batch, shape.out, run)


def _sum(op: str, shape: Shape) -> Kernel:
    def run(x: Tensor, w: Tensor | None, b: Tensor | None) -> Tensor:
        x = _stored(x, shape.layout)
        return (x.sum(1) if op == "sum" else x.mean(1)).unsqueeze(1)

    return _simple(op, shape, shape.batch, 0, run, divided=op == "mean")


def _given(fn: Callable[[Tensor], Any], shape: Shape) -> Kernel:
    def run(x: Tensor, w: Tensor | None, b: Tensor | None) -> Tensor:
        try:
            got = fn(x[0].clone())
        except Exception as error:
            raise RoundoffError(
                f"The function raised {type(error).__name__}: {error}. It was given {shape.k} {shape.dtype} up to "
                f"{float(x[0].abs().max()):.3g}, and must add any numbers: very large ones are the masks."
            ) from error
        y = got.detach() if isinstance(got, Tensor) else torch.as_tensor(got)
        if y.numel() != 1:
            raise RoundoffError(
                f"The function gave a tensor of shape {tuple(y.shape)}. It must give one number: the sum."
            )
        return y.reshape(1, 1)

    return _simple(getattr(fn, "__name__", "function"), shape, 1, 0, run, given=True)


def _convolution(op: str, shape: Shape) -> Kernel:
    dims = int(op[4])
    args = shape.args

    def each(name: str, usual: int) -> tuple[int, ...]:
        value = args.get(name, usual)
        return (value,) * dims if isinstance(value, int) else tuple(value)

    window, dilation, groups = each("kernel_size", 1), each("dilation", 1), int(args.get("groups", 1))
    taps = math.prod(window)
    reach = tuple(d * (n - 1) + 1 for d, n in zip(dilation, window, strict=True))
    size = tuple(args["size"]) if "size" in args else tuple(max(r, 5 if taps > 1 else 1) + 2 for r in reach)
    if shape.k % taps or shape.out % groups or len(size) != dims:
        raise RoundoffError(
            f"{op} adds k = {shape.k} products for each output: channels times the {taps} places of the kernel. So k must "
            f"be a multiple of {taps}, out = {shape.out} one of groups = {groups}, and size have {dims} numbers."
        )
    conv = Convolution(
        shape.batch,
        shape.k // taps,
        shape.out // groups,
        size,
        window,
        each("stride", 1),
        each("padding", 0),
        dilation,
        groups,
    )
    if min(conv.outs) < 1:
        raise RoundoffError(f"The window of {op} reaches over {reach}, and the image is {size}: make size larger.")
    form = {1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d}[dims]
    last = shape.layout == "channels_last"
    convolve: Any = getattr(F, op)

    def layout(x: Tensor) -> Tensor:
        x = x.to(shape.device)
        if last and dims == 1:  # there is no such memory format; this is the order in memory that a permutation gives
            return x.transpose(1, 2).contiguous().transpose(1, 2)
        return x.contiguous(memory_format=form) if last else x.contiguous()

    def call(image: Tensor, weight: Tensor, b: Tensor | None) -> Tensor:
        bias = None if b is None else b.to(shape.device)
        y: Tensor = convolve(layout(image), layout(weight), bias, conv.stride, conv.padding, conv.dilation, groups)
        return y.cpu()

    return kernel_of_convolution(op, conv, shape.bias, shape.dtype, call)


_CONVOLUTION = ("kernel_size", "stride", "padding", "dilation", "groups", "size")
Make = Callable[[str, Shape], Kernel]
#: The operators by name, with what they take in op_args.
OPERATORS: dict[str, tuple[tuple[str, ...], Make]] = {
    "linear": (("size",), _linear),
    "conv1d": (_CONVOLUTION, _convolution),
    "conv2d": (_CONVOLUTION, _convolution),
    "conv3d": (_CONVOLUTION, _convolution),
    "tensordot": (("size",), _linear),
    "matmul": (("size",), _linear),
    "bmm": (("groups",), _bmm),
    "einsum": (("equation",), _einsum),
    "sum": ((), _sum),
    "mean": ((), _sum),
}
