"""Render a comparison for a terminal, a notebook or plain text, with rich."""

from __future__ import annotations

from io import StringIO

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from roundoff.records import Finding, Verdict
from roundoff.report.account import SMALL, AccountView, Part, percent
from roundoff.report.view import View

_COLOURS = {
    Verdict.IDENTICAL: "bold green",
    Verdict.ROUNDOFF: "bold green",
    Verdict.DIFFERENT: "bold red",
    Verdict.UNDECIDED: "bold yellow",
}
_MOST_ROWS = 12
_MOST_FINDINGS = 8
_MOST_BOOKINGS = 10
_MOST_PARTS = 5
_LONGEST_MODULE = 24


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
    parts += _findings(view.findings, _MOST_FINDINGS)
    parts.append(Text(f"evidence: {view.evidence}", style="dim"))
    return Group(*parts)


def render_account(view: AccountView) -> RenderableType:
    """What made the difference in a sentence, the largest shares, the shares of modules and kinds, and the balance."""
    parts: list[RenderableType] = [Text(view.story, style="bold"), Text(view.target), Text()]
    if any(abs(share) >= SMALL for share in (*view.shares, view.real_share)):
        parts += [_ledger(view), Text()]
    for title, groups in (("modules", view.modules), ("kinds", view.families)):
        parts.append(Text(f"{title}: {_largest(groups)}"))
    parts += [Text(view.movement), Text(view.bounds), *map(Text, view.crossings), Text(view.balance)]
    parts += _findings(view.findings, _MOST_FINDINGS // 2)
    return Group(*parts)


def _ledger(view: AccountView) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("share", justify="right", no_wrap=True)
    table.add_column("step", no_wrap=True, min_width=4)
    table.add_column("operator", no_wrap=True, max_width=20)
    table.add_column("module, line", overflow="fold")
    for heading in ("local\nerror", "bound of\na kernel", "ampli-\nfied by"):
        table.add_column(heading, justify="right", no_wrap=True, min_width=8)
    if abs(view.real_share) >= SMALL:
        table.add_row(percent(view.real_share), "", "", "real difference, in exact arithmetic")
    most = min(_MOST_BOOKINGS, sum(abs(share) >= SMALL for share in view.shares))  # the largest come first
    for line in view.lines[:most]:
        where = ", ".join(x for x in (_end(line.module), line.place) if x)
        style = "red" if line.beyond else ""
        table.add_row(
            line.share,
            f"{line.side} {line.step}",
            Text(line.op),
            Text(where, style="cyan"),
            Text(line.local, style=style),
            line.bound,
            line.amplification,
        )
    rest = view.shares[most:]
    if rest:
        table.add_row(percent(sum(rest)), "", "", f"{len(rest)} more steps")
    return table


def _largest(groups: tuple[Part, ...]) -> str:
    """The groups with the largest shares; those that made next to nothing are left out."""
    made = sorted((g for g in groups if abs(g.share) >= SMALL), key=lambda g: -abs(g.share))
    told = [f"{g.side} {_end(g.name) if g.side else g.name} {g.told}".strip() for g in made[:_MOST_PARTS]]
    if len(made) > _MOST_PARTS:
        told.append(f"{len(made) - _MOST_PARTS} more {percent(sum(g.share for g in made[_MOST_PARTS:]))}")
    return "; ".join(told) or "none made 0.1 %"


def _end(module: str) -> str:
    """The end of a long path: what tells it from its neighbours."""
    return module if len(module) <= _LONGEST_MODULE else "…" + module[1 - _LONGEST_MODULE :]


def _findings(findings: tuple[Finding, ...], most: int) -> list[RenderableType]:
    parts: list[RenderableType] = [Text()] if findings else []
    for finding in findings[:most]:
        parts.append(Text.assemble((str(finding.kind), "bold"), "  ", (finding.where, "cyan")))
        parts.append(Padding(Text(finding.text), (0, 0, 0, 2)))
    if len(findings) > most:
        parts.append(Text(f"and {len(findings) - most} more findings; to_dict() has them all", style="dim"))
    return parts


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


def notebook(view: View | AccountView) -> str:
    """The same as a piece of HTML for a notebook, everything escaped."""
    console = Console(record=True, width=120, file=StringIO())
    console.print(_rendered(view))
    return console.export_html(inline_styles=True, code_format=_PRE)


_PRE = '<pre style="font-family:monospace;white-space:pre-wrap">{code}</pre>'


def text(view: View | AccountView, width: int = 120) -> str:
    """The same as plain text."""
    out = StringIO()
    Console(file=out, width=width, color_system=None, highlight=False).print(_rendered(view), soft_wrap=False)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def _rendered(view: View | AccountView) -> RenderableType:
    return render_account(view) if isinstance(view, AccountView) else render(view)
