"""A summation tree drawn."""

from __future__ import annotations

from html import escape

from roundoff.order.tree import SumTree

WIDTH, HEIGHT, MARGIN = 1000.0, 600.0, 12.0


def svg(tree: SumTree, colour: str = "#30638e", mark: str = "#d1495b") -> str:
    """The tree as an SVG picture: summands at the bottom in the order in which the tree has them, the sum at the top, the
    bias with a ``mark`` of its own colour."""
    order, places = _order(tree), [0.0] * (tree.length + len(tree.nodes))
    across = (WIDTH - 2 * MARGIN) / max(tree.length - 1, 1)
    for at, i in enumerate(order):
        places[i] = MARGIN + at * across
    up = (HEIGHT - 2 * MARGIN) / max(tree.depth, 1)
    lines = []
    for m, node in enumerate(tree.nodes):
        here = tree.length + m
        places[here] = sum(places[i] for i in node) / len(node)
        y = HEIGHT - MARGIN - tree.heights[here] * up
        for i in node:
            lines.append(f"M{places[i]:.1f} {HEIGHT - MARGIN - tree.heights[i] * up:.1f}V{y:.1f}H{places[here]:.1f}")
    bias = ""
    if tree.bias:
        bias = f'<circle cx="{places[tree.length - 1]:.1f}" cy="{HEIGHT - MARGIN:.1f}" r="7" style="fill:{mark}"/>'
    stroke = min(1.5, max(0.2, across / 2))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:.0f} {HEIGHT:.0f}" role="img">'
        f"<title>{escape(tree.describe())}</title>"
        f'<path d="{"".join(lines)}" style="fill:none;stroke:{colour};stroke-width:{stroke:.2f}"/>{bias}</svg>\n'
    )


def _order(tree: SumTree) -> list[int]:
    """The summands from left to right, so that no lines cross."""
    work, found = [tree.length + len(tree.nodes) - 1], []
    while work:
        i = work.pop()
        if i < tree.length:
            found.append(i)
        else:
            work.extend(reversed(tree.nodes[i - tree.length]))
    return found
