"""The tapes of two networks beside each other, step by step, and the place where they part."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class TapeRow:
    """A step of A beside the step of B with the same values; one of them is empty where the other side has none.

    ``same`` says that the values are the same in exact arithmetic, ``parting`` that the networks part here: from here on
    the other side has no counterpart.
    """

    a: str
    b: str
    same: bool
    parting: bool = False


def tape_rows(
    a: Sequence[str],
    b: Sequence[str],
    pairs: Iterable[tuple[int, int]],
    parting_a: int | None = None,
    parting_b: int | None = None,
) -> tuple[TapeRow, ...]:
    """Lay two tapes beside each other: ``a`` and ``b`` are the steps in words, ``pairs`` those with the same values.

    The rows keep A's order, and B's where the two agree in it: a step of B that was computed at another time stands
    beside its counterpart. A step stands once; of several pairs of one step the first counts. The two steps at which the
    networks part stand in one row.
    """
    of_a: dict[int, int] = {}
    of_b: dict[int, int] = {}
    for i, j in pairs:
        if i not in of_a and j not in of_b:
            of_a[i], of_b[j] = j, i
    together: dict[int, int] = {}  # the two steps at which they part, where neither has a counterpart
    if parting_a is not None and parting_b is not None and parting_a not in of_a and parting_b not in of_b:
        together[parting_a] = parting_b
    rows: list[TapeRow] = []
    told = set(together.values())
    for i, text in enumerate(a):
        beside = of_a.get(i, together.get(i))
        if beside is None:
            rows.append(TapeRow(text, "", same=False, parting=i == parting_a))
            continue
        rows += _alone(b, beside, of_b, told, parting_b)
        parting = i == parting_a or beside == parting_b
        rows.append(TapeRow(text, b[beside], same=i in of_a, parting=parting))
    return (*rows, *_alone(b, len(b), of_b, told, parting_b))


def _alone(b: Sequence[str], until: int, of_b: Collection[int], told: set[int], parting: int | None) -> list[TapeRow]:
    """The steps of B before ``until`` that have no counterpart and were not told yet."""
    found = [j for j in range(until) if j not in of_b and j not in told]
    told.update(found)
    return [TapeRow("", b[j], same=False, parting=j == parting) for j in found]
