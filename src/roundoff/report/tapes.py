"""The tapes of two networks beside each other, step by step, and the place where they part."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from roundoff.report.families import name_of


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


class Known(Protocol):
    """What is to be known of a step: its index on the tape, its operator, its place and the shape of its result."""

    @property
    def step(self) -> int: ...
    @property
    def op(self) -> str: ...
    @property
    def where(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...


class Laid(Protocol):
    """Two tapes laid beside each other: their steps, the pairs with the same values by step, and where they part."""

    @property
    def steps_a(self) -> Sequence[Known]: ...
    @property
    def steps_b(self) -> Sequence[Known]: ...
    @property
    def pairs(self) -> Iterable[tuple[int, int]]: ...
    @property
    def parting_a(self) -> Known | None: ...
    @property
    def parting_b(self) -> Known | None: ...


def aligned_rows(laid: Laid) -> tuple[TapeRow, ...]:
    """The rows of an alignment, each step by its operator, the shape of its result, and its place."""
    at_a, at_b = ({known.step: i for i, known in enumerate(steps)} for steps in (laid.steps_a, laid.steps_b))
    return tape_rows(
        [_told(known) for known in laid.steps_a],
        [_told(known) for known in laid.steps_b],
        [(at_a[i], at_b[j]) for i, j in laid.pairs if i in at_a and j in at_b],
        None if laid.parting_a is None else at_a.get(laid.parting_a.step),
        None if laid.parting_b is None else at_b.get(laid.parting_b.step),
    )


def _told(known: Known) -> str:
    return f"{known.step} {name_of(known.op)} {list(known.shape)} {known.where}"


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
