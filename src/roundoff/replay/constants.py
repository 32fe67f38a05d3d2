"""What enters a run without a step having made it: parameters, buffers, constants; and what leaves it as Python floats.

Such a tensor is its own wide value. Two exceptions: ``torch.tensor(0.1)`` inside a forward has the wide value 0.1, and
a parameter that was verified to be a fold of others has the value of the fold before it was rounded.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, _tensor_str

from roundoff.formats import is_inexact, wide_dtype
from roundoff.replay.twins import Twins
from roundoff.tape.leaves import map_operands, operands, tensors
from roundoff.tape.storages import StorageMap, has_storage
from roundoff.tape.watch import Step

_tensor = torch.tensor  # itself: while a run lasts, the module has another in its place

Part = tuple[Any, ...]  # where a tensor lies in its storage: parameters may share one

_tensor = torch.tensor  # as it is when nothing is remembered of what it makes


class Constants:
    """Keeps book of one run's constants.

    ``inputs`` are not constants, and neither are the Python numbers that a network writes down: a difference between
    those is a real one. ``values`` maps tensors to the wide values they are to have instead of their own, and ``numbers``
    the Python numbers that steps are given to those that they stand for.
    """

    def __init__(
        self,
        inputs: Any = (),
        values: Iterable[tuple[Tensor, Tensor]] = (),
        numbers: Mapping[float, float] | None = None,
    ) -> None:
        self.numbers = numbers or {}
        self.met: list[Tensor] = []
        self.left_as_float: list[str] = []
        self.written: float | complex | None = None  # a number that is being written to a part of a tensor
        self._made: StorageMap[bool] = StorageMap()
        self._seen: StorageMap[set[Part]] = StorageMap()
        self._numbers: StorageMap[Tensor] = StorageMap()
        self._values: StorageMap[dict[Part, Tensor]] = StorageMap()
        for x in tensors(inputs):
            if has_storage(x):
                self._made.set(x, True)
        for x, value in values:
            parts = self._values.get(x) or {}
            parts[_part(x)] = value
            self._values.set(x, parts)

    def meet(self, x: Tensor, twins: Twins) -> None:
        """``x`` is an operand of the next step."""
        if not has_storage(x) or x in self._made or not self._is_new(x):
            return
        number = self._number(x)
        if number is not None:
            twins.own(x)
            twins.wide(x).copy_(number)
            return
        value = (self._values.get(x) or {}).get(_part(x))
        if value is not None and value.numel() == x.numel():
            twins.own(x)
            twins.wide(x).copy_(value.reshape(x.shape))
        if is_inexact(x.dtype):
            self.met.append(x)

    def made(self, x: Tensor) -> None:
        """``x`` is the result of a step."""
        if has_storage(x) and x not in self._made:
            if x in self._seen:
                self._is_new(x)  # a view of a constant is not another one
            else:
                self._made.set(x, True)

    def _is_new(self, x: Tensor) -> bool:
        """False when this part of the storage was met before; from now on it was."""
        parts = self._seen.get(x)
        if parts is None:
            parts = set()
            self._seen.set(x, parts)
        part = _part(x)
        if part in parts:
            return False
        parts.add(part)
        return True

    def _number(self, x: Tensor) -> Tensor | None:
        """The Python numbers that ``x`` was made from, wide."""
        if self.written is not None and x.dim() == 0 and is_inexact(x.dtype):
            number = _tensor(self.written, dtype=wide_dtype(x.dtype), device=x.device)
            if torch.equal(number.to(x.dtype), x):
                return number
        return self._numbers.get(x)

    def left(self, step: Step, twins: Twins) -> None:
        """``step`` gave no tensor: perhaps a number left for Python, where it can no longer be followed."""
        for x in operands(step.args):
            if str(step.op) == "aten._local_scalar_dense.default" and is_inexact(x.dtype) and twins.has(x):
                self.left_as_float.append(step.where)

    def remember(self, x: Tensor, data: Any) -> None:
        """``x`` was made from the Python numbers ``data``."""
        if not is_inexact(x.dtype):
            return
        try:
            self._numbers.set(x, _tensor(data, dtype=wide_dtype(x.dtype), device=x.device))
        except (TypeError, ValueError, RuntimeError):
            return  # not plain numbers: the tensor's own value stands
        self._seen.drop(x)  # it was met while it was being made: meet it again, with this value
        self.met = [m for m in self.met if m.untyped_storage()._cdata != x.untyped_storage()._cdata]


def _part(x: Tensor) -> Part:
    return x.dtype, x.storage_offset(), tuple(x.size()), tuple(x.stride())


@contextmanager
def numbers_in_and_out(constants: Constants, twins: Twins, keep: Callable[[Tensor], None]) -> Iterator[None]:
    """While a run lasts: Python numbers that become tensors are remembered, ``numpy`` and ``tolist`` are noticed.

    ``keep`` is told of the tensors whose memory NumPy gets, and may write to. A mode for torch functions would do all
    this too, but it switches the fused paths of attention off.
    """

    def number(x: Any) -> Any:
        """Tensors of one element among the numbers are read without a step: here with their wide value."""
        try:
            return twins.wide(x).item() if isinstance(x, Tensor) else x
        except ValueError:
            constants.left_as_float.append("torch.tensor")
            return x.item()

    def making(make: Callable[..., Tensor], position: int) -> Callable[..., Tensor]:
        def made(*args: Any, **kwargs: Any) -> Tensor:
            result = make(*args, **kwargs)
            data = args[position] if position < len(args) else kwargs.get("data")
            if isinstance(data, (int, float, complex, list, tuple)):
                with torch._C._DisableTorchDispatch():
                    constants.remember(result, map_operands(number, data))
            return result

        return made

    def leaving(name: str) -> Callable[..., Any]:
        def method(self: Tensor, *args: Any, **kwargs: Any) -> Any:
            if is_inexact(self.dtype) and sys._getframe(1).f_code.co_filename != _tensor_str.__file__:
                constants.left_as_float.append(f"Tensor.{name}")  # not to be printed
            with torch._C._DisableTorchDispatch():  # keeping a copy is no step of the run
                keep(self)
            return getattr(torch._C.TensorBase, name)(self, *args, **kwargs)

        return method

    def write(self: Tensor, index: Any, value: Any) -> None:
        constants.written = value if isinstance(value, (int, float, complex)) else None
        try:
            torch._C.TensorBase.__setitem__(self, index, value)
        finally:
            constants.written = None

    functions: dict[str, Callable[..., Any]] = {
        "tensor": making(torch.tensor, 0),
        "as_tensor": making(torch.as_tensor, 0),
    }
    methods: dict[str, Callable[..., Any]] = {
        "new_tensor": making(torch._C.TensorBase.new_tensor, 1),
        "numpy": leaving("numpy"),
        "tolist": leaving("tolist"),
        "__setitem__": write,
    }
    with _replaced(torch, functions), _replaced(torch.Tensor, methods):
        yield


@contextmanager
def _replaced(owner: Any, values: dict[str, Any]) -> Iterator[None]:
    """Other attributes for a while; what was not there before is taken away again."""
    before = {name: vars(owner)[name] for name in values if name in vars(owner)}
    for name, value in values.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name in values:
            if name in before:
                setattr(owner, name, before[name])
            else:
                delattr(owner, name)
