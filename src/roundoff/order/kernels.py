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

Operands = tuple[Tensor, Tensor | None, Tensor | None]
LAYOUTS = ("contiguous", "transposed", "channels_last")
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Kernel:
    """Outputs [rows, max(cols, 1)], each the sum of the products of a row of x [rows, products] with a row of
    w [cols, products], and of an element of the bias b [cols].

    With ``cols`` 0 the rows of x are summed by themselves. ``run`` takes x, w and b; ``draw`` draws real operands from a
    seed and gives them with the operator's outputs: there may be more rows than ``run`` takes. ``divided``: the sum is
    divided by its length. ``given``: it is the user's own function.
    """

    name: str
    products: int
    bias: bool
    rows: int
    cols: int
    dtype: torch.dtype
    run: Callable[[Tensor, Tensor | None, Tensor | None], Tensor]
    draw: Callable[[int], tuple[Operands, Tensor]]
    divided: bool = False
    given: bool = False

    @property
    def length(self) -> int:
        """The number of summands: the products, and the bias where there is one."""
        return self.products + self.bias


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


def _normal(seed: int, dtype: torch.dtype) -> Callable[..., Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def _simple(
    name: str, shape: Shape, rows: int, cols: int, run: Any, *, divided: bool = False, given: bool = False
) -> Kernel:
    """A kernel whose rows are all independent, so that real operands are run just as the masks are."""
    bias = shape.bias and cols > 0

    def draw(seed: int) -> tuple[Operands, Tensor]:
        normal = _normal(seed, shape.dtype)
        x = normal(rows, shape.k)
        w = normal(cols, shape.k) if cols else None
        b = normal(cols) if bias else None
        return (x, w, b), run(x, w, b)

    return Kernel(name, shape.k, bias, rows, cols, shape.dtype, run, draw, divided, given)


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

    window, stride, padding, dilation = (
        each("kernel_size", 1),
        each("stride", 1),
        each("padding", 0),
        each("dilation", 1),
    )
    groups, taps = int(args.get("groups", 1)), math.prod(window)
    reach = tuple(d * (n - 1) + 1 for d, n in zip(dilation, window, strict=True))
    size = tuple(args["size"]) if "size" in args else tuple(max(r, 5 if taps > 1 else 1) + 2 for r in reach)
    if shape.k % taps or shape.out % groups or len(size) != dims:
        raise RoundoffError(
            f"{op} adds k = {shape.k} products for each output: channels times the {taps} places of the kernel. So k must "
            f"be a multiple of {taps}, out = {shape.out} one of groups = {groups}, and size have {dims} numbers."
        )
    outs = tuple((n + 2 * p - r) // s + 1 for n, p, r, s in zip(size, padding, reach, stride, strict=True))
    if min(outs) < 1:
        raise RoundoffError(f"The window of {op} reaches over {reach}, and the image is {size}: make size larger.")
    channels, cols = shape.k // taps, shape.out // groups
    form = {1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d}[dims]
    last = shape.layout == "channels_last"
    convolve: Any = getattr(F, op)
    wide = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}

    def layout(x: Tensor) -> Tensor:
        if last and dims == 1:  # there is no such memory format; this is the order in memory that a permutation gives
            return x.transpose(1, 2).contiguous().transpose(1, 2)
        return x.contiguous(memory_format=form) if last else x.contiguous()

    def whole(image: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        """The outputs of the first group, [batch, cols, *outs]."""
        weight = w.view(cols, channels, *window).repeat(groups, *[1] * (dims + 1))
        y: Tensor = convolve(layout(image), layout(weight), None if b is None else b.repeat(groups), **wide)
        return y[:, :cols]

    everywhere = taps == 1 and set(stride) == {1} and set(padding) == {0}
    places = math.prod(size) if everywhere else 1
    middle = tuple(n // 2 for n in outs)  # where the window lies inside, unless the image is smaller than it
    inside = all(
        m * s - p >= 0 and m * s - p + r <= n
        for m, s, p, r, n in zip(middle, stride, padding, reach, size, strict=True)
    )
    if not inside:
        raise RoundoffError(f"The window of {op} lies nowhere inside the image of {size}: make size larger.")

    def run(x: Tensor, w: Any, b: Tensor | None) -> Tensor:
        image = torch.zeros(shape.batch, channels * groups, *size, dtype=shape.dtype)
        if everywhere:
            image[:, :channels] = x.view(shape.batch, places, channels).transpose(1, 2).reshape(-1, channels, *size)
            return whole(image, w, b).flatten(2).transpose(1, 2).reshape(-1, cols)
        slices = tuple(
            slice(m * s - p, m * s - p + r, d)
            for m, s, p, r, d in zip(middle, stride, padding, reach, dilation, strict=True)
        )
        image[(slice(None), slice(0, channels), *slices)] = x.view(shape.batch, channels, *window)
        return whole(image, w, b)[(slice(None), slice(None), *middle)]

    def draw(seed: int) -> tuple[Operands, Tensor]:
        normal = _normal(seed, shape.dtype)
        image = normal(shape.batch, channels * groups, *size)
        w, b = normal(cols, shape.k), normal(cols) if shape.bias else None
        y = whole(image, w, b).flatten(2).transpose(1, 2).reshape(-1, cols)
        return (_windows(image[:, :channels]), w, b), y

    def _windows(image: Tensor) -> Tensor:
        """[batch x outputs, channels x places of the window], zeros where the window reaches over the edge."""
        padded = F.pad(image, [p for p in reversed(padding) for _ in (0, 1)])
        found = []
        for place in torch.cartesian_prod(*[torch.arange(n) for n in window]).view(-1, dims).tolist():
            at = tuple(
                slice(o * d, o * d + (n - 1) * s + 1, s)
                for o, d, n, s in zip(place, dilation, outs, stride, strict=True)
            )
            found.append(padded[(slice(None), slice(None), *at)].flatten(2))
        return torch.stack(found, 2).flatten(1, 2).transpose(1, 2).reshape(-1, shape.k)

    return Kernel(op, shape.k, shape.bias, shape.batch * places, cols, shape.dtype, run, draw)


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
