"""``convert(to="fastest")`` and ``roundoff bench``: the measurement, joined with the comparisons that prove the winner."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from roundoff.api.comparison import compare
from roundoff.conversion import Conversion
from roundoff.errors import NotSame, RoundoffError
from roundoff.forms.fastest import fastest
from roundoff.forms.second import second_input
from roundoff.records import Verdict


def to_fastest(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    progress: Callable[[int, int, str], None] | None,
) -> Conversion:
    """The network in the form that is measured to be the fastest; ``model`` of the result is the original where none is.

    Raises RoundoffError for a network that cannot be copied or does not run; NotSame where a comparison says ``different``.
    """
    found = fastest(model, args, kwargs, progress or _silent)
    winner = found.winner
    new = model if winner is None else winner.model
    comparison, second = compare(model, new, args, kwargs, progress=progress), None
    if winner is not None:
        drawn, keywords = second_input((args, kwargs))
        try:
            second = compare(model, new, drawn, keywords, progress=progress)
        except RoundoffError as error:
            if not str(error).startswith("A raised"):  # the original does not take this input
                raise
    for compared in (comparison, second):
        if compared is not None and winner is not None and compared.verdict == Verdict.DIFFERENT:
            raise NotSame(f"The fastest network ({winner.name}) is not the same.\n{compared}")
    found = found.confirmed()  # after the comparisons, which take a while: a load that comes and goes is not a gain
    if found.winner is None:
        if winner is not None:
            new, comparison, second = model, compare(model, model, args, kwargs, progress=progress), None
        given: tuple[Any, ...] = ((), found.declined, 0, {}, found.shapes, comparison, second)
    else:
        won = found.winner
        given = (won.converted, found.declined, won.changes, won.maps, found.shapes, comparison, second)
    return replace(Conversion("fastest", new, *given), fastest=found.fastest)


def _silent(done: int, total: int, what: str) -> None:
    """Progress that is not asked for."""
