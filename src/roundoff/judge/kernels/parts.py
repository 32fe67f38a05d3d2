"""Take a step apart into steps on parts of its operands, so that what is computed about it stays in the cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from roundoff.replay.wide import Executed
from roundoff.rules.apart import falls_apart_along, works_on_each
from roundoff.tape.leaves import map_operands, operands

#: Elements up to which a step is looked at whole, where one of its elements is asked for.
_SMALL = 1 << 10
#: Elements of a part: in float64 half a megabyte.
PART = 1 << 16


def parts_of(executed: Executed) -> Iterator[Executed]:
    """``executed`` in parts that together are the whole; nothing where it does not fall apart, or is small."""
    y = executed.outs[0]
    if not _is_cut(executed, 2 * PART):
        return
    if works_on_each(executed.step.op) and _lie_alike(executed):
        for start in range(0, y.numel(), PART):
            yield _part(executed, partial(_flat, start=start, length=min(PART, y.numel() - start)))
        return
    for dim in _dims(executed)[:1]:
        size = y.shape[dim]
        step = max(1, PART * size // y.numel())
        for start in range(0, size, step):
            yield _along(executed, dim, start, min(step, size - start))


def part_at(executed: Executed, index: tuple[int, ...]) -> tuple[Executed, tuple[int, ...]]:
    """The smallest part that holds the element ``index`` of the first result, and its index in there."""
    y = executed.outs[0]
    if not _is_cut(executed, _SMALL):
        return executed, index
    if works_on_each(executed.step.op) and _lie_alike(executed):
        position = sum(i * stride for i, stride in zip(index, y.stride(), strict=True))
        return _part(executed, partial(_flat, start=position, length=1)), (0,)
    for dim in _dims(executed):
        executed = _along(executed, dim, index[dim], 1)
        index = (*index[:dim], 0, *index[dim + 1 :])
    return executed, index


def _is_cut(executed: Executed, least: int) -> bool:
    y = executed.outs[0]
    return y.numel() >= least and not y.is_complex() and all(x.dtype.itemsize > 1 for x in executed.outs)


def _dims(executed: Executed) -> list[int]:
    y = executed.outs[0]
    return [d for d in falls_apart_along(executed.step.op, executed.step.args, y) if y.shape[d] > 1]


def _along(executed: Executed, dim: int, start: int, length: int) -> Executed:
    y = executed.outs[0]
    size = y.shape[dim]

    def operand(x: Tensor) -> Tensor:
        at = dim - (y.dim() - x.dim())  # operands are broadcast from the right
        return x.narrow(at, start, length) if at >= 0 and x.shape[at] == size else x

    def result(x: Tensor) -> Tensor:
        # Statistics of channels have one dimension.
        along = x.shape == y.shape or (x.dim() > max(dim, 1) and x.shape[dim] == size)
        return x.narrow(dim, start, length) if along else x

    return _part(executed, operand, result)


def _part(
    executed: Executed, operand: Callable[[Tensor], Tensor], result: Callable[[Tensor], Tensor] | None = None
) -> Executed:
    old: dict[int, Tensor] = {}

    def cut(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        part = operand(x)
        if id(x) in executed.old:
            old[id(part)] = operand(executed.old[id(x)])
        return part

    step, result = executed.step, result or operand
    args, kwargs = map_operands(cut, step.args), map_operands(cut, step.kwargs)
    outs, wide = [result(x) for x in executed.outs], [result(x) for x in executed.wide]
    return replace(executed, step=replace(step, args=args, kwargs=kwargs), old=old, outs=outs, wide=wide)


def _lie_alike(executed: Executed) -> bool:
    """True when all tensors of the step fill one block of memory each, in the same order; numbers do not count."""
    step, (y, *_) = executed.step, executed.outs
    found = [x for x in operands((step.args, step.kwargs)) if x.dim()]
    found += [*executed.outs, *executed.wide, *(executed.old[id(x)] for x in found if id(x) in executed.old)]
    alike = all(x.shape == y.shape and x.stride() == y.stride() and not x.is_neg() for x in found)
    return alike and torch.ops.aten.is_non_overlapping_and_dense(y)


def _flat(x: Tensor, start: int, length: int) -> Tensor:
    return x.as_strided((length,), (1,), x.storage_offset() + start) if x.dim() else x
