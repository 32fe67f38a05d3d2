"""Orders on the page: both trees side by side, and nothing where they were not asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import roundoff

pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")


def test_both_trees_are_drawn_where_they_were_asked_for(tmp_path: Path) -> None:
    torch.manual_seed(0)
    w, bias = torch.randn(6, 16), torch.randn(6)
    c = roundoff.compare(
        lambda x: F.linear(x, w, bias), lambda x: F.conv1d(x.mT, w[:, :, None], bias).mT, torch.randn(3, 4, 16)
    )
    asked, plain = c.explain(orders=True), c.explain()
    for explanation, file in ((asked, tmp_path / "a.html"), (plain, tmp_path / "b.html")):
        c.to_html(file, explanation=explanation)
    trees = [o for found in asked.orders for o in (found.a, found.b) if o is not None and o.tree is not None]
    page = (tmp_path / "a.html").read_text()
    section = page.partition('<section id="orders">')[2].partition("</section>")[0]
    assert section.count("<svg") == len(trees) and all(tree.story_of_order in section for tree in trees)
    assert all(found.apart in section for found in asked.orders)
    assert 'id="orders"' not in (tmp_path / "b.html").read_text()
