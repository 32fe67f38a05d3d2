"""The question roundoff started from: what is run, what must come out anywhere, and how it is shown."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from rich.console import Console
from torch import nn
from typer.testing import CliRunner

from roundoff import thread
from roundoff.cli import app
from roundoff.records import Verdict
from roundoff.report.thread import Answer, Claim, Row, answer_page, size
from roundoff.thread import claims

CPU = torch.device("cpu")


@cache
def answer() -> Answer:
    return thread.answer_thread()


def claim(words: str) -> Claim:
    (found,) = [c for c in answer().claims if words in c.text]
    return found


def page(answer: Answer, width: int = 120) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(answer_page(answer))
    return captured.get()


def test_the_three_networks_have_the_same_weights_and_shapes() -> None:
    linear = thread.LinearNetwork(nn.ELU())
    x = torch.randn(claims.BATCH, 5, 256)
    with torch.no_grad():
        logits, features = linear(x)
        assert logits.shape == (16, 5, 4) and features.shape == (16, 5, 256)
        for form in thread.FORMS.values():
            other = thread.with_weights_of(linear, form(nn.ELU()))
            for p, q in zip(linear.parameters(), other.parameters(), strict=True):
                assert torch.equal(p, q.reshape(p.shape))
            for y, z in zip(linear(x), other(x), strict=True):
                assert y.shape == z.shape


def test_the_table_has_every_case() -> None:
    cases = {(r.activation, r.weights, r.form, r.samples) for r in answer().rows}
    assert len(cases) == len(answer().rows) == 2 * 3 * 2 * 2


def test_every_form_is_the_same_function() -> None:
    assert [row for row in answer().rows if not row.same] == []
    assert answer().answer.startswith("It is round-off, not a bug")


def test_the_numbers_of_a_row_belong_together() -> None:
    for row in answer().rows:
        # native A - native B = r_A - r_B + d, so the difference is at most the sum of the three largest.
        most = row.roundoff_linear_abs + row.roundoff_form_abs + row.real_abs
        assert row.difference_abs <= most * (1 + 1e-12)
        assert (row.difference_abs == 0) <= (row.ulp == 0)
        assert row.verdict != "identical" or row.difference_abs == 0
        assert row.real_abs <= row.difference_abs or row.real_abs < 2**-40 * row.value_abs


@pytest.mark.parametrize(
    ("words", "holds"),
    [
        ("The order of operations differs", True),
        ("The permutation does it", False),
        ("With more than one sample a 1x1 convolution is a different function", False),
        ("a (samples x 1) kernel would be the equivalent one", False),
        ("The last layer of a segmentation network", True),
        ("With ELU and weights of 1", True),
    ],
)
def test_claims_that_are_the_same_anywhere(words: str, holds: bool) -> None:
    assert claim(words).holds is holds, claim(words).found


def test_the_two_results_are_replayed() -> None:
    found = claim("replayed, they give exactly")
    if "different orders" in found.found or "no tree" in found.found:
        pytest.skip("a kernel of this machine adds in more than one order")
    assert found.holds, found.found
    assert found.found.count("320 of 320 logits") == 2


def test_whether_one_sample_is_identical_is_read_off_the_table() -> None:
    single = [row for row in answer().rows if row.samples == 1]
    assert claim("With one sample").holds is all(row.verdict == "identical" for row in single)
    same = tuple(replace(row, verdict=Verdict.IDENTICAL) for row in answer().rows)
    assert claims.one_sample(same, CPU).holds
    one = (replace(same[0], verdict=Verdict.ROUNDOFF), *same[1:])
    assert not claims.one_sample(one, CPU).holds


def test_the_permutation_is_seen_and_is_exact() -> None:
    found = claim("The permutation").found
    assert "permute" in found and "squeeze" in found and "6 steps" in found
    assert "is 0: they round nothing" in found and "there and back: identical" in found


def test_a_movement_that_rounds_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    class Doctored(claims._Movements):
        def after(self, step: object, out: object) -> None:
            if isinstance(out, torch.Tensor):
                out = out * (1 + 2**-23)
            super().after(step, out)  # type: ignore[arg-type]

    monkeypatch.setattr(claims, "_Movements", Doctored)
    assert claims.permutation((), CPU).holds


def test_a_layer_that_is_more_than_reordered_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    real = claims._in_each_form

    def coarse(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> dict[str, torch.Tensor]:
        forms = real(x, weight, bias)
        return {**forms, "conv": forms["conv"] * 1.01} if x.dtype is torch.float32 else forms

    monkeypatch.setattr(claims, "_in_each_form", coarse)
    with torch.no_grad():
        found = claims.order((), CPU)
    assert not found.holds and "reduced precision" in found.found


def test_a_different_row_is_not_called_roundoff() -> None:
    rows = tuple(replace(row, verdict=Verdict.ROUNDOFF) for row in answer().rows)
    broken = (replace(rows[1], verdict=Verdict.DIFFERENT, form="conv", samples=5), *rows)
    assert claims.another_function(broken, CPU).holds
    assert thread._answer(broken).startswith(f"On this machine {len(rows)} of {len(rows) + 1} comparisons")


def test_it_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    thread.run_case("ELU", "1", "conv", 1, CPU)  # draws
    torch.set_rng_state(before)
    thread.answer_thread()
    assert torch.equal(torch.get_rng_state(), before)


def test_the_page_begins_with_the_answer_and_fits() -> None:
    for width in (80, 120):
        numbers = [line for line in page(answer(), width).splitlines() if line.startswith((" conv, ", " tensordot, "))]
        assert len(numbers) == len(answer().rows) and {len(line.split()) for line in numbers} == {10}  # none is broken
        lines = page(answer(), width).splitlines()
        assert answer().answer.startswith(lines[0].rstrip())
        assert max(map(len, lines)) <= width
    text = page(answer())
    assert text.index("Why?") < text.index("form, samples") < text.index("What was claimed")
    assert text.count("does not hold") == sum(not c.holds for c in answer().claims)


def test_a_page_of_one_row() -> None:
    row = Row("1", "ELU", 1, "conv", Verdict.ROUNDOFF, "logits", 196.0, 6.0e7, 49, 78.0, 118.0, 0.0)
    assert row.relative == pytest.approx(3.27e-6, rel=1e-2)
    text = page(Answer("It is.", (row,), (), "here"))
    (line,) = [line for line in text.splitlines() if "conv, 1" in line]
    assert line.split() == ["conv,", "1", "roundoff", "196", "6.0e7", "3.3e-6", "49", "78", "118", "0"]


@pytest.mark.parametrize(
    ("x", "text"), [(0, "0"), (9.96, "10"), (999, "999"), (0.51, "0.51"), (1e3, "1.0e3"), (2**-1074, "4.9e-324")]
)
def test_sizes(x: float, text: str) -> None:
    assert size(x) == text


def test_the_command() -> None:
    result = CliRunner().invoke(app, ["thread"])
    assert result.exit_code == 0
    assert " ".join(result.stdout.split()).startswith(answer().answer)
    assert all(line == line.rstrip() for line in result.stdout.splitlines())
