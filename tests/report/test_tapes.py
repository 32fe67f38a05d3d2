"""Two tapes beside each other."""

from __future__ import annotations

from dataclasses import dataclass

from roundoff.report.tapes import TapeRow, aligned_rows, tape_rows


def shown(rows: tuple[TapeRow, ...]) -> list[str]:
    return [f"{r.a or '.'} {r.b or '.'} {'=' if r.same else ' '}{'!' if r.parting else ''}".strip() for r in rows]


def test_steps_with_the_same_values_stand_beside_each_other() -> None:
    rows = tape_rows("abcd", "wxyz", [(0, 0), (2, 3)])
    assert shown(rows) == ["a w =", "b .", ". x", ". y", "c z =", "d ."]


def test_the_steps_at_which_they_part_stand_in_one_row() -> None:
    assert shown(tape_rows("abc", "wxyz", [(0, 0)], 1, 2)) == ["a w =", ". x", "b y  !", "c .", ". z"]


def test_they_may_part_on_one_side_only() -> None:
    assert shown(tape_rows("ab", "w", [(0, 0)], parting_a=1)) == ["a w =", "b .  !"]
    assert shown(tape_rows("a", "wx", [(0, 0)], parting_b=1)) == ["a w =", ". x  !"]


def test_they_may_part_at_a_step_that_has_a_counterpart() -> None:
    assert shown(tape_rows("ab", "wx", [(0, 0), (1, 1)], 1, 1)) == ["a w =", "b x =!"]


def test_steps_in_another_order_stand_once() -> None:
    rows = tape_rows("abc", "xyz", [(0, 2), (1, 1), (2, 0)])
    assert shown(rows) == ["a z =", "b y =", "c x ="]


def test_of_several_counterparts_the_first_counts() -> None:
    rows = tape_rows("ab", "xy", [(0, 0), (0, 1), (1, 0)])
    assert shown(rows) == ["a x =", "b .", ". y"]


def test_empty_tapes() -> None:
    assert tape_rows("", "", []) == ()
    assert shown(tape_rows("", "x", [])) == [". x"]


@dataclass(frozen=True)
class Step:
    step: int
    op: str
    where: str
    shape: tuple[int, ...] = (2, 3)


@dataclass(frozen=True)
class Alignment:
    steps_a: tuple[Step, ...]
    steps_b: tuple[Step, ...]
    pairs: tuple[tuple[int, int], ...]
    parting_a: Step | None = None
    parting_b: Step | None = None


def test_an_alignment_names_steps_by_their_index_on_the_tape() -> None:
    a = (Step(3, "aten.addmm.default", "fc"), Step(7, "aten.elu.default", "act"))
    b = (Step(2, "aten.convolution.default", "conv"), Step(4, "aten.gelu.default", "act"))
    assert aligned_rows(Alignment(a, b, ((3, 2),), a[1], b[1])) == (
        TapeRow("3 addmm [2, 3] fc", "2 convolution [2, 3] conv", same=True),
        TapeRow("7 elu [2, 3] act", "4 gelu [2, 3] act", same=False, parting=True),
    )


def test_an_alignment_that_parts_at_a_step_that_is_not_described() -> None:
    a = (Step(3, "aten.addmm.default", "fc"),)
    rows = aligned_rows(Alignment(a, a, ((3, 3), (9, 9)), Step(9, "aten.mul.Tensor", "x"), None))
    assert [row.parting for row in rows] == [False]
