"""Convolutional classifiers: LeNet, a residual network, a depthwise-separable one, ConvNeXt."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .draw import Draw
from .family import Change, Family
from .pieces import Conv, ConvBN, Dense, LayerNorm, activation, filled, global_mean


def max_pool(x: Tensor, way: str = "module") -> Tensor:
    """Non-overlapping 2x2 maxima."""
    if way == "module":
        return F.max_pool2d(x, 2)
    if way == "amax":
        return x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).amax((3, 5))
    rows = torch.maximum(x[:, :, ::2], x[:, :, 1::2])
    return torch.maximum(rows[..., ::2], rows[..., 1::2])


class LeNet(nn.Module):
    """Convolution, batch norm, relu and max pooling twice, then a fully connected layer on 12x12 images."""

    def __init__(
        self,
        draw: Draw,
        *,
        form: str = "conv",
        bn: str = "module",
        pool: str = "module",
        head: str = "flatten",
        eps: float = 1e-5,
        pads: Any = 1,
        flat: str = "channels first",
        bias: bool = True,
        classes: int = 7,
    ) -> None:
        super().__init__()
        self.one = ConvBN(draw, "one", 1, 6, bn, eps, form=form, padding=pads)
        self.two = ConvBN(draw, "two", 6, 8, bn, eps, form=form, bias=bias)
        self.pool, self.head, self.flat = pool, head, flat
        last = Dense(draw, "fc", 8 * 2 * 2, classes)
        w, b = last.layer.weight.detach(), last.layer.bias.detach()
        if head == "kernel":
            self.last: Any = filled(nn.Conv2d(8, classes, 2), weight=w.view(-1, 8, 2, 2), bias=b)
        elif head == "einsum":
            self.last = nn.ParameterDict({"w": nn.Parameter(w.view(-1, 8, 2, 2).clone()), "b": nn.Parameter(b)})
        else:
            self.last = last

    def forward(self, x: Tensor) -> Tensor:
        x = max_pool(torch.relu(self.one(x)), self.pool)
        x = max_pool(torch.relu(self.two(x)), self.pool)
        if self.flat == "channels last":
            x = x.permute(0, 2, 3, 1).reshape(x.shape)
        if self.head == "kernel":
            return self.last(x).flatten(1)
        if self.head == "einsum":
            return torch.einsum("bchw,nchw->bn", x, self.last["w"]) + self.last["b"]
        return self.last(x.flatten(1))


class ResNet(nn.Module):
    """A stem, one residual block, one that halves the image, a global mean."""

    def __init__(
        self,
        draw: Draw,
        *,
        form: str = "conv",
        bn: str = "module",
        mean: str = "module",
        add: str = "out",
        head: str = "linear",
        eps: float = 1e-5,
        residual: bool = True,
        dilation: int = 1,
        align: int = 0,
    ) -> None:
        super().__init__()
        a = {"bn": bn, "eps": eps, "form": form}
        self.stem = ConvBN(draw, "stem", 3, 8, padding=1, **a)
        self.a1 = ConvBN(draw, "a1", 8, 8, padding=dilation, dilation=dilation, **a)
        self.a2 = ConvBN(draw, "a2", 8, 8, padding=1, **a)
        self.b1 = ConvBN(draw, "b1", 8, 12, stride=2, padding=(0, 1, 0, 1) if align else 1, **a)
        self.b2 = ConvBN(draw, "b2", 12, 12, padding=1, **a)
        self.short = ConvBN(draw, "short", 8, 12, size=1, stride=2, **a)
        self.head = Dense(draw, "head", 12, 5, head)
        self.mean, self.add, self.residual = mean, add, residual

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        y = self.a2(torch.relu(self.a1(x)))
        if self.residual:
            y = y.add_(x) if self.add == "in" else x + y
        x = y.relu_() if self.add == "in" else torch.relu(y)
        y = self.b2(torch.relu(self.b1(x)))
        x = torch.relu(y + self.short(x))
        return self.head(global_mean(x, self.mean))


class MobileNet(nn.Module):
    """Two inverted residuals (expand, depthwise, project), one with squeeze and excite, hard swish."""

    def __init__(
        self,
        draw: Draw,
        *,
        depthwise: str = "conv",
        point: str = "conv",
        bn: str = "module",
        gate: str = "linear",
        mean: str = "module",
        written: str = "module",
        act: str = "hardswish",
        dilation: int = 1,
        gated: bool = True,
        scale: str = "sigmoid",
    ) -> None:
        super().__init__()
        self.point, self.mean, self.gated = point, mean, gated
        self.act, self.scale = activation(act, written), activation(scale)
        self.stem = ConvBN(draw, "stem", 3, 8, bn, stride=2, padding=1)
        for i in (0, 1):
            shape = {"form": depthwise, "groups": 16, "padding": dilation, "dilation": dilation}
            self.add_module(f"deep{i}", ConvBN(draw, f"{i}.deep", 16, 16, bn, **shape))
            if point == "conv":
                self.add_module(f"up{i}", Conv(draw, f"{i}.up", 8, 16, 1))
                self.add_module(f"down{i}", Conv(draw, f"{i}.down", 16, 8, 1))
            else:
                form = "linear" if point == "linear" else "einsum"
                for name, c, n in (("up", 8, 16), ("down", 16, 8)):
                    self.add_module(f"{name}{i}", Dense(draw, f"{i}.{name}", c, n, form))
        self.squeeze, self.excite = Dense(draw, "squeeze", 16, 4, gate), Dense(draw, "excite", 4, 16, gate)
        self.head = Dense(draw, "head", 8, 5)

    def _point(self, name: str, x: Tensor) -> Tensor:
        layer = self.get_submodule(name)
        return layer(x) if self.point == "conv" else layer(x.movedim(1, -1)).movedim(-1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x))
        for i in (0, 1):
            y = self.act(self.get_submodule(f"deep{i}")(self.act(self._point(f"up{i}", x))))
            if i and self.gated:
                gates = self.scale(self.excite(torch.relu(self.squeeze(global_mean(y, self.mean)))))
                y = y * gates[..., None, None]
            x = x + self._point(f"down{i}", y)
        return self.head(global_mean(x, self.mean))


class ConvNeXt(nn.Module):
    """Depthwise 5x5, layer norm over channels, two pointwise layers, a gain per channel."""

    def __init__(
        self,
        draw: Draw,
        *,
        depthwise: str = "conv",
        point: str = "linear",
        norm: str = "module",
        written: str = "module",
        act: str = "gelu",
        eps: float = 1e-6,
        residual: bool = True,
        pads: Any = 2,
    ) -> None:
        super().__init__()
        self.deep = Conv(draw, "deep", 10, 10, 5, depthwise, groups=10, padding=pads)
        self.norm = LayerNorm(draw, "norm", 10, norm, eps)
        self.up, self.down = Dense(draw, "up", 10, 40, point), Dense(draw, "down", 40, 10, point)
        self.gain = nn.Parameter(draw.gain("gain", 10))
        self.act, self.residual = activation(act, written), residual

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.deep(x).permute(0, 2, 3, 1))
        y = (self.gain * self.down(self.act(self.up(y)))).permute(0, 3, 1, 2)
        return x + y if self.residual else y


BN = ("module", "formula", "scale", "folded", "folded64")
FOLDS = {("bn", "folded"): "float32", ("bn", "folded64"): "float32"}

FAMILIES: tuple[Family, ...] = (
    Family(
        "lenet",
        LeNet,
        lambda draw: (draw.input("x", 3, 1, 12, 12),),
        ways={
            "form": ("conv", "unfold", "taps", "padded", "lifted"),
            "bn": BN,
            "pool": ("module", "amax", "slices"),
            "head": ("flatten", "kernel", "einsum"),
        },
        changes=(
            Change("batch norm eps", {"eps": 1e-3}),
            Change("shifted pad", {"pads": (2, 0, 1, 1)}),
            Change("permuted channels", {"flat": "channels last"}),
            Change("missing bias", {"bias": False}),
        ),
        limits=FOLDS,
    ),
    Family(
        "resnet",
        ResNet,
        lambda draw: (draw.input("x", 2, 3, 8, 8),),
        ways={
            "form": ("conv", "unfold", "taps", "padded", "lifted"),
            "bn": BN,
            "mean": ("module", "mean", "sum", "steps"),
            "add": ("out", "in"),
            "head": ("linear", "conv2d", "matmul"),
        },
        changes=(
            Change("batch norm eps", {"eps": 1e-3}),
            Change("missing residual", {"residual": False}),
            Change("wrong dilation", {"dilation": 2}),
            Change("stride alignment", {"align": 1}),
        ),
        limits=FOLDS,
    ),
    Family(
        "mobilenet",
        MobileNet,
        lambda draw: (draw.input("x", 2, 3, 10, 10),),
        ways={
            "depthwise": ("conv", "taps", "groups", "unfold", "lifted"),
            "point": ("conv", "linear", "einsum"),
            "bn": BN,
            "gate": ("linear", "conv2d"),
            "mean": ("module", "mean", "sum"),
            "written": ("module", "formula"),
        },
        settings=({}, {"act": "silu"}),
        changes=(
            Change("wrong dilation", {"dilation": 2}),
            Change("wrong activation", {"act": "silu"}),
            Change("missing gate", {"gated": False}),
        ),
        limits=FOLDS,
    ),
    Family(
        "convnext",
        ConvNeXt,
        lambda draw: (draw.input("x", 2, 10, 7, 7),),
        ways={
            "depthwise": ("conv", "taps", "groups"),
            "point": ("linear", "conv2d", "einsum", "halves"),
            "norm": ("module", "formula", "moments"),
            "written": ("module", "formula"),
        },
        changes=(
            Change("layer norm eps", {"eps": 1e-5}),
            Change("gelu tanh", {"act": "gelu tanh"}),
            Change("missing residual", {"residual": False}),
            Change("shifted pad", {"pads": (3, 1, 2, 2)}),
        ),
    ),
)
