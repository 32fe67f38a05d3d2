"""Which layers of a network can be rewritten, and which of their parameters must keep their shape."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils.parametrize import is_parametrized

from roundoff.forms.observe import Seen
from roundoff.forms.rule import Site

OWN_FORWARD, NOT_CALLED = "has a forward of its own", "it is not called"
#: What a class may have for itself: a forward that a rule knows, how it is made and printed, and what Python notes.
_USUAL = {"forward", "__init__", "reset_parameters", "extra_repr", "__repr__", "__module__", "__qualname__", "__doc__",
          "__annotations__", "__annotate__", "__annotate_func__", "__firstlineno__", "__static_attributes__",
          "__orig_bases__", "__parameters__", "__constants__"}  # fmt: skip
_STATE_HOOKS = (
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


def site_of(name: str, module: nn.Module, seen: Seen, pinned: set[int]) -> Site:
    """The layer ``name`` where it stands; ``pinned`` as :func:`pinned_in` gives it."""
    pins = frozenset(n for n, p in module._parameters.items() if id(p) in pinned)
    return Site(name, module, seen.calls.get(name, ()), pins)


def why_not(module: nn.Module, seen: Seen, name: str, fits: bool) -> str:
    """Why the layer cannot be rewritten, whatever the rule says; an empty text where it can."""
    if isinstance(module, torch.jit.ScriptModule):
        return "it is scripted: give the network as it is written in Python"
    parameters = {n for n, p in module._parameters.items() if p is not None}
    if any(isinstance(p, UninitializedParameter) for p in module._parameters.values()):
        return "it is lazy, and has no weight yet: run the network once, then convert it"
    if is_parametrized(module):
        return "its weight is parametrized: remove the parametrization first, or keep the layer"
    if "weight_orig" in parameters or "weight_g" in parameters:
        return "its weight is computed from other parameters (pruning, weight norm or spectral norm): remove that first"
    if not fits:
        return f"a {type(module).__name__} {OWN_FORWARD}, which a rule cannot know"
    if "forward" in vars(module):
        return "its forward was replaced"
    added = _added(type(module))
    if added:
        return f"its class has {added} of its own, which the other form would not have"
    if not parameters <= {"weight", "bias"} or "weight" not in parameters or module._buffers or module._modules:
        return "it holds more than a weight and a bias"
    weight = module._parameters["weight"]
    assert weight is not None
    if type(weight.data) is not torch.Tensor or not (weight.is_floating_point() or weight.is_complex()):
        return f"its weight is a {type(weight.data).__name__} of {weight.dtype}, not a plain floating-point tensor"
    if weight.numel() == 0:
        return "its weight is empty"
    if any(vars(module).get(hooks) for hooks in _STATE_HOOKS):
        return "it has a hook on its state dict"
    if any(p is not None and (p._backward_hooks or getattr(p, "_post_accumulate_grad_hooks", None))
           for p in module._parameters.values()):  # fmt: skip
        return "its parameter has a hook on its gradient"
    if name in seen.odd:
        return seen.odd[name]
    if name not in seen.calls:
        return f"{NOT_CALLED} in the run on the given input: what runs reads its weight, or nothing does"
    return ""


def _added(kind: type[nn.Module]) -> str:
    """What the user's class has besides what its PyTorch class has, and how it is made and printed."""
    users = [c for c in kind.__mro__ if not c.__module__.startswith(("torch.", "roundoff.", "builtins", "typing"))]
    return ", ".join(name for c in users for name in vars(c) if name not in _USUAL)


def _owners(model: nn.Module) -> Iterator[tuple[int, int]]:
    for module in model.modules():
        for p in module._parameters.values():
            if p is not None:
                yield id(p), id(module)


def pinned_in(model: nn.Module, seen: Seen) -> set[int]:
    """The parameters that keep their shape: those of several modules, and those that others read."""
    owners: dict[int, set[int]] = {}
    for parameter, owner in _owners(model):
        owners.setdefault(parameter, set()).add(owner)
    pinned = {parameter for parameter, those in owners.items() if len(those) > 1}
    pinned |= {id(p) for name, p in model.named_parameters() if name in seen.outside}
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            pinned |= {id(p) for p in (*module.linear1.parameters(), *module.linear2.parameters())}
    return pinned
