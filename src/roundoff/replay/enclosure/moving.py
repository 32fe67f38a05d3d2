"""Enclosures of operators that move, select and compare."""

from __future__ import annotations

from math import hypot, inf, prod
from typing import Any

import torch
from torch import Tensor

from roundoff.formats import U64, is_inexact
from roundoff.replay.enclosure.ball import (
    Ball,
    Unknown,
    copied,
    elementwise,
    gamma,
    grown,
    largest,
    neg,
    number,
    summed,
)
from roundoff.replay.enclosure.functions import clamped, stepped
from roundoff.replay.enclosure.registry import Operation, certain, enclose, real
from roundoff.rules.movement import COPIES, VIEWS, WRITES


def _dims(dim: Any, x: Tensor) -> list[int]:
    if dim is None or (isinstance(dim, (list, tuple)) and not dim):
        return list(range(x.dim()))
    return [dim] if isinstance(dim, int) else list(dim)


def _part(of: str) -> Any:
    def part(x: Ball) -> Tensor:
        if is_inexact(x.mid.dtype):
            return (x.mid if of == "mid" else x.radius).clone()
        return certain(x)

    return part


#: Those that put each number in one place at most.
ONCE = {
    "alias_copy", "block_diag", "cat", "channel_shuffle", "clone", "diag_embed", "diagonal_scatter", "flip",
    "masked_scatter", "masked_select", "permute_copy", "pixel_shuffle", "pixel_unshuffle", "roll", "rot90",
    "select_scatter", "slice_scatter", "split_with_sizes_copy", "stack", "t_copy", "transpose_copy", "tril", "triu",
    "view_copy",
} | set(VIEWS) - {"as_strided", "expand", "unfold"}  # fmt: skip


def move(o: Operation) -> Ball | tuple[Ball, ...]:
    """The radii go where the numbers go; indices and masks must be certain."""
    if any(x.mid.is_complex() for x in o.balls):
        raise Unknown("complex numbers")
    mids = o.on(_part("mid")) or list(o.out)
    rads = o.on(_part("rad"))
    norm = hypot(*(x.far for x in o.balls)) if o.name in ONCE else None
    return tuple(Ball(m, r if r.is_floating_point() else None, norm) for m, r in zip(mids, rads, strict=True))


enclose(*(set(COPIES) | set(VIEWS)) - set(WRITES))(move)


@enclose("constant_pad_nd", "fill", "index_fill", "scatter.value", "masked_fill")
def _written(o: Operation) -> Ball:
    """Numbers moved, and one written beside them."""
    at = {"constant_pad_nd": 2, "fill": 1, "index_fill": 3, "scatter": 3, "masked_fill": 2}[o.name]
    value = o.arg(at, "value", 0)
    written = real(value) if isinstance(value, Ball) else number(value, o.out[0])
    x = o.args[0]
    if o.name == "masked_fill" and is_inexact(x.mid.dtype):
        return _where(o.args[1], written, x)
    if not is_inexact(o.out[0].dtype):
        return Ball(o.on(certain)[0])
    mid = o.on(_part("mid"))[0]
    args = list(o.args)
    rest: dict[str, Any] = {k: v for k, v in o.kwargs.items() if k != "value"}
    args[at : at + 1] = [Ball(written.radius) if isinstance(value, Ball) else float(written.radius)]
    rad = Operation(o.op, tuple(Ball(a.radius) if i == 0 and isinstance(a, Ball) else a for i, a in enumerate(args)),
                    rest, o.out).on(lambda b: b.mid.clone())[0]  # fmt: skip
    return Ball(mid, rad)


def _where(condition: Ball, x: Ball, y: Ball) -> Ball:
    """Where the condition is not certain it may be either."""
    x, y = real(x), real(y)
    chosen = condition.mid.to(torch.bool)
    mid = torch.where(chosen, x.mid, y.mid)
    rad = torch.where(chosen, x.radius, y.radius)
    norm = copied(x, mid.shape) + copied(y, mid.shape) if condition.rad is None else None
    if condition.rad is not None:
        other = torch.maximum((x.mid - y.mid).abs() * (1 + 4 * U64) + x.radius + y.radius, rad)
        rad = torch.where(condition.rad > 0, other.nan_to_num(nan=inf), rad)
    return Ball(mid, rad.expand(mid.shape), norm)


@enclose("where")
def _where_of(o: Operation) -> Ball:
    condition, x, y = (v if isinstance(v, Ball) else number(v, o.out[0]) for v in o.args[:3])
    if not is_inexact(o.out[0].dtype):
        return Ball(torch.where(certain(condition), certain(x), certain(y)))
    return _where(condition, x, y)


@enclose("copy")
def _copy(o: Operation) -> Ball:
    target, source = o.args[:2]
    return _cast(source, o.out[0].expand_as(target.mid))


@enclose("_to_copy")
def _to_copy(o: Operation) -> Ball:
    return _cast(o.args[0], o.out[0])


def _cast(x: Ball, out: Tensor) -> Ball:
    """A wide run does not round in a cast between formats of floats; whole numbers and booleans are chosen."""
    if x.mid.is_complex() or out.is_complex():
        raise Unknown("complex numbers")
    if is_inexact(out.dtype):
        x = real(x)
        return Ball(x.mid.expand(out.shape), None if x.rad is None else x.rad.expand(out.shape), copied(x, out.shape))
    if not is_inexact(x.mid.dtype) or x.rad is None:
        return Ball(x.mid.to(out.dtype).expand(out.shape), None if x.rad is None else x.rad.expand(out.shape))
    near = (x.mid.abs() <= x.rad) & (x.rad > 0) if out.dtype == torch.bool else stepped(x, torch.trunc).radius > 0
    return Ball(x.mid.to(out.dtype).expand(out.shape), torch.where(near, inf, 0.0).expand(out.shape))


# -- selection --------------------------------------------------------------------------------------------------------


@enclose("relu")
def _relu(o: Operation) -> Ball:
    return clamped(real(o.args[0]), number(0, o.out[0]), None)


@enclose("clamp", "hardtanh", "clamp_min", "clamp_max", "relu6")
def _clamp(o: Operation) -> Ball:
    x = real(o.args[0])
    limits: list[Any]
    if o.name == "relu6":
        limits = [0, 6]
    elif o.name == "hardtanh":
        limits = [o.arg(1, "min_val", -1), o.arg(2, "max_val", 1)]
    elif o.name == "clamp_max":
        limits = [None, o.arg(1, "max")]
    else:
        limits = [o.arg(1, "min"), None if o.name == "clamp_min" else o.arg(2, "max")]
    low, high = (v if v is None else real(v) if isinstance(v, Ball) else number(v, x.mid) for v in limits)
    return clamped(x, low, high)


@enclose("maximum", "minimum", "fmax", "fmin")
def _extreme(o: Operation) -> Ball:
    x, y = real(o.args[0]), real(o.args[1])
    mid = o.op(x.mid, y.mid)
    if mid.isnan().any():
        raise Unknown("a NaN")
    if o.name in ("minimum", "fmin"):
        return neg(_larger(neg(x), neg(y)))
    return _larger(x, y)


def _larger(x: Ball, y: Ball) -> Ball:
    mid = torch.maximum(x.mid, y.mid)
    above = torch.maximum(x.mid - mid + x.radius, y.mid - mid + y.radius)
    below = torch.minimum(mid - x.mid + x.radius, mid - y.mid + y.radius)
    spread = torch.maximum(above, below)
    return elementwise(mid, torch.where(spread > 0, spread + mid.abs() * (4 * U64), 0.0).nan_to_num(nan=inf), x, y)


@enclose("neg", "positive")
def _neg(o: Operation) -> Ball:
    x = real(o.args[0])
    return neg(x) if o.name == "neg" else x


@enclose("abs")
def _abs(o: Operation) -> Ball:
    x = real(o.args[0])
    return Ball(x.mid.abs(), x.rad, x.norm)


@enclose("amax", "amin")
def _amax(o: Operation) -> Ball:
    x, keep = real(o.args[0]), bool(o.arg(2, "keepdim", False))
    dims = _dims(o.arg(1, "dim"), x.mid)
    return largest(x, dims, keep) if o.name == "amax" else neg(largest(neg(x), dims, keep))


@enclose("max", "min")
def _max(o: Operation) -> Ball | tuple[Ball, ...]:
    x = real(o.args[0])
    sign = (lambda b: b) if o.name == "max" else neg
    if len(o.out) == 1:
        return sign(largest(sign(x), _dims(None, x.mid)))
    dim, keep = int(o.arg(1, "dim")), bool(o.arg(2, "keepdim", False))
    best = sign(largest(sign(x), [dim], keep))
    return best, _choice(sign(x), o.out[1], dim, keep)


def _choice(x: Ball, index: Tensor, dim: int, keep: bool) -> Ball:
    """The index of the largest: certain where no other reaches as high."""
    if x.rad is None:
        return Ball(index)
    at = index if keep else index.unsqueeze(dim)
    slack = x.mid.abs() * (4 * U64)
    floor = (x.mid - x.rad - slack).gather(dim, at)
    others = (x.mid + x.rad + slack).scatter(dim, at, -inf).amax(dim, True)
    exact = (x.rad.amax(dim, True) == 0).expand(at.shape)
    rad = torch.where((others < floor) | exact, 0.0, inf).to(torch.float64)
    return Ball(index, rad if keep else rad.squeeze(dim))


@enclose("argmax", "argmin")
def _argmax(o: Operation) -> Ball:
    x, dim, keep = real(o.args[0]), o.arg(1, "dim"), bool(o.arg(2, "keepdim", False))
    x = x if o.name == "argmax" else neg(x)
    if dim is None:
        flat = Ball(x.mid.flatten(), None if x.rad is None else x.rad.flatten())
        found = _choice(flat, o.out[0].reshape(1), 0, True)
        return Ball(o.out[0], None if found.rad is None else found.rad.reshape(o.out[0].shape))
    return _choice(x, o.out[0], int(dim), keep)


@enclose("sort", "topk")
def _sorted(o: Operation) -> tuple[Ball, ...]:
    """Sorted values move by no more than the one that moves most; their indices may be others."""
    x, dim = real(o.args[0]), int(o.arg(1 if o.name == "sort" else 2, "dim", -1))
    values, indices = o.out
    if x.rad is None or not x.mid.dim():
        return Ball(values, None if x.rad is None else x.rad), Ball(indices)
    most = x.rad.amax(dim, True)
    unsure = torch.where(most > 0, inf, 0.0).expand(indices.shape)
    return Ball(values, most.expand(values.shape)), Ball(indices, unsure)


@enclose("max_pool2d_with_indices", "max_pool3d_with_indices", "adaptive_max_pool2d", "adaptive_max_pool3d")
def _max_pool(o: Operation) -> tuple[Ball, ...]:
    """The largest of a window moves by no more than the one that moves most."""
    x = real(o.args[0])
    mid, index = o.on(lambda b: b.mid)
    if x.rad is None:
        return Ball(mid), Ball(index)
    rad = o.on(lambda b: b.radius)[0]
    norm = None if o.name.startswith("adaptive") else grown(x.far, windows(o) ** 0.5)
    return Ball(mid, rad, norm), Ball(index, torch.where(rad > 0, inf, 0.0))


def windows(o: Operation) -> int:
    """In how many windows of a pooling one number lies at most."""
    dims = 3 if "3d" in o.name else 2
    kernel = full(o.args[1], dims)
    stride = full(o.arg(2, "stride") or kernel, dims)
    dilated = any(d != 1 for d in full(o.arg(4, "dilation", 1), dims)) if "max" in o.name else False
    return prod(k if dilated else -(-k // s) for k, s in zip(kernel, stride, strict=True))


def full(value: Any, dims: int) -> list[int]:
    """One number for each dimension."""
    items = [value] if isinstance(value, int) else list(value)
    return items * dims if len(items) == 1 else items


# -- choices ----------------------------------------------------------------------------------------------------------


@enclose("gt", "ge", "lt", "le", "eq", "ne")
def _compared(o: Operation) -> Ball:
    """Not certain where both sides lie within reach of each other, unless both are exact."""
    x, y = (v if isinstance(v, Ball) else number(v, o.out[0]) for v in o.args[:2])
    if (x.rad is None and y.rad is None) or not (is_inexact(x.mid.dtype) or is_inexact(y.mid.dtype)):
        return _logic(o)
    x, y = real(x), real(y)
    reach = x.radius + y.radius
    apart = (x.mid - y.mid).abs() > reach * (1 + 2**-40) + (x.mid.abs() + y.mid.abs()) * (4 * U64)
    near = ~apart & (reach > 0)  # a NaN that is not certain is near everything
    return Ball(o.op(x.mid, y.mid) if isinstance(o.args[1], Ball) else o.op(x.mid, o.args[1]),
                torch.where(near, inf, 0.0).expand(o.out[0].shape))  # fmt: skip


def _logic(o: Operation) -> Ball:
    """Uncertain where any operand is."""
    mid = o.on(lambda b: b.mid.clone())[0]
    uncertain = [x for x in o.balls if x.rad is not None and bool((x.rad != 0).any())]
    if not uncertain:
        return Ball(mid)
    if any(is_inexact(x.mid.dtype) for x in uncertain) or o.name in ("all", "any"):
        raise Unknown("numbers with an error taken for booleans")
    rad = sum((x.radius for x in o.balls), torch.zeros(mid.shape, dtype=torch.float64, device=mid.device))
    return Ball(mid, rad)


enclose("logical_and", "logical_or", "logical_xor", "logical_not", "bitwise_and", "bitwise_or", "bitwise_xor",
        "bitwise_not", "__and__", "__or__", "__xor__", "all", "any")(_logic)  # fmt: skip


@enclose("floor", "ceil", "round", "trunc", "sign")
def _step(o: Operation) -> Ball:
    if len(o.args) > 1 or o.kwargs:
        raise Unknown("rounding to decimals")
    return stepped(real(o.args[0]), getattr(torch, o.name))


@enclose("isnan", "isinf")
def _finite(o: Operation) -> Ball:
    x = real(o.args[0])
    mid = o.on(lambda b: b.mid)[0]
    return Ball(mid, None if x.rad is None else torch.where(x.rad.isfinite(), 0.0, inf))


@enclose("nan_to_num")
def _nan_to_num(o: Operation) -> Ball:
    """Numbers that are finite stay as they are."""
    x = real(o.args[0])
    if not bool(x.mid.isfinite().all()):
        raise Unknown("NaN and infinities that are replaced")
    return x


@enclose("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d")
def _nearest(o: Operation) -> Ball:
    return Ball(o.on(lambda b: b.mid)[0], o.on(lambda b: b.radius)[0])


@enclose("scatter.reduce", "scatter.value_reduce")
def _reduced(o: Operation) -> Ball:
    raise Unknown("a scatter that reduces")


@enclose("index_put", "_index_put_impl", "_unsafe_index_put")
def _index_put(o: Operation) -> Ball | tuple[Ball, ...]:
    if not bool(o.arg(3, "accumulate", False)):
        return move(o)
    return _accumulated(o)


@enclose("index_add", "scatter_add")
def _accumulated(o: Operation) -> Ball:
    """Sums of numbers that are scattered: γ_n Σ|x|, with n the most that can meet."""
    if "alpha" in o.kwargs and o.kwargs["alpha"] != 1:
        raise Unknown("a scaled sum")
    mid = o.on(_part("mid"))[0]
    n = max(x.mid.numel() for x in o.balls)
    sizes = o.on(lambda b: b.mid.abs() if is_inexact(b.mid.dtype) else certain(b))[0]
    return summed(mid, o.on(_part("rad"))[0] + sizes * gamma(n), n)
