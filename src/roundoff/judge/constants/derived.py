"""What a network computes from its constants alone: normalised weights, roots of variances, scales.

Another network may hold such a value as a parameter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from roundoff.formats import is_inexact, widen
from roundoff.replay.wide import Executed
from roundoff.tape.leaves import operands, tensors
from roundoff.tape.storages import StorageMap, has_storage
from roundoff.tape.watch import Step


@dataclass(frozen=True)
class Derived:
    """A value that depends on constants alone: as it is natively, and wide."""

    native: Tensor
    wide: Tensor
    text: str
    computed: bool = False  # by a step; otherwise it is a constant as it is


@dataclass(frozen=True)
class Variance:
    """A constant to which a small number is added: the variance of a normalisation that is written by hand."""

    var: Tensor
    eps: float


class DerivedLog:
    """A listener and an observer that keeps a run's constants, and what is computed from them alone."""

    def __init__(self, inputs: Any) -> None:
        self.values: list[Derived] = []
        self.variances: list[Variance] = []
        self.numbers: set[float] = set()
        self._follows: StorageMap[bool] = StorageMap()  # from the input
        self._seen: set[tuple[int, int, tuple[int, ...], tuple[int, ...]]] = set()
        self._constant = False
        for x in tensors(inputs):
            if has_storage(x):
                self._follows.set(x, True)

    def before(self, step: Step) -> None:
        found = [x for x in operands((step.args, step.kwargs)) if has_storage(x)]
        self._constant = bool(found) and not any(self._follows.get(x) for x in found)
        for x in found:
            self._keep(x)
        if str(step.op).startswith(("aten.mul.", "aten.div.")):
            self.numbers |= {float(n) for n in step.args if isinstance(n, (int, float)) and n not in (0, 1)}
        if self._constant and str(step.op).startswith("aten.add.") and isinstance(step.args[1], float):
            self.variances.append(Variance(step.args[0].detach().clone().flatten(), step.args[1]))

    def _keep(self, x: Tensor) -> None:
        """A constant as it is."""
        key = (int(x.untyped_storage()._cdata), int(x.storage_offset()), tuple(x.shape), tuple(x.stride()))
        if x in self._follows or not is_inexact(x.dtype) or x.numel() < 2 or key in self._seen:
            return
        self._seen.add(key)
        self.values.append(Derived(x.detach(), widen(x), f"a constant {list(x.shape)}"))

    def after(self, step: Step, out: Any) -> None:
        for x in operands(out) or step.overwritten:
            if has_storage(x) and (x in self._follows or not self._is_view(x, step)):
                self._follows.set(x, not self._constant and bool(operands((step.args, step.kwargs))))

    def _is_view(self, x: Tensor, step: Step) -> bool:
        given = {y.untyped_storage()._cdata for y in operands((step.args, step.kwargs)) if has_storage(y)}
        return not step.overwritten and x.untyped_storage()._cdata in given

    def __call__(self, executed: Executed) -> None:
        if not self._constant:
            return
        for x, wide in zip(executed.outs, executed.wide, strict=True):
            if is_inexact(x.dtype) and x.numel() > 1:
                text = f"what the other side computes with {executed.step.op} ({executed.step.where})"
                self.values.append(Derived(x.detach().clone(), wide.detach().clone(), text, computed=True))


def vectors(values: list[Derived], n: int) -> list[Derived]:
    """Those that hold one number for each of ``n`` channels, flat."""
    return [
        Derived(v.native.flatten(), v.wide.flatten(), v.text)
        for v in values
        if v.native.numel() == n and max(v.native.shape) == n
    ]


def near(x: Tensor, y: Tensor) -> bool:
    """Equal up to some roundings in float32: worth a closer look."""
    return bool(torch.allclose(x, y, rtol=1e-5, atol=0.0))
