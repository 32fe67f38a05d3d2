"""A comparison and its account as one page that needs nothing else: no network, no script, no other file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from roundoff.errors import RoundoffError
from roundoff.judge.verdict import Judgement
from roundoff.order.compared import Compared
from roundoff.order.svg import svg
from roundoff.records import Account
from roundoff.report.account import AccountView, account_view, percent
from roundoff.report.heat import HeatMap
from roundoff.report.json import write
from roundoff.report.tapes import TapeRow
from roundoff.report.view import number, view

if TYPE_CHECKING:
    import jinja2

#: How much of long lists is shown.
_MOST_BOOKINGS = 200
_MOST_OUTPUTS = 50
_MOST_FINDINGS = 50
_AROUND_PARTING = 8
_MOST_TAPE = 600


@dataclass(frozen=True)
class Bar:
    """One row of the waterfall: from where to where it goes, in per cent of the plot's width."""

    name: str
    side: str
    told: str
    left: float
    width: float
    steps: int


def write_page(path: str | os.PathLike[str], judgement: Judgement, version: str, **parts: Any) -> None:
    """Write :func:`page` to ``path``, whole or not at all. Raises RoundoffError where it cannot be made or written."""
    write(page(judgement, version, **parts), path)


def page(
    judgement: Judgement,
    version: str,
    *,
    account: Account | None = None,
    no_account: str = "",
    orders: Sequence[Compared] = (),
    heat: HeatMap | None = None,
    tapes: tuple[TapeRow, ...] = (),
    names: tuple[str, str] = ("", ""),
) -> str:
    """The page as text: the verdict, the outputs, what made the difference, the plots, the tapes, the ledger.

    ``no_account`` says why there is no ``account``; ``orders`` that have trees are drawn side by side; ``names`` are what A
    and B are called. Whatever has no data is left out. Raises RoundoffError where the packages that draw it are missing.
    """
    check_packages()
    from roundoff.report.html import plots

    shown = view(judgement)
    told = account_view(account) if account is not None else None
    return (
        _environment()
        .get_template("page.html")
        .render(
            version=version,
            names=names,
            view=shown,
            verdict=str(shown.verdict),
            word=shown.headline.partition(": ")[2],
            rows=shown.rows[:_MOST_OUTPUTS],
            findings=shown.findings[:_MOST_FINDINGS],
            account=told,
            no_account=no_account,
            bars=waterfall(told) if told is not None and account is not None and account.difference != 0 else (),
            lines=told.lines[:_MOST_BOOKINGS] if told is not None else (),
            orders=[_drawn(o) for o in orders if o.a is not None and o.b is not None],
            rest=_rest(told) if told is not None else "",
            depth=plots.error_plot(account.ledger) if account is not None else None,
            heat=heat,
            heat_plot=plots.heat_plot(heat) if heat is not None else None,
            largest=number(float(heat.cells.max())) if heat is not None and heat.cells.size else "",
            tapes=_around(tapes),
            counts=_tape_counts(tapes),
        )
    )


def waterfall(view: AccountView) -> tuple[Bar, ...]:
    """What the modules of A, then those of B, then the rest add to the difference, until all of it is reached."""
    parts = [(p.name, p.side.lower(), p.share, p.steps) for p in view.modules]
    parts.append(("real difference", "real", view.real_share, 0))
    parts.append(("kinks crossed, and what is left", "left", view.left_share, 0))
    ends = [0.0]
    for _, _, share, _ in parts:
        ends.append(ends[-1] + share)
    low, high = min(*ends, 0.0), max(*ends, 1.0)

    def bar(name: str, side: str, start: float, share: float, steps: int) -> Bar:
        left = (min(start, start + share) - low) / (high - low)
        width = abs(share) / (high - low)
        return Bar(name, side, percent(share), round(100 * left, 3), round(100 * width, 3), steps)

    bars = [bar(name, side, ends[i], share, steps) for i, (name, side, share, steps) in enumerate(parts)]
    return (*bars, bar("A − B", "total", 0.0, ends[-1], 0))


@dataclass(frozen=True)
class Trees:
    """The orders of both sides of one sum: in words, and as pictures, empty where there is no tree."""

    where: str
    told: str
    sides: tuple[tuple[str, str, Markup], ...]


def _drawn(orders: Compared) -> Trees:
    sides = []
    for side, op, order in (("A", orders.sum.op_a, orders.a), ("B", orders.sum.op_b, orders.b)):
        assert order is not None
        trees = [svg(v.tree, f"var(--{side.lower()})", "var(--bad)") for v in order.variants[:1]]
        sides.append((side, f"{op}: {order.story}", Markup("".join(trees).replace("<svg ", '<svg class="plot" '))))
    where = f"A: {orders.sum.where_a}; B: {orders.sum.where_b}"
    return Trees(where, orders.apart, tuple(sides))


def _rest(told: AccountView) -> str:
    rest = told.shares[_MOST_BOOKINGS:]
    return f"{len(rest)} more steps, together {percent(sum(rest))}." if rest else ""


def _around(rows: tuple[TapeRow, ...]) -> list[tuple[bool, list[TapeRow]]]:
    """Stretches of rows, each with whether it is shown at once: what is near a parting, or the first rows without one."""
    rows = rows[: next((i for i, row in enumerate(rows) if row.parting), 0) + _MOST_TAPE]
    partings = [i for i, row in enumerate(rows) if row.parting] or [_AROUND_PARTING]
    stretches: list[tuple[bool, list[TapeRow]]] = []
    for i, row in enumerate(rows):
        near = any(abs(i - at) <= _AROUND_PARTING for at in partings)
        if not stretches or stretches[-1][0] != near:
            stretches.append((near, []))
        stretches[-1][1].append(row)
    return stretches


def _tape_counts(rows: tuple[TapeRow, ...]) -> str:
    same = sum(row.same for row in rows)
    only_a = sum(bool(row.a) and not row.same for row in rows)
    only_b = sum(bool(row.b) and not row.same for row in rows)
    parts = "They part at the marked place." if any(row.parting for row in rows) else "They part nowhere."
    return f"{same} steps have the same values on both sides, {only_a} are of A alone, {only_b} of B alone. {parts}"


def _environment() -> jinja2.Environment:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,  # names and source lines are other people's text
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def check_packages() -> None:
    """Raise RoundoffError, naming the command that installs them, where the packages that draw the page are missing."""
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise RoundoffError(
            f"The page needs {error.name}, which is not installed here. Install what it needs: pip install 'roundoff[html]'"
        ) from error
