"""The tensors in what a network takes and returns, each with its place."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator, KeysView, Mapping, ValuesView
from typing import Any

from torch import Tensor, nn

_SIMPLE = (str, bytes, bool, int, float, complex, type(None))


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of nested tuples, lists, mappings, dataclasses and plain objects, with its place.

    >>> import torch
    >>> [(p, tuple(t.shape)) for p, t in leaves({"a": (torch.ones(2), torch.ones(3))})]
    [("['a'][0]", (2,)), ("['a'][1]", (3,))]
    """
    yield from _leaves(value, path, ())


def _leaves(value: Any, path: str, above: tuple[int, ...]) -> Iterator[tuple[str, Any]]:
    if isinstance(value, (Tensor, *_SIMPLE)):
        yield path, value
        return
    if id(value) in above:
        return
    above = (*above, id(value))
    if isinstance(value, Mapping):
        items = [(f"[{key!r}]", value[key]) for key in value]
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        items = [(f".{name}", getattr(value, name)) for name in value._fields]
    elif isinstance(value, (list, tuple, deque, KeysView, ValuesView)):
        items = [(f"[{i}]", item) for i, item in enumerate(value)]
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = [(f".{field.name}", getattr(value, field.name)) for field in dataclasses.fields(value)]
    elif isinstance(value, nn.Module):
        items = [(f".{name}", item) for name, item in value.state_dict(keep_vars=True).items()]
    elif not callable(value) and (hasattr(value, "__dict__") or _slots(value)):
        items = [(f".{name}", item) for name, item in getattr(value, "__dict__", {}).items()]
        items += [(f".{name}", getattr(value, name)) for name in _slots(value) if hasattr(value, name)]
    else:
        yield path, value
        return
    for step, item in items:
        yield from _leaves(item, path + step, above)


def _slots(value: Any) -> list[str]:
    """The attributes that the classes of ``value`` keep in slots; none of a type that is not written in Python."""
    found: list[str] = []
    for cls in type(value).__mro__:
        names = vars(cls).get("__slots__", ())
        found += [names] if isinstance(names, str) else list(names)
    return [name for name in found if not name.startswith("__")]


def tensors(value: Any) -> list[Tensor]:
    """The tensors among the leaves, in order."""
    return [leaf for _, leaf in leaves(value) if isinstance(leaf, Tensor)]


def is_wrapper(x: Tensor) -> bool:
    """True for tensors of a kind of their own, which hold others and say themselves what operators do to them."""
    return type(x).__torch_dispatch__ is not Tensor.__torch_dispatch__


def operands(args: Any) -> list[Tensor]:
    """The tensors among an operator's arguments, which nest only in lists, tuples and the dict of keywords."""
    found: list[Tensor] = []
    _collect(args, found)
    return found


def _collect(value: Any, found: list[Tensor]) -> None:
    if isinstance(value, Tensor):
        found.append(value)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _collect(item, found)
    elif isinstance(value, dict):
        for item in value.values():
            _collect(item, found)


def map_operands(fn: Callable[[Any], Any], value: Any) -> Any:
    """``value`` with ``fn`` applied to everything in it that is not a list, tuple or dict."""
    if isinstance(value, list):
        return [map_operands(fn, item) for item in value]
    if isinstance(value, tuple):
        return tuple(map_operands(fn, item) for item in value)
    if isinstance(value, dict):
        return {key: map_operands(fn, item) for key, item in value.items()}
    return fn(value)
