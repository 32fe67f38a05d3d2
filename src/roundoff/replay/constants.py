"""What enters a run without a step having made it: parameters, buffers, constants; and what leaves it as Python floats.

Such a tensor is its own wide value. Two exceptions: ``torch.tensor(0.1)`` inside a forward has the wide value 0.1, and
a parameter that was verified to be a fold of others has the value of the fold before it was rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from roundoff.formats import is_inexact, wide_dtype
from roundoff.replay.twins import Twins
from roundoff.tape.leaves import operands
from roundoff.tape.storages import StorageMap, has_storage
from roundoff.tape.watch import Step


class Constants:
    """Keeps book of one run's constants.

    ``inputs`` are not constants. ``values`` maps tensors to the wide values they are to have instead of their own.
    """

    def __init__(self, inputs: Any = (), values: list[tuple[Tensor, Tensor]] | None = None) -> None:
        self.met: list[Tensor] = []
        self.left_as_float: list[str] = []
        self._known: StorageMap[bool] = StorageMap()
        self._values: StorageMap[Tensor] = StorageMap()
        for x in operands(inputs):
            if has_storage(x):
                self._known.set(x, True)
        for x, value in values or []:
            self._values.set(x, value)

    def meet(self, x: Tensor, twins: Twins) -> None:
        """``x`` is an operand of the next step."""
        if not has_storage(x) or x in self._known or twins.has(x):
            return
        self._known.set(x, True)
        value = self._values.get(x)
        if value is not None:
            twins.own(x)
            twins.wide(x).copy_(value.reshape(x.shape) if value.numel() == x.numel() else twins.wide(x))
        if is_inexact(x.dtype):
            self.met.append(x)

    def made(self, x: Tensor) -> None:
        """``x`` is the result of a step."""
        if has_storage(x) and x not in self._known:
            self._known.set(x, True)

    def left(self, step: Step, twins: Twins) -> None:
        """``step`` gave no tensor: perhaps a number left for Python, where it can no longer be followed."""
        for x in operands(step.args):
            if str(step.op) == "aten._local_scalar_dense.default" and is_inexact(x.dtype) and twins.has(x):
                self.left_as_float.append(step.where)

    def remember(self, x: Tensor, data: Any) -> None:
        """``x`` was made from the Python numbers ``data``."""
        if is_inexact(x.dtype) and x.dtype != wide_dtype(x.dtype):
            try:
                self._values.set(x, torch.tensor(data, dtype=wide_dtype(x.dtype), device=x.device))
            except (TypeError, ValueError, RuntimeError):
                return  # not plain numbers: the tensor's own value stands
            self._known.drop(x)  # it was met while it was being made: meet it again, with this value
            self.met = [m for m in self.met if m.untyped_storage()._cdata != x.untyped_storage()._cdata]


@contextmanager
def numbers_in_and_out(constants: Constants, keep: Callable[[Tensor], None]) -> Iterator[None]:
    """While a run lasts: ``torch.tensor`` keeps the Python numbers it was given, ``numpy`` and ``tolist`` are noticed.

    ``keep`` is told of the tensors whose memory NumPy gets, and may write to.

    A mode for torch functions would do this too, but it switches the fused paths of attention off.
    """
    tensor = torch.tensor

    def noted(data: Any, *args: Any, **kwargs: Any) -> Tensor:
        result = tensor(data, *args, **kwargs)
        if not isinstance(data, Tensor) and not hasattr(data, "__array__"):
            constants.remember(result, data)
        return result

    def leaving(name: str) -> Any:
        def method(self: Tensor, *args: Any, **kwargs: Any) -> Any:
            if is_inexact(self.dtype):
                constants.left_as_float.append(f"Tensor.{name}")
            with torch._C._DisableTorchDispatch():  # keeping a copy is no step of the run
                keep(self)
            return getattr(torch._C.TensorBase, name)(self, *args, **kwargs)

        return method

    torch.tensor = noted
    for name in ("numpy", "tolist"):
        setattr(torch.Tensor, name, leaving(name))
    try:
        yield
    finally:
        torch.tensor = tensor
        for name in ("numpy", "tolist"):
            delattr(torch.Tensor, name)
