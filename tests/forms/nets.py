"""Networks that are rewritten in the tests."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn


class LeNet(nn.Module):
    """Convolutions, then a flatten in either order, then fully connected layers."""

    def __init__(self, last: bool = False) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 5), nn.ReLU(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(6))
        self.classifier = nn.Sequential(nn.Dropout(0.5), nn.Linear(144, 12), nn.ReLU(), nn.Linear(12, 5))
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        return self.classifier((x.permute(0, 2, 3, 1) if self.last else x).flatten(1))


def alexnet(padding: int = 1, widths: tuple[int, ...] = (4, 6, 6, 6, 4), *, size: int = 5, hidden: int = 8,
            classes: int = 5) -> nn.Sequential:  # fmt: skip
    """The layers of AlexNet as torchvision has them. Without padding they need a larger crop for the same map."""
    p, w = padding, (3, *widths)
    sizes = ((w[0], w[1], 11, 4, 2 * p), (w[1], w[2], 5, 1, 2 * p), *((w[i], w[i + 1], 3, 1, p) for i in (2, 3, 4)))
    layers: list[nn.Module] = []
    for i, shape in enumerate(sizes):
        layers += [nn.Conv2d(*shape), nn.ReLU(True), *([nn.MaxPool2d(3, 2)] if i in (0, 1, 4) else [])]
    return nn.Sequential(*layers, *_classifier(widths[-1], size, hidden, classes)).eval()


def vgg(padding: int = 1, width: int = 2, blocks: tuple[int, ...] = (1, 1, 2, 2, 2), *, size: int = 7,
        hidden: int = 8, classes: int = 5) -> nn.Sequential:  # fmt: skip
    """VGG as torchvision has it, adaptive pooling to ``size`` before its classifier; VGG-11 by its blocks."""
    layers: list[nn.Module] = []
    channels = 3
    for block, convs in enumerate(blocks):
        for _ in range(convs):
            layers += [nn.Conv2d(channels, channels := width * min(2**block, 8), 3, padding=padding), nn.ReLU(True)]
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, *_classifier(channels, size, hidden, classes)).eval()


def _classifier(channels: int, size: int, hidden: int, classes: int) -> list[nn.Module]:
    sizes = (channels * size**2, hidden, hidden)
    layers = [x for i, o in pairwise(sizes) for x in (nn.Linear(i, o), nn.ReLU(True), nn.Dropout())]
    return [nn.AdaptiveAvgPool2d(size), nn.Flatten(), *layers, nn.Linear(hidden, classes)]


class Bottleneck(nn.Module):
    """A residual block with grouped convolutions and a strided 1x1 shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(6, 8, 1, bias=False), nn.Conv2d(8, 8, 3, 2, 1, groups=2, bias=False)
        self.c, self.short = nn.Conv2d(8, 12, 1, groups=4), nn.Conv2d(6, 12, 1, 2, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(8), nn.BatchNorm2d(8), nn.BatchNorm2d(12)])

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norms[0](self.a(x)))
        y = torch.relu(self.norms[1](self.b(y)))
        return torch.relu(self.norms[2](self.c(y)) + self.short(x))


class SqueezeExcite(nn.Module):
    """Channels weighted by what two 1x1 convolutions of their means say."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.down, self.up = nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 3, 1), nn.Conv2d(3, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(torch.relu(self.down(self.pool(x)))))


class ConvNextBlock(nn.Module):
    """A depthwise convolution, then fully connected layers with the channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(6, 6, 7, padding=3, groups=6), nn.LayerNorm(6)
        self.up, self.down = nn.Linear(6, 24), nn.Linear(24, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + self.down(nn.functional.gelu(self.up(y))).permute(0, 3, 1, 2)


class Mixer(nn.Module):
    """Fully connected layers over the tokens and over the channels, in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Sequential(nn.Linear(9, 16), nn.GELU(), nn.Linear(16, 9))
        self.channels = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(x.mT).mT
        return x + self.channels(x)


class PointNet(nn.Module):
    """The same small network at every point, then the largest of each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.points = nn.Sequential(nn.Conv1d(3, 8, 1), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 16, 1))
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.points(x).amax(-1))


class Tied(nn.Module):
    """A language model whose last layer has the weight of its embedding; one block is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.block, self.out = nn.Embedding(11, 8), nn.Linear(8, 8), nn.Linear(8, 11, bias=False)
        self.again, self.out.weight = self.block, self.embed.weight

    def forward(self, i: Tensor) -> Tensor:
        return self.out(self.again(torch.tanh(self.block(self.embed(i)))))
