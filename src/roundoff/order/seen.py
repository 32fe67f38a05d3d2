"""The reductions of a run as they pass by, with what tells whether another run computes the same ones."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.linalg import vector_norm

from roundoff.order.steps import Reduction, reduction_of
from roundoff.replay.wide import Executed
from roundoff.tape.storages import StorageMap, has_storage
from roundoff.tape.watch import Step

#: Moments of wide values that are this close, relative to their size, are of the same values: apart from the rounding of
#: float64, which even amplified is far below.
NEAR = 1e-7


@dataclass(frozen=True)
class Seen:
    """A reduction of one run: its steps (two where the bias is added by a step of its own) and where they are; how many
    outputs it has, of how many products; sum and norm of its wide results, and those of the values that are multiplied, by
    summand, [products, 2], of each operand for which they are known."""

    steps: tuple[int, ...]
    where: str
    reduction: Reduction
    outputs: int
    products: int
    bias: bool
    result: tuple[float, float]
    columns: tuple[Tensor | None, Tensor | None]

    @property
    def length(self) -> int:
        """The number of summands."""
        return self.products + self.bias


class Watcher:
    """An observer of the wide run that keeps what :class:`Seen` says of each reduction, and none of its numbers."""

    def __init__(self) -> None:
        self.found: list[Seen] = []
        self._made: StorageMap[Seen] = StorageMap()

    def __call__(self, executed: Executed) -> None:
        step = executed.step
        seen = self._biased(executed) or self._plain(executed)
        for x in step.overwritten:
            if has_storage(x):
                self._made.drop(x)
        if seen is not None:
            self.found.append(seen)
            self._made.set(executed.outs[0], seen)

    def _plain(self, executed: Executed) -> Seen | None:
        step = executed.step
        reduction = reduction_of(step)
        if reduction is None:
            return None
        columns, products = _columns(executed, reduction)
        bias = reduction.name in _WITH_BIAS and len(_tensors(step)) == 3
        wide = executed.wide[0]
        result = _result(wide)
        return Seen((step.index,), step.where, reduction, wide.numel(), products, bias, result, columns)

    def _biased(self, executed: Executed) -> Seen | None:
        """A bias that is added to a reduction that has none."""
        step = executed.step
        if step.op._schema.name not in ("aten::add", "aten::add_") or step.kwargs.get("alpha", 1) != 1:
            return None
        if len(step.args) != 2 or not all(isinstance(x, Tensor) and has_storage(x) for x in step.args):
            return None
        for y, b in (step.args, step.args[::-1]):
            made = self._made.get(y)
            if made is None or made.bias or made.columns[1] is None or y.numel() != made.outputs:
                continue
            if y.dtype != b.dtype or executed.outs[0].shape != y.shape or not _is_bias(y, b, made):
                continue
            reduction = Reduction(
                made.reduction.op, made.reduction.args, made.reduction.kwargs, made.reduction.setting, then_bias=True
            )
            result = _result(executed.wide[0])
            return Seen(
                (*made.steps, step.index),
                made.where,
                reduction,
                made.outputs,
                made.products,
                True,
                result,
                made.columns,
            )
        return None


_WITH_BIAS = ("addmm", "baddbmm", "linear", "convolution", "_convolution", "conv1d", "conv2d", "conv3d")


def _tensors(step: Step) -> list[Tensor]:
    return [x for x in (*step.args, *step.kwargs.values()) if isinstance(x, Tensor)]


def _is_bias(y: Tensor, b: Tensor, made: Seen) -> bool:
    """Whether ``b`` has one number for each column of the reduction ``y``."""
    across = 1 if "conv" in made.reduction.name else y.dim() - 1
    if not b.numel() or b.dim() > y.dim() or y.dim() < 2:
        return False
    sizes = [1] * (y.dim() - b.dim()) + list(b.shape)
    right = all(n == (y.shape[d] if d == across else 1) for d, n in enumerate(sizes))
    return right and (across == 1 or y.stride(-1) == 1) and y.shape[across] == _cols(made)


def _cols(made: Seen) -> int:
    w = made.reduction.args[1]
    return int(w.size[0] if "conv" in made.reduction.name or made.reduction.name == "linear" else w.size[-1])


def _columns(executed: Executed, reduction: Reduction) -> tuple[tuple[Tensor | None, Tensor | None], int]:
    """The moments of x and of w by summand, and how many there are."""
    name, given = reduction.name, _tensors(executed.step)
    if name in ("sum", "mean"):
        x = executed.twins.wide(given[0])
        dims = executed.step.args[1] if len(executed.step.args) > 1 else executed.step.kwargs.get("dim")
        dims = [dims] if isinstance(dims, int) else list(dims or range(x.dim()))
        over = sorted(d % x.dim() for d in dims)
        others = [d for d in range(x.dim()) if d not in over]
        k = math.prod(x.shape[d] for d in over)
        return (_moments(x.permute(*over, *others).reshape(k, -1)), None), k
    x, w = (executed.twins.wide(t) for t in (given[1:3] if name in ("addmm", "baddbmm") else given[:2]))
    if "conv" in name:
        of_w = _moments(w.flatten(1).t())
        alone = math.prod(w.shape[2:]) == 1 and w.shape[1] == x.shape[1]
        return (_moments(x.transpose(0, 1).flatten(1)) if alone else None, of_w), len(of_w)
    of_x = _moments(x.reshape(-1, x.shape[-1]).t())
    of_w = _moments(w.t() if name == "linear" else w.transpose(-1, -2).reshape(-1, w.shape[-2]).t())
    return (of_x, of_w), len(of_x)


def _result(x: Tensor) -> tuple[float, float]:
    return float(x.sum()), float(vector_norm(x.flatten()))


def _moments(x: Tensor) -> Tensor:
    """Sum and norm of each row."""
    return torch.stack([x.sum(1), vector_norm(x, dim=1)], 1)


def matching(a: Seen, b: Seen) -> Tensor | None:
    """For each product of ``b`` which of ``a``'s it is, if the two compute the same sums; None where they do not, or where
    the moments do not tell."""
    if (a.outputs, a.products, a.bias) != (b.outputs, b.products, b.bias):
        return None
    size = NEAR * max(abs(a.result[1]), abs(b.result[1]), abs(a.result[0]), abs(b.result[0]))
    if any(abs(s - t) > size for s, t in zip(a.result, b.result, strict=True)):
        return None
    for turned in (b.columns, b.columns[::-1]):  # x w is w x
        known = [(s, t) for s, t in zip(a.columns, turned, strict=True) if s is not None and t is not None]
        if not known:
            continue
        mine, theirs = (torch.cat(part, 1) for part in map(list, zip(*known, strict=True)))
        if len(known) == 1 and a.columns[1] is not None and not _distinct(mine):
            continue  # of the other operand nothing is known, and this one does not tell the products apart
        found = _assigned(mine, theirs)
        if found is not None:
            return found
    return None


def _assigned(a: Tensor, b: Tensor) -> Tensor | None:
    """The row of ``a`` that each row of ``b`` is."""
    if _near(a, b):
        return torch.arange(len(a))
    of_a, of_b = (torch.argsort(t[:, 0], stable=True) for t in (a, b))
    if not _near(a[of_a], b[of_b]):
        return None
    found = torch.empty_like(of_a)
    found[of_b] = of_a
    return found


def _distinct(a: Tensor) -> bool:
    ordered = a[torch.argsort(a[:, 0], stable=True)]
    return bool(((ordered[1:] - ordered[:-1]).abs() > 2 * NEAR * a.abs().amax()).any(1).all())


def _near(a: Tensor, b: Tensor) -> bool:
    size = torch.maximum(a.abs().amax(0), b.abs().amax(0)).view(-1, 2).amax(1).repeat_interleave(2)
    return bool(((a - b).abs() <= NEAR * size).all())
