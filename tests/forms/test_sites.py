"""What a network does with its layers besides calling them: they are left alone, or keep the shape of what others read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from roundoff.forms import rewrite


class Net(nn.Module):
    """One layer and whatever is done with it."""

    def __init__(self, layer: nn.Module, does: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.fc, self.does = layer, does

    def forward(self, x: Tensor) -> Tensor:
        return self.does(self.fc, x)


READS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "data": lambda fc, x: F.linear(fc(x), fc.weight.data),
    "shape": lambda fc, x: fc(x) * fc.weight.shape[-1],
    "ndim": lambda fc, x: fc(x) * fc.weight.ndim,
    "detached": lambda fc, x: F.linear(fc(x), fc.weight.detach().T),
}


@pytest.mark.parametrize("how", list(READS))
def test_a_weight_that_is_read_keeps_its_shape(how: str) -> None:
    net, x = Net(nn.Linear(4, 4), READS[how]), torch.randn(2, 4)
    done = rewrite(net, (x,), {}, "conv")
    assert done.model.fc.weight.shape == (4, 4) and isinstance(done.model.fc, nn.Conv1d)
    torch.testing.assert_close(done.model(x), net(x))


def test_a_weight_whose_dtype_is_read_does_not() -> None:
    net = Net(nn.Linear(4, 4), lambda fc, x: fc(x.to(fc.weight.dtype)))
    assert rewrite(net, (torch.randn(2, 4),), {}, "conv").model.fc.weight.shape == (4, 4, 1)


@pytest.mark.parametrize("after", [False, True])
def test_hooks_read_too(after: bool) -> None:
    """Before its forward and after it, what reads the weight is not the layer itself."""
    layer = nn.Linear(4, 4)
    if after:
        layer.register_forward_hook(lambda module, args, out: out + F.linear(args[0], module.weight))
    else:
        layer.register_forward_pre_hook(lambda module, args: (F.linear(args[0], module.weight),))
    net, x = nn.Sequential(layer, nn.ReLU()), torch.randn(2, 4)
    done = rewrite(net, (x,), {}, "conv")
    assert [c.after for c in done.converted] == ["PointwiseConv1d"] and done.model[0].weight.shape == (4, 4)
    torch.testing.assert_close(done.model(x), net(x))


class Norm(nn.Linear):
    """Has more than a Linear."""

    def __init__(self) -> None:
        super().__init__(4, 4)

    def norm(self) -> Tensor:
        return self.weight.norm()


class Stores(nn.Linear):
    """Has its weight otherwise in its state."""

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = destination[f"{prefix}weight"].T


class Doubles(nn.Conv2d):
    """Runs the forward of PyTorch, which is not all of it."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(input, weight * 2, bias)


class Plain(nn.Linear):
    """Only made otherwise."""

    def __init__(self, size: int) -> None:
        super().__init__(size, size)
        self.tag = "mine"

    def reset_parameters(self) -> None:
        nn.init.eye_(self.weight)


def call_norm(fc: Any, x: Tensor) -> Tensor:
    return fc(x) / fc.norm()


def scripted() -> nn.Module:
    with pytest.warns(DeprecationWarning):
        return torch.jit.script(nn.Linear(4, 4))  # type: ignore[no-any-return]


IMAGE = torch.randn(1, 4, 3, 3)


@pytest.mark.parametrize(
    ("layer", "does", "x", "to", "what", "why"),
    [
        (Norm(), call_norm, torch.randn(2, 4), "conv", "Norm", "its class has norm of its own"),
        (Stores(4, 3), None, torch.randn(2, 4), "conv", "Stores", "has _save_to_state_dict of its own"),
        (Doubles(4, 4, 1), None, IMAGE, "linear", "Doubles", "has _conv_forward of its own"),
        (nn.ConvTranspose2d(4, 4, 1), None, IMAGE, "linear", "ConvTranspose2d", "a forward of its own"),
        (nn.LSTM(4, 4), lambda fc, x: fc(x)[0], torch.randn(2, 4), "conv", "LSTM", "a forward of its own"),
        (scripted(), None, torch.randn(2, 4), "conv", "RecursiveScriptModule", "it is scripted"),
    ],
)
def test_told(layer: nn.Module, does: Any, x: Tensor, to: str, what: str, why: str) -> None:
    net = nn.Sequential(layer) if does is None else Net(layer, does)
    (name,) = (name for name, m in net.named_modules() if m is layer)
    done = rewrite(net, (x,), {}, to)
    assert not done.converted and [(d.module, d.what) for d in done.declined] == [(name, what)]
    assert why in done.declined[0].reason


def test_a_class_that_only_makes_its_layer_otherwise() -> None:
    done = rewrite(nn.Sequential(Plain(4)), (torch.randn(2, 4),), {}, "conv")
    assert [c.before for c in done.converted] == ["Plain"] and done.model[0].tag == "mine"


def test_hooks_on_gradients_are_kept() -> None:
    """A copy of a parameter loses them."""
    net = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    seen: list[Any] = []
    net[0].weight.register_hook(torch.zeros_like)
    net[1].weight.register_post_accumulate_grad_hook(lambda p: seen.append(p.shape))
    done = rewrite(net, (torch.randn(2, 4),), {}, "conv")
    assert "hook on its gradient" in done.declined[0].reason
    done.model(torch.randn(2, 4)).sum().backward()
    assert not done.model[0].weight.grad.any() and seen == [torch.Size([4])]


def test_the_way_back_leaves_no_trace() -> None:
    """Not the user's attributes lost, and not the fused path of a transformer closed."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    net, x = nn.Sequential(nn.Linear(8, 8), layer).eval(), torch.randn(2, 3, 8)
    net[0].tag = "mine"
    conv = rewrite(net, (x,), {}, "conv").model
    assert conv[0].tag == "mine" and not conv[1].activation_relu_or_gelu
    back = rewrite(conv, (x,), {}, "linear").model
    for (name, a), b in zip(net.named_modules(), back.modules(), strict=True):
        assert type(a) is type(b) and vars(a).keys() == vars(b).keys(), name
    assert back[0].tag == "mine" and back[1].activation_relu_or_gelu == 1


def test_a_layer_that_is_not_registered() -> None:
    held = [nn.Linear(4, 4)]
    net = Net(nn.Linear(4, 4), lambda fc, x: held[0](fc(x)))
    done = rewrite(net, (torch.randn(2, 4),), {}, "conv")
    assert [c.module for c in done.converted] == ["fc"] and "that no module holds" in done.declined[0].reason
