"""Folds that no step shows: a weight times a scale that the other side applies before or after it, in any order of doing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from roundoff.formats import same_bits, widen
from roundoff.judge.constants.derived import Derived, near, vectors


def verified(target: Tensor, candidates: Iterator[Tensor]) -> Tensor | None:
    """The first candidate, which is the float64 one, if ``target`` has the bits of any of them."""
    exact: Tensor | None = None
    for value in candidates:
        exact = value if exact is None else exact
        if same_bits(value.to(target.dtype).reshape(target.shape), target):
            return exact.reshape(target.shape)
    return None


class Scales:
    """The constants of one side, what it computes of them, and the numbers that it multiplies by."""

    def __init__(self, values: list[Derived], numbers: set[float]) -> None:
        self.values = values
        self._numbers = sorted(numbers)
        self._known: dict[int, Known] = {}

    def known(self, n: int) -> Known:
        """What may be a scale of ``n`` channels."""
        if n not in self._known:
            every: list[tuple[Scale, str]] = [((v.native, v.wide), v.text) for v in vectors(self.values, n)]
            every += [((number, number), f"{number:.6g}") for number in self._numbers]
            rows = [torch.as_tensor(wide, dtype=torch.float64).expand(n) for (_, wide), _ in every]
            self._known[n] = Known(every, torch.stack(rows) if rows else torch.empty(0, n, dtype=torch.float64))
        return self._known[n]


Scale = tuple[Tensor | float, Tensor | float]  # native, wide


@dataclass(frozen=True)
class Known:
    """Scales with their descriptions, and a table of their wide values, one a row."""

    every: list[tuple[Scale, str]]
    table: Tensor


def find_scaled(target: Tensor, scales: Scales) -> tuple[Tensor, str] | None:
    """The exact value of ``target`` as a constant of the other side times or over one or two scales, and in words."""
    alike = [value for value in scales.values if value.native.numel() == target.numel()]
    for value in alike:
        if value.computed and any(
            same_bits(x.reshape(target.shape).to(target.dtype), target) for x in (value.wide, value.native)
        ):
            return value.wide.reshape(target.shape), value.text
    y = widen(target)
    return next((found for value in alike if (found := _scaled(target, y, value, scales)) is not None), None)


def _scaled(target: Tensor, y: Tensor, value: Derived, scales: Scales) -> tuple[Tensor, str] | None:
    """``target``, which is ``y`` wide, as ``value`` with each channel of one axis scaled, or all of it by a number."""
    x = value.wide
    for axis in range(x.dim()):
        scale = scale_of(x, y.reshape(x.shape), axis)
        if scale is None:
            continue
        shape = [1] * x.dim()
        shape[axis] = -1
        for one, other, text in _pairs(scale, scales.known(scale.numel()), quotients=x.dim() > 1):
            exact = verified(target, _orders(value, one, other, shape))
            if exact is not None:
                return exact, f"{value.text} {text}"
    return None


def scale_of(x: Tensor, y: Tensor, axis: int) -> Tensor | None:
    """The number with which each channel of ``x`` was multiplied to give ``y``, if it is one up to some roundings."""
    x, y = (t.movedim(axis, 0) if t.dim() > 1 else t.reshape(-1, 1) for t in (x, y))
    few = [t[:, :_PROBE].flatten(2)[..., 0] if t.dim() > 2 else t[:, :_PROBE] for t in (x, y)]  # told apart by a few
    return None if _one_scale(*few) is None else _one_scale(x.flatten(1), y.flatten(1))


def _one_scale(x: Tensor, y: Tensor) -> Tensor | None:
    at = x.abs().argmax(1, keepdim=True)
    scale = y.gather(1, at) / x.gather(1, at)
    same = ((y - x * scale).abs() <= 1e-5 * (x * scale).abs()) | ((x == 0) & (y == 0))
    return scale.flatten() if bool(same.all()) and bool(scale.isfinite().all()) else None


_PROBE = 4


def _pairs(scale: Tensor, known: Known, *, quotients: bool) -> Iterator[tuple[Scale, Scale | None, str]]:
    """One or two known scales with which ``scale`` agrees up to some roundings: ``one`` times it, over ``other``."""
    every, table = known.every, known.table
    for i in _about(table, scale):
        yield every[i][0], None, f"times {every[i][1]}"
    for i in _about(1 / table, scale):
        yield (1.0, 1.0), every[i][0], f"over {every[i][1]}"
    if not quotients:
        return
    few = table[:, :_PROBE]
    close = (few[:, None] - scale[:_PROBE] * few).abs() <= 1e-5 * few[:, None].abs()
    for i, k in close.all(-1).nonzero().tolist():
        if near(table[i] / table[k], scale):
            yield every[i][0], every[k][0], f"times {every[i][1]}, over {every[k][1]}"


def _about(table: Tensor, scale: Tensor) -> list[int]:
    rows: list[int] = ((table - scale).abs() <= 1e-5 * scale.abs()).all(1).nonzero().flatten().tolist()
    return rows


def _orders(value: Derived, one: Scale, other: Scale | None, shape: list[int]) -> Iterator[Tensor]:
    """The ways in which x one / other is computed, in float64 first."""
    for wide in (True, False):
        x = value.wide if wide else value.native
        a = _shaped(one[wide], shape)
        if other is None:
            yield x * a
            continue
        b = _shaped(other[wide], shape)
        yield x * (a / b)
        yield x * a / b
        yield x / b * a
        yield x * (a * (1 / b))


def _shaped(scale: Tensor | float, shape: list[int]) -> Tensor | float:
    return scale.reshape(shape) if isinstance(scale, Tensor) else scale
