"""Weights from files: strict, with a message that lists what does not fit."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from roundoff.errors import RoundoffError
from roundoff.load.weights import load_weights


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


def network() -> nn.Sequential:
    return nn.Sequential(OrderedDict(first=nn.Linear(3, 4), norm=nn.BatchNorm1d(4), second=nn.Linear(4, 2)))


def same(a: nn.Module, b: nn.Module) -> bool:
    x, y = a.state_dict(), b.state_dict()
    return x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x)


def save(state: dict[str, torch.Tensor], name: str) -> str:
    if name.endswith(".safetensors"):
        safetensors.torch.save_file(state, name)
    else:
        torch.save(state, name)
    return name


def refused(module: nn.Module, path: str) -> str:
    with pytest.raises(RoundoffError) as caught:
        load_weights(module, path)
    assert path in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.safetensors"])
def test_weights_and_buffers_arrive(name: str) -> None:
    a, b = network(), network()
    a.train()(torch.randn(5, 3))  # buffers that are not as they were made
    assert not same(a, b)
    load_weights(b, save(a.state_dict(), name))
    assert same(a, b)


def test_tied_weights_may_be_left_out() -> None:
    a, b = Tied(), Tied()
    safetensors.torch.save_model(a, "w.safetensors")
    load_weights(b, "w.safetensors")
    assert same(a, b)


@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_missing_unexpected_and_misshaped_keys_are_listed(name: str) -> None:
    state = network().state_dict()
    state["second.wieght"] = state.pop("second.weight")
    state["first.weight"] = torch.zeros(4, 9)
    text = refused(network(), save(state, name))
    assert text.splitlines() == [
        f"{name} does not fit Sequential:",
        "  shapes differ (1):",
        "    first.weight: (4, 9) in the file, (4, 3) in the network",
        "  missing in the file (1):",
        "    second.weight Did you mean second.wieght?",
        "  not in the network (1):",
        "    second.wieght",
        "Save the state_dict() of this very network.",
    ]


def test_long_lists_are_cut() -> None:
    text = refused(nn.Linear(3, 3), save({f"layer{i}.weight": torch.ones(1) for i in range(99)}, "w.pt"))
    assert "and 94 more" in text and len(text.splitlines()) < 15


def test_a_prefix_is_named() -> None:
    state = {f"module.{name}": x for name, x in network().state_dict().items()}
    assert "begin with 'module.'" in refused(network(), save(state, "w.pt"))


def test_a_checkpoint_with_more_than_a_state_dict() -> None:
    torch.save({"state_dict": network().state_dict(), "epoch": 3}, "w.pt")
    assert "something else than tensors at state_dict, epoch" in refused(network(), "w.pt")
    torch.save(torch.ones(3), "w.pt")
    assert "not a state dict" in refused(network(), "w.pt")
    torch.save(network(), "w.pt")
    assert "would run code" in refused(network(), "w.pt")


def test_other_files_and_other_targets() -> None:
    Path("w.bin").write_text("x")
    assert "Name a .safetensors or a .pt file" in refused(network(), "w.bin")
    assert "There is no file" in refused(network(), "w.pt")
    with pytest.raises(RoundoffError, match=r"only a torch\.nn\.Module takes weights"):
        load_weights(torch.relu, "w.pt")


def test_nothing_is_loaded_where_a_shape_differs() -> None:
    a, b = network(), network()
    state = {name: x.clone() for name, x in b.state_dict().items()}
    a.first = nn.Linear(9, 4)
    refused(b, save(a.state_dict(), "w.pt"))
    assert all(torch.equal(x, state[name]) for name, x in b.state_dict().items())
