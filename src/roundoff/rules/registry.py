"""The one table of rules. An operator that is not in it is unknown: never counted as exact."""

from __future__ import annotations

from functools import cache
from typing import Any

from roundoff.errors import RoundoffError
from roundoff.rules.rule import Rule

_RULES: dict[str, Rule] = {}


def register(rule: Rule) -> Rule:
    """Add ``rule`` to the table; a second rule for the same operator is a mistake and raises RoundoffError."""
    for op in rule.ops:
        if op in _RULES:
            raise RoundoffError(f"There are two rules for {op}. Give each operator one.")
        _RULES[op] = rule
    lookup.cache_clear()
    return rule


def replace(rule: Rule) -> None:
    """Put ``rule`` in place of what was known of its operators."""
    for op in rule.ops:
        _RULES[op] = rule
    lookup.cache_clear()


def names_of(op: Any) -> tuple[str, str]:
    """``aten.add.Tensor`` as the names by which a rule may know it: with the overload, and without."""
    name = str(op)
    return name, name.rpartition(".")[0]


@cache
def lookup(op: Any) -> Rule | None:
    """The rule for an OpOverload: its overload's own first, then its operator's, then that of its out-of-place twin."""
    full, packet = names_of(op)
    for name in (full, packet):
        if name in _RULES:
            return _RULES[name]
    if packet.endswith("_") and not packet.endswith("__"):  # in place: the same arithmetic
        for name in (f"{packet[:-1]}.{full.rpartition('.')[2]}", packet[:-1]):
            if name in _RULES:
                return _RULES[name]
    return None


def all_rules() -> list[Rule]:
    """Every rule once, in order of registration."""
    return list(dict.fromkeys(_RULES.values()))
