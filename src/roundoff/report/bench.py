"""What ``roundoff bench`` measured: as plain data, and as tables in a terminal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from roundoff.forms.fastest import Fastest, Layer, Race

SCHEMA = "roundoff.bench/1"


@dataclass(frozen=True)
class Row:
    """A layer for the reader: what it costs as it is, and in the fastest way, in milliseconds."""

    name: str
    kind: str
    shape: str
    before: float
    best: str
    after: float
    chosen: str


def rows(found: Fastest) -> tuple[Row, ...]:
    """The layers, in the order in which they run."""
    return tuple(_row(layer) for layer in found.layers)


def _row(layer: Layer) -> Row:
    layout = next(place for way, place in layer.seconds if way == "as it is")
    best = min(layer.seconds, key=lambda case: layer.seconds[case])
    name = layer.name or "(the network)"
    shape = " x ".join(map(str, layer.shape))
    before, after = layer.seconds["as it is", layout], layer.seconds[best]
    return Row(name, layer.kind, shape, 1e3 * before, told(*best), 1e3 * after, layer.chosen)


def told(way: str, layout: str) -> str:
    """A way and the layout of its input, in words."""
    return way if layout == "as given" else f"{way}, from {layout}"


def bench_as_dict(network: str, found: Fastest, verdict: str, version: str) -> dict[str, Any]:
    """Plain data, in seconds."""
    return {
        "schema": SCHEMA,
        "roundoff": version,
        "network": network,
        "threads": found.threads,
        "device": found.device,
        "fastest": found.name or None,
        "verdict": verdict,
        "decision": None if found.decision is None else _race(found.decision),
        "races": [_race(r) for r in found.races],
        "layers": [
            {
                "module": x.name,
                "class": x.kind,
                "input": list(x.shape),
                "chosen": x.chosen,
                "times": [{"way": w, "layout": p, "seconds": s} for (w, p), s in x.seconds.items()],
            }
            for x in found.layers
        ],
    }


def _race(r: Race) -> dict[str, Any]:
    before, after = r.seconds
    interval = None if r.high == float("inf") else [r.low, r.high]
    return {"name": r.name, "rounds": len(r.other), "original_seconds": before, "seconds": after,
            "gain": r.gain, "interval": interval}  # fmt: skip


def bench_page(found: Fastest) -> list[RenderableType]:
    """The tables: the layers, the whole network in each candidate, and what came of it."""
    table = _table("layer", "class", "input", "as it is, ms", "fastest, ms", "in this way", "gain")
    for row in rows(found):
        gain = row.before / row.after if row.after else 1.0
        table.add_row(
            Text(row.name), row.kind, row.shape, f"{row.before:.3f}", f"{row.after:.3f}", row.best,
            Text(f"{gain:.2f} x", style="green" if gain > 1.05 else ""),
        )  # fmt: skip
    whole = _table("whole network", "original, ms", "this, ms", "gain")
    for r in (*found.races, *([found.decision] if found.decision is not None else [])):
        name = r.name if r.high == float("inf") else f"{r.name}, once more"
        before, after = r.seconds
        whole.add_row(name, f"{1e3 * before:.3f}", f"{1e3 * after:.3f}", str(r))
    style = "bold green" if found.name else "bold"
    parts: list[RenderableType] = [Text(f"{found.threads} threads, {found.device}", style="dim"), Text()]
    parts += [table, Text()]
    parts += [whole, Text()] if found.decision is not None else []
    return [*parts, Text(_sentence(found), style=style)]


def _sentence(found: Fastest) -> str:
    said = str(found)
    return said[0].upper() + said[1:] + "."


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in headings:
        table.add_column(heading, justify="right" if heading.endswith("ms") else "left", overflow="fold")
    return table
