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


def tokens():
    return nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8))


class ByClass(nn.Module):
    "Decides by the class of its layer, so that no rewriting of that can be right."

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, x):
        return self.fc(x) + (0 if isinstance(self.fc, nn.Linear) else 1)


class Wavers(nn.Module):
    "Is not the same function twice."

    def __init__(self):
        super().__init__()
        self.fc, self.calls = nn.Linear(8, 8), iter(range(10**6))

    def forward(self, x):
        return self.fc(x) * (1 + 0.001 * next(self.calls))

    def __deepcopy__(self, memo):
        new = Wavers()
        new.load_state_dict(self.state_dict())
        return new


class Looks(nn.Module):
    "Decides by values, which no program of torch.export can."

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, x):
        return self.fc(x) if x.sum() < 1e9 else x
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


@pytest.mark.parametrize(("layout", "left"), [("keep", 4), ("flow", 2)])
def test_layout(layout: str, left: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = ("net.py:tokens", "--to", "conv", "--layout", layout, "--args", "float32[2,3,8]", "-o", "w.pt2")
    done = run(*args, folder=tmp_path, monkeypatch=monkeypatch)
    assert done.exit_code == 0 and f"{left} permutes left" in done.output, done.output
    assert torch.export.load("w.pt2").module()(torch.randn(2, 3, 8)).shape == (2, 3, 8)


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
        (["--to", "conv", "--layout", "last", "-o", "w.pt2"], "no layout 'last'"),
    ],
)
def test_bad_input(args: list[str], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = run("net.py:net", *args, "--args", "float32[2,1,8,8]", folder=tmp_path, monkeypatch=monkeypatch)
    assert done.exit_code == 2 and text in done.output
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".py" and path.is_file()] == []


@pytest.mark.parametrize(("name", "code", "text"), [("ByClass", 1, "not the same"), ("Wavers", 3, "undecided")])
def test_exit_codes(name: str, code: int, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = (f"net.py:{name}", "--to", "conv", "--args", "float32[2,3,8]", "-o", "w.safetensors")
    done = run(*args, folder=tmp_path, monkeypatch=monkeypatch)
    assert done.exit_code == code and text in done.output, done.output
    assert (tmp_path / "w.safetensors").exists() == (code == 3)


def test_what_goes_wrong_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    common = ("--to", "conv", "--args", "float32[2,1,8,8]")
    done = run("net.py:net", *common, "-o", "w.safetensors", folder=tmp_path, monkeypatch=monkeypatch)
    assert done.exit_code == 0, done.output
    again = ("net.py:net", *common, "--weights", "w.safetensors", "-o", "v.safetensors")
    done = run(*again, folder=tmp_path, monkeypatch=monkeypatch)  # the weights of the other form
    said = " ".join(done.output.split())
    assert done.exit_code == 2 and "3.weight" in said and "(5, 4, 6, 6) in the file" in said, said
    looks = ("net.py:Looks", "--to", "conv", "--args", "float32[2,3,8]", "-o", "w.pt2")
    done = run(*looks, folder=tmp_path, monkeypatch=monkeypatch)
    said = " ".join(done.output.split())
    assert done.exit_code == 2 and "Cannot write w.pt2" in said and ".safetensors file holds the weights" in said, said
    (tmp_path / "folder.pt2").mkdir()
    done = run("net.py:net", *common, "-o", "folder.pt2", folder=tmp_path, monkeypatch=monkeypatch)
    assert done.exit_code == 2 and "folder.pt2" in done.output and "folder" in done.output, done.output
    names = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert names == {"net.py", "w.safetensors"}  # nothing is left half written
