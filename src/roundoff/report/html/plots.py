"""The plots of the page, as SVG that takes its colours and its font from the page around it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from io import StringIO
from typing import TYPE_CHECKING

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from roundoff.records import Booking
from roundoff.report.heat import HeatMap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Colours that nothing else in a plot has, and what they become: the reader's scheme decides.
_INK = {
    "#010203": "currentColor",
    "#010204": "var(--quiet)",
    "#010205": "var(--a)",
    "#010206": "var(--b)",
    "#010207": "var(--bad)",
}
_TEXT, _QUIET, _A, _B, _BAD = _INK
_WIDTH = 5.4  # inches; a point of the font is then about a pixel of a phone
_MOST_POINTS = 400
_DECADES = 4  # of the heat map's scale: what is smaller than 1e-4 of the largest looks alike


def error_plot(ledger: Iterable[Booking]) -> Markup | None:
    """Error against depth: the relative error so far at each step of both sides; None where no step has one."""
    curves = {side: _thin([b for b in ledger if b.side == side]) for side in ("A", "B")}
    if not any(len(x) for x, _ in curves.values()):
        return None
    figure, axes = _figure(2.6)
    for side, (x, y) in curves.items():
        marker, line, colour = ("o", "-", _A) if side == "A" else ("s", "--", _B)
        axes.plot(x, y, line, color=colour, marker=marker, markersize=3, linewidth=1.4, label=side)
    axes.set_yscale("log")
    axes.set_xlim(0, 102)  # so that the last marker is whole
    axes.set_xlabel("steps that round, in per cent of them")
    axes.set_ylabel("relative error")
    axes.grid(color=_QUIET, alpha=0.25, linewidth=0.6)
    axes.legend(frameon=False, labelcolor=_TEXT, handlelength=3)
    told = "; ".join(f"{side} ends at {y[-1]:.2g}" for side, (_, y) in curves.items() if len(y))
    return _svg(figure, "depth", "Error against depth", f"The relative error at each step that computes. {told}.")


def _thin(rows: list[Booking]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Which part of the steps with an error is done, in per cent, and that error: of many the largest of each stretch."""
    errors = [b.error_rel for b in sorted(rows, key=lambda b: b.step) if 0 < b.error_rel < float("inf")]
    points = [(100 * (i + 1) / len(errors), error) for i, error in enumerate(errors)]
    size = -(-len(points) // _MOST_POINTS) or 1
    points = [max(points[i : i + size], key=lambda p: p[1]) for i in range(0, len(points), size)]
    return np.array([x for x, _ in points]), np.array([y for _, y in points])


def heat_plot(heat: HeatMap) -> Markup | None:
    """|A - B| over an output, on a logarithmic scale; None where it has nothing to show."""
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import MaxNLocator, NullLocator

    cells = heat.cells
    shown = cells[(cells > 0) & np.isfinite(cells)]
    if cells.size < 2 or not (cells > 0).any():
        return None
    top = float(np.percentile(shown, 99.9)) if shown.size else 1.0
    low = max(float(np.percentile(shown, 1)) if shown.size else 0.1, top * 10.0**-_DECADES)
    down, across = heat.extent
    figure, axes = _figure(0.9 + min(max(_WIDTH * down / across, 0.35), 3.6))
    picture = axes.imshow(
        np.where((cells > 0) & np.isfinite(cells), cells, np.nan),
        norm=LogNorm(min(low, top / 10), top, clip=True),
        cmap="viridis",
        aspect="auto",
        interpolation="none",
        extent=(-0.5, across - 0.5, down - 0.5, -0.5),
    )
    y, x = np.nonzero(np.isinf(cells))
    if len(x):
        at_x, at_y = ((x + 0.5) * across / cells.shape[1] - 0.5, (y + 0.5) * down / cells.shape[0] - 0.5)
        axes.plot(at_x, at_y, "x", color=_BAD, markersize=4)
    axes.set_xlabel("last dimension")
    axes.set_ylabel("others" if len(heat.shape) > 1 else "")
    for axis, n in ((axes.xaxis, across), (axes.yaxis, down)):
        axis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1) if n > 1 else NullLocator())
    bar = figure.colorbar(picture, ax=axes, pad=0.02, fraction=0.05)
    bar.outline.set_visible(False)
    bar.ax.tick_params(colors=_TEXT, which="both")
    differ = float((cells > 0).mean())
    told = f"{differ:.0%} of the cells differ, the largest by {float(cells.max()):.3g}."
    return _svg(figure, "heat", "The difference over the output", told)


def _figure(height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), layout="constrained", facecolor="none")
    axes = figure.add_subplot(facecolor="none")
    axes.tick_params(colors=_TEXT, which="both", labelsize=9)
    axes.xaxis.label.set_color(_TEXT)
    axes.yaxis.label.set_color(_TEXT)
    for side, spine in axes.spines.items():
        spine.set_color(_QUIET)
        spine.set_visible(side in ("left", "bottom"))
    return figure, axes


def _svg(figure: Figure, name: str, title: str, told: str) -> Markup:
    """The figure as one SVG element with a title: no fonts, no colours and no names of its own, nothing from elsewhere."""
    from matplotlib import rc_context

    out = StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "font.size": 9}):
        figure.savefig(out, format="svg", transparent=True)
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    body = svg[svg.index(">") + 1 :]
    box = re.search(r'viewBox="([^"]*)"', svg)
    assert box is not None
    body = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{name}-", body)
    body = re.sub(r"font-family: [^;\"]*; ?", "", body)
    for colour, variable in _INK.items():
        body = body.replace(colour, variable)
    head = (
        f'<svg class="plot" viewBox="{box[1]}" role="img" aria-labelledby="{name}-title {name}-told">'
        f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-told">{escape(told)}</desc>'
    )
    return Markup(head + body.strip())
