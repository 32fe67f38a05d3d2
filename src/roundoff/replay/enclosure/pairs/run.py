"""Enclose a wide run in pairs: what is known of each wide value is a correction and a radius."""

from __future__ import annotations

from math import inf
from typing import Any

import torch
from torch import Tensor

from roundoff.replay.enclosure import ball as b
from roundoff.replay.enclosure.ball import Ball, Faulty, Unknown
from roundoff.replay.enclosure.opened import balls_of
from roundoff.replay.enclosure.pairs.pair import Pair, finished, rough
from roundoff.replay.enclosure.pairs.registry import is_real, on_balls, pairs_of
from roundoff.replay.enclosure.radii import Radii, around
from roundoff.replay.enclosure.registry import Operation
from roundoff.replay.enclosure.run import Enclosure
from roundoff.tape.leaves import map_operands
from roundoff.tape.watch import Step

#: A radius that is more than this part of the largest number of its tensor is of the size of float64's rounding.
_COARSE = 2.0**-60

#: Where every radius of a step's result is more than this part of the largest number that it is made of, there is nothing
#: to be proved any more: it is not looked at further, which saves its time.
_HOPELESS = 2.0**-24

#: What a tensor of the wide run may differ by from the midpoints that are computed here, as a part of its largest number,
#: before more is asked: far more than rounding makes, but where everything cancels.
_KERNELS = 2.0**-40

#: How many times its own rigorous bound in float64 a kernel of the wide run may then be off.
_BEYOND = 8


class _Tails(Radii):
    """The radii of the tails, and beside them their midpoints, which have signs."""

    def __init__(self) -> None:
        super().__init__()
        self._lows = Radii()

    def pair(self, x: Tensor, mid: Tensor) -> Pair | Ball:
        """``mid``, the wide value of ``x``, with its tail; whole numbers, booleans and complex numbers as a ball."""
        error = self.ball(x, mid)
        low = self._lows.ball(x, mid).rad
        if not is_real(x):
            return error if low is None else Ball(mid, torch.full(x.shape, inf, dtype=torch.float64, device=x.device))
        if low is None:
            return (
                Pair(mid) if error.rad is None else Pair(mid, Ball(torch.zeros_like(error.rad), error.rad, error.norm))
            )
        if not bool(low.isfinite().all()):  # bits that are read in another format
            return Pair(mid, Ball(torch.zeros_like(low), torch.full_like(low, inf)))
        return Pair(mid, Ball(low, error.rad, error.norm))

    def set(self, x: Tensor, ball: Any) -> None:
        """Give ``x`` the tail of a pair, or the radius of a ball; None where it is exact."""
        if isinstance(ball, Pair):
            tail = ball.tail
            self._lows.set(x, None if tail is None else Ball(ball.mid, tail.mid))
            super().set(x, None if tail is None else Ball(ball.mid, tail.rad, tail.norm))
            return
        self._lows.set(x, None)
        super().set(x, ball)


class PairEnclosure(Enclosure):
    """An enclosure in pairs. ``coarse`` names the step from which on its radii are of the size of float64's rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.radii: _Tails = _Tails()
        self.coarse = ""
        self._hopeless = False

    def correction(self, x: Tensor) -> Tensor | None:
        """What must be added to an output's wide value, which is then within ``value(x)`` of the exact one."""
        found = self.radii.pair(x, x)
        return found.low.clone() if isinstance(found, Pair) else torch.zeros(x.shape, dtype=torch.float64)

    def value(self, x: Tensor) -> Tensor:
        """How far an output's corrected wide value can be from the exact one, of its shape."""
        found = self.radii.pair(x, x)
        return (found.error if isinstance(found, Pair) else found.radius).clone()

    def _kept(self, x: Tensor) -> Any:
        found = self.radii.pair(x, self._wide.twins.wide(x))
        if isinstance(found, Ball):
            return Ball(found.mid.clone(), None if found.rad is None else found.rad.clone(), found.norm)
        tail = found.tail
        if tail is not None:
            tail = Ball(tail.mid.clone(), None if tail.rad is None else tail.rad.clone(), tail.norm)
        return Pair(found.mid.clone(), tail)

    def _is_exact(self, x: Tensor) -> bool:
        found = self._old.get(id(x))
        found = found if found is not None else self.radii.pair(x, x)
        return (found.tail if isinstance(found, Pair) else found.rad) is None

    def _ball(self, x: Tensor) -> Any:
        old = self._old.get(id(x))
        return old if old is not None else self.radii.pair(x, self._wide.twins.wide(x))

    def _enclose(self, step: Step, operation: Operation) -> list[Any]:
        if self._hopeless:
            raise Unknown("what it is given has errors of the size of the round-off")
        found = pairs_of(operation.op, operation)
        if len(found) != len(operation.out):
            raise Unknown(f"its enclosure has {len(found)} results")
        both = [settled(w, x) for w, x in zip(operation.out, found, strict=True)]
        if any(far for _, far in both) and is_faulty(operation, found):
            raise Faulty("its kernel in float64 is off")
        kept = [x for x, _ in both]
        if not self.coarse and any(isinstance(x, Pair) and is_coarse(x) for x in kept[:1]):
            self.coarse = f"{step.op} ({step.where})"
        if isinstance(kept[0], Pair) and is_hopeless(kept[0], operation):
            self._hopeless = True
            raise Unknown("its errors may be of the size of the round-off")
        return kept


def settled(x: Tensor, found: Pair | Ball) -> tuple[Pair | Ball, bool]:
    """The same exact numbers, with ``x`` as the midpoint, and whether that is far from theirs.

    Raises Unknown where its shape is another.
    """
    if isinstance(found, Ball):
        return around(x, found), False
    if found.mid.shape != x.shape:
        raise Unknown(f"its enclosure has the shape {list(found.mid.shape)}")
    same = (found.mid == x) | (found.mid.isnan() & x.isnan())
    if bool(same.all()):
        return Pair(x, None if found.tail is None else b.tight(found.tail)), False
    apart = b.sub(Ball(torch.where(same, 0.0, found.mid)), Ball(torch.where(same, 0.0, x)))
    tail = apart if found.tail is None else b.add(apart, found.tail)
    if not bool(apart.mid.isfinite().all()):  # one of the two is infinite or NaN, and the other is not the same
        odd = ~apart.mid.isfinite()
        tail = Ball(tail.mid.masked_fill(odd, 0.0), tail.radius.masked_fill(odd, inf))
    size = torch.where(x.isfinite(), x.abs(), 0.0).max()
    given = Pair(torch.where(same, found.mid, 0.0), found.tail)  # an infinity that both have
    return finished(x, tail, given), bool((apart.size > size * _KERNELS).any())


def is_faulty(o: Operation, found: tuple[Pair | Ball, ...]) -> bool:
    """True where a wide result is beyond what rounding in float64 can make, or ``found`` where no exact number can be."""
    for w, x, ball in zip(o.out, found, balls_of(o.op, on_balls(o)), strict=True):
        if not is_real(w) or not isinstance(x, Pair):
            continue
        reach = rough(x).radius + ball.radius
        if bool(((b.gap(x.mid, ball.mid) > reach) | (b.gap(w, ball.mid) > _BEYOND * reach)).any()):
            return True
    return False


def largest(x: Tensor) -> float:
    """The largest of its finite numbers in size, or 0."""
    return float(torch.where(x.isfinite(), x.abs(), 0.0).max()) if x.numel() else 0.0


def is_coarse(x: Pair) -> bool:
    """True where a radius is of the size of float64's rounding."""
    if x.tail is None or x.tail.rad is None or not x.mid.numel():
        return False
    return float(torch.where(x.mid.isfinite(), x.tail.rad, 0.0).max()) > largest(x.mid) * _COARSE


def is_hopeless(x: Pair, made_of: Operation) -> bool:
    """True where every radius is finite, and of the size of the native round-off."""
    if x.tail is None or x.tail.rad is None or not x.mid.numel() or not bool(x.tail.rad.isfinite().all()):
        return False
    sizes = [largest(x.mid)]
    map_operands(lambda v: sizes.append(largest(v.mid)) if isinstance(v, Pair) else None, made_of.args)
    return float(x.tail.rad.min()) > max(sizes) * _HOPELESS
