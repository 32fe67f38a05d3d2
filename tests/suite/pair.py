"""A pair of networks and what is true of it, found without the library: natively, and by deep copies in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map


@dataclass(frozen=True)
class Pair:
    """Two networks, their arguments, and the context (gradient mode, planted kernel) in which they run.

    ``kind``: the change that is planted in ``b``; empty where both are the same function. ``clean``: ``b`` without it.
    ``native``: the change is one of kernels or of dtypes, and does not exist in float64.
    """

    label: str
    kind: str
    a: nn.Module
    b: nn.Module
    args: tuple[Any, ...]
    context: Callable[[], AbstractContextManager[Any]]
    kwargs: dict[str, Any] = field(default_factory=dict)
    clean: nn.Module | None = None
    native: bool = False


@dataclass(frozen=True)
class Truth:
    """``bits``: some output bit differs. Relative to the largest output: ``real``, the difference of the float64 copies,
    ``noise``, that of two float64 copies that are the same function, and ``native``, the difference of the outputs.
    """

    bits: bool
    real: float
    noise: float
    native: float

    @property
    def above_floor(self) -> bool:
        """Whether the float64 copies part by more than their rounding: 100 times what was seen, and 64 units of it."""
        return self.real > max(100 * self.noise, 64 * 2.0**-53)


_WIDE = {torch.complex64: torch.complex128, torch.complex128: torch.complex128}


def wide(thing: Any) -> Any:
    """A deep copy in float64 (complex128), exact for every narrower format."""
    if isinstance(thing, nn.Module):
        thing = copy.deepcopy(thing)
        return thing._apply(wide)
    if isinstance(thing, Tensor) and (thing.is_floating_point() or thing.is_complex()):
        return thing.detach().to(_WIDE.get(thing.dtype, torch.float64))
    return thing


def outputs(net: nn.Module, pair: Pair) -> list[Tensor]:
    """The output leaves of a native run."""
    torch.manual_seed(0)
    out = net(*tree_map(clone, pair.args), **tree_map(clone, pair.kwargs))
    return [leaf.detach() for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]


def wide_outputs(net: nn.Module, pair: Pair) -> list[Tensor]:
    """The output leaves of the float64 copy."""
    with torch.no_grad():
        out = wide(net)(*tree_map(wide, pair.args), **tree_map(wide, pair.kwargs))
    return [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]


def clone(thing: Any) -> Any:
    """A copy of a tensor that lies in memory as it does; anything else as it is."""
    return thing.clone() if isinstance(thing, Tensor) else thing


def distance(left: list[Tensor], right: list[Tensor]) -> float:
    """The largest difference, each output relative to its largest value; infinite where a shape or a NaN differs."""
    worst = 0.0
    for x, y in zip(left, right, strict=True):
        if x.shape != y.shape:
            return float("inf")
        x, y = wide(x), wide(y)
        unlike = ~((x == y) | (x.isnan() & y.isnan()))
        if bool(unlike.any()):
            gap = (x - y)[unlike].abs().max() / x[x.isfinite()].abs().amax().clamp(min=1e-300)
            worst = max(worst, float(gap.nan_to_num(nan=float("inf"), posinf=float("inf"))))
    return worst


def same_bits(left: list[Tensor], right: list[Tensor]) -> bool:
    """Whether all outputs have the same bits: signs of zero count, all NaN are one."""
    for x, y in zip(left, right, strict=True):
        if x.shape != y.shape or x.dtype != y.dtype:
            return False
        if x.is_complex():
            x, y = (torch.view_as_real(t.resolve_conj()) for t in (x, y))
        equal = (x == y) & (torch.signbit(x) == torch.signbit(y)) | (x.isnan() & y.isnan())
        if not bool(equal.all()):
            return False
    return True


def measure(pair: Pair) -> Truth:
    """What is true of a pair."""
    with pair.context():
        a, b = outputs(pair.a, pair), outputs(pair.b, pair)
    return truth_of(pair, a, b)


def truth_of(pair: Pair, a: list[Tensor], b: list[Tensor]) -> Truth:
    """The same from native outputs. The float64 copies know nothing of a planted kernel: it is wrong in float32 only."""
    real = noise = 0.0
    if not pair.native:
        wide_a, wide_b = wide_outputs(pair.a, pair), wide_outputs(pair.b, pair)
        real = distance(wide_a, wide_b)
        noise = distance(wide_a, wide_outputs(pair.clean, pair)) if pair.clean else 0.0
    return Truth(not same_bits(a, b), real, noise, distance(a, b))
