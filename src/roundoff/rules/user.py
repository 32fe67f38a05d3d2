"""Rules of the user's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from roundoff.errors import RoundoffError
from roundoff.formats import is_inexact
from roundoff.rules.registry import replace
from roundoff.rules.rule import Call, Limit, Nature, Rule


def register_rule(
    op: Any,
    *,
    bound: float | Callable[..., Any] | None = None,
    source: str = "",
    exact: bool = False,
) -> None:
    """Teach roundoff an operator of your own.

    ``op`` is the operator: ``torch.ops.my.gelu``, one of its overloads, or its name ("my::gelu", "my.gelu").
    ``exact=True`` says that it only moves or selects data, so its local error must be 0. Otherwise ``bound`` says how far
    a correct kernel can be from the exact result on the same operands: a number, in ulps of the result; or a function
    that takes the operator's own arguments, tensors in float64, and returns the absolute bound as a float or a float64
    tensor that broadcasts to the result (a tuple of them for several results). One rounding of the result to its own
    format is always allowed on top. ``source`` says where the bound comes from.

    The operator must also run on float64 operands. A rule replaces what was known before.

    Raises RoundoffError when neither or both of ``bound`` and ``exact`` are given, and for a negative bound.

    >>> register_rule("my::gelu", bound=4, source="measured on every float32 argument")
    """
    name = _name(op)
    if exact == (bound is not None):
        raise RoundoffError(
            f"register_rule({name!r}) needs either bound=... or exact=True, and got {'both' if exact else 'neither'}."
        )
    if exact:
        replace(Rule((name,), Nature.EXACT, source=source))
        return
    if isinstance(bound, (int, float)) and not bound >= 0:
        raise RoundoffError(f"register_rule({name!r}): a bound is not negative, and {bound} was given.")
    replace(Rule((name,), Nature.ROUNDS, _as_bound(bound), source=source))


def _as_bound(bound: Any) -> Callable[[Call], Limit | tuple[Limit, ...]]:
    if callable(bound):
        return lambda call: bound(*call.args, **call.kwargs)

    def ulps(call: Call) -> tuple[Limit, ...]:
        # An ulp of a number is at most 2u of it.
        return tuple(y.abs() * (2 * call.u * bound) if is_inexact(y.dtype) else 0.0 for y in call.out)

    return ulps


def _name(op: Any) -> str:
    text = op if isinstance(op, str) else str(op)
    return text.replace("::", ".")
