"""The table of operators that are known on pairs. Any other is asked of the balls around the midpoints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from roundoff.formats import is_inexact
from roundoff.replay.enclosure.ball import Ball, Faulty, Unknown
from roundoff.replay.enclosure.opened import balls_of
from roundoff.replay.enclosure.pairs.pair import Pair, number, of_ball, rough
from roundoff.replay.enclosure.registry import Operation, Table
from roundoff.tape.leaves import map_operands

Result = Pair | Ball  # a ball for whole numbers and booleans, and for what is not followed
Pairing = Callable[[Operation], Result | tuple[Result, ...]]

_TABLE: Table[Pairing] = Table()
pair, rule_of, names = _TABLE.put, _TABLE.get, _TABLE.names


def pairs_of(op: Any, operation: Operation) -> tuple[Result, ...]:
    """The results of ``operation``, whose operands are pairs, or balls of whole numbers. Raises Unknown."""
    rule = rule_of(op)
    if rule is not None and any(is_real(x) for x in operation.out if isinstance(x, torch.Tensor)):
        try:
            found = rule(operation)
            return found if isinstance(found, tuple) else (found,)
        except Faulty:
            raise
        except Unknown:
            pass
    return tuple(of_ball(x) if is_real(x.mid) else x for x in balls_of(op, on_balls(operation)))


def is_real(x: torch.Tensor) -> bool:
    """True for floats that are not complex."""
    return is_inexact(x.dtype) and not x.is_complex()


def on_balls(o: Operation, part: Callable[[Pair], Ball] = rough) -> Operation:
    """The same step on balls: those around the midpoints, or what ``part`` takes from each pair."""

    def given(value: Any) -> Any:
        return part(value) if isinstance(value, Pair) else value

    args = tuple(map_operands(given, a) for a in o.args)
    return Operation(o.op, args, {k: map_operands(given, v) for k, v in o.kwargs.items()}, o.out)


def real(x: Any) -> Pair:
    """An operand as a pair: whole numbers and booleans as numbers, where they are certain."""
    if isinstance(x, Pair):
        return x if x.mid.dtype == torch.float64 else Pair(x.mid.to(torch.float64), x.tail)
    if not isinstance(x, Ball) or x.mid.is_complex() or x.rad is not None:
        raise Unknown("an operand that is not a certain number")
    return Pair(x.mid.to(torch.float64))


def value(x: Any, like: torch.Tensor) -> Pair:
    """An operand or a written number as a pair."""
    return real(x) if isinstance(x, (Pair, Ball)) else number(x, like)
