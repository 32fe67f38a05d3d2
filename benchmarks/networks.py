"""The networks whose cost is measured: each is one function, written in two forms with the same weights.

``NETWORKS`` maps a name to a function that makes (A, B, x): two modules in evaluation mode and their input. The sizes
are chosen so that A and B together take about 100 ms to 200 ms on two cores; "forum" is small on purpose.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Pair = tuple[nn.Module, nn.Module, Tensor]


class Pointwise(nn.Module):
    """``linear`` written as a 1x1 convolution: [batch, samples, in] to [batch, samples, out]."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.conv = nn.Conv2d(linear.in_features, linear.out_features, 1)
        self.conv.load_state_dict({"weight": linear.weight.detach()[:, :, None, None], "bias": linear.bias.detach()})

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x.unsqueeze(3).permute(0, 2, 1, 3))
        return y.permute(0, 2, 1, 3).squeeze(3)


class Mlp(nn.Module):
    """Layers with an activation between them."""

    def __init__(self, layers: list[nn.Module], activation: nn.Module) -> None:
        super().__init__()
        self.layers, self.activation = nn.ModuleList(layers), activation

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        y: Tensor = self.layers[-1](x)
        return y


class ChannelsLast(nn.Module):
    """``model`` on an input whose channels lie next to each other in memory: other kernels, the same function."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.model(x.contiguous(memory_format=torch.channels_last))
        return y


def _mlp(widths: list[int], activation: nn.Module, batch: int, samples: int) -> Pair:
    layers = [nn.Linear(i, o) for i, o in pairwise(widths)]
    a, b = Mlp([*layers], activation), Mlp([Pointwise(layer) for layer in layers], activation)
    return a, b, torch.randn(batch, samples, widths[0])


class Block(nn.Module):
    """A transformer's layer, normalised first. ``fused``: query, key and value by one product; else by three."""

    def __init__(self, width: int, heads: int, fused: bool) -> None:
        super().__init__()
        self.heads, self.fused = heads, fused
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.up: nn.Module = nn.Linear(width, 4 * width)
        self.down: nn.Module = nn.Linear(4 * width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(x)
        if self.fused:
            q, k, v = self.qkv(h).chunk(3, dim=-1)
        else:
            weights, biases = self.qkv.weight.chunk(3), self.qkv.bias.chunk(3)
            q, k, v = (F.linear(h, w, b) for w, b in zip(weights, biases, strict=True))
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (q, k, v))
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.out(h)
        y: Tensor = x + self.down(F.gelu(self.up(self.norm2(x))))
        return y


def _blocks(width: int, heads: int, depth: int) -> tuple[nn.Sequential, nn.Sequential]:
    """With one product for query, key and value; and with three, and a feed-forward block of 1x1 convolutions."""
    a = nn.Sequential(*(Block(width, heads, fused=True) for _ in range(depth)))
    b = nn.Sequential(*(Block(width, heads, fused=False) for _ in range(depth)))
    b.load_state_dict(a.state_dict())
    for block in b.children():
        assert isinstance(block, Block)
        assert isinstance(block.up, nn.Linear) and isinstance(block.down, nn.Linear)
        block.up, block.down = Pointwise(block.up), Pointwise(block.down)
    return a, b


def transformer() -> Pair:
    a, b = _blocks(512, 8, depth=4)
    return a, b, torch.randn(4, 128, 512)


class Vision(nn.Module):
    """A vision transformer: patches of 16 x 16, cut by a convolution or by hand."""

    def __init__(self, blocks: nn.Module, width: int, by_hand: bool) -> None:
        super().__init__()
        self.by_hand = by_hand
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.place = nn.Parameter(torch.randn(1, 196, width) / 50)
        self.blocks, self.norm, self.head = blocks, nn.LayerNorm(width), nn.Linear(width, 1000)

    def forward(self, x: Tensor) -> Tensor:
        if self.by_hand:
            h = F.unfold(x, 16, stride=16).transpose(1, 2) @ self.patches.weight.flatten(1).T + self.patches.bias
        else:
            h = self.patches(x).flatten(2).transpose(1, 2)
        y: Tensor = self.head(self.norm(self.blocks(h + self.place)).mean(1))
        return y


def vision() -> Pair:
    """The sizes of ViT-S/16: 22 million parameters."""
    blocks_a, blocks_b = _blocks(384, 6, depth=12)
    a, b = Vision(blocks_a, 384, by_hand=False), Vision(blocks_b, 384, by_hand=True)
    for mine, theirs in ((b.patches, a.patches), (b.norm, a.norm), (b.head, a.head)):
        mine.load_state_dict(theirs.state_dict())
    b.place.data.copy_(a.place.data)
    return a, b, torch.randn(2, 3, 224, 224)


class Residual(nn.Module):
    """Two 3x3 convolutions with batch norm around a shortcut."""

    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__()
        self.way = nn.Sequential(
            nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU(),
            nn.Conv2d(o, o, 3, 1, 1, bias=False), nn.BatchNorm2d(o),
        )  # fmt: skip
        short = nn.Sequential(nn.Conv2d(i, o, 1, stride, bias=False), nn.BatchNorm2d(o))
        self.short: nn.Module = nn.Identity() if i == o and stride == 1 else short

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.way(x) + self.short(x))


def _trained(model: nn.Module) -> nn.Module:
    """With running statistics as training leaves them: neither zero nor one."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def convolutions() -> Pair:
    """The layers of a small ResNet; B has its channels last in memory."""
    stem = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    stages = [Residual(64, 64, 1), Residual(64, 128, 2), Residual(128, 128, 1), Residual(128, 256, 2)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10)]
    a = _trained(nn.Sequential(*stem, *stages, *head))
    b = copy.deepcopy(a).to(memory_format=torch.channels_last)
    return a, ChannelsLast(b), torch.randn(16, 3, 64, 64)


class Separable(nn.Sequential):
    """A depthwise 3x3 convolution and a pointwise one, each with batch norm and ReLU6, as in MobileNet."""

    def __init__(self, i: int, o: int, stride: int) -> None:
        super().__init__(
            nn.Conv2d(i, i, 3, stride, 1, groups=i, bias=False), nn.BatchNorm2d(i), nn.ReLU6(),
            nn.Conv2d(i, o, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU6(),
        )  # fmt: skip


def depthwise() -> Pair:
    """The layers of MobileNet up to 512 channels; B has its hidden channels in reverse order."""
    sizes = ((32, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2), (512, 512, 1))
    stem = [nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU6()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10)]
    a = _trained(nn.Sequential(*stem, *(Separable(*size) for size in sizes), *head))
    b = copy.deepcopy(a)
    for module in b.modules():
        if isinstance(module, nn.Linear):
            module.weight.data = module.weight.data.flip(1)
        elif isinstance(module, nn.Conv2d):
            both = module.groups == 1 and module.in_channels > 3
            module.weight.data = module.weight.data.flip((0, 1) if both else 0)
        elif isinstance(module, nn.BatchNorm2d):
            for x in (module.weight, module.bias, module.running_mean, module.running_var):
                assert x is not None
                x.data = x.data.flip(0)
    return a, b, torch.randn(8, 3, 160, 160)


class Cells(nn.Module):
    """``lstm`` as it is defined: one linear layer a step for the input, one for the state."""

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        self.lstm = lstm

    def forward(self, x: Tensor) -> Tensor:
        for layer in range(self.lstm.num_layers):
            w_in, w_state, b_in, b_state = self.lstm.all_weights[layer]
            h = c = x.new_zeros(x.shape[0], self.lstm.hidden_size)
            states = []
            for at in x.unbind(1):
                gates = F.linear(at, w_in, b_in) + F.linear(h, w_state, b_state)
                i, f, g, o = gates.chunk(4, dim=1)
                c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                h = o.sigmoid() * c.tanh()
                states.append(h)
            x = torch.stack(states, 1)
        return x


class Outputs(nn.Module):
    """The outputs of ``lstm`` without its last state."""

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        self.lstm = lstm

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.lstm(x)[0]
        return y


def recurrent() -> Pair:
    lstm = nn.LSTM(256, 512, num_layers=2, batch_first=True)
    return Outputs(lstm), Cells(lstm), torch.randn(64, 32, 256)


def connected() -> Pair:
    return _mlp([1536] * 7, nn.ReLU(), batch=64, samples=16)


def forum() -> Pair:
    """The question it started from, without its second output."""
    return _mlp([256, 64, 128, 256, 4], nn.ELU(), batch=16, samples=5)


NETWORKS: dict[str, Callable[[], Pair]] = {
    "fully connected": connected,
    "transformer": transformer,
    "22M parameters": vision,
    "convolutions": convolutions,
    "depthwise": depthwise,
    "recurrent": recurrent,
    "forum": forum,
}


def make(name: str) -> Pair:
    """The pair of that name, from a fixed seed."""
    torch.manual_seed(0)
    a, b, x = NETWORKS[name]()
    return a.eval().requires_grad_(False), b.eval().requires_grad_(False), x
