"""Whole networks in both directions; what is declined, and what is refused."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import roundoff
from roundoff.forms import rewrite

from .nets import Bottleneck, ConvNextBlock, LeNet, Mixer, PointNet, SqueezeExcite, Tied, alexnet, vgg

NETS: dict[str, tuple[Any, Any]] = {
    "LeNet": (LeNet, torch.rand(2, 1, 20, 20)),
    "LeNet, channels last": (lambda: LeNet(last=True), torch.rand(2, 1, 20, 20)),
    "AlexNet": (alexnet, torch.rand(1, 3, 67, 67)),
    "VGG": (lambda: vgg(width=1, size=2), torch.rand(1, 3, 32, 32)),
    "bottleneck": (Bottleneck, torch.rand(2, 6, 8, 8)),
    "squeeze and excitation": (SqueezeExcite, torch.rand(2, 6, 4, 4)),
    "ConvNeXt": (ConvNextBlock, torch.rand(2, 6, 5, 5)),
    "Mixer": (Mixer, torch.rand(2, 9, 8)),
    "PointNet": (PointNet, torch.rand(2, 3, 10)),
    "tied": (Tied, torch.randint(0, 11, (2, 5))),
    "root": (lambda: nn.Linear(6, 4), torch.rand(2, 6)),
}


@pytest.mark.parametrize("to", ["conv", "linear"])
@pytest.mark.parametrize("name", list(NETS))
def test_networks(name: str, to: str) -> None:
    make, x = NETS[name]
    net = make().eval()
    before = deepcopy(net.state_dict())
    done = roundoff.convert(net, x, to)
    assert done.comparison and done.second
    assert [n for n, _ in done.model.named_parameters()] == [n for n, _ in net.named_parameters()]
    kinds = (nn.Linear,) if to == "conv" else (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    listed = {c.module for c in done.converted} | {d.module for d in done.declined}
    names = {n for n, m in net.named_modules() if isinstance(m, kinds)}
    assert names <= listed
    back = roundoff.convert(done.model, x, "linear" if to == "conv" else "conv")
    for key, value in done.state_dict_from(done.state_dict_to(before)).items():
        assert torch.equal(value, before[key])
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key])  # the original is untouched
    assert back.comparison


def test_what_is_converted() -> None:
    net, x = LeNet(last=True).eval(), torch.rand(2, 1, 20, 20)
    done = rewrite(net, (x,), {}, "conv")
    assert [c.after for c in done.converted] == ["FlatConv2d", "PointwiseConv1d"]
    w = net.classifier[1].weight.reshape(12, 6, 6, 4).permute(0, 3, 1, 2)
    assert torch.equal(done.model.classifier[1].weight, w)
    assert {c.module for c in rewrite(Bottleneck(), (torch.rand(2, 6, 8, 8),), {}, "linear").converted} == {
        "a",
        "c",
        "short",
    }


def test_tied_weights_stay_tied_and_shared_layers_one() -> None:
    model = rewrite(Tied(), (torch.randint(0, 11, (2, 5)),), {}, "conv").model
    assert model.out.weight is model.embed.weight and model.again is model.block
    assert model.out.weight.shape == (11, 8) and model.block.weight.shape == (8, 8, 1)


def test_a_checkpoint_loads_in_the_other_form() -> None:
    a, b = LeNet(last=True).eval(), LeNet(last=True).eval()
    x = torch.rand(2, 1, 20, 20)
    done = rewrite(a, (x,), {}, "conv")
    state = b.state_dict()
    done.model.load_state_dict(state)
    assert roundoff.compare(b, done.model, x)
    done.model.load_state_dict(done.state_dict_to(state))
    assert state["classifier.1.weight"].shape == (12, 144)
    with pytest.raises(roundoff.RoundoffError, match=r"classifier.1.weight has the shape \[12, 144\], expected"):
        done.state_dict_from(state)
    with pytest.raises(roundoff.RoundoffError, match="missing: classifier"):
        done.state_dict_to({})


def test_parameters_keep_what_they_had() -> None:
    net = nn.Sequential(nn.Linear(4, 3, dtype=torch.bfloat16), nn.ReLU(), nn.Linear(3, 2, dtype=torch.bfloat16)).train()
    net[0].weight.requires_grad_(False)
    net[2].eval()
    seen: list[Any] = []
    net[0].register_forward_hook(lambda module, args, out: seen.append(out.shape))
    model = rewrite(net, (torch.randn(2, 4).bfloat16(),), {}, "conv").model
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True]
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model[0].training and not model[2].training
    seen.clear()
    model(torch.randn(2, 4).bfloat16())
    assert seen == [torch.Size([2, 3])]


class Own(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return torch.inner(input, self.weight)


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.unused, self.w = nn.Linear(4, 4), nn.Linear(4, 4), nn.Parameter(torch.randn(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.fc(x), self.fc.weight) @ self.w.T


class Listed(nn.Module):
    """Holds a layer in a plain list too, and calls it by keyword and by either name."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.held = [self.fc]

    def forward(self, x: Tensor) -> Tensor:
        return self.held[0](self.fc(input=x)).view(-1)


def test_whoever_holds_a_layer_has_the_new_one() -> None:
    model = roundoff.convert(Listed(), torch.randn(2, 4), "conv").model
    assert model.held[0] is model.fc and isinstance(model.fc, nn.Conv1d)
    y = model(torch.ones(2, 4))
    nn.init.zeros_(model.fc.weight)
    assert not torch.equal(model(torch.ones(2, 4)), y)


def weight_normed() -> nn.Module:
    with pytest.warns(FutureWarning):
        return nn.utils.weight_norm(nn.Linear(4, 4))


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Own(4, 4), "a forward of its own"),
        (lambda: parametrizations.orthogonal(nn.Linear(4, 4)), "parametrized"),
        (lambda: prune.random_unstructured(nn.Linear(4, 4), "weight", 0.5), "pruning"),
        (weight_normed, "weight norm"),
        (lambda: nn.LazyLinear(4), "lazy"),
    ],
)
def test_declined(make: Any, why: str) -> None:
    done = rewrite(nn.Sequential(make(), nn.Linear(4, 4)), (torch.randn(2, 4),), {}, "conv")
    assert [c.module for c in done.converted] == ["1"]
    assert [d.module for d in done.declined] == ["0"] and why in done.declined[0].reason


def test_functional_calls() -> None:
    net, x = Functional(), torch.randn(2, 4)
    done = roundoff.convert(net, x, "conv")
    assert [(d.module, d.what) for d in done.declined] == [("unused", "Linear")]
    assert [c.before for c in done.converted] == ["Linear", "linear(fc.weight)", "matmul(w)"]
    assert done.comparison


@pytest.mark.parametrize("grad", [True, False])
def test_transformer_layers(grad: bool) -> None:
    layer = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1, enable_nested_tensor=False)
    with torch.set_grad_enabled(grad):
        done = roundoff.convert(layer.eval(), torch.randn(2, 5, 8), "conv")
    attention = "layers.0.self_attn"
    assert [c.module for c in done.converted] == ["layers.0.linear1", "layers.0.linear2", attention, attention]
    assert not done.declined


def test_a_wrong_rule_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from roundoff.forms import linear_to_conv

    monkeypatch.setattr(linear_to_conv, "is_transposed", lambda m: True)
    with pytest.raises(roundoff.RoundoffError, match=r"^1 was not converted rightly"):
        rewrite(nn.Sequential(nn.ReLU(), nn.Linear(4, 4)), (torch.randn(2, 4),), {}, "conv")


@pytest.mark.parametrize(
    ("model", "options", "text"),
    [
        (
            nn.Linear(4, 4),
            {"to": "convolution"},
            "no form 'convolution'. Give to='conv', 'linear', 'dense' or 'fastest'",
        ),
        (nn.Linear(4, 4), {"to": "dense"}, "image"),
        (nn.Linear(4, 4), {"to": "conv", "layout": "last"}, "no layout 'last'.*'keep' or layout='flow'"),
        (nn.Linear(4, 4), {"to": "fastest", "layout": "flow"}, "layout='flow' is for to='conv' and to='linear'"),
        (nn.Linear(5, 4), {"to": "conv"}, "raised RuntimeError on the given input"),
        (torch.relu, {"to": "conv"}, "rewrites a torch.nn.Module"),
    ],
)
def test_bad_input(model: Any, options: Any, text: str) -> None:
    with pytest.raises(roundoff.RoundoffError, match=text):
        roundoff.convert(model, torch.randn(2, 4), **options)


def trained(model: nn.Module, like: nn.Module, y: Tensor) -> Any:
    """Five steps of gradient descent: the losses, and the parameters in the shapes of ``like``."""
    shapes = [p.shape for p in like.parameters()]

    def run(x: Tensor) -> Any:
        parameters, losses = {n: p.detach().requires_grad_() for n, p in model.named_parameters()}, []
        for _ in range(5):
            loss = F.cross_entropy(torch.func.functional_call(model, parameters, (x,)), y)
            gradients = torch.autograd.grad(loss, list(parameters.values()))
            moved = zip(parameters.items(), gradients, strict=True)
            parameters = {n: (p - 0.1 * g).detach().requires_grad_() for (n, p), g in moved}
            losses.append(loss.detach())
        return torch.stack(losses), [p.detach().reshape(s) for p, s in zip(parameters.values(), shapes, strict=True)]

    return run


@pytest.mark.parametrize("to", ["conv", "linear"])
@pytest.mark.parametrize("layout", ["keep", "flow"])
def test_training_is_the_same_function(to: str, layout: str) -> None:
    net = nn.Sequential(nn.Conv2d(1, 3, 5), nn.Tanh(), nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(64, 8), nn.Tanh())
    net.append(nn.Linear(8, 5))
    x, y = torch.rand(4, 1, 8, 8), torch.randint(0, 5, (4,))
    other = rewrite(net, (x,), {}, to, layout).model
    c = roundoff.compare(trained(net, net, y), trained(other, net, y), x)
    assert c, c.reason


@pytest.mark.parametrize("layout", ["keep", "flow"])
def test_the_result_exports(layout: str) -> None:
    net, x = LeNet().eval(), torch.rand(2, 1, 20, 20)
    model = rewrite(net, (x,), {}, "conv", layout).model
    dynamic = {"x": {0: torch.export.Dim("batch", min=2)}}
    program = torch.export.export(model, (x,), dynamic_shapes=dynamic, strict=True)
    x = torch.rand(5, 1, 20, 20)
    torch.testing.assert_close(program.module()(x), net(x))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x)[0]


@pytest.mark.parametrize(
    ("make", "shape", "to", "layout"),
    [
        (Bottleneck, (2, 6, 8, 8), "linear", "keep"),
        (SqueezeExcite, (2, 6, 4, 4), "linear", "flow"),
        (Mixer, (2, 9, 8), "conv", "flow"),
        (PointNet, (2, 3, 10), "linear", "keep"),
        (Functional, (2, 4), "conv", "keep"),
        (Attention, (2, 5, 8), "conv", "keep"),
    ],
)
def test_strict_export(make: Any, shape: tuple[int, ...], to: str, layout: str) -> None:
    """By Dynamo, which follows the Python code: a program of the other form's operators, without the original's."""
    net, x = make().eval(), torch.rand(shape)
    done = rewrite(net, (x,), {}, to, layout)
    assert done.converted and not {d.what for d in done.declined} & {"linear", "conv2d"}
    program = torch.export.export(done.model, (x,), strict=True)
    torch.testing.assert_close(program.module()(x), net(x))
    ops = [str(node.target) for node in program.graph.nodes]
    counts = {form: sum(form in op for op in ops) for form in ("conv", "linear", "matmul")}
    if to == "conv":
        assert counts["conv"] and not counts["linear"], counts
    else:
        assert counts["linear"], counts
