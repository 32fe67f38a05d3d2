"""Orders of addition as a table, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from roundoff.order.order import Order
from roundoff.order.words import differences

SCHEMA = "roundoff.orders/1"


def orders_as_dict(orders: Sequence[tuple[str, Order]], version: str) -> dict[str, Any]:
    """The orders by what was varied, each with whether it is the first one's."""
    first = orders[0][1]
    return {
        "schema": SCHEMA,
        "roundoff": version,
        "orders": [{"varied": name, "same_as_first": same(first, o), **o.to_dict()} for name, o in orders],
    }


def same(a: Order, b: Order) -> bool:
    """True when both add in the same order, and round in the same way."""
    return bool(a.variants) and [(v.tree, v.fused) for v in a.variants] == [(v.tree, v.fused) for v in b.variants]


def orders_page(orders: Sequence[tuple[str, Order]]) -> RenderableType:
    """One order in words; several as a table, and what differs between the first and the others."""
    first = orders[0][1]
    head = Text(f"{first.name}, {first.shape}", style="bold")
    if len(orders) == 1:
        return Group(head, Text(first.story))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("varied", "order", "depth", "certified", "as the first"):
        table.add_column(heading)
    notes = []
    for name, o in orders:
        alike = same(first, o)
        table.add_row(
            name,
            o.story_of_order,
            "-" if o.depth is None else str(o.depth),
            f"{o.matching} of {o.sampled}",
            Text("yes", style="green") if alike else Text("no", style="yellow"),
        )
        if not alike and o.tree is not None and first.tree is not None and o.tree != first.tree:
            notes.append(Text(f"\n{differences(first.tree, o.tree, (_quoted(orders[0][0]), _quoted(name)))}"))
    changed = [name for name, o in orders if not same(first, o)]
    end = f"The order changes with: {', '.join(changed)}." if changed else "The order is the same in all of them."
    return Group(head, table, *notes, Text(f"\n{end}"))


def _quoted(name: str) -> str:
    """A case as it is called in a sentence."""
    return f"“{name}”"
