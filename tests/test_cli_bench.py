"""The command ``bench``: its tables, its JSON and its page. No time of this machine decides anything here."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from roundoff.cli import app
from roundoff.forms.fastest import Fastest, Layer, fastest
from roundoff.forms.fastest.race import race
from roundoff.report.bench import bench_as_dict, bench_page, rows

NET = """
from torch import nn


def net():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
"""


def run(*args: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Result:
    (folder / "net.py").write_text(NET)
    monkeypatch.chdir(folder)
    return CliRunner().invoke(app, ["bench", *args])


def test_tables_json_and_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roundoff.api.fastest.fastest", partial(fastest, seconds=0.1))
    args = ("net.py:net", "--eval", "--args", "float32[2,1,8,8]", "--json", "b.json", "--html", "b.html")
    done = run(*args, folder=tmp_path, monkeypatch=monkeypatch)
    assert done.exit_code == 0, done.output
    assert "Conv2d" in done.output and "as it is, ms" in done.output and "whole network" in done.output
    data = json.loads((tmp_path / "b.json").read_text())
    assert data["schema"] == "roundoff.bench/1" and [x["module"] for x in data["layers"]] == ["0", "3"]
    ways = {(t["way"], t["layout"]) for t in data["layers"][0]["times"]}
    assert ("channels last", "channels first") in ways and all(t["seconds"] > 0 for t in data["layers"][0]["times"])
    page = (tmp_path / "b.html").read_text()
    assert page.count("<svg") == 2 and "http://" not in page.replace("http://www.w3.org", "") and "<script" not in page


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["--args", "float32[2,1,8,8]", "--json", "none/b.json"], "there is no folder"),
        (["--args", "float32[2,1,2,2]"], "Give an input on which the network runs"),
        ([], "takes the inputs"),
    ],
)
def test_bad_input(args: list[str], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run("net.py:net", *args, folder=tmp_path, monkeypatch=monkeypatch)
    assert done.exit_code == 2 and text in done.output


LAYER = Layer("a.b", "Linear", (2, 8), {("as it is", "as given"): 0.004, ("product", "as given"): 0.001}, "product")


def test_what_is_told() -> None:
    won = race("layer by layer", [4.0] * 20, [2.0] * 20)
    found = Fastest("layer by layer", (LAYER,), (won,), won, 2, "cpu")
    (row,) = rows(found)
    assert (row.before, row.after, row.best, row.chosen) == (4, 1, "product", "product")
    data = bench_as_dict("net", found, "roundoff", "0")
    assert (
        data["decision"]["gain"] == 2 and data["decision"]["interval"] == [2, 2] and data["fastest"] == "layer by layer"
    )
    assert str(bench_page(found)[-1]).startswith("Layer by layer is 2.00 x (2.00 to 2.00, 99 %, 20 rounds)")
    lost = Fastest("", (LAYER,), (won,), race("x", [1.0] * 20, [1.0] * 20), 2, "cpu")
    assert str(bench_page(lost)[-1]).startswith(
        "The original stays, for no gain is certain: the fastest candidate, x, is 1.00 x"
    )
