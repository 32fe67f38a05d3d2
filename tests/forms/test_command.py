"""The command ``convert``: what it writes, and what is said of bad input."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file
from typer.testing import CliRunner

from roundoff.cli import app

NET = """
import torch
from torch import nn


def net():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))


def tied():
    embed, out = nn.Embedding(10, 4), nn.Linear(4, 10)
    out.weight = embed.weight
    return nn.Sequential(embed, out)
"""


def run(*args: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Result:
    (folder / "net.py").write_text(NET)
    monkeypatch.chdir(folder)
    return CliRunner().invoke(app, ["convert", *args])


def test_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = ("net.py:net", "--to", "conv", "--args", "float32[2,1,8,8]", "-o", "w.safetensors")
    done = run(*args, folder=tmp_path, monkeypatch=monkeypatch)
    assert done.exit_code == 0, done.output
    assert "FlatConv2d" in done.output and "1 converted, 0 declined" in done.output
    assert load_file("w.safetensors")["3.weight"].shape == (5, 4, 6, 6)
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix == ".safetensors") == ["w.safetensors"]


def test_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = ("net.py:net", "--to", "conv", "--args", "float32[2,1,8,8]", "-o", "w.pt2")
    done = run(*args, folder=tmp_path, monkeypatch=monkeypatch)
    assert done.exit_code == 0, done.output
    assert torch.export.load("w.pt2").module()(torch.randn(2, 1, 8, 8)).shape == (2, 5)


def test_tied_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = ("net.py:tied", "--to", "conv", "--args", "int64[2,3]:0..10", "-o", "w.safetensors")
    assert run(*args, folder=tmp_path, monkeypatch=monkeypatch).exit_code == 0
    assert load_file("w.safetensors").keys() == {"0.weight", "1.bias"}


def test_dense(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = ("net.py:net", "--to", "dense", "--exact", "--args", "float32[1,1,8,8]", "-o", "w.pt2")
    done = run(*args, folder=tmp_path, monkeypatch=monkeypatch)
    assert done.exit_code == 0, done.output
    assert "9 of 9 cells of an image of 10 x 10 are exact" in done.output
    assert torch.export.load("w.pt2").module()(torch.randn(3, 1, 11, 9)).shape == (3, 5, 4, 2)


def test_dense_is_declined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = ("net.py:tied", "--to", "dense", "--args", "int64[2,3]:0..10", "-o", "w.pt2")
    done = run(*args, folder=tmp_path, monkeypatch=monkeypatch)
    assert done.exit_code == 2 and "takes a classifier over images" in done.output


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["--to", "convolution", "-o", "w.safetensors"], "no form 'convolution'"),
        (["--to", "conv", "-o", "none/w.safetensors"], "there is no folder"),
        (["--to", "conv", "-o", "w.txt"], "should end in"),
        (["--to", "conv", "--exact", "-o", "w.pt2"], "exact=True is for to='dense'"),
    ],
)
def test_bad_input(args: list[str], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run("net.py:net", *args, "--args", "float32[2,1,8,8]", folder=tmp_path, monkeypatch=monkeypatch)
    assert done.exit_code == 2 and text in done.output
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".py" and path.is_file()] == []
