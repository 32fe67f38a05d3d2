"""Convolutions between images, in time and in space: U-Net, average pooling, causal filters, video."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .draw import Draw
from .family import Change, Family
from .pieces import Conv, Dense, filled


def resize(x: Tensor, way: str = "module", corners: bool = False) -> Tensor:
    """Twice as high and wide, bilinear: module, or products with the matrix of quarters (exact numbers)."""
    if way == "module" or corners:
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=corners)

    def matrix(n: int) -> Tensor:
        at = ((torch.arange(2 * n, dtype=torch.float64) + 0.5) / 2 - 0.5).clamp(0, n - 1)
        return (1 - (at[:, None] - torch.arange(n)).abs()).clamp(min=0).to(x.dtype)

    if way == "sum":  # the weighted sum of neighbours, repeated pixels at the border

        def line(t: Tensor) -> Tensor:
            before, after = torch.cat([t[..., :1], t[..., :-1]], -1), torch.cat([t[..., 1:], t[..., -1:]], -1)
            return torch.stack([0.25 * before + 0.75 * t, 0.75 * t + 0.25 * after], -1).flatten(-2)

        return line(line(x).mT).mT
    return matrix(x.shape[2]) @ x @ matrix(x.shape[3]).t()


class UNet(nn.Module):
    """Down by a stride, up by a transposed convolution or bilinear, a skip connection, group or instance norm."""

    def __init__(
        self,
        draw: Draw,
        *,
        form: str = "conv",
        norm: str = "module",
        up: str = "module",
        skip: str = "cat",
        upsample: str = "transposed",
        groups: int = 4,
        corners: bool = False,
        pads: Any = 1,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.norm, self.up, self.skip, self.eps = norm, up, skip, eps
        self.upsample, self.groups, self.corners = upsample, groups, corners
        self.enter = Conv(draw, "enter", 2, 8, form=form, padding=pads)
        self.down = Conv(draw, "down", 8, 8, form=form, stride=2, padding=1)
        self.gain, self.shift = nn.Parameter(draw.gain("gain", 8)), nn.Parameter(draw.shift("shift", 8))
        self.rise = nn.Parameter(draw.weight("rise", 8, 8, 2, 2))
        self.rise_bias = nn.Parameter(draw.weight("rise.b", 8, fan=32))
        leave = Conv(draw, "leave", 16, 3, 1)
        w, b = leave.layer.weight.detach(), leave.layer.bias.detach()
        if skip == "sum":
            self.left = filled(nn.Conv2d(8, 3, 1, bias=False), weight=w[:, :8])
            self.right = filled(nn.Conv2d(8, 3, 1), weight=w[:, 8:], bias=b)
        else:
            self.leave = leave

    def _normed(self, x: Tensor) -> Tensor:
        if self.norm == "module":
            return F.group_norm(x, self.groups, self.gain, self.shift, self.eps)
        y = x.unflatten(1, (self.groups, -1))
        centred = y - y.mean((2, 3, 4), keepdim=True)
        y = centred / torch.sqrt(centred.square().mean((2, 3, 4), keepdim=True) + self.eps)
        return y.flatten(1, 2) * self.gain.view(-1, 1, 1) + self.shift.view(-1, 1, 1)

    def _risen(self, x: Tensor) -> Tensor:
        if self.upsample == "bilinear":
            return resize(x, self.up, self.corners)
        if self.up == "module":
            return F.conv_transpose2d(x, self.rise, self.rise_bias, stride=2)
        if self.up == "sum":  # stride and kernel are both 2: each input pixel makes its own square
            y = torch.einsum("bchw,cnij->bnhiwj", x, self.rise).flatten(4, 5).flatten(2, 3)
            return y + self.rise_bias.view(-1, 1, 1)
        wide = x.new_zeros(*x.shape[:2], 2 * x.shape[2] + 1, 2 * x.shape[3] + 1)
        wide[:, :, 1::2, 1::2] = x
        return F.conv2d(wide, self.rise.transpose(0, 1).flip(2, 3), self.rise_bias)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self._normed(self.enter(x)))
        y = self._risen(F.silu(self._normed(self.down(x))))
        if self.skip == "sum":
            return self.left(x) + self.right(y)
        return self.leave(torch.cat([x, y], 1))


class Pooled(nn.Module):
    """Average pooling with padding, instance norm, strides: the options that are easy to get wrong."""

    def __init__(
        self,
        draw: Draw,
        *,
        form: str = "conv",
        average: str = "module",
        norm: str = "module",
        counted: bool = True,
        ceil: bool = False,
        stride: int = 2,
        padded: str = "constant",
    ) -> None:
        super().__init__()
        self.conv = Conv(draw, "conv", 2, 6, form=form, stride=stride)
        self.average, self.norm, self.counted, self.ceil, self.padded = average, norm, counted, ceil, padded

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(F.pad(x, (1, 1, 1, 1), mode=self.padded))
        if self.norm == "module":
            y = F.instance_norm(y)
        else:
            var, mean = torch.var_mean(y, (2, 3), correction=0, keepdim=True)
            y = (y - mean) / torch.sqrt(var + 1e-5)
        if self.average == "module" or not self.counted or self.ceil:
            y = F.avg_pool2d(y, 3, 2, 1, ceil_mode=self.ceil, count_include_pad=self.counted)
        elif self.average == "windows":
            y = F.pad(y, (1, 1, 1, 1)).unfold(2, 3, 2).unfold(3, 3, 2).mean((4, 5))
        else:
            y = F.pad(y, (1, 1, 1, 1)).unfold(2, 3, 2).sum(-1).unfold(3, 3, 2).sum(-1) / 9
        return y.square().mean((2, 3))


class Temporal(nn.Module):
    """Dilated causal convolutions in time, with gates: [batch, channels, time] to itself."""

    def __init__(
        self, draw: Draw, *, form: str = "conv", late: int = 0, dilation: int = 2, residual: bool = True
    ) -> None:
        super().__init__()
        self.residual = residual
        self.layers = nn.ModuleList(
            Conv(draw, str(i), 6, 12, 3, form, dims=1, dilation=d, padding=(2 * d - late, late))
            for i, d in enumerate((1, dilation))
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            value, gate = layer(x).chunk(2, 1)
            y = torch.tanh(value) * torch.sigmoid(gate)
            x = x + y if self.residual else y
        return x


class Video(nn.Module):
    """Two 3-D convolutions and a maximum over space and time."""

    def __init__(self, draw: Draw, *, form: str = "conv", pads: Any = 1, groups: int = 1) -> None:
        super().__init__()
        self.one = Conv(draw, "one", 2, 4, 3, form, dims=3, padding=pads)
        self.two = Conv(draw, "two", 4, 4, 2, form, dims=3, groups=groups)
        self.head = Dense(draw, "head", 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.two(torch.relu(self.one(x)))).amax((2, 3, 4)))


FORMS_2D = ("conv", "unfold", "taps", "padded", "lifted")

FAMILIES: tuple[Family, ...] = (
    Family(
        "u-net",
        UNet,
        lambda draw: (draw.input("x", 2, 2, 8, 8),),
        ways={
            "form": FORMS_2D,
            "norm": ("module", "formula"),
            "up": ("module", "sum", "matrix"),
            "skip": ("cat", "sum"),
        },
        settings=({}, {"upsample": "bilinear"}),
        changes=(
            Change("align corners", {"corners": True}, {"upsample": "bilinear"}),
            Change("wrong groups", {"groups": 2}),
            Change("shifted pad", {"pads": (1, 1, 2, 0)}),
            Change("group norm eps", {"eps": 1e-6}),
        ),
    ),
    Family(
        "pooled",
        Pooled,
        lambda draw: (draw.input("x", 2, 2, 11, 11),),
        ways={
            "form": FORMS_2D,
            "average": ("module", "windows", "sums"),
            "norm": ("module", "formula"),
        },
        changes=(
            Change("count include pad", {"counted": False}),
            Change("ceil mode", {"ceil": True}),
            Change("wrong stride", {"stride": 1}),
            Change("padding mode", {"padded": "reflect"}),
        ),
    ),
    Family(
        "temporal",
        Temporal,
        lambda draw: (draw.input("x", 3, 6, 14),),
        ways={"form": ("conv", "taps", "padded", "lifted")},
        changes=(
            Change("shifted pad", {"late": 1}),
            Change("wrong dilation", {"dilation": 3}),
            Change("missing residual", {"residual": False}),
        ),
    ),
    Family(
        "video",
        Video,
        lambda draw: (draw.input("x", 2, 2, 4, 5, 5),),
        ways={"form": ("conv", "taps", "padded", "groups")},
        settings=({}, {"groups": 2}),
        changes=(Change("shifted pad", {"pads": (1, 1, 2, 0, 1, 1)}),),
    ),
)
