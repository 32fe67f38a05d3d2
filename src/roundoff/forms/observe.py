"""What a network does with its layers in a run on given inputs: a copy of it runs, watched, and is thrown away.

Seen are the shapes of the inputs of each layer; tensors that are the flatten of another one; parameters that something
else than their own layer reads, which must keep their shape; and functional calls with a weight.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from roundoff.errors import RoundoffError
from roundoff.forms.calls import PRODUCTS, Like, WeightCall, opened
from roundoff.forms.rule import Call
from roundoff.tape.trace import random_state, set_random_state

_VIEWS = {
    "t", "transpose", "permute", "view", "reshape", "expand", "unsqueeze", "squeeze", "chunk", "split", "__getitem__",
    "contiguous", "flatten", "unflatten", "movedim", "swapaxes", "expand_as", "narrow", "unbind", "to", "type_as", "float",
}  # fmt: skip
_SAME_PLACES = {
    "relu", "relu_", "dropout", "clone", "contiguous", "tanh", "sigmoid", "gelu", "silu", "elu", "leaky_relu", "hardswish",
    "relu6", "alpha_dropout", "feature_dropout", "hardtanh",
}  # fmt: skip
_FLATTENS = {"flatten", "reshape", "view"}


@dataclass(frozen=True)
class Seen:
    """What a run showed, by the names of modules and parameters."""

    calls: dict[str, tuple[Call, ...]]
    odd: dict[str, str]  # layers whose input was not a dense tensor given by position, and why
    outside: frozenset[str]  # parameters that something else than their own layer read
    products: tuple[WeightCall, ...]  # functional calls with a weight, also those that layers make


class _Watch(TorchFunctionMode):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.stack: list[tuple[str, nn.Module]] = [("", model)]
        self.calls: dict[str, list[Call]] = {}
        self.odd: dict[str, str] = {}
        self.outside: set[str] = set()
        self.products: dict[str, WeightCall] = {}
        # what is computed from parameters alone: from which, and in which modules
        self.computed: dict[int, tuple[Tensor, frozenset[str], frozenset[str]]] = {}
        self.parameters = {id(p): name for name, p in model.named_parameters()}
        self.derived: dict[int, tuple[Tensor, str]] = {}  # the tensor is kept, so that no other gets its id
        self.flat: dict[int, tuple[Tensor, tuple[tuple[int, ...], bool]]] = {}

    def enter(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = args[0] if args else next(iter(kwargs.values()), None)
            if len(args) + len(kwargs) != 1 or not isinstance(given, Tensor):
                self.odd[name] = "it is not called with one tensor"
            elif given.is_nested or given.layout != torch.strided:
                self.odd[name] = "its input is not a dense tensor"
            else:
                flat = self.flat.get(id(given))
                call = Call(tuple(given.shape), flat[1] if flat else None)
                self.calls.setdefault(name, []).append(call)
            self.stack.append((name, module))

        return hook

    def leave(self, *_: Any) -> None:
        self.stack.pop()

    def parameter(self, x: Any) -> str | None:
        if not isinstance(x, Tensor):
            return None
        return self.parameters.get(id(x)) or (self.derived[id(x)][1] if id(x) in self.derived else None)

    def origin(self, x: Tensor) -> tuple[frozenset[str], frozenset[str]] | None:
        """The parameters from which alone ``x`` is computed, and the modules in which; None for others."""
        if id(x) in self.parameters:
            return frozenset({self.parameters[id(x)]}), frozenset()
        return self.computed[id(x)][1:] if id(x) in self.computed else None

    def product(self, name: str, func: Any, args: Any, kwargs: Any) -> None:
        """Keep a call with a weight."""
        found = [self.origin(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        weights = [origin for origin in found if origin is not None]
        if not weights:
            return

        def like(x: Any) -> Any:
            return Like(tuple(x.shape), x.dtype, self.origin(x) is not None) if isinstance(x, Tensor) else x

        parameters, places = (frozenset().union(*sets) for sets in zip(*weights, strict=True))
        given, named = tree_map(like, (args, kwargs))
        call = WeightCall(name, func, given, named, tuple(sorted(parameters)), places)
        self.products.setdefault(repr((call, call.args, call.kwargs)), call)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        body = opened(func)
        if body is not None:
            with self:
                return body(*args, **kwargs)
        out = func(*args, **kwargs)
        op = getattr(func, "__name__", str(func))
        if op == "__get__" and getattr(func, "__self__", None) not in (Tensor.T, Tensor.mT, Tensor.H, Tensor.mH):
            return out
        op = "t" if op == "__get__" else op
        name, module = self.stack[-1]
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        own = {id(p) for p in module._parameters.values()} if not module._modules else set()
        layer = bool(own) and hasattr(module, "weight")
        for x in given:
            read = self.parameter(x)
            if read is not None and not (layer and (id(x) in own or id(x) in self.derived)):
                self.outside.add(read)
            if read is not None and op in _VIEWS:
                for y in tree_leaves(out):
                    if isinstance(y, Tensor):
                        self.derived[id(y)] = (y, read)
        if op in PRODUCTS["conv"] | PRODUCTS["linear"]:
            self.product(name, func, args, kwargs)
        origins = [self.origin(x) for x in given]
        known = [origin for origin in origins if origin is not None]
        if known and len(known) == len(origins):
            parameters, places = (frozenset().union(*sets) for sets in zip(*known, strict=True))
            for y in tree_leaves(out):
                if isinstance(y, Tensor) and id(y) not in self.parameters:
                    self.computed[id(y)] = (y, parameters, places | {name})
        self.follow(op, given, out)
        return out

    def follow(self, op: str, given: list[Tensor], out: Any) -> None:
        if not given or not isinstance(out, Tensor):
            return
        x = given[0]
        if op in _FLATTENS and 3 <= x.dim() <= 5 and tuple(out.shape) == (x.shape[0], prod(x.shape[1:])):
            last = x.movedim(-1, 1).is_contiguous() and not x.is_contiguous()
            sizes = (x.shape[-1], *x.shape[1:-1]) if last else tuple(x.shape[1:])
            self.flat[id(out)] = (out, (sizes, last))
        elif op in _SAME_PLACES and id(x) in self.flat and out.shape == x.shape:
            self.flat[id(out)] = (out, self.flat[id(x)][1])


def copied(model: nn.Module) -> nn.Module:
    """A deep copy, also of modules that keep a computed tensor (weight norm). Raises RoundoffError where it cannot be."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    try:
        return deepcopy(model, memo)
    except Exception as error:
        raise RoundoffError(
            f"{type(model).__name__} cannot be copied: {error}. Give a network that copy.deepcopy can copy."
        ) from error


def observe(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Seen:
    """Run a copy of ``model`` and say what was seen. Raises RoundoffError where the network raises."""
    copy = copied(model)
    watch = _Watch(copy)
    for name, module in copy.named_modules():
        if name:
            module.register_forward_pre_hook(watch.enter(name), with_kwargs=True)
            module.register_forward_hook(watch.leave, always_call=True)
        elif not module._modules:  # the root is the layer itself
            watch.stack.clear()
            module.register_forward_pre_hook(watch.enter(""), with_kwargs=True)
            module.register_forward_hook(watch.leave, always_call=True)
    args, kwargs = tree_map(lambda x: x.detach().clone() if isinstance(x, Tensor) else x, (args, kwargs))
    randomness = random_state()
    try:
        with torch.no_grad(), watch:
            copy(*args, **kwargs)
    except Exception as error:
        raise RoundoffError(
            f"{type(model).__name__} raised {type(error).__name__} on the given input: {error}. "
            "Give an input on which the network runs."
        ) from error
    finally:
        set_random_state(randomness)
    return Seen(
        {name: tuple(calls) for name, calls in watch.calls.items()},
        watch.odd,
        frozenset(watch.outside),
        tuple(watch.products.values()),
    )
