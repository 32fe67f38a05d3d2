"""Resampling: upsampling and sampling at a grid.

Besides the weighted sum there is the arithmetic of coordinates inside the kernel, in native precision: a coordinate that
is off by δ moves the value by δ times the slope there, and where the nearest neighbour is taken it may choose the next
one. The slope is bounded by the range of the values in the neighbourhood, resampled by the same operator.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil, inf
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from roundoff.rules.registry import register
from roundoff.rules.rule import Call, Limit, Nature, Rule
from roundoff.rules.samples import Operands, given

_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_SOURCE = "slope of the interpolation times the rounding of the coordinate; Higham (2002), §3.1, for the weighted sum"
_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


def _peak(x: Tensor, reach: int) -> Tensor:
    """The largest value within ``reach`` on each side."""
    dims = x.dim() - 2
    return _POOL[dims](x, 2 * reach + 1, 1, reach)


def _range(x: Tensor, reach: int) -> Tensor:
    """Largest minus smallest value within ``reach`` on each side."""
    return _peak(x, reach).add_(_peak(-x, reach))


def _scale(size: int, out: int, align: bool, factor: float | None) -> float:
    if align:
        return (size - 1) / (out - 1) if out > 1 else 0.0
    return 1 / factor if factor else size / out


def _is_short(scale: float) -> bool:
    """A scale with so few binary digits that every coordinate is exact in float32."""
    return float(scale * 4096).is_integer() and scale < 4096


def coordinates(
    call: Call, sizes: Sequence[int], outs: Sequence[int], align: bool, factors: list[Any], shift: float
) -> tuple[list[Tensor], list[Tensor]]:
    """For each dimension the coordinates of the output's elements, and how far off they may be: [out] each."""
    x = call.args[0]
    where, error = [], []
    for i, (size, out) in enumerate(zip(sizes, outs, strict=True)):
        scale = _scale(size, out, align, factors[i])
        at = torch.arange(out, dtype=torch.float64, device=x.device)
        c = at * scale if align else (at + shift) * scale
        exact = _is_short(scale) and out < 4096
        where.append(c)
        error.append(torch.zeros_like(c) if exact else (c + 1).mul_(call.gamma(4)))
    return where, error


def spread(each: list[Tensor]) -> Tensor:
    """Σ over dimensions, broadcast to the output's spatial shape."""
    total: Tensor = each[0]
    for t in each[1:]:
        total = total.unsqueeze(-1) + t
    return total


def _factors(call: Call, first: int, dims: int) -> list[Any]:
    names = {1: ("scales",), 2: ("scales_h", "scales_w"), 3: ("scales_d", "scales_h", "scales_w")}[dims]
    return [call.arg(first + i, name) for i, name in enumerate(names)]


def _linear(call: Call) -> Limit:
    x, align = call.args[0], bool(call.args[2])
    _, error = coordinates(call, x.shape[2:], call.args[1], align, _factors(call, 3, x.dim() - 2), 0.5)
    # on short formats partial sums are rounded to them, and so are weights, which is like moving the coordinate
    coarse = call.u_out > call.u
    between = call.gamma_out(2 * len(error) + 4) if coarse else 0.0
    limit: Tensor = call.op(x.abs(), *call.args[1:], **call.kwargs).mul_(call.gamma(12) + between)
    moved = spread([e + (2 * call.u_out if coarse else 0.0) for e in error])
    if bool(moved.any()):
        limit = limit + call.op(_range(x, 1), *call.args[1:], **call.kwargs) * moved
    return limit


def _nearest(shift: float) -> Any:
    def bound(call: Call) -> Limit:
        x = call.args[0]
        where, error = coordinates(call, x.shape[2:], call.args[1], False, _factors(call, 2, x.dim() - 2), shift)
        unsure = [((c - c.round()).abs() <= e) & (e > 0) for c, e in zip(where, error, strict=True)]
        if not any(bool(t.any()) for t in unsure):
            return 0.0
        jump: Tensor = call.op(_range(x, 2), *call.args[1:], **call.kwargs)
        return jump * (spread([t.double() for t in unsure]) > 0)

    return bound


def _cubic(call: Call) -> Limit:
    """Four neighbours a side with weights whose sizes add up to at most 1.4; the slope is at most 3 times the range."""
    x, sizes, align = call.args[0], call.args[1], bool(call.args[2])
    _, error = coordinates(call, x.shape[2:], call.args[1], align, _factors(call, 3, 2), 0.5)

    def resample(t: Tensor) -> Tensor:
        resized: Tensor = torch.ops.aten.upsample_bilinear2d(t, sizes, align, *_factors(call, 3, 2))
        return resized

    limit = resample(_peak(x.abs(), 3)).mul_(2 * (call.gamma(40) + call.gamma_out(4)))
    return limit.add_(resample(_range(x, 3)) * (3 * spread(error)))


def _antialiased(weights: float) -> Any:
    def bound(call: Call) -> Limit:
        x, align = call.args[0], bool(call.args[2])
        _, error = coordinates(call, x.shape[2:], call.args[1], align, _factors(call, 3, 2), 0.5)
        window = 4 * sum(max(1.0, i / o) + 1 for i, o in zip(x.shape[2:], call.args[1], strict=True))
        size: Tensor = x.abs().amax((2, 3), keepdim=True)
        gap: Tensor = x.amax((2, 3), keepdim=True) - x.amin((2, 3), keepdim=True)
        # weights are rounded to the format of the result in some kernels on short formats
        return size * (weights * (call.gamma(2 * window + 20) + call.gamma_out(8))) + gap * (
            8 * weights * spread(error)
        )

    return bound


def _grid(call: Call) -> Limit:
    """mode 0: linear, 1: nearest, 2: cubic. Coordinates are scaled from [-1, 1] inside the kernel."""
    x, grid, mode, _, align = call.args[:5]
    dims = x.dim() - 2
    sizes = torch.tensor(x.shape[2:], dtype=torch.float64, device=x.device).flip(0)
    at = ((grid + 1) * (sizes - 1) / 2) if align else ((grid + 1) * sizes - 1) / 2
    error = ((grid.abs() + 1) * sizes).mul_(call.gamma_out(6))  # on short formats coordinates are rounded to them
    far = ceil(float(error.amax())) if error.numel() and bool(error.isfinite().all()) else 0
    reach = (3 if mode == 2 else 1) + min(far, max(x.shape[2:]))
    border = F.pad(x, [reach] * (2 * dims))

    def sample(t: Tensor) -> Tensor:
        inner = t[(slice(None), slice(None), *[slice(reach, -reach)] * dims)]
        return F.grid_sample(inner, grid, "bilinear", "border", align)

    gap = sample(_range(border, reach))
    if mode == 1:
        unsure: Tensor = (((at - 0.5) - (at - 0.5).round()).abs() <= error).any(-1)
        return gap * unsure.unsqueeze(1)
    moved = error.sum(-1).unsqueeze(1)
    weights = 4.0 if mode == 2 else 1.0
    limit = sample(_peak(border.abs(), reach)).mul_(weights * (call.gamma(40) + call.gamma_out(4)))
    return limit.add_(gap.mul_(moved).mul_(weights))


def _affine(call: Call) -> Limit:
    theta, size = call.args[0], call.args[1]
    rows: Tensor = theta.abs().sum(-1)
    return rows.reshape(rows.shape[0], *([1] * (len(size) - 2)), rows.shape[1]) * (call.gamma(8) + call.gamma_out(4))


def _maps(r: Operands, dims: int) -> Iterable[Tensor]:
    x = r.normal(2, 3, *(7, 9, 5)[:dims], shift=2)
    yield x
    if dims == 2:
        yield x.contiguous(memory_format=torch.channels_last)


def _linear_samples(dims: int, antialiased: bool = False) -> Any:
    def cases(r: Operands) -> Iterable[Any]:
        if antialiased and r.half:
            return
        for x in _maps(r, dims):
            for sizes in ((14, 18, 10), (11, 5, 3), (100, 31, 9), (7, 9, 1)):
                for align in (False, True):
                    yield x, list(sizes[:dims]), align
            yield x, [9, 12, 6][:dims], False, *[1.3] * dims

    return given(cases)


def _nearest_samples(dims: int) -> Any:
    def cases(r: Operands) -> Iterable[Any]:
        for x in _maps(r, dims):
            for sizes in ((14, 18, 10), (11, 5, 3), (21, 27, 15), (35, 45, 25)):
                yield x, list(sizes[:dims])
            yield x, [9, 12, 6][:dims], *[1.3] * dims

    return given(cases)


def _grid_samples(dims: int) -> Any:
    def cases(r: Operands) -> Iterable[Any]:
        for mode in (0, 1, 2) if dims == 2 else (0, 1):
            for padding in (0, 1, 2):
                for align in (False, True):
                    grid = r.uniform(2, *(6, 5, 4)[:dims], dims, low=-1.3, high=1.3)
                    yield r.normal(2, 3, *(7, 9, 5)[:dims], shift=1), grid, mode, padding, align

    return given(cases)


for _dims, _mode in _MODES.items():
    register(
        Rule(
            (f"aten.upsample_{_mode}{_dims}d",), Nature.ROUNDS, _linear, source=_SOURCE, samples=_linear_samples(_dims)
        )
    )
    for _name, _shift in (("upsample_nearest", 0.0), ("_upsample_nearest_exact", 0.5)):
        register(
            Rule(
                (f"aten.{_name}{_dims}d",),
                Nature.ROUNDS,
                _nearest(_shift),
                source=_SOURCE,
                samples=_nearest_samples(_dims),
                discrete=True,
                jump=lambda args, kwargs: inf,  # where it takes from follows from the sizes alone
            )
        )
register(Rule(("aten.upsample_bicubic2d",), Nature.ROUNDS, _cubic, source=_SOURCE, samples=_linear_samples(2)))
register(
    Rule(
        ("aten._upsample_bilinear2d_aa",),
        Nature.ROUNDS,
        _antialiased(1.0),
        source=_SOURCE,
        samples=_linear_samples(2, antialiased=True),
    )
)
register(
    Rule(
        ("aten._upsample_bicubic2d_aa", "aten._upsample_lanczos2d_aa"),
        Nature.ROUNDS,
        _antialiased(2.0),
        source=_SOURCE,
        samples=_linear_samples(2, antialiased=True),
    )
)
for _dims in (2, 3):
    register(Rule((f"aten.grid_sampler_{_dims}d",), Nature.ROUNDS, _grid, source=_SOURCE, samples=_grid_samples(_dims)))
register(
    Rule(
        ("aten.affine_grid_generator",),
        Nature.ROUNDS,
        _affine,
        source="Higham (2002), §3.1; |grid| <= 1",
        samples=given(lambda r: [(r.normal(2, 2, 3), [2, 3, 5, 6], False)] if not r.half else []),
    )
)
