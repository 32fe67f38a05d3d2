"""Convolutional networks built twice: of PyTorch's modules, and by hand on channels that come last.

The comment behind a line holds the names of the bugs that are planted there, or that first show there in the values: on
the side without the bug, the line that does the same.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

N, S = 2, 8  # images, and their size


def shaken(net: nn.Module) -> nn.Module:
    """``net`` in evaluation, with every parameter and buffer moved away from where it starts."""
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn(p.shape) * 0.2)
        for x in net.buffers():
            if x.is_floating_point():
                x.add_(torch.rand(x.shape))
    return net.eval()


class Convs(nn.Module):
    """A stem, a residual block of two convolutions, pooling and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.wide = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.mix = nn.Conv2d(8, 8, 1)
        self.down = nn.Conv2d(8, 6, 3, stride=2, padding=1)
        self.head = nn.Linear(6 * 2 * 2, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)  # pad kernel weights channels dilation
        h = self.norm(h)  # variance eps shift before
        h = F.relu(h)  # activation before
        y = self.mix(self.wide(h))  # groups swapped rows
        h = h + y  # residual rows
        h = self.down(h)  # stride
        h = F.max_pool2d(h, 2)  # pool offset
        h = h.flatten(1)
        return self.head(h)  # bias head flatten


def channels_last(net: Convs, bug: str = "") -> Callable[[Tensor], Tensor]:
    """The same with every convolution a product of patches, on ``[N, H, W, C]``."""

    def conv(
        x: Tensor, layer: nn.Conv2d, weight: Tensor, stride: int = 1, mode: str = "constant", step: int = 1
    ) -> Tensor:
        image = F.pad(x.permute(0, 3, 1, 2), (step,) * 4, mode=mode)  # pad dilation residual
        if bug == "stride" and stride == 2:
            image = image.roll(-1, 2)  # stride
        size = (x.shape[1] - 1) // stride + 1
        patches = F.unfold(image, 3, stride=stride, dilation=step).transpose(1, 2)  # pad dilation
        out = patches @ weight.flatten(1).t() + layer.bias  # kernel weights channels
        return out.reshape(N, size, size, -1)

    def grouped(x: Tensor) -> Tensor:
        parts = x.chunk(2, -1) if bug != "groups" else (x[..., ::2], x[..., 1::2])  # groups
        weights, biases = net.wide.weight.chunk(2), net.wide.bias.chunk(2)
        done = []
        for part, weight, bias in zip(parts, weights, biases, strict=True):
            done.append(F.conv2d(part.permute(0, 3, 1, 2), weight, bias, padding=1).permute(0, 2, 3, 1))  # groups
        return torch.cat(done if bug != "swapped" else done[::-1], -1)  # swapped

    def norm(x: Tensor) -> Tensor:
        layer = net.norm
        eps = 1e-3 if bug == "eps" else layer.eps
        deviation = torch.sqrt(layer.running_var + eps)  # eps
        if bug == "variance":
            deviation = layer.running_var + eps  # variance
        scale = layer.weight / deviation  # variance
        shift = layer.bias - layer.running_mean * (1 if bug == "shift" else scale)  # shift
        return x * scale + shift  # eps variance shift before

    def forward(x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        if bug == "channels":
            x = x.flip(-1)  # channels
        weight = net.stem.weight
        if bug == "kernel":
            weight = weight.flip(2)  # kernel
        if bug == "weights":
            weight = weight.transpose(2, 3)  # weights
        mode, step = "reflect" if bug == "pad" else "constant", 2 if bug == "dilation" else 1
        h = conv(x, net.stem, weight, mode=mode, step=step)
        if bug == "before":
            h = norm(F.relu(h))  # before
        else:
            h = norm(h)
            h = F.leaky_relu(h) if bug == "activation" else h.clamp(min=0)  # activation
        mix = net.mix.weight[:, :, 0, 0]
        if bug == "rows":
            mix = mix[[1, 0, 2, 3, 4, 5, 6, 7]]  # rows
        y = F.linear(grouped(h), mix, net.mix.bias)  # rows
        if bug != "residual":
            h = h + y
        h = conv(h if bug != "residual" else y, net.down, net.down.weight, 2)  # residual
        h = h.permute(0, 3, 1, 2)
        if bug == "pool":
            h = F.avg_pool2d(h, 2)  # pool
        else:
            h = h.roll(1, 3) if bug == "offset" else h  # offset
            h = h.unfold(2, 2, 2).unfold(3, 2, 2).amax((-1, -2))  # offset
        if bug == "flatten":
            h = h.permute(0, 2, 3, 1)
        h = h.reshape(N, -1)  # flatten
        weight = net.head.weight if bug != "head" else net.head.weight * 1.001  # head
        return F.conv1d(h[:, :, None], weight[:, :, None], net.head.bias if bug != "bias" else None)[..., 0]  # bias

    return forward
