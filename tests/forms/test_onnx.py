"""A converted network as an ONNX program, run by ONNX Runtime: the same values, where float32 is exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from roundoff.cli import app

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package, reason=f"{package} is not installed: pip install onnx onnxscript onnxruntime")

NET = """
import torch
import torch.nn.functional as F
from torch import nn


def whole(net):
    torch.manual_seed(0)
    for p in net.parameters():
        p.data = torch.randint(-2, 3, p.shape).float()
    return net


class Calls(nn.Module):
    def __init__(self):
        super().__init__()
        self.w, self.e, self.fc = nn.Parameter(torch.ones(6, 4)), nn.Parameter(torch.ones(3, 6, 5)), nn.Linear(5, 2)

    def forward(self, x):
        y = torch.relu(F.linear(x, torch.cat(self.w.chunk(2))))
        return self.fc(torch.relu(torch.einsum("bsi,eio->bseo", y, self.e)))


def calls():
    return whole(Calls())


def flat():
    return whole(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)))


def channels():
    return whole(nn.Sequential(nn.Conv2d(1, 4, 1, 2, 1), nn.ReLU(), nn.Conv2d(4, 6, 1, groups=2), nn.Conv2d(6, 3, 5)))
"""


def written(name: str, to: str, shape: tuple[int, ...], folder: Path, monkeypatch: Any, *more: str) -> Any:
    """The session of ONNX Runtime for the program that the command writes."""
    import onnxruntime

    (folder / "net.py").write_text(NET)
    monkeypatch.chdir(folder)
    args = ["--to", to, *more, "--args", f"float32[{','.join(map(str, shape))}]", "--eval", "-o", "net.onnx"]
    done = CliRunner().invoke(app, ["convert", f"net.py:{name}", *args])
    assert done.exit_code == 0, done.output
    return onnxruntime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])


def original(name: str) -> Any:
    space: dict[str, Any] = {}
    exec(NET, space)
    return space[name]()


@pytest.mark.parametrize(
    ("name", "to", "layout", "shape"),
    [
        ("flat", "conv", "keep", (2, 1, 8, 8)),
        ("calls", "conv", "flow", (2, 5, 4)),
        ("channels", "linear", "keep", (2, 1, 8, 8)),
    ],
)
def test_onnx_runtime(
    name: str, to: str, layout: str, shape: tuple[int, ...], tmp_path: Path, monkeypatch: Any
) -> None:
    session = written(name, to, shape, tmp_path, monkeypatch, "--layout", layout)
    x = torch.randint(-2, 3, shape).float()
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert torch.equal(torch.from_numpy(y), original(name)(x))
    import onnx

    ops = {node.op_type for node in onnx.load("net.onnx").graph.node}
    assert ("Conv" in ops) == (to == "conv") and bool(ops & {"Gemm", "MatMul"}) == (to == "linear"), ops


def test_dense(tmp_path: Path, monkeypatch: Any) -> None:
    """One program for images of any size: each cell is the original on its crop."""
    session = written("flat", "dense", (1, 1, 8, 8), tmp_path, monkeypatch)
    net = original("flat")
    for height, width in ((11, 9), (8, 8), (8, 12)):
        x = torch.randint(-2, 3, (3, 1, height, width)).float()
        (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        assert y.shape == (3, 5, height - 7, width - 7)
        for i, j in ((0, 0), (height - 8, width - 8)):
            assert torch.equal(torch.from_numpy(y[:, :, i, j]), net(x[:, :, i : i + 8, j : j + 8]))
