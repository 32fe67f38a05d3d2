"""What ``roundoff bench`` measured, as one page that needs nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from markupsafe import Markup

from roundoff.forms.fastest import Fastest
from roundoff.report.bench import rows
from roundoff.report.html import _environment, check_packages, plots

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_LAYERS = 40


def bench_html(network: str, found: Fastest, verdict: str, version: str) -> str:
    """The page as text. Raises RoundoffError where the packages that draw it are missing."""
    check_packages()
    return (
        _environment()
        .get_template("bench.html")
        .render(
            version=version,
            network=network,
            found=found,
            verdict=verdict,
            rows=rows(found),
            layers=layers_plot(found),
            races=races_plot(found),
            word=str(found),
        )
    )


def layers_plot(found: Fastest) -> Markup | None:
    """Each layer's time in every way and layout, on a logarithmic scale; the chosen way is filled."""
    layers = found.layers[:_MOST_LAYERS]
    if not layers:
        return None
    figure, axes = plots._figure(0.9 + 0.3 * len(layers))
    for y, layer in enumerate(layers):
        for (way, _), seconds in layer.seconds.items():
            before, picked = way == "as it is", way == layer.chosen
            colour = plots._A if before else plots._B
            axes.plot([1e3 * seconds], [y], "o" if before else "s", color=colour, markersize=6,
                      markerfacecolor=colour if picked else "none")  # fmt: skip
    _finish(axes, [x.name or "(the network)" for x in layers])
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds")
    return plots._svg(
        figure, "layers", "Each layer's time", "One row for each layer, one mark for each way and layout."
    )


def races_plot(found: Fastest) -> Markup | None:
    """How many times as fast as the original each candidate is, with the interval of the last race."""
    races = [*found.races, *([found.decision] if found.decision is not None else [])]
    if not races:
        return None
    figure, axes = plots._figure(0.9 + 0.35 * len(races))
    for y, r in enumerate(races):
        if r.high != float("inf"):
            axes.plot([r.low, r.high], [y, y], color=plots._B, linewidth=2)
        axes.plot([r.gain], [y], "s", color=plots._B, markersize=6)
    axes.axvline(1, color=plots._A, linewidth=1.4, linestyle="--")
    _finish(axes, [r.name if r.high == float("inf") else f"{r.name}, once more" for r in races])
    axes.set_xlabel("times as fast as the original")
    told = "; ".join(f"{r.name}: {r.gain:.2f}" for r in races)
    return plots._svg(figure, "races", "The whole network", told)


def _finish(axes: Axes, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), [n if len(n) < 28 else f"…{n[-26:]}" for n in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(axis="x", color=plots._QUIET, alpha=0.25, linewidth=0.6)
