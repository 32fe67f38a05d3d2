"""What a network does with its layers in a run on given inputs: a copy of it runs, watched, and is thrown away.

Seen are the shapes of the inputs of each layer; tensors that are the flatten of another one; parameters that something
else than their own layer reads, which must keep their shape; and functional calls with a weight.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from roundoff.errors import RoundoffError
from roundoff.forms.calls import PRODUCTS, Like, WeightCall, name_of, opened
from roundoff.forms.rule import Call
from roundoff.tape.trace import random_state, set_random_state

_VIEWS = {
    "t", "transpose", "permute", "view", "reshape", "expand", "unsqueeze", "squeeze", "chunk", "split", "__getitem__",
    "contiguous", "flatten", "unflatten", "movedim", "swapaxes", "expand_as", "narrow", "unbind", "to", "type_as", "float",
    "detach", "data", "T", "mT", "H", "mH",
}  # fmt: skip
_SHAPES = {"shape", "ndim"}  # whoever asks a parameter for its shape must find the one that it had
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
    products: tuple[tuple[WeightCall, int], ...]  # functional calls with a weight, also those of layers; how many


@dataclass(frozen=True)
class _Origin:
    """From which parameters a tensor is computed, in which modules, and from what else that is no input: the names of
    buffers, and "a constant"."""

    parameters: frozenset[str] = frozenset()
    places: frozenset[str] = frozenset()
    others: frozenset[str] = frozenset()

    @property
    def weight(self) -> bool:
        """True where it is computed from parameters alone."""
        return bool(self.parameters) and not self.others


def _joined(origins: Iterable[_Origin]) -> _Origin:
    fields = zip(*((o.parameters, o.places, o.others) for o in origins), strict=True)
    return _Origin(*(frozenset[str]().union(*sets) for sets in fields))


_CONSTANT = _Origin(others=frozenset({"a constant"}))


class _Watch(TorchFunctionMode):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.stack: list[tuple[str, nn.Module]] = [("", model)]
        self.within = [True]  # whether the module's own forward runs, or a hook of the user's
        self.calls: dict[str, list[Call]] = {}
        self.odd: dict[str, str] = {}
        self.outside: set[str] = set()
        self.products: dict[str, tuple[WeightCall, int]] = {}
        self.computed: dict[int, tuple[Tensor, _Origin]] = {}
        self.parameters = {id(p): name for name, p in model.named_parameters()}
        self.buffers = {id(b): name for name, b in model.named_buffers()}
        self.derived: dict[int, tuple[Tensor, str]] = {}  # the tensor is kept, so that no other gets its id
        self.flat: dict[int, tuple[Tensor, tuple[tuple[int, ...], bool]]] = {}

    def watch(self, name: str, module: nn.Module) -> None:
        """See the calls of a module. The user's hooks run between the first and the last of these."""
        module.register_forward_pre_hook(lambda *_: self.enter(name, module), prepend=True)
        module.register_forward_pre_hook(lambda _, args, kwargs: self.begin(name, args, kwargs), with_kwargs=True)
        module.register_forward_hook(lambda *_: self.end(), prepend=True)
        module.register_forward_hook(lambda *_: self.leave(), always_call=True)

    def enter(self, name: str, module: nn.Module) -> None:
        self.stack.append((name, module))
        self.within.append(False)

    def begin(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = args[0] if args else next(iter(kwargs.values()), None)
        if len(args) + len(kwargs) != 1 or not isinstance(given, Tensor):
            self.odd[name] = "it is not called with one tensor"
        elif given.is_nested or given.layout != torch.strided:
            self.odd[name] = "its input is not a dense tensor"
        else:
            flat = self.flat.get(id(given))
            call = Call(tuple(given.shape), flat[1] if flat else None)
            self.calls.setdefault(name, []).append(call)
        self.within[-1] = True

    def end(self) -> None:
        self.within[-1] = False

    def leave(self) -> None:
        self.stack.pop()
        self.within.pop()

    def parameter(self, x: Any) -> str | None:
        if not isinstance(x, Tensor):
            return None
        return self.parameters.get(id(x)) or (self.derived[id(x)][1] if id(x) in self.derived else None)

    def origin(self, x: Tensor) -> _Origin | None:
        """From what ``x`` is computed; None where the network's input may be a part of it."""
        if id(x) in self.parameters:
            return _Origin(frozenset({self.parameters[id(x)]}))
        if id(x) in self.buffers:
            return _Origin(others=frozenset({self.buffers[id(x)]}))
        if isinstance(x, nn.Parameter):
            return _Origin(frozenset({"(unknown)"}), others=frozenset({"a parameter that no module holds"}))
        return self.computed[id(x)][1] if id(x) in self.computed else None

    def product(self, name: str, func: Any, args: Any, kwargs: Any) -> None:
        """Keep a call with a weight."""
        found = [self.origin(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        mixed = [origin for origin in found if origin is not None and origin.parameters]
        if not mixed:
            return
        origin = _joined([o for o in mixed if o.weight] or mixed)

        def like(x: Any) -> Any:
            if not isinstance(x, Tensor):
                return x
            known = self.origin(x)
            return Like(tuple(x.shape), x.dtype, known is not None and known.weight)

        given, named = tree_map(like, (args, kwargs))
        call = WeightCall(
            name, func, given, named, tuple(sorted(origin.parameters)), origin.places, tuple(sorted(origin.others))
        )
        key = repr((call, call.args, call.kwargs))
        self.products[key] = (call, self.products.get(key, (call, 0))[1] + 1)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        body = opened(func)
        if body is not None:
            with self:
                return body(*args, **kwargs)
        out = func(*args, **kwargs)
        op = name_of(func)
        if op == "__get__":
            op = getattr(func.__self__, "__name__", "")
            if op not in _VIEWS | _SHAPES:
                return out
        name, module = self.stack[-1]
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        own = {id(p) for p in module._parameters.values()} if self.within[-1] and not module._modules else set()
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
        known = [origin for x in given if (origin := self.origin(x)) is not None]
        if len(known) == len(given):
            origin = _joined([*known, _Origin(places=frozenset({name}))]) if known else _CONSTANT
            for y in tree_leaves(out):
                if isinstance(y, Tensor) and self.origin(y) is None:
                    self.computed[id(y)] = (y, origin)
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
    """A deep copy, also of modules that keep a computed tensor (weight norm); hooks on gradients are copied too.

    Raises RoundoffError where it cannot be.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    try:
        copy = deepcopy(model, memo)
    except Exception as error:
        raise RoundoffError(
            f"{type(model).__name__} cannot be copied: {error}. Give a network that copy.deepcopy can copy."
        ) from error
    parameters = dict(copy.named_parameters())
    for name, old in model.named_parameters():
        new: Any = parameters.get(name)
        for hook in (old._backward_hooks or {}).values() if new is not None else ():
            new.register_hook(hook)
        for hook in (getattr(old, "_post_accumulate_grad_hooks", None) or {}).values() if new is not None else ():
            new.register_post_accumulate_grad_hook(hook)
    return copy


def observe(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Seen:
    """Run a copy of ``model`` and say what was seen. Raises RoundoffError where the network raises."""
    copy = copied(model)
    watch = _Watch(copy)
    for name, module in copy.named_modules():
        if not isinstance(module, torch.jit.ScriptModule):  # which takes no hooks
            watch.watch(name, module)
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
