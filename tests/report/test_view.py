"""What a reader is told, in words and numbers."""

from __future__ import annotations

from math import inf, nan

import pytest
import torch
from tests.report.records import judgement, output

from roundoff.records import Verdict
from roundoff.report.view import HEADLINES, number, view


@pytest.mark.parametrize("verdict", Verdict)
def test_every_verdict_has_its_headline_and_starts_with_its_word(verdict: Verdict) -> None:
    shown = view(judgement(verdict=verdict))
    assert shown.headline == HEADLINES[verdict]
    assert shown.headline.startswith(f"{verdict}: ")


def test_a_row() -> None:
    (row,) = view(judgement()).rows
    assert (row.name, row.kind) == ("['logits']", "float32[16, 4]")
    assert (row.difference, row.where, row.ulp, row.relative) == ("2.5e-07", "at [3, 1]", "1,234", "1.25e-07")
    assert (row.roundoff_a, row.roundoff_b, row.real, row.floor) == ("1e-07", "2e-07", "1e-16", "3e-15")


def test_a_row_without_ulps_values_and_place() -> None:
    (row,) = view(judgement(output(max_ulp=None, value_abs=0.0, max_abs=0.0, dtype=torch.int64))).rows
    assert (row.kind, row.ulp, row.relative, row.where) == ("int64[16, 4]", "-", "-", "")


@pytest.mark.parametrize(("x", "said"), [(0.0, "0"), (1234567.0, "1.23e+06"), (0.1, "0.1"), (inf, "inf"), (nan, "nan")])
def test_numbers_have_three_digits(x: float, said: str) -> None:
    assert number(x) == said


CLOSER = [
    ((1e-7, 3e-7), "A is closer to the exact result: its largest round-off is 5e-08 of the largest value, 3 times"),
    ((3e-7, 1e-7), "B is closer to the exact result"),
    ((1e-7, 1.05e-7), "Both sides are equally accurate"),
    ((1e-7, 1e-7), "Both sides are equally far"),
    ((0.0, 1e-7), "A is exact here; the other side is off by 5e-08 of the largest value"),
    ((1e-7, 0.0), "B is exact here"),
    ((0.0, 0.0), ""),
]


@pytest.mark.parametrize(("sizes", "said"), CLOSER)
def test_which_side_is_closer(sizes: tuple[float, float], said: str) -> None:
    shown = view(judgement(output(roundoff_a_abs=sizes[0], roundoff_b_abs=sizes[1])))
    assert shown.closer.startswith(said) and bool(shown.closer) == bool(said)


def test_a_large_output_does_not_drown_a_small_one() -> None:
    """A is a millionth off where the values are 2, B a ten-millionth where they are 2e9."""
    small = output(roundoff_a_abs=2e-6, roundoff_b_abs=0.0, value_abs=2.0)
    large = output(roundoff_a_abs=0.0, roundoff_b_abs=200.0, value_abs=2e9)
    assert view(judgement(small, large)).closer.startswith("B is closer")


def test_integers_do_not_round() -> None:
    assert view(judgement(output(dtype=torch.int64, roundoff_a_abs=1.0))).closer == ""
