"""A step of a run that adds, as a kernel whose order can be asked: the same operator on operands that lie the same way."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from roundoff.errors import RoundoffError
from roundoff.order.convolution import Convolution, kernel_of_convolution
from roundoff.order.kernel import Kernel, Run, drawn_kernel
from roundoff.tape.dispatcher import Setting
from roundoff.tape.leaves import map_operands
from roundoff.tape.storages import has_storage
from roundoff.tape.watch import Step

ALIGNED = 64  # bytes; where in such a block a tensor starts decides how some kernels begin
FORMATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Slot:
    """A tensor of a step without its numbers: how it lies in memory, and where in a block of memory it starts."""

    dtype: torch.dtype
    size: tuple[int, ...]
    stride: tuple[int, ...]
    start: int
    device: torch.device
    requires_grad: bool = False

    @staticmethod
    def of(x: Tensor) -> Slot:
        """The slot in which ``x`` lies."""
        start = x.data_ptr() % ALIGNED
        return Slot(x.dtype, tuple(x.size()), tuple(x.stride()), start, x.device, x.requires_grad)

    def holding(self, values: Tensor) -> Tensor:
        """``values``, of any layout, in this one. Where the slot repeats a number, the first one counts."""
        values = values.expand(self.size)
        for dim, (n, stride) in enumerate(zip(self.size, self.stride, strict=True)):
            values = values.narrow(dim, 0, 1) if stride == 0 and n > 1 else values
        ahead = self.start // self.dtype.itemsize
        count = ahead + 1 + sum((n - 1) * s for n, s in zip(values.shape, self.stride, strict=True))
        block = torch.zeros(count, dtype=self.dtype, device=self.device)
        x = block.as_strided(values.shape, self.stride, ahead)
        x.copy_(values)
        return x.expand(self.size).requires_grad_(self.requires_grad)


@dataclass(frozen=True)
class Reduction:
    """A step that adds, without the numbers of the run: its operator and its arguments, a :class:`Slot` for each tensor.

    ``then_bias``: a later step adds a bias [cols] to what it gives; the two are one sum.
    """

    op: Any
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...]
    setting: Setting
    then_bias: bool = False

    @property
    def name(self) -> str:
        """The operator's name."""
        name = str(self.op._schema.name).removeprefix("aten::")
        return f"{name} and add" if self.then_bias else name

    @property
    def told(self) -> str:
        """Shapes and layouts, in words."""
        slots = [a for a in (*self.args, *dict(self.kwargs).values()) if isinstance(a, Slot)]
        shapes = ", ".join(f"{list(slot.size)}{_layout(slot)}" for slot in slots)
        return f"{str(slots[0].dtype).removeprefix('torch.')} {shapes}"

    def is_as(self, other: Reduction) -> bool:
        """Whether the other is the same call."""
        mine, theirs = ((r.op, r.args, r.kwargs, r.then_bias) for r in (self, other))
        return bool(mine == theirs)

    def call(self, *tensors: Tensor | None) -> Tensor:
        """The step's operator, these in place of its tensors, in order."""
        given = iter(tensors)
        args = tuple(next(given) if isinstance(a, Slot) else a for a in self.args)
        kwargs = {name: next(given) if isinstance(a, Slot) else a for name, a in self.kwargs}
        with self.setting.again():
            y: Tensor = self.op(*args, **kwargs)
        return y.detach().cpu()


def _layout(slot: Slot) -> str:
    packed, expected = [], 1
    for n, s in sorted(zip(slot.size, slot.stride, strict=True), key=lambda p: p[1]):
        packed.append(n == 1 or s == expected)
        expected *= n
    in_order = all(a >= b for a, b in zip(slot.stride, slot.stride[1:], strict=False))
    return "" if in_order and all(packed) else f" with strides {list(slot.stride)}"


def reduction_of(step: Step) -> Reduction | None:
    """The step as a sum whose order can be asked, None where it is none or is of a kind that is not known here."""
    make = _MAKERS.get(str(step.op._schema.name))
    if make is None or step.overwritten:
        return None

    def slot(x: Any) -> Any:
        return Slot.of(x) if isinstance(x, Tensor) else x

    tensors = [a for a in (*step.args, *step.kwargs.values()) if isinstance(a, Tensor)]
    if not all(has_storage(x) and x.dtype == tensors[0].dtype and not x.is_meta and x.numel() for x in tensors):
        return None
    if not tensors or tensors[0].dtype not in FORMATS:
        return None
    args = tuple(map_operands(slot, a) for a in step.args)
    found = Reduction(step.op, args, tuple((k, slot(v)) for k, v in step.kwargs.items()), step.setting)
    return found if kernel_of_step(found) is not None else None


def kernel_of_step(reduction: Reduction) -> Kernel | None:
    """The reduction as a kernel; None where its arguments are of a kind that is not known here."""
    try:
        kernel = _MAKERS[str(reduction.op._schema.name)](reduction)
    except RoundoffError:  # a convolution whose window lies nowhere inside the image
        return None
    return None if kernel is None else _with_bias(kernel) if reduction.then_bias else kernel


def _with_bias(kernel: Kernel) -> Kernel | None:
    """The sum and a bias added to it: an addition of two numbers is rounded in one way only."""
    if kernel.bias or not kernel.cols:
        return None

    def run(x: Tensor, w: Tensor | None, b: Tensor | None) -> Tensor:
        y = kernel.run(x, w, None)
        return y if b is None else y + b

    return drawn_kernel(kernel.name, kernel.products, True, kernel.rows, kernel.cols, kernel.dtype, run)


def _scaled(reduction: Reduction) -> bool:
    kwargs = dict(reduction.kwargs)
    return any(kwargs.get(name, 1) != 1 for name in ("alpha", "beta"))


def _product(reduction: Reduction) -> Kernel | None:
    """mm, addmm, bmm, baddbmm: [.., m, k] by [.., k, n], all batches by the same weights."""
    *added, x, w = reduction.args[:3] if "add" in reduction.name else reduction.args[:2]
    bias: Slot | None = added[0] if added else None
    if _scaled(reduction) or not isinstance(w, Slot) or _repeats(x):
        return None
    n = w.size[-1]
    if bias is not None and (not bias.size or bias.size[-1] != n or (n > 1 and bias.stride[-1] == 0)):
        return None
    *before, k = x.size

    def run(rows: Tensor, cols: Tensor | None, b: Tensor | None) -> Tensor:
        assert cols is not None
        given = [] if bias is None or b is None else [bias.holding(b)]
        y = reduction.call(*given, x.holding(rows.view(x.size)), w.holding(cols.t().expand(w.size)))
        return y.reshape(-1, n)

    return drawn_kernel(reduction.name, k, bias is not None, math.prod(before), n, x.dtype, run)


def _linear(reduction: Reduction) -> Kernel | None:
    x, w, *more = (*reduction.args, *dict(reduction.kwargs).values())
    bias: Slot | None = more[0] if more else None
    if _repeats(x) or len(w.size) != 2 or (bias is not None and not isinstance(bias, Slot)):
        return None

    def run(rows: Tensor, cols: Tensor | None, b: Tensor | None) -> Tensor:
        assert cols is not None
        given = [] if bias is None or b is None else [bias.holding(b)]
        return reduction.call(x.holding(rows.view(x.size)), w.holding(cols), *given).reshape(-1, w.size[0])

    rows = math.prod(x.size[:-1])
    return drawn_kernel(reduction.name, x.size[-1], bias is not None, rows, w.size[0], x.dtype, run)


def _convolution(reduction: Reduction) -> Kernel | None:
    """aten.convolution and the conv1d, conv2d, conv3d that inference mode shows."""
    kwargs = dict(reduction.kwargs)
    names = ["input", "weight", "bias", "stride", "padding", "dilation"]
    names += ["transposed", "output_padding", "groups"] if "convolution" in reduction.name else ["groups"]
    given = dict(zip(names, reduction.args, strict=False)) | kwargs
    x, w, bias = given["input"], given["weight"], given.get("bias")
    dims = len(w.size) - 2
    if given.get("transposed") or len(x.size) != dims + 2 or _repeats(x) or isinstance(given.get("padding"), str):
        return None

    def each(name: str, usual: int) -> tuple[int, ...]:
        value = given.get(name, usual)
        value = [value] if isinstance(value, int) else list(value)
        return tuple(value * dims if len(value) == 1 else value)

    groups = int(given.get("groups", 1))
    conv = Convolution(
        x.size[0],
        w.size[1],
        w.size[0] // groups,
        x.size[2:],
        w.size[2:],
        each("stride", 1),
        each("padding", 0),
        each("dilation", 1),
        groups,
    )

    def call(image: Tensor, weight: Tensor, b: Tensor | None) -> Tensor:
        more = [] if bias is None or b is None else [bias.holding(b)]
        return reduction.call(x.holding(image), w.holding(weight), *more)

    return kernel_of_convolution(reduction.name, conv, bias is not None, x.dtype, call)


def _sum(reduction: Reduction) -> Kernel | None:
    kwargs = dict(reduction.kwargs)
    x = reduction.args[0]
    dims = reduction.args[1] if len(reduction.args) > 1 else kwargs.get("dim")
    if _repeats(x) or kwargs.get("dtype") not in (None, x.dtype):
        return None
    dims = [dims] if isinstance(dims, int) else list(dims or range(len(x.size)))
    over = sorted(d % len(x.size) for d in dims)
    others = [d for d in range(len(x.size)) if d not in over]
    k = math.prod(x.size[d] for d in over)
    if k < 2:
        return None
    back = [(*others, *over).index(d) for d in range(len(x.size))]
    between = [x.size[d] for d in (*others, *over)]

    def run(rows: Tensor, cols: Tensor | None, b: Tensor | None) -> Tensor:
        return reduction.call(x.holding(rows.view(between).permute(back))).reshape(-1, 1)

    rows = math.prod(x.size[d] for d in others)
    return drawn_kernel(reduction.name, k, False, rows, 0, x.dtype, run, divided=reduction.name == "mean")


def _repeats(x: Any) -> bool:
    """True for what is no tensor, and for one in which a number stands for several: its rows are not independent."""
    return not isinstance(x, Slot) or any(s == 0 and n > 1 for n, s in zip(x.size, x.stride, strict=True))


_MAKERS: dict[str, Callable[[Reduction], Kernel | None]] = {
    **{f"aten::{name}": _product for name in ("mm", "addmm", "bmm", "baddbmm")},
    "aten::linear": _linear,
    **{f"aten::{name}": _convolution for name in ("convolution", "_convolution", "conv1d", "conv2d", "conv3d")},
    "aten::sum": _sum,
    "aten::mean": _sum,
}

__all__ = ["Reduction", "Run", "Slot", "kernel_of_step", "reduction_of"]
