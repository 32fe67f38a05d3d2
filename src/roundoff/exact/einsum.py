"""``torch.einsum`` as sums of products: of two operands one sum, rounded once; of more, from left to right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from roundoff.errors import RoundoffError
from roundoff.exact import ops
from roundoff.exact.contractions import sum
from roundoff.exact.gradients import expand
from roundoff.exact.rounding import short_dtype

DOTS = "0123456789"  # what the places of an ellipsis are called, the last one first


def einsum(equation: str, *operands: Any) -> Tensor:
    """As ``torch.einsum``. Operands beyond two are taken in from left to right, each product being rounded once.

    >>> import torch
    >>> einsum("ij,jk->ik", torch.eye(2), torch.ones(2, 3)).tolist()
    [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]
    """
    if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
        operands = tuple(operands[0])
    short_dtype("einsum", *operands)
    names, wanted = _labels(equation, operands)
    pieces = [_diagonal(x, label) for x, label in zip(operands, names, strict=True)]
    sizes: dict[str, int] = {}
    for x, label in pieces:
        for name, n in zip(label, x.shape, strict=True):
            if n != 1 and sizes.setdefault(name, n) != n:
                raise RoundoffError(f"exact.einsum: {equation!r} does not fit {[list(o.shape) for o in operands]}.")
            sizes.setdefault(name, n)
            sizes[name] = max(sizes[name], n) if n != 1 else sizes[name]
    pieces = [(expand(x, [sizes[n] for n in label]), label) for x, label in pieces]
    x, label = pieces[0]
    if len(pieces) == 1:
        gone = [i for i, n in enumerate(label) if n not in wanted]
        y = sum(x, gone) if gone else x
        left = [n for n in label if n in wanted]
        return y.permute([left.index(n) for n in wanted])
    for i, (other, name) in enumerate(pieces[1:], start=1):
        later = set(wanted).union(*(label for _, label in pieces[i + 1 :]))
        keep = [n for n in dict.fromkeys([*label, *name]) if n in later]
        if i == len(pieces) - 1:
            keep = list(wanted)
        x, label = _pair(x, label, other, name, keep, sizes), "".join(keep)
    return x


def _labels(equation: str, operands: Sequence[Tensor]) -> tuple[list[str], str]:
    """The names of the dimensions of each operand and of the result, without ellipses."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    names = left.split(",")
    if len(names) != len(operands):
        raise RoundoffError(f"exact.einsum: {equation!r} names {len(names)} operands, and {len(operands)} were given.")
    longest, given, names = "", names, []
    for name, x in zip(given, operands, strict=True):
        dots = DOTS[: x.dim() - len(name) + 3][::-1] if "..." in name else ""
        longest = dots if len(dots) > len(longest) else longest
        names.append(name.replace("...", dots))
        if len(names[-1]) != x.dim():
            raise RoundoffError(f"exact.einsum: {name!r} does not fit the shape {list(x.shape)}.")
    every = "".join(names)
    if arrow:
        wanted = right.replace("...", longest)
        if len(set(wanted)) != len(wanted) or not set(wanted) <= set(every):
            raise RoundoffError(f"exact.einsum: {right!r} names what no operand has, or one twice.")
        return names, wanted
    return names, longest + "".join(sorted(n for n in set(every) - set(DOTS) if every.count(n) == 1))


def _diagonal(x: Tensor, label: str) -> tuple[Tensor, str]:
    """Without names that are there twice."""
    for name in label:
        while label.count(name) > 1:
            a = label.index(name)
            b = label.index(name, a + 1)
            x = torch.diagonal(x, dim1=a, dim2=b)
            label = label[:a] + label[a + 1 : b] + label[b + 1 :] + name
    return x, label


def _pair(a: Tensor, a_names: str, b: Tensor, b_names: str, keep: Sequence[str], sizes: dict[str, int]) -> Tensor:
    """Σ a · b over the names that are not kept, rounded once; the result has the names of ``keep`` in their order."""
    gone = [n for n in dict.fromkeys([*a_names, *b_names]) if n not in keep]
    both = [n for n in keep if n in a_names and n in b_names]
    first = [n for n in keep if n in a_names and n not in both]
    second = [n for n in keep if n in b_names and n not in both]

    def matrix(x: Tensor, names: str, order: Sequence[str]) -> Tensor:
        absent = [n for n in order if n not in names]  # summed over in the other operand alone
        x = expand(x.reshape(*x.shape, *[1] * len(absent)), [*x.shape, *[sizes[n] for n in absent]])
        every = [*names, *absent]
        return x.permute([every.index(n) for n in order])

    def count(names: Sequence[str]) -> int:
        return math.prod([sizes[n] for n in names])

    left = matrix(a, a_names, [*both, *first, *gone]).reshape(count(both), count(first), count(gone))
    right = matrix(b, b_names, [*both, *gone, *second]).reshape(count(both), count(gone), count(second))
    y = ops.products(left, right).reshape([sizes[n] for n in [*both, *first, *second]])
    order = [*both, *first, *second]
    return y.permute([order.index(n) for n in keep])
