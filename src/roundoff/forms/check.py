"""The exact check of a rewritten layer by itself.

With whole numbers |w| <= m and |x| <= m, every sum of k products and a bias is at most k m^2 + m. Where that is below
2^24 each partial sum, in any order, is a whole number that float32 holds, so that both forms must give the same values.
"""

from __future__ import annotations

from dataclasses import replace
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn

from roundoff.errors import RoundoffError
from roundoff.forms.rule import Rule, Site


def check_exactly(rule: Rule, site: Site) -> None:
    """Rewrite the layer with small whole numbers as weights and run both forms, on each shape that was seen.

    Raises RoundoffError, naming the layer, where they do not give the same values.
    """
    generator = torch.Generator().manual_seed(0)
    old = _with_numbers(site.module, generator)
    new = rule.rewrite(replace(site, module=_copy(old))).module
    new.to(torch.float32)
    for shape in dict.fromkeys(call.shape for call in site.calls):
        x = _numbers(shape, _largest(old), generator)
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            a, b = _run(old, x), _run(new, x)
        if a.shape != b.shape or not torch.equal(a, b):
            raise RoundoffError(
                f"{site.name or '(root)'} was not converted rightly: on whole numbers of shape {list(shape)} "
                "the two forms give different values. Please report this with the layer."
            )


def _run(layer: nn.Module, x: Tensor) -> Tensor:
    y = layer.forward(x)
    assert isinstance(y, Tensor)
    return y


def _largest(layer: nn.Module) -> int:
    weight = layer.weight
    assert isinstance(weight, Tensor)
    terms = max(weight.numel() // min(weight.shape[0], weight.shape[-1]), 1) if weight.dim() == 2 else weight[0].numel()
    return max(1, min(8, isqrt((2**24 - 9) // max(terms, 1))))


def _numbers(shape: tuple[int, ...], most: int, generator: torch.Generator) -> Tensor:
    return torch.randint(-most, most + 1, shape, generator=generator).float()


def _copy(layer: nn.Module) -> nn.Module:
    """A copy with parameters of its own and no hooks."""
    new: Any = layer.__class__.__new__(layer.__class__)
    new.__dict__.update(layer.__dict__)
    new.__dict__["_parameters"] = dict(layer._parameters)
    for name in [n for n in layer.__dict__ if n.endswith("_hooks")]:
        new.__dict__[name] = type(layer.__dict__[name])()
    return new  # type: ignore[no-any-return]


def _with_numbers(layer: nn.Module, generator: torch.Generator) -> nn.Module:
    new = _copy(layer)
    for name, p in layer._parameters.items():
        if p is not None:
            numbers = _numbers(tuple(p.shape), _largest(layer), generator)
            new._parameters[name] = nn.Parameter(numbers, requires_grad=False)
    return new
