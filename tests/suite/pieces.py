"""Layers and functions that can be written in several ways. Every way is the same function of the same numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .draw import Draw

FORMS = (
    "linear",
    "conv1d",
    "conv2d",
    "conv3d",
    "tensordot",
    "einsum",
    "matmul",
    "addmm",
    "halves",
    "reversed",
    "rows",
    "left",
)


def filled(module: Any, **values: Tensor | None) -> Any:
    """``module`` with these parameters and buffers in place of its own."""
    for name, value in values.items():
        if value is None:
            continue
        if name in module._buffers:
            module._buffers[name] = value.clone()
        else:
            setattr(module, name, nn.Parameter(value.clone()))
    return module.eval()


class Dense(nn.Module):
    """A fully connected layer on the last axis, [..., k] to [..., n], written in the form that is asked for.

    ``rows`` and ``columns`` put the outputs and inputs in another order.
    """

    def __init__(
        self,
        draw: Draw,
        name: str,
        k: int,
        n: int,
        form: str = "linear",
        *,
        bias: bool = True,
        rows: Tensor | None = None,
        columns: Tensor | None = None,
    ) -> None:
        super().__init__()
        w = draw.weight(f"{name}.w", n, k)
        b = draw.weight(f"{name}.b", n, fan=k) if bias else None
        w = w if columns is None else w[:, columns]
        if rows is not None:
            w, b = w[rows], None if b is None else b[rows]
        self.form, self.k = form, k
        if form == "linear":
            self.layer = filled(nn.Linear(k, n, bias=bias), weight=w, bias=b)
        elif form in ("conv1d", "conv2d", "conv3d"):
            dims = int(form[4])
            layer = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1](k, n, 1, bias=bias)
            self.layer = filled(layer, weight=w.reshape(n, k, *[1] * dims), bias=b)
        else:
            if form == "reversed":
                w = w.flip(1)
            elif form == "matmul":
                w = w.t().contiguous()
            self.weight = nn.Parameter(w.clone())
            self.bias = nn.Parameter(b.clone()) if b is not None else None

    def forward(self, x: Tensor) -> Tensor:
        if self.form == "linear":
            return self.layer(x)
        if self.form.startswith("conv"):
            dims = int(self.form[4])
            y = x.reshape(-1, *x.shape[-2:]) if x.dim() > 1 else x[None, None]
            y = y.movedim(-1, 1)  # [batch, k, length]
            y = self.layer(y.reshape(*y.shape, *[1] * (dims - 1))).flatten(2).movedim(1, -1)
            return y.reshape(*x.shape[:-1], -1)
        w, half = self.weight, self.k // 2
        if self.form == "addmm" and self.bias is not None:
            return torch.addmm(self.bias, x.reshape(-1, self.k), w.t()).view(*x.shape[:-1], -1)
        if self.form == "tensordot":
            y = torch.tensordot(x.to(w.dtype), w, dims=([-1], [1]))  # autocast does not reach this one
        elif self.form == "einsum":
            y = torch.einsum("...k,nk->...n", x, w)
        elif self.form == "matmul":
            y = x @ w
        elif self.form == "halves":
            y = F.linear(x[..., :half], w[:, :half]) + F.linear(x[..., half:], w[:, half:])
        elif self.form == "reversed":
            y = F.linear(x.flip(-1), w)
        elif self.form == "rows":
            y = torch.cat([F.linear(x, part) for part in w.split(max(1, len(w) // 2))], -1)
        else:  # "left", and "addmm" without a bias
            y = (w @ x.reshape(-1, self.k).t()).t().reshape(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias


class Conv(nn.Module):
    """A convolution over ``dims`` axes. Forms: conv, padded, taps, unfold (2-D), groups, lifted (one axis more)."""

    def __init__(
        self,
        draw: Draw,
        name: str,
        c: int,
        n: int,
        size: int = 3,
        form: str = "conv",
        *,
        dims: int = 2,
        stride: int = 1,
        padding: int | Sequence[int] = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        w = draw.weight(f"{name}.w", n, c // groups, *[size] * dims)
        b = draw.weight(f"{name}.b", n, fan=w[0].numel()) if bias else None
        pads = [padding] * (2 * dims) if isinstance(padding, int) else list(padding)  # as F.pad takes them
        self.form, self.dims, self.size = form, dims, size
        self.stride, self.dilation, self.groups, self.pads = stride, dilation, groups, pads
        kind: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
        even = len(set(pads)) == 1
        self.native = form == "conv"
        if self.native:
            where = pads[0] if even else 0
            layer = kind(c, n, size, stride=stride, padding=where, dilation=dilation, groups=groups, bias=bias)
            self.pads = [] if even else pads
            self.layer = filled(layer, weight=w, bias=b)
        else:
            self.weight = nn.Parameter(w.clone())
            self.bias = nn.Parameter(b.clone()) if b is not None else None

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, self.pads) if self.pads else x
        if self.native:
            return self.layer(x)
        w, s, d = self.weight, self.stride, self.dilation
        convolve: Any = (F.conv1d, F.conv2d, F.conv3d)[self.dims - 1]
        if self.form == "groups" and self.groups > 1:
            parts = zip(x.chunk(self.groups, 1), w.chunk(self.groups), strict=True)
            y = torch.cat([convolve(p, q, stride=s, dilation=d) for p, q in parts], 1)
        elif self.form == "taps":
            y = self._taps(x)
        elif self.form == "unfold" and self.dims == 2:
            y = self._unfold(x)
        elif self.form == "lifted" and self.dims < 3:
            lift: Any = (F.conv2d, F.conv3d)[self.dims - 1]
            y = lift(
                x.unsqueeze(2),
                w.unsqueeze(2),
                stride=[1] + [s] * self.dims,
                dilation=[1] + [d] * self.dims,
                groups=self.groups,
            ).squeeze(2)
        else:
            y = convolve(x, w, stride=s, dilation=d, groups=self.groups)
        return y if self.bias is None else y + self.bias.view(-1, *[1] * self.dims)

    def _taps(self, x: Tensor) -> Tensor:
        """A sum over the positions of the kernel of 1x1 products with shifted inputs."""
        extents = [(length - self.dilation * (self.size - 1) - 1) // self.stride + 1 for length in x.shape[2:]]
        total: Any = None
        for tap in torch.cartesian_prod(*[torch.arange(self.size)] * self.dims).reshape(-1, self.dims).tolist():
            where = [
                slice(t * self.dilation, t * self.dilation + (n - 1) * self.stride + 1, self.stride)
                for t, n in zip(tap, extents, strict=True)
            ]
            part, kernel = x[(slice(None), slice(None), *where)], self.weight[(slice(None), slice(None), *tap)]
            part = part.unflatten(1, (self.groups, -1))
            term = torch.einsum("bgc...,gnc->bgn...", part, kernel.unflatten(0, (self.groups, -1))).flatten(1, 2)
            total = term if total is None else total + term
        return total

    def _unfold(self, x: Tensor) -> Tensor:
        """Patches as columns (im2col), one matrix product per group."""
        height, width = [(n - self.dilation * (self.size - 1) - 1) // self.stride + 1 for n in x.shape[2:]]
        columns = F.unfold(x, self.size, dilation=self.dilation, stride=self.stride)
        columns = columns.unflatten(1, (self.groups, -1))
        w = self.weight.flatten(1).unflatten(0, (self.groups, -1))
        return (w @ columns).flatten(1, 2).unflatten(2, (height, width))


class ConvBN(nn.Module):
    """Convolution, then batch norm with running statistics: module, formula, scale, folded, folded64."""

    def __init__(
        self, draw: Draw, name: str, c: int, n: int, bn: str = "module", eps: float = 1e-5, **conv: Any
    ) -> None:
        super().__init__()
        if bn.startswith("folded"):
            conv["form"] = "conv"
        self.conv: Any = Conv(draw, name, c, n, **conv)
        gain, shift = draw.gain(f"{name}.g", n), draw.shift(f"{name}.s", n)
        mean, var = draw.shift(f"{name}.m", n), draw.gain(f"{name}.v", n)
        self.bn, self.eps = bn, eps
        norm = filled(nn.BatchNorm2d(n, eps=eps), weight=gain, bias=shift, running_mean=mean, running_var=var)
        if bn == "folded":
            self.conv.layer = fuse_conv_bn_eval(self.conv.layer, norm)
        elif bn == "folded64":
            double = fuse_conv_bn_eval(self.conv.layer.double(), norm.double())
            self.conv.layer = double.to(draw.dtype)  # computed in float64, rounded once
        else:
            self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if self.bn.startswith("folded"):
            return y
        if self.bn == "module":
            return self.norm(y)
        mean, var, gain, shift = (
            t.view(-1, 1, 1) for t in (self.norm.running_mean, self.norm.running_var, self.norm.weight, self.norm.bias)
        )
        if self.bn == "formula":
            return (y - mean) / torch.sqrt(var + self.eps) * gain + shift
        scale = gain * torch.rsqrt(var + self.eps)
        return y * scale + (shift - mean * scale)


class LayerNorm(nn.Module):
    """Layer norm over the last axis: module, formula, moments (var_mean), functional."""

    def __init__(self, draw: Draw, name: str, n: int, way: str = "module", eps: float = 1e-5) -> None:
        super().__init__()
        self.way = way
        self.layer = filled(nn.LayerNorm(n, eps=eps), weight=draw.gain(f"{name}.g", n), bias=draw.shift(f"{name}.s", n))

    def forward(self, x: Tensor) -> Tensor:
        w, b, eps = self.layer.weight, self.layer.bias, self.layer.eps
        if self.way == "formula":
            centred = x - x.mean(-1, keepdim=True)
            return centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + eps) * w + b
        if self.way == "moments":
            var, mean = torch.var_mean(x, -1, correction=0, keepdim=True)
            return (x - mean) * torch.rsqrt(var + eps) * w + b
        return self.layer(x)


def softmax(x: Tensor, dim: int = -1, way: str = "module") -> Tensor:
    """Softmax: module, formula (exp over sum), shifted (largest subtracted), log (through log-sum-exp)."""
    if way == "formula":  # the caller keeps x small enough for exp
        e = torch.exp(x)
        return e / e.sum(dim, keepdim=True)
    if way == "shifted":
        e = torch.exp(x - x.amax(dim, keepdim=True))
        return e / e.sum(dim, keepdim=True)
    if way == "log":
        return torch.exp(x - torch.logsumexp(x, dim, keepdim=True))
    return torch.softmax(x, dim)


ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    # the function as PyTorch has it, and written out
    "elu": (F.elu, lambda x: torch.where(x > 0, x, torch.expm1(x))),
    "elu 1.01": (lambda x: F.elu(x, 1.01), lambda x: torch.where(x > 0, x, 1.01 * torch.expm1(x))),
    "sigmoid": (torch.sigmoid, lambda x: 1 / (1 + torch.exp(-x))),
    "relu": (F.relu, lambda x: x.clamp(min=0)),
    "leaky": (lambda x: F.leaky_relu(x, 0.01), lambda x: torch.where(x > 0, x, 0.01 * x)),
    "leaky 0.0101": (lambda x: F.leaky_relu(x, 0.0101), lambda x: torch.where(x > 0, x, 0.0101 * x)),
    "tanh": (torch.tanh, lambda x: 2 * torch.sigmoid(2 * x) - 1),
    "silu": (F.silu, lambda x: x * torch.sigmoid(x)),
    "gelu": (F.gelu, lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))),
    "gelu tanh": (
        lambda x: F.gelu(x, approximate="tanh"),
        lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    ),
    "hardswish": (F.hardswish, lambda x: x * (x + 3).clamp(0, 6) / 6),
    "quick gelu": (lambda x: x * torch.sigmoid(1.702 * x), lambda x: x / (1 + torch.exp(-1.702 * x))),
    "softplus": (F.softplus, lambda x: torch.where(x > 20, x, torch.log1p(torch.exp(x.clamp(max=20))))),
}


def activation(kind: str, way: str = "module") -> Callable[[Tensor], Tensor]:
    """An activation by name; ways: module, formula."""
    return ACTIVATIONS[kind][way == "formula"]


def global_mean(x: Tensor, way: str = "module") -> Tensor:
    """The mean over height and width: module (adaptive pooling), mean, sum, product (with a vector of 1/n)."""
    if way == "mean":
        return x.mean((2, 3))
    if way == "sum":
        return x.sum((2, 3)) / (x.shape[2] * x.shape[3])
    if way == "steps":
        return x.mean(3).mean(2)
    return F.adaptive_avg_pool2d(x, 1).flatten(1)
