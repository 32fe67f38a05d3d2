"""The exact operators in graphs: compiled, exported and recorded, with the same bits."""

from __future__ import annotations

import copy
import io
import pickle

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roundoff import compare, exact, make_exact, record
from roundoff.formats import same_bits


class Net(nn.Module):
    """A convolution, a norm, a product with its bias added apart, and attention."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 8, 3, padding=1)
        self.norm = nn.LayerNorm(8)
        self.heads = nn.MultiheadAttention(8, 2, batch_first=True)
        self.weight, self.bias = nn.Parameter(torch.randn(8, 5)), nn.Parameter(torch.randn(5))

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.norm(self.conv(x).transpose(1, 2)))
        x = x + self.heads(x, x, x, need_weights=False)[0]
        return (torch.tensordot(x, self.weight, dims=([2], [0])) + self.bias).mean(1)


def test_compiled_and_exported() -> None:
    net = make_exact(Net()).model.eval()
    x = torch.randn(3, 4, 6)
    right = net(x)
    assert net.inexact == ()
    with torch.no_grad():
        assert same_bits(torch.compile(net, backend="aot_eager", fullgraph=True)(x), right)
        program = torch.export.export(net, (x,))
    called = {str(n.target).split(".")[1] for n in program.graph.nodes if str(n.target).startswith("roundoff.")}
    assert {"products", "convolution", "add_up", "each"} <= called
    assert not any(name in str(program.graph) for name in ("aten.linear", "aten.mm", "aten.conv", "aten.layer_norm"))
    with torch.no_grad():
        assert same_bits(program.module()(x), right)


def test_recorded_and_compared() -> None:
    net, x = make_exact(Net()).model.eval(), torch.randn(3, 4, 6)
    with torch.no_grad():
        assert any("roundoff.products" in str(step.op) for step in record(net, x))
        c = compare(net, copy.deepcopy(net), x)
    assert c.verdict == "identical"


def test_copied_and_pickled() -> None:
    net, x = make_exact(Net()).model.eval(), torch.randn(3, 4, 6)
    right = net(x)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert same_bits(other(x), right) and type(other).__name__ == "ExactNet"
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    plain = Net()
    plain.load_state_dict(torch.load(file))
    assert same_bits(make_exact(plain).model.eval()(x), right)


def test_a_layer_alone_is_exact_too() -> None:
    net, x = make_exact(Net()).model, torch.randn(3, 4, 6)
    assert same_bits(net.conv(x), exact.conv1d(x, net.conv.weight, net.conv.bias, padding=1))
