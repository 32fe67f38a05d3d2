"""Render a comparison for a terminal, a notebook or plain text, with rich."""

from __future__ import annotations

from io import StringIO

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from roundoff.records import Verdict
from roundoff.report.view import View

_COLOURS = {
    Verdict.IDENTICAL: "bold green",
    Verdict.ROUNDOFF: "bold green",
    Verdict.DIFFERENT: "bold red",
    Verdict.UNDECIDED: "bold yellow",
}
_MOST_ROWS = 12
_MOST_FINDINGS = 8


def render(view: View) -> RenderableType:
    """The verdict in one line, the reason, a small table, the findings."""
    parts: list[RenderableType] = [
        Text(view.headline, style=_COLOURS[view.verdict]),
        Text(view.reason),
        Text(),
    ]
    if view.rows:
        parts.append(_table(view))
    if len(view.rows) > _MOST_ROWS:
        parts.append(Text(f"and {len(view.rows) - _MOST_ROWS} more outputs; to_dict() has them all", style="dim"))
    if view.closer:
        parts.append(Text(view.closer))
    if view.findings:
        parts.append(Text())
    for finding in view.findings[:_MOST_FINDINGS]:
        parts.append(Text.assemble((str(finding.kind), "bold"), "  ", (finding.where, "cyan")))
        parts.append(Padding(Text(finding.text), (0, 0, 0, 2)))
    if len(view.findings) > _MOST_FINDINGS:
        parts.append(
            Text(f"and {len(view.findings) - _MOST_FINDINGS} more findings; to_dict() has them all", style="dim")
        )
    parts.append(Text(f"evidence: {view.evidence}", style="dim"))
    return Group(*parts)


def _table(view: View) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("output", overflow="fold")
    for heading in ("difference", "ulp", "of largest", "round-off A", "round-off B", "real difference", "floor"):
        table.add_column(heading, justify="right")
    # The worst first: what is left out is what matters least.
    rows = sorted(view.rows, key=lambda row: -_ratio(row.real, row.floor)) if len(view.rows) > _MOST_ROWS else view.rows
    for row in rows[:_MOST_ROWS]:
        table.add_row(
            Text(f"{row.name} {row.kind}"),  # a name is no markup
            row.difference,
            row.ulp,
            row.relative,
            row.roundoff_a,
            row.roundoff_b,
            row.real,
            row.floor,
        )
    return table


def _ratio(real: str, floor: str) -> float:
    return float(real) / float(floor) if float(floor) > 0 else float(real) * float("inf") if float(real) > 0 else 0.0


def notebook(view: View) -> str:
    """The same as a piece of HTML for a notebook, everything escaped."""
    console = Console(record=True, width=120, file=StringIO())
    console.print(render(view))
    return console.export_html(inline_styles=True, code_format=_PRE)


_PRE = '<pre style="font-family:monospace;white-space:pre-wrap">{code}</pre>'


def text(view: View, width: int = 120) -> str:
    """The same as plain text."""
    out = StringIO()
    Console(file=out, width=width, color_system=None, highlight=False).print(render(view), soft_wrap=False)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())
