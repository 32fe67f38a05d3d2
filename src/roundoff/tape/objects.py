"""The Python objects of a network and of its inputs, as they were: attributes, containers, and how tensors lie.

What a run writes into memory is another matter: see ``trace``.
"""

from __future__ import annotations

import functools
import types
from collections import deque
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from roundoff.errors import RoundoffError
from roundoff.tape.storages import has_storage


def holders(model: Any) -> list[Any]:
    """The objects that keep the state of a network: its modules, or what a function closes over, calls or is bound to."""
    found: list[Any] = []
    seen: set[int] = set()
    todo = [model]
    while todo:
        x = todo.pop()
        if id(x) in seen or isinstance(x, (type, types.ModuleType)):
            continue
        seen.add(id(x))
        if isinstance(x, nn.Module):
            found.append(x)
            todo += x.children()
        elif isinstance(x, functools.partial):
            todo += [x.func, *x.args, *x.keywords.values()]
        elif isinstance(x, types.MethodType):
            todo += [x.__self__, x.__func__]
        elif isinstance(x, types.FunctionType):
            todo += _reached(x)
        elif isinstance(x, (list, tuple)):
            todo += x
        elif isinstance(x, dict):
            todo += x.values()
        elif x is model and hasattr(x, "__dict__"):
            found.append(x)
            todo += vars(x).values()
    return found


def _reached(function: types.FunctionType) -> list[Any]:
    """What a function closes over, and the modules and functions of its own file that it names."""
    cells = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
    named = [function.__globals__.get(name) for name in function.__code__.co_names]
    own = [
        x
        for x in named
        if isinstance(x, nn.Module) or (isinstance(x, types.FunctionType) and x.__globals__ is function.__globals__)
    ]
    return cells + own


def _is_filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


class Objects:
    """The state of a network's objects and of its inputs at one moment, and the way back to it."""

    def __init__(self, model: Any, inputs: Any) -> None:
        self._containers: list[_Container] = []
        self._tensors: list[_Tensor] = []
        self._seen: set[int] = set()
        for holder in (*holders(model), *holders(inputs)):  # a network may be given others
            if isinstance(holder, nn.Module):
                for x in (*holder.parameters(recurse=False), *holder.buffers(recurse=False)):
                    self._keep(x)
            self._keep(vars(holder))
            for value in list(vars(holder).values()):
                self._keep(value)
        self._keep_all(inputs)

    def _keep(self, value: Any) -> None:
        """Keep one container with the tensors in it, or one tensor."""
        if id(value) in self._seen:
            return
        self._seen.add(id(value))
        if isinstance(value, Tensor):
            self._tensors.append(_tensor(value))
        elif isinstance(value, (dict, list, set, deque)):
            self._containers.append(_container(value))
            for item in list(value.values() if isinstance(value, dict) else value):
                if isinstance(item, Tensor):
                    self._keep(item)

    def _keep_all(self, value: Any) -> None:
        """Keep whatever is nested in the inputs, objects that are not called included."""
        if id(value) in self._seen or isinstance(value, (str, bytes, int, float, complex, type(None))):
            return
        self._keep(value)
        if isinstance(value, (list, tuple, set, deque)):
            inside = list(value)
        elif isinstance(value, dict):
            inside = list(value.values())
        elif hasattr(value, "__dict__") and not isinstance(value, (Tensor, type)) and not callable(value):
            self._keep(vars(value))
            inside = list(vars(value).values())
        else:
            return
        for item in inside:
            self._keep_all(item)

    def restore(self) -> None:
        """Make everything what it was."""
        with torch.no_grad():
            for container in self._containers:
                container.restore()
            for x in self._tensors:
                x.restore()


@dataclass(frozen=True)
class _Container:
    now: Any
    then: Any

    def restore(self) -> None:
        if isinstance(self.now, dict):
            same = len(self.now) == len(self.then) and all(
                k is j and x is y for (k, x), (j, y) in zip(self.now.items(), self.then.items(), strict=True)
            )
        else:
            same = len(self.now) == len(self.then) and all(x is y for x, y in zip(self.now, self.then, strict=True))
        if not same:
            self.now.clear()
            (self.now.extend if isinstance(self.now, (list, deque)) else self.now.update)(self.then)


def _container(value: Any) -> _Container:
    return _Container(value, dict(value) if isinstance(value, dict) else list(value))


@dataclass(frozen=True)
class _Tensor:
    now: Tensor
    then: Tensor  # an alias: it still lies in memory as the tensor did
    requires_grad: bool
    grad: Tensor | None
    leaf: bool

    def restore(self) -> None:
        x = self.now
        if has_storage(x) and _lies(x) != _lies(self.then):
            x.data = self.then
        if self.leaf and not x.is_leaf and not x._is_view():
            x.detach_()  # something that asks for a gradient was written to it
        if x.is_leaf and x.requires_grad != self.requires_grad:
            x.requires_grad_(self.requires_grad)
        if x.is_leaf and x.grad is not self.grad:
            x.grad = self.grad


def _tensor(x: Tensor) -> _Tensor:
    if is_lazy(x):
        raise RoundoffError(
            "The network has parameters without a value (a lazy layer). Call it once on an input, then compare or record."
        )
    return _Tensor(x, x.detach(), x.requires_grad, x.grad if x.is_leaf else None, x.is_leaf)


def _lies(x: Tensor) -> tuple[Any, ...]:
    if x.is_nested:
        return (x.untyped_storage()._cdata,)
    return x.untyped_storage()._cdata, x.storage_offset(), tuple(x.size()), tuple(x.stride())
