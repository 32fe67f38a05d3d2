"""Networks for the tests of dense conversion: some that are written in other ways, and random ones."""

from __future__ import annotations

from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from roundoff.forms.dense import Densified, densify


class Join(nn.Module):
    """The sum of two ways."""

    def __init__(self, a: nn.Module, b: nn.Module) -> None:
        super().__init__()
        self.a, self.b = a, b

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + self.b(x)


class Pad(nn.Module):
    def __init__(self, pads: list[int], mode: str) -> None:
        super().__init__()
        self.pads, self.mode = pads, mode

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x, self.pads, mode=self.mode)


class Slice(nn.Module):
    def __init__(self, start: int, end: int | None, step: int) -> None:
        super().__init__()
        self.start, self.end, self.step = start, end, step

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, self.start : self.end : self.step, :: self.step]


class Python(nn.Module):
    """Everything in Python: slices, permutes, layer norm over the channels, chunks, means, two outputs in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.short = nn.Conv2d(3, 8, 3, 2), nn.Conv2d(3, 8, 1, 2)
        self.norm, self.up, self.out = nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.conv(x) + self.short(x[:, :, 1:-1, 1:-1])
        y = y.permute(0, 2, 3, 1)
        y = y + F.gelu(self.up(self.norm(y)))
        y = F.pad(y.permute(0, 3, 1, 2), (0, 0, 1, 0), mode="reflect")
        a, b = F.avg_pool2d(y, 2, 1, ceil_mode=True).chunk(2, 1)
        y = torch.cat([b, a], 1)
        mean = self.out(y.mean((2, 3)))
        return {"mean": F.normalize(mean), "max": F.log_softmax(self.out(y.amax((-1, -2))), -1)}


class CrossMapNorm(nn.Module):
    """Local response norm as it is written by hand: an average over neighbouring channels."""

    def __init__(self) -> None:
        super().__init__()
        self.average = nn.AvgPool3d((3, 1, 1), 1, (1, 0, 0))

    def forward(self, x: Tensor) -> Tensor:
        return x / (1 + 0.5 * self.average(x.pow(2).unsqueeze(1)).squeeze(1)).pow(0.75)


class Head(nn.Module):
    """Other heads: ``view`` with the batch's size, ``flatten(2).mean(-1)``, a pooling of the map's size."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.conv, self.kind = nn.Conv2d(3, 6, 3, 2), kind
        self.out = nn.Linear({"view": 294, "shuffle": 294}.get(kind, 6), 4)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu_(self.conv(x))
        if self.kind == "shuffle":
            y = y.view(y.shape[0], 2, 3, *y.shape[2:]).transpose(1, 2).reshape(y.shape)
        if self.kind in ("view", "shuffle"):
            return self.out(y.contiguous().view(y.size(0), -1))
        if self.kind == "flatten":
            return self.out(y.flatten(2).mean(-1))
        if self.kind == "sum":
            return self.out(y.sum((2, 3)) / (y.shape[2] * y.shape[3]))
        if self.kind == "tokens":
            tokens = y.flatten(2).transpose(1, 2)
            weights = (tokens @ tokens.transpose(1, 2)).softmax(-1)
            return self.out((weights @ tokens).mean(1))
        return self.out(F.avg_pool2d(y, y.shape[2:]).flatten(1))


def body(r: Random) -> tuple[list[nn.Module], int]:
    """Random layers that take two channels, and how many channels they give."""
    channels, layers = 2, list[nn.Module]()

    def pair(low: int, high: int) -> tuple[int, int]:
        return r.randint(low, high), r.randint(low, high)

    for _ in range(r.randint(1, 5)):
        kind = r.choice("ccccmmaapsrrnx")
        if kind == "c":
            mode = r.choice(["zeros"] * 5 + ["reflect", "replicate", "circular"])
            out, padding, stride = r.choice([2, 4]), r.choice([0, 0, 1, pair(0, 3)]), r.choice([1, 1, 2, pair(1, 3)])
            more = {"dilation": r.choice([1, 1, pair(1, 2)]), "groups": r.choice([1, 2]), "padding_mode": mode}
            layers.append(nn.Conv2d(channels, out, pair(1, 4), stride, padding, **more))
            channels = out
        elif kind == "m":
            kernel = pair(1, 3)
            padding, stride = r.choice([0, (kernel[0] // 2, kernel[1] // 2)]), r.choice([None, 1, 2, pair(1, 3)])
            layers.append(nn.MaxPool2d(kernel, stride, padding, r.choice([1, 1, 2]), ceil_mode=r.random() < 0.4))
        elif kind == "a":
            kernel = pair(1, 3)
            padding, stride = r.choice([0, (kernel[0] // 2, kernel[1] // 2)]), r.choice([None, 1, 2, pair(1, 3)])
            layers.append(nn.AvgPool2d(kernel, stride, padding, r.random() < 0.4, r.random() < 0.5))
        elif kind == "p":
            mode = r.choice(["constant", "reflect", "replicate", "circular"])
            layers.append(Pad([r.randint(0, 2) for _ in range(4)], mode))
        elif kind == "s":
            layers.append(Slice(r.randint(0, 2), r.choice([None, -1, -2]), r.choice([1, 1, 2])))
        elif kind == "r":
            kernel_size, stride = r.choice([1, 3, 5]), r.choice([1, 1, 2])
            short = nn.Identity() if stride == 1 else nn.Conv2d(channels, channels, 1, stride)
            layers.append(Join(nn.Conv2d(channels, channels, kernel_size, stride, kernel_size // 2), short))
        elif kind == "n":
            norm = nn.BatchNorm2d(channels)
            assert norm.running_mean is not None and norm.running_var is not None
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
            nn.init.normal_(norm.bias)
            layers.append(norm)
        else:
            layers.append(r.choice([nn.LeakyReLU(0.5), nn.Tanh(), nn.PReLU()]))
    return layers, channels


def random_net(seed: int) -> tuple[nn.Module, tuple[int, int]] | None:
    """A random classifier and the size of its crop; None where the layers leave nothing of the crop."""
    r = Random(seed)
    torch.manual_seed(seed)
    layers, channels = body(r)
    size = (r.randint(6, 19), r.randint(6, 19))
    try:
        with torch.no_grad():
            h = nn.Sequential(*layers).eval()(torch.randn(2, 2, *size)).shape
    except RuntimeError:
        return None
    if 0 in h:
        return None
    heads: dict[str, list[nn.Module]] = {
        "flatten": [nn.Flatten(), nn.LeakyReLU(), nn.Linear(h[1] * h[2] * h[3], 3)],
        "mean": [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3)],
        "bins": [nn.AdaptiveAvgPool2d((2, 3)), nn.Flatten(), nn.Linear(channels * 6, 3)],
        "convolution": [nn.Conv2d(channels, 3, (h[2], h[3]), r.choice([1, 2, 5])), nn.Flatten()],
    }
    return nn.Sequential(*layers, *r.choice(list(heads.values()))).eval().double(), size


def cells_and_crops(net: nn.Module, made: Densified, image: Tensor) -> tuple[Any, Any]:
    """The outputs of the dense network, [N, K, cells], and those of the original on each crop, in the same shape."""
    with torch.no_grad():
        found = made.model(image)
        crops = []
        for offset in made.dense.offsets(*image.shape[2:]):
            x = image
            for axis, (start, size) in enumerate(zip(offset, made.dense.crop, strict=True)):
                x = x.narrow(axis + 2, start, size)
            crops.append(net(x))
    if isinstance(found, dict):
        stacked: Any = {k: torch.stack([c[k] for c in crops], -1).reshape(found[k].shape) for k in found}
        return found, stacked
    return found, torch.stack(crops, -1).reshape(found.shape)


def disagreement(seed: int) -> tuple[Tensor, Tensor] | None:
    """Of a random network: the mask of a random image, and by how much each cell differs from its crop, relative."""
    drawn = random_net(seed)
    if drawn is None:
        return None
    net, size = drawn
    r = Random(seed)
    with torch.no_grad():
        made = densify(net, (torch.randn(2, 2, *size, dtype=torch.float64),), {})
    sizes = [n + r.randint(0, t - 1) for n, t in zip(made.dense.image(r.randint(1, 4), r.randint(1, 4)),
                                                     made.dense.stride, strict=True)]  # fmt: skip
    found, crops = cells_and_crops(net, made, torch.randn(2, 2, *sizes, dtype=torch.float64))
    return made.dense.mask(*sizes), (found - crops).abs().flatten(0, 1).amax(0) / crops.abs().max()
