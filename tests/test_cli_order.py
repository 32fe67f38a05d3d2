"""``roundoff order``."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner, Result

from roundoff.cli import app


def run(*words: str) -> Result:
    return CliRunner().invoke(app, ["order", *words])


def test_one_order_is_told() -> None:
    result = run("sum", "--k", "8", "--batch", "2")
    assert result.exit_code == 0, result.output
    assert "sum, k=8, batch=2" in result.output and "sampled outputs" in result.output


def test_what_is_varied_is_in_a_table_and_in_the_json(tmp_path: Path) -> None:
    file, picture = tmp_path / "o.json", tmp_path / "o.svg"
    result = run("linear", "--k", "16", "--batch", "4", "--out", "4", "--vary", "threads,layout,bias", "--threads", "1",
                 "--json", str(file), "--svg", str(picture))  # fmt: skip
    assert result.exit_code == 0, result.output
    data = json.loads(file.read_text())
    assert data["schema"] == "roundoff.orders/1"
    assert [o["varied"] for o in data["orders"]] == ["as given", "threads 2", "layout transposed", "bias false"]
    assert data["orders"][0]["same_as_first"] and not data["orders"][-1]["same_as_first"]
    assert all(o["varied"] in result.output for o in data["orders"])
    assert "bias false" in result.output.split("The order changes with:")[1]
    assert picture.read_text().startswith("<svg")


def test_json_on_standard_output_is_all_there_is() -> None:
    result = run("conv2d", "--k", "36", "--arg", "kernel_size=3", "--batch", "2", "--out", "4", "--json", "-")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["orders"][0]["length"] == 37


def test_another_operator_is_told_against_the_first() -> None:
    result = run(
        "linear", "--k", "40", "--batch", "4", "--out", "8", "--against", "conv1d:channels_last", "--json", "-"
    )
    assert result.exit_code == 0, result.output
    first, second = json.loads(result.stdout)["orders"]
    assert (first["name"], second["name"], second["varied"]) == ("linear", "conv1d", "conv1d:channels_last")
    assert second["same_as_first"] is (first["variants"] == second["variants"]) or not second["certified"]
    shown = run("linear", "--k", "40", "--batch", "4", "--out", "8", "--against", "conv1d:channels_last")
    assert "conv1d:channels_last" in shown.output and "order" in shown.output.splitlines()[-1]


def test_a_device_that_is_not_there_is_said() -> None:
    result = run("linear", "--k", "8", "--device", "cuda:99")
    assert result.exit_code == 2
