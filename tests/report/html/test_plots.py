"""The plots: what they show, and that they take everything from the page."""

from __future__ import annotations

import re
from math import inf, nan
from xml.etree import ElementTree

import matplotlib
import pytest
import torch
from tests.report.records import LEDGER, booking

from roundoff.report.heat import heat_map
from roundoff.report.html.plots import error_plot, heat_plot


def tree(svg: str | None) -> ElementTree.Element:
    assert svg is not None
    return ElementTree.fromstring(str(svg).replace("<svg", '<svg xmlns:xlink="x"', 1))


def texts(svg: str | None) -> list[str]:
    return ["".join(node.itertext()) for node in tree(svg).iter("text")]


def test_error_against_depth_has_a_curve_for_each_side() -> None:
    ledger = [booking(side, i, error_rel=1e-8 * 10**i) for side in "AB" for i in range(4)]
    svg = error_plot(ledger)
    assert {"A", "B", "relative error"} <= set(texts(svg))
    assert "stroke: var(--a)" in str(svg) and "stroke-dasharray" in str(svg) and "stroke: var(--b)" in str(svg)
    assert tree(svg).findtext("title") == "Error against depth"
    assert "A ends at 1e-05; B ends at 1e-05" in (tree(svg).findtext("desc") or "")


def test_steps_without_an_error_are_no_points() -> None:
    odd = [booking("A", i, error_rel=e) for i, e in enumerate((0.0, nan, inf))]
    assert error_plot(odd) is None
    assert error_plot([]) is None
    assert "A ends at 4e-07." in (tree(error_plot([*odd, booking("A", 3)])).findtext("desc") or "")


def test_long_networks_stay_small_and_keep_their_peak() -> None:
    rows = [booking("A", i, error_rel=1e-7) for i in range(20_000)]
    rows[12_345] = booking("A", 12_345, error_rel=1.0)
    svg = error_plot(rows)
    assert len(str(svg)) < 200_000
    top = error_plot([booking("A", i, error_rel=1e-7) for i in range(20_000)])
    assert texts(svg) != texts(top)  # the scale reaches up to the peak


def test_the_heat_map_shows_where() -> None:
    a = torch.zeros(4, 8)
    b = a.clone()
    b[1, 2] = 1e-6
    svg = heat_plot(heat_map("x", a, b))
    assert "3% of the cells differ, the largest by 1e-06." in (tree(svg).findtext("desc") or "")
    assert "data:image/png;base64," in str(svg) and {"last dimension", "others"} <= set(texts(svg))


def test_what_is_not_finite_is_crossed() -> None:
    one = heat_plot(heat_map("x", torch.tensor([1.0, 2.0, nan]), torch.tensor([1.0, 3.0, 0.0])))
    assert "var(--bad)" in str(one)
    alone = heat_plot(heat_map("x", torch.tensor([1.0, nan]), torch.tensor([1.0, 0.0])))
    assert "var(--bad)" in str(alone)
    none = heat_plot(heat_map("x", torch.tensor([1.0, 2.0]), torch.tensor([1.0, 3.0])))
    assert "var(--bad)" not in str(none)


@pytest.mark.parametrize("shape", [(2,), (1, 500), (500, 1), (3, 4), (2, 3, 300, 200)])
@pytest.mark.parametrize("size", [1e-40, 1.0, 1e30])
def test_any_shape_and_size(shape: tuple[int, ...], size: float) -> None:
    a = torch.rand(shape, dtype=torch.float64) * size
    assert tree(heat_plot(heat_map("x", a, torch.zeros_like(a)))).tag == "svg"


@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 4)])
def test_nothing_to_show(shape: tuple[int, ...]) -> None:
    a = torch.ones(shape)
    assert heat_plot(heat_map("x", a, a)) is None


def test_plots_bring_no_colours_fonts_or_addresses_and_share_no_names() -> None:
    depth = str(error_plot(LEDGER))
    heat = str(heat_plot(heat_map("x", torch.rand(20, 30), torch.rand(20, 30))))
    for svg in (depth, heat):
        assert not re.search(r"#[0-9a-fA-F]{6}\b|https?:|font-family|<style|<metadata", svg)
        assert "currentColor" in svg
    names = [re.findall(r'\bid="([^"]*)"', svg) for svg in (depth, heat)]
    assert len(set(names[0] + names[1])) == len(names[0]) + len(names[1])
    for svg, known in zip((depth, heat), names, strict=True):
        assert set(re.findall(r'(?:href="#|url\(#)([^")]*)', svg)) <= set(known)


def test_the_same_data_draw_the_same_plot_and_leave_the_settings_as_they_were() -> None:
    before = dict(matplotlib.rcParams)
    assert error_plot(LEDGER) == error_plot(LEDGER)
    assert dict(matplotlib.rcParams) == before
