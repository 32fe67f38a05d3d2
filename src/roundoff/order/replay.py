"""Add in the order of a tree, by software, with the kernel's own roundings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from roundoff.order.arithmetic import SHORT, Array, add_many, align_and_cut, fma64, half_rounder, two_product
from roundoff.order.tree import SumTree

AT_ONCE = 2**23  # numbers kept at a time


@dataclass(frozen=True)
class Arithmetic:
    """How a kernel rounds: the format in which it adds; whether the result is rounded to the operands' format before the
    last addition, that of the bias; how a mean is made of the sum; and how many bits an addition of more than two keeps
    below those of its largest part, None where it rounds the exact sum. ``operands``: the format to which it rounds what it
    multiplies, a name of :data:`roundoff.order.arithmetic.SHORT`, empty where it does not."""

    adds_in: torch.dtype
    early: bool = False
    division: str = ""  # "", "divide" or "multiply"
    extra: int | None = None
    operands: str = ""


def arithmetics(dtype: torch.dtype, bias_last: bool, divided: bool, wide: bool, operands: str = "") -> list[Arithmetic]:
    """What a kernel of this format may do; the usual first."""
    formats = {
        torch.float64: [torch.float64],
        torch.float32: [torch.float32, torch.float64],
    }.get(dtype, [torch.float32, dtype, torch.float64])
    divisions = ["divide", "multiply"] if divided else [""]
    early = [False, True] if bias_last and dtype in (torch.bfloat16, torch.float16) else [False]
    found = [Arithmetic(f, e, d, operands=operands) for f in formats for e in early for d in divisions]
    if wide:
        cut = [replace(how, extra=n) for how in found if how.adds_in == torch.float32 for n in range(4)]
        found = cut + found
    return found


def replay_in(
    tree: SumTree,
    fused: frozenset[int],
    arithmetic: Arithmetic,
    x: Tensor,
    w: Tensor | None,
    b: Tensor | None,
    divisor: int | None = None,
) -> Tensor:
    """The sums in the order of ``tree``: x [n, products] times w [n, products], element by element, and b [n]; to [n].

    Of a mean, what the sum is divided by is ``divisor``, the length of the tree where that is None.
    """
    step = max(1, AT_ONCE // (2 * tree.length))
    parts = []
    for at in range(0, len(x), step):
        rows = slice(at, at + step)
        parts.append(
            _replay(
                tree,
                fused,
                arithmetic,
                x[rows],
                None if w is None else w[rows],
                None if b is None else b[rows],
                divisor or tree.length,
            )
        )
    return torch.cat(parts)


def _replay(
    tree: SumTree,
    fused: frozenset[int],
    how: Arithmetic,
    x: Tensor,
    w: Tensor | None,
    b: Tensor | None,
    divisor: int,
) -> Tensor:
    dtype, n = x.dtype, tree.length
    if how.operands:
        shorter = SHORT[how.operands]
        x, w = shorter(x), None if w is None else shorter(w)
    high, low = _products(x, w, b)
    single = how.adds_in != torch.float64
    rounder = _rounder(how.adds_in)
    values = np.empty((n + len(tree.nodes), high.shape[1]), dtype=np.float32 if single else np.float64)
    values[:n] = rounder(high)
    last = len(tree.nodes) - 1

    def exact(i: int) -> tuple[Array, Array]:
        return (high[i], low[i] if low is not None else np.zeros_like(high[i])) if i < n else _wide(values[i])

    for nodes in _levels(tree):
        plain = [m for m in nodes if len(tree.nodes[m]) == 2 and not (how.early and m == last)]
        joined = {m: i for m in plain for i in tree.nodes[m] if i in fused}
        apart = [m for m in plain if m not in joined]
        if apart:
            left, right = np.array([tree.nodes[m] for m in apart]).T
            values[np.array(apart) + n] = rounder(values[left] + values[right]) if how.adds_in != torch.float32 else (
                values[left] + values[right]
            )  # fmt: skip
        if joined:
            at, product = np.array(list(joined)), np.array(list(joined.values()))
            other = np.array([sum(tree.nodes[m]) - i for m, i in joined.items()])
            if single:
                parts = [_wide(high[product]), _wide(values[other])]
                values[at + n] = add_many(parts, rounder)
            else:
                lows = np.zeros_like(high[product]) if low is None else low[product]
                values[at + n] = fma64(high[product], lows, values[other])
        for m in nodes:
            if len(tree.nodes[m]) > 2 and how.extra is not None:
                values[m + n] = align_and_cut([exact(i)[0] for i in tree.nodes[m]], how.extra)
            elif len(tree.nodes[m]) > 2:
                values[m + n] = add_many([exact(i) for i in tree.nodes[m]], rounder)
    if how.early:
        first = half_rounder(dtype)(values[tree.nodes[last][0]])
        values[last + n] = first.astype(values.dtype) + values[tree.nodes[last][1]]
    total = values[-1]
    if how.division == "divide":
        total = rounder(total / values.dtype.type(divisor))
    elif how.division == "multiply":
        total = rounder(total * (values.dtype.type(1) / values.dtype.type(divisor)))
    if dtype in (torch.bfloat16, torch.float16):
        total = half_rounder(dtype)(total)
    return torch.from_numpy(np.ascontiguousarray(total)).to(dtype)


def _products(x: Tensor, w: Tensor | None, b: Tensor | None) -> tuple[Array, Array | None]:
    """[summands, n] in float64: the products, exact for float32 and shorter, else with what the rounding took."""
    a = np.ascontiguousarray(x.detach().double().numpy().T)
    low = None
    if w is not None:
        c = np.ascontiguousarray(w.detach().double().numpy().T)
        if x.dtype == torch.float64:
            a, low = two_product(a, c)
        else:
            a = a * c
    if b is not None:
        row = b.detach().double().numpy()[None]
        a = np.concatenate([a, row])
        low = None if low is None else np.concatenate([low, np.zeros_like(row)])
    return a, low


def _wide(a: Array) -> tuple[Array, Array]:
    wide = a.astype(np.float64)
    return wide, np.zeros_like(wide)


def _rounder(dtype: torch.dtype) -> Callable[[Array], Array]:
    if dtype == torch.float64:
        return lambda a: a
    if dtype == torch.float32:
        return lambda a: a.astype(np.float32)
    return half_rounder(dtype)


def _levels(tree: SumTree) -> list[list[int]]:
    """The additions that can be done side by side, from the first to the last."""
    found: dict[int, list[int]] = defaultdict(list)
    for m in range(len(tree.nodes)):
        found[tree.heights[tree.length + m]].append(m)
    return [found[h] for h in sorted(found)]
