"""Rewrite a network: look at a run, apply the rule that fits each layer, check each by itself, list what stays."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import UninitializedParameter

from roundoff.conversion import Conversion, shapes_of
from roundoff.errors import RoundoffError
from roundoff.forms import back, conv_to_linear, flat_to_conv, linear_to_conv
from roundoff.forms.calls import Placed, place_calls, restored
from roundoff.forms.check import check_exactly
from roundoff.forms.flow import flow, without_programs
from roundoff.forms.layers import ChannelLinear, FromFlat, OverLastAxis
from roundoff.forms.observe import Seen, copied, observe
from roundoff.forms.sites import NOT_CALLED, OWN_FORWARD, pinned_in, site_of, why_not
from roundoff.forms.swap import swap
from roundoff.maps import Map
from roundoff.records import Converted, Declined
from roundoff.tape.trace import random_state, set_random_state

#: The first rule that applies is used.
RULES = (back.TO_CONV, flat_to_conv.RULE, linear_to_conv.RULE, back.TO_LINEAR, conv_to_linear.RULE)
LAYOUTS = ("keep", "flow")
FORMS = ("conv", "linear")


def rewrite(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], to: str, layout: str = "keep"
) -> Conversion:
    """``model`` in the form ``to``, as a copy, with each rewritten layer checked by itself.

    Raises RoundoffError for an unknown form or layout, a network that does not run on the input or cannot be copied, and
    where a check fails.
    """
    _check_request(model, to, layout)
    new = copied(model)
    without_programs(new)
    back_again = [Converted(*said) for said in restored(new, to)]
    seen = observe(new, args, kwargs)
    randomness = random_state()
    try:
        done, permutes = _rewrite(model, new, seen, to, back_again)
        return done if layout == "keep" else _flowing(done, permutes, args, kwargs)
    finally:
        set_random_state(randomness)


def _check_request(model: Any, to: str, layout: str) -> None:
    if to not in FORMS:
        raise RoundoffError(f"There is no form {to!r}. Give to='conv', 'linear', 'dense' or 'fastest'.")
    if layout not in LAYOUTS:
        raise RoundoffError(f"There is no layout {layout!r}. Give layout='keep' or layout='flow'.")
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        raise RoundoffError(
            f"convert() was given a {type(model).__name__}, but rewrites a torch.nn.Module written in Python."
        )


def _flowing(done: Conversion, permutes: dict[str, int], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Conversion:
    """The conversion with its layers in one layout where that can be. ``permutes``: the moves of an axis by each layer."""
    flowed = flow(done.model, args, kwargs, frozenset(name for name, moves in permutes.items() if moves))
    left = done.permutes_left - flowed.saved
    return replace(done, declined=done.declined + flowed.declined, permutes_left=left)


def _rewrite(
    original: nn.Module, new: nn.Module, seen: Seen, to: str, back_again: list[Converted]
) -> tuple[Conversion, dict[str, int]]:
    pinned = pinned_in(new, seen)
    rules = [rule for rule in RULES if rule.to == to]
    originals = dict(original.named_modules())
    converted, declined, replaced, changed = [], [], dict[int, nn.Module](), dict[int, dict[str, Map]]()
    permutes: dict[str, int] = {}
    for name, module in list(new.named_modules()):
        fitting = [rule for rule in rules if rule.kind(module)]
        if not fitting and not _looks_convertible(module, to):
            continue
        why = why_not(originals[name], seen, name, bool(fitting))
        site = site_of(name, module, seen, pinned)
        rule = None
        if not why:
            for rule in fitting:
                why = rule.declines(site)
                if not why:
                    break
        if why or rule is None:
            declined.append(Declined(name, type(module).__name__, why))
            continue
        check_exactly(rule, site)
        made = rule.rewrite(site)
        replaced[id(module)] = made.module
        changed[id(module)] = made.maps
        permutes[name] = rule.permutes(site)
        converted.append(Converted(name, type(module).__name__, type(made.module).__name__))
    maps = {
        f"{name}.{parameter}".lstrip("."): way
        for name, module in new.named_modules(remove_duplicate=False)
        for parameter, way in changed.get(id(module), {}).items()
    }
    for module in list(new.modules()):
        if id(module) in replaced:
            swap(module, replaced[id(module)])
        if isinstance(module, nn.TransformerEncoderLayer):
            _set_fast_path(module, to)
    layers = {c.module: True for c in converted} | {d.module: OWN_FORWARD not in d.reason for d in declined}
    calls = place_calls(new, seen.products, to, layers)
    converted += [*back_again, *calls.converted]
    declined = [d for d in declined if not _settled(d, calls)]
    told = {d.module for d in declined}
    declined += [d for d in calls.declined if d.module not in told]
    left = sum(permutes.values()) + calls.permutes
    before, after = original.state_dict(), new.state_dict()
    done = Conversion(to, new, tuple(converted), tuple(declined), left, maps, shapes_of(before))
    _check_weights(done, before, after)
    return done, permutes


def _set_fast_path(layer: nn.TransformerEncoderLayer, to: str) -> None:
    """Its fused path reads the weights and calls no layer, so it is closed where these are convolutions."""
    held = vars(layer)
    if to == "conv" and held.get("activation_relu_or_gelu"):
        held["_roundoff_activation"], held["activation_relu_or_gelu"] = held["activation_relu_or_gelu"], 0
    elif to == "linear" and "_roundoff_activation" in held:
        held["activation_relu_or_gelu"] = held.pop("_roundoff_activation")


def _looks_convertible(module: nn.Module, to: str) -> bool:
    """True for what is a fully connected layer, or a convolution, of another make: it is listed, and not rewritten."""
    if isinstance(module, (OverLastAxis, FromFlat, ChannelLinear)):
        return False  # of this form already
    name = getattr(module, "original_name", type(module).__name__)  # of a scripted module
    if to == "conv":
        layer = "Linear" in name and not module._modules and name != "Bilinear"
        return layer or isinstance(module, (nn.Linear, nn.RNNBase, nn.RNNCellBase))
    return isinstance(module, _ConvNd) or (name.startswith("Conv") and type(module).__module__.startswith("torch."))


def _settled(layer: Declined, calls: Placed) -> bool:
    """True where all that the layer multiplies is in functional calls, and these were rewritten."""
    weight = f"{layer.module}.weight".lstrip(".")
    inside = OWN_FORWARD in layer.reason and layer.module not in {d.module for d in calls.declined}
    return (inside or NOT_CALLED in layer.reason) and weight in calls.read - calls.left


def _check_weights(done: Conversion, before: dict[str, Any], after: dict[str, Any]) -> None:
    """The converted network has the original's numbers, bit for bit, both ways."""
    for name, x in done.state_dict_to(before).items():
        if isinstance(x, torch.Tensor) and not _same_bits(x, after.get(name)):
            raise RoundoffError(
                f"{name} has other numbers in the converted network. Please report this with the layer."
            )
    for name, x in done.state_dict_from(after).items():
        if isinstance(x, torch.Tensor) and not _same_bits(x, before[name]):
            raise RoundoffError(
                f"{name} does not come back from the converted network. Please report this with the layer."
            )


def _same_bits(x: torch.Tensor, y: Any) -> bool:
    if isinstance(x, UninitializedParameter):
        return isinstance(y, UninitializedParameter)
    if not isinstance(y, torch.Tensor) or x.shape != y.shape or x.dtype != y.dtype:
        return False
    if x.device.type == "meta":
        return True
    x, y = x.detach().contiguous().reshape(-1), y.detach().contiguous().reshape(-1)
    return torch.equal(x.view(torch.uint8), y.view(torch.uint8)) if x.numel() else True
