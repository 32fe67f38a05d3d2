"""Do two steps part because they read the same numbers in other places?

Heads or channels that are exchanged leave every value the same set of numbers, until a step mixes them. Then it looks
as if that step were at fault. So it is tried: the step of one side is given the numbers of the other side, laid out as
it wants them. If now it gives what the other side has, the step is right, and what it read was not: the fault lies
where these numbers first lie in other places than on the other side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, islice, permutations, product
from math import prod
from operator import mul

import torch
from torch import Tensor

from roundoff.formats import is_inexact
from roundoff.judge.parting.caught import Caught
from roundoff.judge.parting.fingerprint import fingerprint
from roundoff.judge.parting.marks import Marks, Role
from roundoff.judge.parting.match import NEAR, Match, Places, alone, cone, is_known, same_places

#: How many layouts of the operands of one step are tried.
_MOST = 64


def misplaced(
    mine: Marks, i: int, my_step: Caught, other: Marks, j: int, its_step: Caught, match: Match
) -> tuple[int, int] | None:
    """The operand of ``i`` that lies in other places than on the other side, and that side's: (mark, mark).

    ``match`` is seen from ``mine``. None when no layout makes the step give what the other side has.
    """
    my_values = my_step.operands
    if len(my_values) != len(mine[i].operands) or len(its_step.operands) != len(other[j].operands):
        return None  # what is looked at was written in parts
    its_values = dict(zip(other.inside_of(other[j].step), its_step.inside, strict=True))
    its_values |= dict(zip(other[j].operands, its_step.operands, strict=True))
    unlike = []
    for position, m in enumerate(mine[i].operands):
        partners = [p for p in its_values if m >= 0 and p in match.a[m]]
        room = max((16 * max(mine[m].room, other[p].room) for p in partners), default=0.0)
        if partners and not any(_is_laid_out(my_values[position], its_values[p], room) for p in partners):
            unlike.append((position, m, partners[0]))
    for chosen in [[pair] for pair in unlike] + ([unlike] if len(unlike) > 1 else []):
        choices = [list(layouts(its_values[p], my_values[position].shape)) for position, _, p in chosen]
        for layout in islice(product(*choices), _MOST):
            put = {position: x for (position, _, _), x in zip(chosen, layout, strict=True)}
            results = my_step.again(put)
            if results is not None and _is_held(results[mine[i].result], other, mine[i].room):
                return chosen[0][1:]
    return None


def layouts(x: Tensor, shape: Sequence[int]) -> Iterator[Tensor]:
    """The ways to lay ``x`` out in ``shape`` by permuting dimensions, with some of them joined or split.

    >>> [y.tolist() for y in layouts(torch.arange(6).view(2, 3), (3, 2))]
    [[[0, 3], [1, 4], [2, 5]]]
    """
    x = x.squeeze()
    wanted = [n for n in shape if n > 1]
    if x.numel() != prod(shape):
        return
    seen = set()
    for order in permutations(range(x.dim())):  # joined
        y = x.permute(order)
        if _cuts(wanted) <= _cuts(y.shape):
            key = (tuple(y.stride()), tuple(y.shape))
            if key not in seen:
                seen.add(key)
                yield y.reshape(tuple(shape))
    for order in permutations(range(len(wanted))):  # split
        split = [wanted[k] for k in order]
        if _cuts(x.shape) < _cuts(split):
            back = [order.index(k) for k in range(len(wanted))]
            yield x.reshape(split).permute(back).reshape(tuple(shape))


def _is_laid_out(x: Tensor, y: Tensor, room: float) -> bool:
    """True when ``x`` is ``y`` in one of its layouts, up to ``room`` of the largest number."""
    size = torch.where(x.isfinite(), x.abs(), 0.0).max()
    near = (((x == z) | ((x - z).abs() <= room * size) | (x.isnan() & z.isnan())).all() for z in layouts(y, x.shape))
    return any(bool(found) for found in near)


def _cuts(shape: Sequence[int]) -> set[int]:
    """Where the dimensions end, counted in elements: a shape whose ends are among another's joins its dimensions."""
    return set(accumulate(shape, mul))


def _is_held(x: Tensor, marks: Marks, room: float) -> bool:
    """True when some value of ``marks`` is these numbers."""
    if not is_inexact(x.dtype) or not x.numel():
        return False
    print = fingerprint(x)
    if print.says_little:
        return False
    return any(m.print.counts == print.counts and print.strays(m.print)[0] <= max(room, m.room) for m in marks.marks)


def first_misplaced(a: Marks, ends_a: Sequence[int], b: Marks, ends_b: Sequence[int], match: Match) -> Places:
    """On each side, the first value on the way to ``ends`` that the other side has in other places only."""
    return Places(_first(a, ends_a, b, match), _first(b, ends_b, a, match.turned()))


def _first(mine: Marks, ends: Sequence[int], other: Marks, match: Match) -> int | None:
    within = [i for i in cone(mine, ends) if mine[i].role is not Role.INSIDE]
    found = alone(mine, within, lambda i: any(same_places(mine[i], other[j]) for j in match.a[i]))
    return next((i for i in found if match.a[i] and is_known(mine[i], NEAR)), None)
