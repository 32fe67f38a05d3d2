"""The one table of enclosures: for an operator, the ball of its exact result from the balls of its operands.

An enclosure computes a midpoint of its own, in float64, and a radius that is rigorous for it. The wide run's result need
only be near: how far it is from that midpoint is added. So an enclosure trusts no kernel but those in its own formulas.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from roundoff.formats import is_inexact, wide_dtype
from roundoff.replay.enclosure.ball import Ball, Uncertain, Unknown
from roundoff.rules.registry import names_of
from roundoff.tape.leaves import map_operands, operands


@dataclass(frozen=True)
class Operation:
    """One step on balls: each tensor among ``args`` and ``kwargs`` is a :class:`Ball`; ``out`` the wide results."""

    op: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: tuple[Tensor, ...]

    def arg(self, index: int, name: str, default: Any = None) -> Any:
        """The argument at ``index`` or called ``name``."""
        value = self.args[index] if index < len(self.args) else self.kwargs.get(name, default)
        return default if value is None else value

    @property
    def name(self) -> str:
        """The operator's name without namespace and overload; without the underscore of an operator in place."""
        return str(self.op).split(".")[1].removesuffix("_")

    @property
    def balls(self) -> list[Ball]:
        """The operands."""
        found: list[Ball] = []

        def note(value: Any) -> Any:
            if isinstance(value, Ball):
                found.append(value)

        map_operands(note, [self.args, self.kwargs])
        return found

    def on(self, part: Callable[[Ball], Tensor | None]) -> list[Tensor]:
        """The operator itself, on one part of each ball, as the wide run calls it."""
        args = map_operands(lambda v: part(v) if isinstance(v, Ball) else _wide(v), self.args)
        kwargs = {k: map_operands(lambda v: part(v) if isinstance(v, Ball) else _wide(v), v)
                  for k, v in self.kwargs.items()}  # fmt: skip
        results = operands(self.op(*args, **kwargs))
        return results


def _wide(value: Any) -> Any:
    return wide_dtype(value) if isinstance(value, torch.dtype) else value


Enclosing = Callable[[Operation], Ball | tuple[Ball, ...]]

Rule = TypeVar("Rule", bound=Callable[..., Any])


class Table(Generic[Rule]):
    """What is registered for ``aten`` operators, by name or by one overload of it."""

    def __init__(self) -> None:
        self._rules: dict[str, Rule] = {}
        self._found: dict[Any, Rule | None] = {}

    def put(self, *names: str) -> Callable[[Rule], Rule]:
        """Register a rule, as a decorator."""

        def register(rule: Rule) -> Rule:
            for name in names:
                assert f"aten.{name}" not in self._rules, f"two rules for {name}"
                self._rules[f"aten.{name}"] = rule
            self._found.clear()
            return rule

        return register

    def get(self, op: Any) -> Rule | None:
        """The rule of an OpOverload: its own, its operator's, or that of its out-of-place twin."""
        if op not in self._found:
            full, packet = names_of(op)
            names = [full, packet]
            if packet.endswith("_") and not packet.endswith("__"):
                names += [f"{packet[:-1]}.{full.rpartition('.')[2]}", packet[:-1]]
            self._found[op] = next((self._rules[name] for name in names if name in self._rules), None)
        return self._found[op]

    def names(self) -> list[str]:
        """Every name that has a rule."""
        return sorted(self._rules)


_TABLE: Table[Enclosing] = Table()
enclose, enclosure_of, names = _TABLE.put, _TABLE.get, _TABLE.names


def real(x: Ball) -> Ball:
    """``x`` with a float64 midpoint; integers and booleans as numbers. Raises Unknown for complex numbers."""
    if x.mid.is_complex():
        raise Unknown("complex numbers")
    return x if x.mid.dtype == torch.float64 else Ball(x.mid.to(torch.float64), x.rad)


def certain(x: Ball) -> Tensor:
    """The integers or booleans of a ball, where they can be no others. Raises Uncertain where they can."""
    if x.rad is not None and not is_inexact(x.mid.dtype) and bool((x.rad != 0).any()):
        raise Uncertain(f"{int((x.rad != 0).sum())} choices that lie within the bound of their threshold")
    return x.mid
