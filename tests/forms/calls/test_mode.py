"""A module whose calls are in another form: saved, copied, exported, compiled, trained; where the weights are."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import roundoff
from roundoff.forms import rewrite


class Net(nn.Module):
    """Attention, a joined weight, and an expert for each of three."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.b, self.e = (nn.Parameter(torch.randn(s)) for s in ((6, 4), (6,), (3, 6, 5)))
        self.drop, self.attention = nn.Dropout(0.3), nn.MultiheadAttention(4, 2, 0.1, batch_first=True)

    def forward(self, x: Tensor, scale: float = 1.0, *, mask: Tensor | None = None) -> Tensor:
        x = self.attention(x, x, x, need_weights=False)[0]
        first, second = self.w.chunk(2)
        y = self.drop(F.linear(x, torch.cat([first, second]), self.b))
        y = torch.einsum("bsi,eio->bseo", y, self.e) * scale
        return y if mask is None else y * mask


X = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def pair() -> tuple[Net, Any]:
    net = Net().eval()
    return net, rewrite(net, (X,), {}, "conv").model


def test_what_is_converted() -> None:
    done = roundoff.convert(Net().eval(), X, "conv")
    assert done.comparison and done.second and not done.declined
    assert [(c.module, c.after) for c in done.converted] == [("attention", "conv1d")] * 2 + [("", "conv1d")] * 2
    assert "linear(attention.in_proj_bias, attention.in_proj_weight) -> conv1d" in str(done)
    assert done.state_dict_to(done.model.state_dict()).keys() == done.model.state_dict().keys()


def test_saved_and_copied(pair: tuple[Net, Any]) -> None:
    net, other = pair
    y, file = other(X), io.BytesIO()
    torch.save(other, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    for new in (loaded, pickle.loads(pickle.dumps(other)), copy.deepcopy(other)):
        assert type(new) is type(other) and isinstance(new, Net) and type(new).__qualname__ == "Net"
        assert torch.equal(new(X), y)
        nn.init.zeros_(new.w)  # it reads its own
        nn.init.zeros_(new.attention.in_proj_weight)
        assert not torch.equal(new(X), y) and torch.equal(other(X), y)
    assert inspect.signature(other.forward) == inspect.signature(net.forward)


def test_exported(pair: tuple[Net, Any]) -> None:
    net, other = pair
    sizes = {0: torch.export.Dim("batch", min=2), 1: torch.export.Dim("length", min=2)}
    program = torch.export.export(other, (X,), {"scale": 2.0}, dynamic_shapes={"x": sizes, "scale": None})
    ops = [str(node.target) for node in program.graph.nodes]
    assert ops.count("aten.conv1d.default") == 4 and not any("linear" in op or "bmm" in op for op in ops)
    x = torch.randn(7, 9, 4)
    torch.testing.assert_close(program.module()(x, scale=2.0), net(x, 2.0))


def test_compiled(pair: tuple[Net, Any]) -> None:
    net, other = pair
    ops: list[str] = []

    def backend(graph: Any, inputs: Any) -> Any:
        ops.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(other, backend=backend, fullgraph=True)(X), net(X))
    torch._dynamo.reset()
    assert sum("conv1d" in op for op in ops) == 4


def test_training(pair: tuple[Net, Any]) -> None:
    """The same draws of dropout, and in float64 gradients that differ by rounding: 1e-9 is a million times that."""
    net, other = (m.double().train() for m in pair)
    x = X.double()
    for model in (net, other):
        torch.manual_seed(0)
        model(x).square().sum().backward()
    for p, q in zip(net.parameters(), other.parameters(), strict=True):
        assert float((p.grad - q.grad).abs().max()) <= 1e-9 * float(p.grad.abs().max())  # type: ignore[union-attr, operator]
    state = {name: p.detach() * 2 for name, p in net.named_parameters()}
    torch.manual_seed(0)
    y = torch.func.functional_call(net, state, (x,))
    torch.manual_seed(0)
    torch.testing.assert_close(torch.func.functional_call(other, state, (x,)), y)


@pytest.mark.parametrize("grad", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_modes(pair: tuple[Net, Any], grad: Any) -> None:
    net, other = pair
    with grad():
        assert roundoff.compare(net, other, X)


class Shared(nn.Module):
    """Weights of layers that are called too, of an embedding, and of another module."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.fc, self.own = nn.Embedding(11, 8), nn.Linear(8, 8), Own(8, 8)
        self.head = Head()

    def forward(self, i: Tensor) -> Any:
        h = F.linear(self.own(self.fc(self.embed(i))), self.fc.weight, self.fc.bias)
        return self.head(h, self.embed.weight), self.head(h, self.embed.weight[:5])


class Own(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + 1


class Head(nn.Module):
    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        return x @ weight.T


def test_where_the_weights_are() -> None:
    net, i = Shared().eval(), torch.randint(0, 11, (2, 5))
    done = roundoff.convert(net, i, "conv")
    assert {(c.module, c.before) for c in done.converted} == {
        ("fc", "Linear"),
        ("own", "linear(own.bias, own.weight)"),
        ("", "linear(fc.bias, fc.weight)"),
        ("head", "matmul(embed.weight)"),
    }
    assert [(d.module, d.what) for d in done.declined] == [("head", "matmul")]
    assert "computed in another module" in done.declined[0].reason
    assert done.model.fc.weight.shape == (8, 8) and done.comparison
    new = copy.deepcopy(done.model)
    assert torch.equal(new(i)[0], done.model(i)[0])
    nn.init.zeros_(new.embed.weight)
    assert not torch.equal(new(i)[0], done.model(i)[0])
    assert len(rewrite(done.model, (i,), {}, "conv").converted) == 0


def test_a_forward_that_was_replaced() -> None:
    net = Net().eval()
    net.forward = net.forward  # type: ignore[method-assign]
    reasons = {d.reason for d in rewrite(net, (X,), {}, "conv").declined if d.module == ""}
    assert reasons and all("forward of its module was replaced" in reason for reason in reasons)


def test_more_calls_in_a_second_conversion() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w, self.v = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.w if x.dim() == 2 else torch.mm(x[0], self.v)

    net, x = Two(), torch.randn(3, 4)
    once = rewrite(net, (x,), {}, "conv")
    twice = rewrite(once.model, (x[None],), {}, "conv")
    assert [c.before for c in once.converted + twice.converted] == ["matmul(w)", "mm(v)"]
    back = rewrite(twice.model, (x,), {}, "linear")
    assert len(back.converted) == 2 and type(back.model) is Two


def test_nested_tensors_take_the_path_that_they_had() -> None:
    net = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1).eval()
    x, padded = torch.randn(2, 5, 8), torch.tensor([[0, 0, 0, 0, 0], [0, 0, 0, 1, 1]]).bool()
    other = rewrite(net, (x,), {}, "conv").model
    with torch.no_grad():
        torch.testing.assert_close(other(x, src_key_padding_mask=padded), net(x, src_key_padding_mask=padded))


class Call(nn.Module):
    """One call with a parameter, and a buffer."""

    def __init__(self, call: Any) -> None:
        super().__init__()
        self.w, self.mask, self.call = nn.Parameter(torch.randn(4, 4)), nn.Buffer(torch.eye(4)), call

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x, self.w, self.mask)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "call",
    [
        lambda x, w, mask: torch.linalg.matmul(x, w),
        lambda x, w, mask: torch.stack([torch.dot(row, w[0]) for row in x]),
        lambda x, w, mask: torch.ops.aten.linear.default(x, w),
        lambda x, w, mask: x @ torch.einsum("ij->ji", w),
    ],
)
def test_other_names_of_a_product(call: Any) -> None:
    net, x = Call(call), torch.randn(3, 4)
    done = rewrite(net, (x,), {}, "conv")
    assert len(done.converted) == 1 and not done.declined
    torch.testing.assert_close(done.model(x), net(x))


@pytest.mark.parametrize(
    ("call", "to", "why"),
    [
        (
            lambda x, w, mask: F.linear(x, w * mask),
            "conv",
            "its weight comes from mask, not from the network's parameters alone",
        ),
        (lambda x, w, mask: x @ (w + torch.ones(4)).tanh(), "conv", "comes from a constant, not"),
        (lambda x, w, mask: torch.linalg.multi_dot([x, w, w]), "conv", "no rule for linalg_multi_dot"),
        (lambda x, w, mask: torch.linalg.vecdot(x, w[0]), "conv", "no rule for linalg_vecdot"),
        (lambda x, w, mask: F.conv_transpose1d(x, w[..., None]), "linear", "no rule for conv_transpose1d"),
    ],
)
def test_no_product_is_passed_over(call: Any, to: str, why: str) -> None:
    x = torch.randn(3, 4) if to == "conv" else torch.randn(3, 4, 2)
    done = rewrite(Call(call), (x,), {}, to)
    assert not done.converted and [d.module for d in done.declined] == [""] and why in done.declined[0].reason


def test_a_buffer_may_be_an_input() -> None:
    done = rewrite(Call(lambda x, w, mask: x + mask @ w), (torch.randn(4, 4),), {}, "conv")
    assert [c.before for c in done.converted] == ["matmul(w)"]


def test_a_graph_makes_its_own_forward() -> None:
    net = torch.fx.symbolic_trace(Call(lambda x, w, mask: F.linear(x, w)))
    (told,) = rewrite(net, (torch.randn(2, 4),), {}, "conv").declined
    assert "makes its own forward" in told.reason


def test_power_iterations_belong_to_their_layer() -> None:
    layer = nn.utils.spectral_norm(nn.Linear(4, 4))
    done = rewrite(nn.Sequential(layer, nn.Linear(4, 4)), (torch.randn(2, 4),), {}, "conv")
    assert [c.module for c in done.converted] == ["1"] and [d.module for d in done.declined] == ["0"]
