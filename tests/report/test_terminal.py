"""What is printed: the verdict first, a small table, the findings, nothing wider than the screen."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from math import inf, nan

import pytest
import torch
from rich.console import Console
from tests.report.records import judgement, output

from roundoff.records import Finding, Kind, Output, Verdict
from roundoff.report import terminal
from roundoff.report.view import HEADLINES, view

LONG = Finding(Kind.OPAQUE_OPERATOR, "A: " + "encoder.layer." * 30, "word " * 100)


def shown(
    *outputs: Output, width: int = 120, verdict: Verdict = Verdict.ROUNDOFF, findings: tuple[Finding, ...] = ()
) -> str:
    return terminal.text(view(judgement(*outputs, verdict=verdict, findings=findings)), width)


@pytest.mark.parametrize("verdict", Verdict)
def test_the_verdict_comes_first_and_the_reason_after_it(verdict: Verdict) -> None:
    lines = shown(verdict=verdict).splitlines()
    assert lines[:2] == [HEADLINES[verdict], "This is why."]
    assert lines[-1] == f"evidence: {'proved' if verdict is Verdict.IDENTICAL else 'statistical'}"


@pytest.mark.parametrize("width", [80, 120, 200])
def test_nothing_is_wider_than_the_screen(width: int) -> None:
    names = [output(name="['" + "deeply.nested." * 20 + f"{i}']", shape=(1,) * 8) for i in range(3)]
    text = shown(*names, width=width, findings=(LONG,))
    assert max(len(line) for line in text.splitlines()) <= width
    assert text.count("word") == 100  # folded, not cut


def test_lines_have_no_blanks_at_their_ends() -> None:
    assert all(line == line.rstrip() for line in shown().splitlines())


def test_the_table_has_the_numbers_of_the_design() -> None:
    head, row = shown().splitlines()[3:5]
    for word in ("output", "difference", "ulp", "of largest", "round-off A", "round-off B", "real difference", "floor"):
        assert word in head
    for value in ("['logits']", "float32[16, 4]", "2.5e-07", "1,234", "1.25e-07", "1e-07", "2e-07", "1e-16", "3e-15"):
        assert value in row


def test_no_table_without_outputs() -> None:
    empty = replace(judgement(verdict=Verdict.DIFFERENT), outputs=())
    assert "floor" not in terminal.text(view(empty))


def test_many_outputs_are_cut_and_the_worst_are_kept() -> None:
    many = [output(name=f"n{i:02}", real_abs=1e-16 * (i + 1)) for i in range(40)]
    many[7] = output(name="n07", real_abs=1.0)
    many[8] = output(name="n08", real_abs=inf, floor_abs=0.0)
    many[9] = output(name="n09", real_abs=nan)
    lines = shown(*many).splitlines()
    names = [line.split()[0] for line in lines if line.startswith("n")]
    assert len(names) == 12 and names[:2] == ["n08", "n07"]
    assert "and 28 more outputs; to_dict() has them all" in lines


def test_a_few_outputs_keep_their_order() -> None:
    few = [output(name=f"n{i:02}", real_abs=1e-16 * (i + 1)) for i in range(12)]
    text = shown(*few)
    assert [line.split()[0] for line in text.splitlines() if line.startswith("n")] == [o.name for o in few]
    assert "more outputs" not in text


def test_many_findings_are_cut() -> None:
    findings = tuple(Finding(Kind.MAGNITUDE, f"place {i}", f"text {i}") for i in range(20))
    text = shown(findings=findings)
    assert "place 7" in text and "place 8" not in text
    assert "and 12 more findings; to_dict() has them all" in text


def test_markup_in_names_and_messages_is_printed_as_it_is() -> None:
    finding = Finding(Kind.MAGNITUDE, "[bold]x[/bold] :smile:", "[red]text[/] [/nonsense]")
    text = shown(output(name="[green]['a'][/green]"), findings=(finding,))
    for raw in ("[bold]x[/bold] :smile:", "[red]text[/] [/nonsense]", "[green]['a'][/green]"):
        assert raw in text


def test_colours_only_where_a_terminal_has_them() -> None:
    assert "\x1b" not in shown()
    out = StringIO()
    console = Console(file=out, force_terminal=True, color_system="standard", width=120)
    console.print(terminal.render(view(judgement(verdict=Verdict.DIFFERENT))))
    assert "\x1b[1;31mdifferent" in out.getvalue()


def test_a_notebook_gets_escaped_html() -> None:
    finding = Finding(Kind.MAGNITUDE, "<script>alert(1)</script>", "a < b & c")
    html = terminal.notebook(view(judgement(output(name="<img src=x>"), findings=(finding,))))
    assert html.startswith("<pre") and html.rstrip().endswith("</pre>")
    assert "<script" not in html and "<img" not in html
    assert "&lt;script&gt;" in html and "a &lt; b &amp; c" in html


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.complex64, torch.bfloat16])
def test_outputs_of_any_format(dtype: torch.dtype) -> None:
    text = shown(output(dtype=dtype, max_ulp=None, index=None, shape=()))
    assert f"{str(dtype).removeprefix('torch.')}[]" in text
