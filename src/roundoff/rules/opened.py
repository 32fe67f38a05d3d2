"""The bound of an operator without a rule, through PyTorch's decompositions."""

from __future__ import annotations

from roundoff.rules.rule import Call, Limit


def opened(call: Call) -> tuple[Limit, ...] | None:
    """None: nothing is known."""
    return None
