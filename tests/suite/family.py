"""A family: one network that can be written in several ways, and the changes that can be planted in it."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from .draw import SCALES, Draw

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Change:
    """A change in the mathematics: ``then`` are the options of the changed side, ``given`` those of both."""

    kind: str
    then: Options
    given: Options = field(default_factory=dict)


@dataclass(frozen=True)
class Family:
    """``net(draw, **options)`` builds the network, ``inputs(draw)`` its arguments, batch first.

    ``ways``: options that leave the function as it is; the first value is the default. ``settings``: options that
    both sides share. ``limits``: ways that hold only in "float32" (they fold parameters) or for "small" weights (the
    exponential would overflow). ``square``: weights whose transpose has the same shape.
    """

    name: str
    net: Callable[..., nn.Module]
    inputs: Callable[[Draw], tuple[Any, ...]]
    ways: Mapping[str, tuple[Any, ...]]
    settings: tuple[Options, ...] = ({},)
    changes: tuple[Change, ...] = ()
    limits: Mapping[tuple[str, Any], str] = field(default_factory=dict)
    square: tuple[str, ...] = ()
    float32_only: bool = False  # no bfloat16: it has operations that do not take it, on this machine at least

    def allows(self, option: str, value: Any, dtype: torch.dtype, scale: str, folds: bool = True) -> bool:
        """Whether this way is the same function in this dtype at this size of the weights, and wanted."""
        limit = self.limits.get((option, value), "")
        if limit == "float32":
            return folds and dtype == torch.float32
        return limit != "small" or scale in ("default", "tiny")


#: The share of mixtures with threads: more of them than free cores wait for one another.
THREADED = 0.1
#: How a caller may use a network: none of these changes the function.
USES: Mapping[str, tuple[Any, ...]] = {
    "batch": ("whole", "each", "halves"),
    "layout": ("contiguous", "swapped", "channels last"),
    "threads": (0, 2),
}


class Around(nn.Module):
    """A network as somebody calls it.

    ``batch``: in one piece, one sample at a time, or in halves. ``layout``: how the same input lies in memory.
    ``threads``: how many to use while it runs (0: as it is). ``autocast``: in bfloat16.
    """

    def __init__(
        self,
        net: nn.Module,
        batch: str = "whole",
        layout: str = "contiguous",
        threads: int = 0,
        autocast: bool = False,
    ) -> None:
        super().__init__()
        self.net, self.batch, self.layout, self.threads, self.autocast = net, batch, layout, threads, autocast

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with ExitStack() as stack:
            if self.autocast:
                stack.enter_context(torch.autocast("cpu", torch.bfloat16))
            if self.threads:
                stack.callback(torch.set_num_threads, torch.get_num_threads())
                torch.set_num_threads(self.threads)
            out = self._batches(tree_map(self._laid_out, args), kwargs)
        # Which results autocast leaves in bfloat16 depends on how they are written: the caller wants float32.
        return tree_map(lambda x: x.float() if x.dtype == torch.bfloat16 else x, out) if self.autocast else out

    def _batches(self, args: Any, kwargs: Any) -> Any:
        n = len(tree_leaves(args)[0])
        size = {"whole": n, "each": 1, "halves": (n + 1) // 2}[self.batch]
        if size == n:
            return self.net(*args, **kwargs)
        parts = [tree_map(lambda x, i=i: x[i : i + size], args) for i in range(0, n, size)]
        return tree_map(lambda *outs: torch.cat(outs), *[self.net(*part, **kwargs) for part in parts])

    def _laid_out(self, x: Tensor) -> Tensor:
        if self.layout == "channels last" and x.dim() == 4:
            return x.contiguous(memory_format=torch.channels_last)
        if self.layout == "swapped" and x.dim() > 1:
            return x.transpose(0, 1).contiguous().transpose(0, 1)
        return x


def singles(family: Family) -> list[dict[str, Any]]:
    """Every way of the family that is not the plain one, alone."""
    return [{option: value} for option, values in family.ways.items() for value in values[1:]]


def mixture(
    family: Family,
    source: random.Random,
    dtype: torch.dtype,
    scale: str,
    chance: float = 0.6,
    *,
    folds: bool = True,
) -> dict[str, Any]:
    """A random choice of ways and uses: each other than plain with this chance, where it is the same function."""
    found = {}
    for option, values in {**family.ways, **USES}.items():
        others = [v for v in values[1:] if family.allows(option, v, dtype, scale, folds)]
        if others and source.random() < (THREADED if option == "threads" else chance):
            found[option] = source.choice(others)
    return found


def build(family: Family, draw: Draw, options: Options, *, autocast: bool = False) -> nn.Module:
    """The network of a family with these options, used as they say."""
    inner = {k: v for k, v in options.items() if k not in USES}
    outer = {k: v for k, v in options.items() if k in USES}
    return Around(family.net(draw, **inner), autocast=autocast, **outer).eval()


def described(a: Options, b: Options) -> str:
    """Where two sets of options part, in words."""
    parts = [f"{k}: {a.get(k, '-')} | {b.get(k, '-')}" for k in {**a, **b} if a.get(k) != b.get(k)]
    return ", ".join(parts) or "alike"


def sizes(source: random.Random) -> tuple[str, float]:
    """How large the weights and the inputs are; half of the time as PyTorch makes them."""
    if source.random() < 0.5:
        return "default", source.choice((1.0, 1.0, 0.01, 30.0))
    return source.choice(SCALES), source.choice((1.0, 0.01))
