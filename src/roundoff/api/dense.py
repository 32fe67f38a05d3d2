"""``convert(to="dense")``: the dense network, joined with the comparisons that prove it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from roundoff.api.comparison import compare
from roundoff.conversion import Conversion, shapes_of
from roundoff.errors import NotSame, RoundoffError
from roundoff.forms.dense import AtCrop, Crops, ExactCells, densify, larger
from roundoff.forms.second import second_input
from roundoff.records import Verdict


def to_dense(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    exact: bool,
    progress: Callable[[int, int, str], None] | None,
) -> Conversion:
    """The dense network of a classifier; ``comparison`` at the crop's size, ``second`` on the exact cells of 3 x 3.

    Raises RoundoffError where there is none, and with ``exact`` where no cell of 3 x 3 is exact; NotSame where a comparison
    says ``different``.
    """
    if not isinstance(model, nn.Module):
        raise RoundoffError(f"convert() was given a {type(model).__name__}, but rewrites a torch.nn.Module.")
    made = densify(model, args, kwargs)
    cells = (3,) * len(made.dense.crop)
    size = made.dense.image(*cells)
    mask = made.dense.mask(*size)
    if exact and not mask.any():
        raise RoundoffError(
            f"No cell of the dense network is exact: {made.dense}. Without exact=True you get it with a mask that says so; "
            "for exact cells give a network without padding, or crops large enough that what it reaches is cut off."
        )
    comparison = compare(model, AtCrop(made.model, made.ranks), args, progress=progress)
    if mask.any():
        offsets = [o for o, e in zip(made.dense.offsets(*size), mask.flatten().tolist(), strict=True) if e]
        crops, found = Crops(model, made.dense.crop, offsets), ExactCells(made.model, made.ranks, mask)
        second = compare(crops, found, larger(args[0], made.dense, cells), progress=progress)
    else:
        second = compare(model, AtCrop(made.model, made.ranks), second_input(args), progress=progress)
    for found_in, compared in (("at the crop's size", comparison), ("on a larger image", second)):
        if compared.verdict == Verdict.DIFFERENT:
            raise NotSame(f"The dense network is not the same {found_in}.\n{compared}")
    shapes = shapes_of(model.state_dict())
    return Conversion("dense", made.model, made.converted, (), 0, {}, shapes, comparison, second, made.dense)
