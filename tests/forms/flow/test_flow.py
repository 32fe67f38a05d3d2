"""Layout flow: what is moved, that it is the same network, and when a module runs as it did."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import roundoff
from roundoff.forms import rewrite
from roundoff.forms.flow import layers as layers_rule

from ..nets import Bottleneck, ConvNextBlock, LeNet, Mixer, PointNet


class FeedForward(nn.Module):
    def __init__(self, p: float = 0.2) -> None:
        super().__init__()
        self.norm, self.act, self.drop = nn.LayerNorm(8), nn.GELU(), nn.Dropout(p)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return x + self.drop(self.down(self.drop(self.act(self.up(self.norm(x)))))) * scale


class Axes(nn.Module):
    """Joins, parts, sums and moves of what is between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.gain = (
            nn.Linear(6, 8),
            nn.Linear(6, 8),
            nn.Linear(12, 3),
            nn.Parameter(torch.randn(8)),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([self.a(x), self.b(x)], -1)  # [N, H, W, 16]
        first, second = y.chunk(2, dim=-1)
        z = torch.softmax(first * self.gain, 1) + second.transpose(1, 2).movedim(-1, 1).mT.permute(0, 2, 3, 1).sigmoid()
        w = torch.cat([z, z.mean(-1, keepdim=True).expand(-1, -1, -1, 4)], 3) + x.shape[1] * z.size(-1)
        return self.c(w).flatten(1, 2).amax(1)


class Cropped(nn.Module):
    """A slice whose end is a size of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.middle, self.down = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        height = x.shape[1]
        return self.down(torch.relu(self.middle(F.pad(self.up(x), (0, 0, 0, 3))[:, :height])))


X = {
    "cropped": (Cropped, torch.randn(2, 5, 6), "conv", 6, 4),
    "feed forward": (FeedForward, torch.randn(2, 5, 8), "conv", 4, 2),
    "three of them": (lambda: nn.Sequential(*(FeedForward() for _ in range(3))), torch.randn(2, 5, 8), "conv", 12, 2),
    "ConvNeXt": (ConvNextBlock, torch.rand(2, 6, 5, 5), "conv", 4, 0),
    "two ConvNeXts": (lambda: nn.Sequential(ConvNextBlock(), ConvNextBlock()), torch.rand(2, 6, 5, 5), "conv", 8, 0),
    "Mixer": (Mixer, torch.rand(2, 9, 8), "conv", 8, 2),
    "PointNet": (PointNet, torch.rand(2, 3, 10), "linear", 4, 1),
    "bottleneck": (Bottleneck, torch.rand(2, 6, 8, 8), "linear", 6, 4),
    "LeNet": (lambda: LeNet(last=True), torch.rand(2, 1, 20, 20), "conv", 1, 1),
}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", list(X))
def test_what_is_moved(name: str, training: bool) -> None:
    make, x, to, keep, flow = X[name]
    net = make().train(training)
    done = roundoff.convert(net, x, to, layout="flow")
    assert done.comparison and done.second
    assert rewrite(net, (x,), {}, to).permutes_left == keep and done.permutes_left == flow
    assert done.model.state_dict().keys() == net.state_dict().keys()
    assert type(done.model).__name__ == type(net).__name__ and done.model.training is training
    assert not [d for d in done.declined if "layout" in d.reason]


def test_the_convolutions_touch() -> None:
    net, x = FeedForward().eval(), torch.randn(2, 5, 8)
    model = rewrite(net, (x,), {}, "conv", "flow").model
    graph = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)).graph
    ops = [str(node.target).split(".")[1] for node in graph.nodes if node.op == "call_function"]
    first, second = (i for i, op in enumerate(ops) if op == "conv1d")
    assert ops[first + 1 : second] == ["gelu"]


@pytest.mark.parametrize("name", ["three of them", "ConvNeXt", "PointNet"])
def test_copied_compiled_and_other_sizes(name: str) -> None:
    make, x, to, _, _ = X[name]
    net = make().eval()
    model = rewrite(net, (x,), {}, to, "flow").model
    y = model(x)
    for new in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert torch.equal(new(x), y) and type(new) is type(model)
        nn.init.zeros_(next(new.parameters()))
        assert not torch.equal(new(x), y) and torch.equal(model(x), y)
    z = torch.cat([x, x * 2, x], 0)
    assert roundoff.compare(net, model, z)
    assert roundoff.compare(net, rewrite(model, (x,), {}, to, "keep").model, z)  # the way back to its own forward
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(model, backend="eager", fullgraph=True)(x), y)
    torch._dynamo.reset()


def test_gradients_and_draws() -> None:
    """In float64, where gradients of one network in two orders of addition differ by far less than 1e-9 of the largest."""
    net = nn.Sequential(FeedForward(), FeedForward()).double().train()
    x = torch.randn(2, 5, 8, dtype=torch.float64)
    other = rewrite(net, (x,), {}, "conv", "flow").model
    found = []
    for model in (net, other):
        torch.manual_seed(0)
        model.zero_grad()
        model(x).square().sum().backward()
        found.append([p.grad for p in model.parameters()])
    for g, h in zip(*found, strict=True):
        assert float((g - h.reshape(g.shape)).abs().max()) <= 1e-9 * float(g.abs().max())


def test_axes() -> None:
    net, x = Axes(), torch.randn(2, 4, 4, 6)
    done = roundoff.convert(net, x, "conv", layout="flow")
    assert done.comparison and done.second and not done.declined


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_short_formats_and_autocast(dtype: torch.dtype) -> None:
    net, x = FeedForward().eval(), torch.randn(2, 5, 8)
    model = rewrite(net, (x,), {}, "conv", "flow").model
    with torch.autocast("cpu", dtype):
        assert model(x).dtype == net(x).dtype
        assert roundoff.compare(net, model, x)
    assert roundoff.convert(net.to(dtype), x.to(dtype), "conv", layout="flow").comparison


def test_what_it_is_not_for_runs_as_before() -> None:
    net, x = FeedForward().eval(), torch.randn(2, 5, 8)
    model = rewrite(net, (x,), {}, "conv", "flow").model
    assert roundoff.compare(net, model, torch.randn(3, 2, 5, 8))  # another rank
    assert roundoff.compare(net, model, x, {"scale": 2.0})
    assert not roundoff.compare(lambda x: net(x), lambda x: model(x, scale=2.0), x)
    with pytest.raises(TypeError):
        model(x, other=2.0)
    seen: list[Any] = []
    handle = model.up.register_forward_hook(lambda module, args, out: seen.append(out.shape))
    model(x)
    handle.remove()
    assert seen == [torch.Size([2, 5, 16])]
    net.act = model.act = nn.Softmax(-1)
    assert roundoff.compare(net, model, x)


class Decides(nn.Module):
    """A block that cannot be captured, around one that can."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.count, self.kept = 0, []
        self.how, self.block, self.head = how, FeedForward(), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(x)
        if self.how == "values" and x.sum() > 1e9:
            return x
        if self.how == "training":
            x = F.dropout(x, 0.1, self.training)
        if self.how in ("gradients", "no gradients"):
            with torch.set_grad_enabled(self.how == "gradients"):
                x = x * 2
        if self.how in ("autocast", "no autocast"):
            with torch.autocast("cpu", torch.bfloat16, self.how == "autocast"):
                x = x * 2
        if self.how == "checkpoint":
            x = checkpoint(self.block.norm, x, use_reentrant=False)
        if self.how == "data":
            self.head.weight.data = self.head.weight.data.clamp(-1, 1)
        if self.how == "counts":
            self.count = self.count + 1
        if self.how == "keeps":
            self.kept.append(x)
        if self.how == "writes":
            y = x.relu_()
            x = x + y
        return self.head(x)


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("values", "torch.fx cannot trace it"),
        ("training", "training flag"),
        ("gradients", "switches gradients or autocast"),
        ("no gradients", "switches gradients or autocast"),
        ("autocast", "switches gradients or autocast"),
        ("no autocast", "switches gradients or autocast"),
        ("checkpoint", "or checkpoints"),
        ("data", "its forward sets .data of a tensor"),
        ("counts", "changes what the module holds"),
        ("keeps", "changes what the module holds"),
        ("writes", "relu_ writes into a tensor"),
    ],
)
def test_what_cannot_be_captured(how: str, why: str) -> None:
    net, x = Decides(how).eval(), torch.randn(2, 5, 8)
    done = roundoff.convert(net, x, "conv", layout="flow")
    assert done.comparison and done.permutes_left == 4
    (declined,) = done.declined
    assert (declined.module, declined.what) == ("", "Decides") and why in declined.reason
    assert declined.reason.startswith("layout='keep' here, for ")


def test_a_wrong_rule_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers_rule, "channels_first", lambda rank: (0, 2, 1) if rank == 3 else (0, 1, 3, 2))
    net, x = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5)), torch.randn(2, 5, 5, 5)
    with pytest.raises(roundoff.NotSame, match="not the same"):
        roundoff.convert(net, x, "conv", layout="flow")
