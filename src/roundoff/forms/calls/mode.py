"""A module whose functional calls with a weight run in another form.

Its forward runs under a mode that sees each function of PyTorch before it runs. The mode knows the weights: the
parameters that were found in them, and whatever is computed from those alone. A call with a rule and a weight is run as
the rule says; every other one, and one to which the rule does not apply, runs as it stands. So a mistake in telling
weights from inputs costs nothing but the other form.

The module gets a class of its own, and can be saved, copied, exported and compiled.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from roundoff.forms.calls.given import name_of
from roundoff.forms.calls.rules import opened, rule_for
from roundoff.forms.own_class import Forward, give_class, take_class

_RECORD = "_roundoff_calls"


@dataclass(frozen=True)
class Weight:
    """A parameter: its name in ``owner``, or, where that is None, in the module whose calls are rewritten."""

    owner: nn.Module | None
    name: str

    def of(self, module: nn.Module) -> Any:
        """The parameter as it is now: whoever swaps it for a call (``functional_call``, export) has their own used."""
        path, _, name = self.name.rpartition(".")
        return getattr((self.owner or module).get_submodule(path), name)


@dataclass(frozen=True)
class Calls:
    """The calls of a module that are in another form. ``said`` names each, before and after, for the list."""

    to: str
    ops: frozenset[str]
    weights: tuple[Weight, ...]
    said: tuple[tuple[str, str], ...]


class _InForm(TorchFunctionMode):
    def __init__(self, module: nn.Module, calls: Calls) -> None:
        super().__init__()
        self.calls = calls
        self.known = [weight.of(module) for weight in calls.weights]

    def is_weight(self, x: Any) -> bool:
        return any(x is weight for weight in self.known)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        body = opened(func)
        if body is not None:
            with self:
                return body(*args, **kwargs)
        op = name_of(func)
        if op in self.calls.ops:
            rule = rule_for(self.calls.to, op)
            y = rule.apply(op, args, kwargs, self.is_weight) if rule is not None else ""
            if isinstance(y, Tensor):
                return y
        if op == "unflatten" and torch.compiler.is_compiling():
            return torch.unflatten(*args, **kwargs)  # the method calls its superclass's, which Dynamo cannot follow
        out = func(*args, **kwargs)
        given = list(tensors(args, kwargs))
        if given and all(self.is_weight(x) for x in given):
            self.known += list(tensors((out,), {}))
        return out


def tensors(args: Any, kwargs: dict[str, Any]) -> Iterator[Tensor]:
    """The tensors among arguments, also in lists and tuples."""
    for x in (*args, *kwargs.values()):
        if isinstance(x, Tensor):
            yield x
        elif isinstance(x, (list, tuple)):
            yield from (y for y in x if isinstance(y, Tensor))


def with_calls(module: nn.Module, calls: Calls) -> None:
    """Let ``module`` run ``calls`` in their form, besides those that it runs so already. It stays the same object."""
    old = vars(module).get(_RECORD)
    if old is not None:
        calls = Calls(calls.to, old.ops | calls.ops, old.weights + calls.weights, old.said + calls.said)
    else:
        give_class(module, _in_form)
    vars(module)[_RECORD] = calls


def has_calls(module: nn.Module) -> bool:
    """True where some of its calls are in another form."""
    return _RECORD in vars(module)


def restored(model: nn.Module, to: str) -> list[tuple[str, str, str]]:
    """Take from each module of ``model`` the calls that are in another form than ``to``; the module, and what each call
    was and is."""
    found = []
    for name, module in model.named_modules():
        calls = vars(module).get(_RECORD)
        if calls is not None and calls.to != to:
            del vars(module)[_RECORD]
            take_class(module)
            found += [(name, after, before) for before, after in calls.said]
    return found


def _in_form(original: Forward) -> Forward:
    """A forward whose calls are in the form that the module's record says."""

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if any(x.is_nested for x in tensors(args, kwargs)):
            return original(self, *args, **kwargs)  # for some of these PyTorch has kernels only where no mode looks on
        with _InForm(self, vars(self)[_RECORD]):
            return original(self, *args, **kwargs)

    return forward
