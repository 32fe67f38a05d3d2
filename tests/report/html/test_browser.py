"""The page as a reader's browser shows it: headless Chromium, the one that is installed."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.report.html.test_page import evil_page
from tests.report.records import account, booking, judgement, output

from roundoff.records import Verdict
from roundoff.report.heat import heat_map
from roundoff.report.html import page
from roundoff.report.tapes import TapeRow

sync_api = pytest.importorskip("playwright.sync_api")
BROWSER = os.environ.get("ROUNDOFF_BROWSER") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed (apt-get install chromium)")

Opened = Callable[..., Any]

LIGHT_AND_DARK = ("light", "dark")
DEEP = "encoder.layer.11.attention.self.query_key_value_projection"


@cache
def long_page() -> str:
    """Long names everywhere: what could push a phone's page wider than its screen."""
    ledger = [
        booking("AB"[i % 2], i, share=0.02 * (-1) ** (i // 7), error_rel=1e-7 * (i + 1), module=f"{DEEP}.{i % 9}",
                source="modeling.py:1234: " + "x = self.activation(self.layer(x)) + " * 4)
        for i in range(60)
    ]  # fmt: skip
    rows = tuple(TapeRow(f"step {i} aten.convolution.default {DEEP}", "x" * 80, i % 3 > 0, i == 30) for i in range(60))
    outputs = [output(name=f"['{DEEP}'].last_hidden_state[{i}]", shape=(16, 128, 768)) for i in range(3)]
    return page(
        judgement(*outputs), "1", account=account(*ledger), tapes=rows, names=("models/" + DEEP + ".py:A", "b.py:B"),
        heat=heat_map("x", torch.randn(300, 200), torch.randn(300, 200)),
    )  # fmt: skip


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])  # a test may run as root
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium: Any, tmp_path: Path) -> Iterator[Opened]:
    """Open a page in a tab; whatever it complains of, or asks for beyond itself, fails."""
    tabs = []

    def open_tab(html: str, width: int = 1200, scheme: str = "light") -> Any:
        file = tmp_path / "page.html"
        file.write_text(html, encoding="utf-8")
        tab = chromium.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
        tabs.append(tab)
        said: list[str] = []
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        tab.on("request", lambda request: request.url.startswith(("file:", "data:")) or said.append(request.url))
        tab.goto(file.as_uri())
        assert said == []
        return tab

    yield open_tab
    for tab in tabs:
        tab.close()


def brightness(colour: str) -> float:
    return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3


def style(tab: Any, selector: str, name: str) -> str:
    return str(tab.eval_on_selector(selector, f"e => getComputedStyle(e)['{name}']"))


@pytest.mark.parametrize("verdict", Verdict)
def test_the_verdict_is_seen_without_scrolling(opened: Opened, verdict: Verdict) -> None:
    tab = opened(page(judgement(verdict=verdict), "1", account=account()), width=390)
    assert tab.inner_text("h1").startswith(f"{verdict}: ")
    box = tab.locator("header.verdict").bounding_box()
    assert box["y"] >= 0 and box["y"] + box["height"] <= 844
    red, green, _ = map(int, re.findall(r"\d+", style(tab, "h1 b", "color"))[:3])
    if verdict is Verdict.DIFFERENT:
        assert red > 2 * green
    elif verdict in (Verdict.ROUNDOFF, Verdict.IDENTICAL):
        assert green > 2 * red


def test_the_waterfall_has_bars_that_join(opened: Opened) -> None:
    tab = opened(page(judgement(), "1", account=account()))
    boxes = [bar.bounding_box() for bar in tab.locator(".waterfall .bar").all()]
    a_layers, a_activation, b_outside, b_conv, real, left, total = boxes
    assert b_conv["width"] > 100 and total["width"] > b_conv["width"]
    assert abs(a_layers["x"] - total["x"]) < 2
    assert abs(a_activation["x"] + a_activation["width"] - a_layers["x"] - a_layers["width"]) < 2  # it takes away
    assert abs(b_conv["x"] - a_activation["x"]) < 2
    assert abs(b_conv["x"] + b_conv["width"] - total["x"] - total["width"]) < 2
    assert max(b["width"] for b in (b_outside, real, left)) <= 3
    colours = {style(tab, f".waterfall .bar.{side}", "backgroundColor") for side in ("a", "b", "total")}
    assert len(colours) == 3


@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("make", [long_page, evil_page])
def test_the_page_is_no_wider_than_the_screen(opened: Opened, make: Callable[[], str], width: int) -> None:
    tab = opened(make(), width)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab.eval_on_selector_all("details", "all => all.forEach(e => { e.open = true })")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    right = tab.eval_on_selector_all(
        "section, svg.plot, .track", "all => all.map(e => e.getBoundingClientRect().right)"
    )
    assert len(right) > 8 and max(right) <= width


def test_wide_tables_scroll_in_their_box(opened: Opened) -> None:
    tab = opened(long_page(), 390)
    wide = "all => all.map(e => [e.scrollWidth > e.clientWidth, getComputedStyle(e).overflowX])"
    assert [True, "auto"] in tab.eval_on_selector_all("#ledger .scroll", wide)


def test_light_and_dark(opened: Opened) -> None:
    seen = {}
    for scheme in LIGHT_AND_DARK:
        tab = opened(long_page(), scheme=scheme)
        seen[scheme] = {
            "page": brightness(style(tab, "body", "backgroundColor")),
            "card": brightness(style(tab, "section", "backgroundColor")),
            "text": brightness(style(tab, ".story", "color")),
            "axis": brightness(style(tab, "svg.plot text", "fill")),
        }
    light, dark = (seen[scheme] for scheme in LIGHT_AND_DARK)
    assert min(light["page"], light["card"]) > 200 > 60 > max(light["text"], light["axis"])
    assert max(dark["page"], dark["card"]) < 60 < 200 < min(dark["text"], dark["axis"])


def test_the_plots_are_drawn(opened: Opened) -> None:
    tab = opened(long_page(), 390)
    plots = tab.locator("svg.plot").all()
    assert len(plots) == 2
    for plot in plots:
        box = plot.bounding_box()
        assert box["width"] > 300 and box["height"] > 100
    assert tab.locator("#plots svg image").first.bounding_box()["width"] > 200
    size = tab.locator("svg.plot text").first.evaluate("e => e.getBoundingClientRect().height")
    assert size >= 8  # pixels, on a phone: it can be read


def test_what_others_wrote_does_not_run(opened: Opened) -> None:
    tab = opened(evil_page())
    assert tab.locator("script, img").count() == 0
    assert '<script>alert("x")</script>' in tab.inner_text("body")
