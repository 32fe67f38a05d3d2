"""The ways to compute one layer: its forms, and the memory layouts of its input.

Requires: a ``Linear`` or a convolution that a rule could rewrite (its own weight and bias, PyTorch's forward, no hooks on
its state).
Ensures: the same function of the input; the parameters in the shapes that the form's :class:`Map` gives, or in their own.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from roundoff.forms import conv_to_linear, flat_to_conv, linear_to_conv
from roundoff.forms.layers import Rewritten
from roundoff.forms.rule import New, Rule, Site, move_parameters
from roundoff.maps import Map

AS_IT_IS, LAST, FIRST = "as it is", "channels last", "channels first"
FORMATS: dict[int, torch.memory_format] = {4: torch.channels_last, 5: torch.channels_last_3d}
_CONVS = (nn.Conv2d, nn.Conv3d)


class Product(Rewritten, nn.Linear):
    """A linear layer as a product with its weight kept as [in, out]."""

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        x = input.reshape(-1, input.shape[-1])
        weight = self.viewed()
        y = torch.addmm(self.bias, x, weight) if self.bias is not None else x @ weight
        return y.reshape(*input.shape[:-1], weight.shape[1])


class _Laid(nn.Module):
    """A convolution that first brings its input into a memory layout."""

    last: bool

    def forward(self, input: Tensor) -> Tensor:
        """The convolution of ``input`` in that layout."""
        layout = FORMATS.get(input.dim(), torch.contiguous_format) if self.last else torch.contiguous_format
        return super().forward(input.contiguous(memory_format=layout))  # type: ignore[no-any-return]


class LaidConv2d(_Laid, nn.Conv2d):
    """A two-dimensional one."""


class LaidConv3d(_Laid, nn.Conv3d):
    """A three-dimensional one."""


class _Patches(nn.Module):
    """A convolution whose kernel steps by its own size: a linear layer on each patch."""

    def forward(self, input: Tensor) -> Tensor:
        """[N, C, ...] to [N, out, ...]."""
        conv: Any = self
        kernel = conv.kernel_size
        dims = len(kernel)
        if input.dim() != dims + 2:
            return super().forward(input)  # type: ignore[no-any-return]
        x, n, c = input, input.shape[0], input.shape[1]
        counts = [size // k for size, k in zip(input.shape[2:], kernel, strict=True)]
        for axis, (count, k) in enumerate(zip(counts, kernel, strict=True)):
            x = x.narrow(axis + 2, 0, count * k)
        x = x.reshape(n, c, *(size for pair in zip(counts, kernel, strict=True) for size in pair))
        x = x.permute(0, *range(2, 2 * dims + 2, 2), 1, *range(3, 2 * dims + 2, 2)).reshape(n, *counts, -1)
        return F.linear(x, conv.weight.flatten(1), conv.bias).movedim(-1, 1).contiguous()


class PatchConv1d(_Patches, nn.Conv1d):
    """Over one axis."""


class PatchConv2d(_Patches, nn.Conv2d):
    """Over two axes."""


class PatchConv3d(_Patches, nn.Conv3d):
    """Over three axes."""


#: Classes whose forward makes new memory for its result.
NEW_MEMORY: tuple[Any, ...] = (_Laid, _Patches)
_LAID: dict[type, Any] = {nn.Conv2d: LaidConv2d, nn.Conv3d: LaidConv3d}
_PATCH: dict[type, Any] = {nn.Conv1d: PatchConv1d, nn.Conv2d: PatchConv2d, nn.Conv3d: PatchConv3d}


def ways(site: Site) -> dict[str, Callable[[], New]]:
    """The ways besides the one as it is, by name, each with what makes the new layer."""
    module: Any = site.module
    found: dict[str, Callable[[], New]] = {}
    if linear_to_conv.is_linear(module):
        rule = flat_to_conv.RULE if not flat_to_conv.RULE.declines(site) else linear_to_conv.RULE
        name = "full kernel" if rule is flat_to_conv.RULE else "1x1 convolution"
        found[name] = _by_rule(rule, site)
        found["product"] = lambda: _product(site)
    elif conv_to_linear.is_conv(module):
        if not conv_to_linear.RULE.declines(site):
            found["linear"] = _by_rule(conv_to_linear.RULE, site)
        kind = next(c for c in _PATCH if isinstance(module, c))
        plain = module.groups == 1 and not any(module._reversed_padding_repeated_twice) and set(module.dilation) == {1}
        if plain and module.stride == module.kernel_size and prod(module.kernel_size) > 1:
            found["patches"] = lambda: _as(site, _PATCH[kind])
        if kind in _LAID and type(module) in (kind,):
            found[LAST] = lambda: _as(site, _LAID[kind], last=True)
            found[FIRST] = lambda: _as(site, _LAID[kind], last=False)
    return found


def _by_rule(rule: Rule, site: Site) -> Callable[[], New]:
    return lambda: rule.rewrite(site)


def _product(site: Site) -> New:
    old: Any = site.module
    out, inputs = old.weight.shape
    new = Product(inputs, out, bias=False, device="meta")
    return move_parameters(old, new, {"weight": Map((out, inputs), (inputs, out), (out, inputs), (1, 0))}, site.pinned)


def _as(site: Site, kind: Any, **more: Any) -> New:
    """The same layer with the forward of ``kind``; its parameters keep their shapes."""
    new: Any = copy(site.module)
    new.__dict__["_parameters"] = dict(site.module._parameters)
    new.__class__ = kind
    vars(new).update(more)
    if more.get("last") and "weight" not in site.pinned:
        old: Any = site.module.weight
        weight = nn.Parameter(old.detach().contiguous(memory_format=FORMATS[old.dim()]), old.requires_grad)
        new._parameters["weight"] = weight
    return New(new, {})
