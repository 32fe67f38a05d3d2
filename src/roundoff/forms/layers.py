"""The modules that stand where a layer was rewritten: the same interface, the other form inside.

Each holds ``maps``: how its parameters lie in the layer that it replaces. A checkpoint of that layer loads through it.
A parameter that something else reads too (tied weights) keeps its own shape, and is viewed in ``forward``.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from roundoff.forms.apply import CONV, laid_out_like, over_channels, over_flattened, over_last_axis
from roundoff.maps import Map


class Rewritten(nn.Module):
    """A layer in another form. ``maps`` has a :class:`Map` for each parameter that does not keep its shape."""

    maps: dict[str, Map]
    view: Map  # from the shape in which the weight is kept to the one that forward computes with

    def viewed(self) -> Tensor:
        """The weight as forward computes with it."""
        weight = self.weight
        assert isinstance(weight, Tensor)
        return weight if tuple(weight.shape) == self.view.after else self.view.to(weight)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        for name, way in self.maps.items():
            x = state_dict.get(prefix + name)
            if isinstance(x, Tensor) and tuple(x.shape) == way.before != way.after:
                state_dict[prefix + name] = way.to(x)
        super()._load_from_state_dict(state_dict, prefix, *rest)


class OverLastAxis(Rewritten):
    """A 1x1 convolution over the last axis of its input: [..., in] to [..., out], of any rank from 1 on."""

    def _apply_form(self, x: Tensor, dims: int, out: int) -> Tensor:
        bias = self.bias
        assert bias is None or isinstance(bias, Tensor)
        if x.is_nested:  # a convolution has no kernel for it
            return F.linear(x, self.viewed().flatten(1), bias)
        return over_last_axis(x, self.viewed(), bias)


class FromFlat(Rewritten):
    """A convolution whose kernel covers all of its input: [..., C * prod(sizes)] to [..., out].

    ``sizes`` are the C, H and W of the tensor that was flattened; ``last`` is True where the channels were its last axis.
    """

    sizes: tuple[int, ...]
    last: bool

    def _apply_form(self, x: Tensor, dims: int, out: int) -> Tensor:
        lead = x.shape[:-1]
        bias = self.bias
        assert bias is None or isinstance(bias, Tensor)
        if self.last:
            x = x.reshape(prod(lead), *self.sizes[1:], self.sizes[0]).movedim(-1, 1)
        else:
            x = x.reshape(prod(lead), *self.sizes)
        return CONV[dims](x, self.viewed(), bias).reshape(*lead, out)


class _Conv(nn.Module):
    """What the six convolutions share. ``in_features`` and ``out_features`` are those of the linear layer."""

    in_features: int
    out_features: int

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer over the last axis of ``input``."""
        dims = len(self.kernel_size)  # type: ignore[arg-type]
        return self._apply_form(input, dims, self.out_features)  # type: ignore[operator, no-any-return]

    def extra_repr(self) -> str:
        """What printing the network shows of it."""
        kernel = "x".join(map(str, self.kernel_size))  # type: ignore[arg-type]
        bias = "" if self.bias is not None else ", bias=False"
        over = f"over {list(self.sizes)} flattened" if isinstance(self, FromFlat) else "over the last axis"
        return f"{self.in_features}, {self.out_features}, kernel_size={kernel}{bias}, {over}"


class PointwiseConv1d(_Conv, OverLastAxis, nn.Conv1d):
    """A linear layer as a 1x1 convolution of one dimension."""


class PointwiseConv2d(_Conv, OverLastAxis, nn.Conv2d):
    """A linear layer as a 1x1 convolution of two dimensions."""


class PointwiseConv3d(_Conv, OverLastAxis, nn.Conv3d):
    """A linear layer as a 1x1 convolution of three dimensions."""


class FlatConv1d(_Conv, FromFlat, nn.Conv1d):
    """A linear layer after a flatten as a convolution over its whole length."""


class FlatConv2d(_Conv, FromFlat, nn.Conv2d):
    """A linear layer after a flatten as a convolution over its whole height and width."""


class FlatConv3d(_Conv, FromFlat, nn.Conv3d):
    """A linear layer after a flatten as a convolution over its whole depth, height and width."""


POINTWISE = {1: PointwiseConv1d, 2: PointwiseConv2d, 3: PointwiseConv3d}
FLAT = {1: FlatConv1d, 2: FlatConv2d, 3: FlatConv3d}


class ChannelLinear(Rewritten, nn.Linear):
    """A convolution as a linear layer over the channels of its input, [N, C, ...] or [C, ...].

    A 1x1 kernel: the linear layer runs at every position that the stride leaves. A kernel that covers the whole padded
    input: it runs on the input flattened; an input of another size takes the convolution itself. With groups it runs
    once for each block of channels.
    """

    in_channels: int
    out_channels: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: str | tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    padding_mode: str
    pads: tuple[int, ...]  # as F.pad takes them

    def forward(self, input: Tensor) -> Tensor:
        """The same numbers as the convolution gives on ``input``."""
        dims = len(self.kernel_size)
        if input.dim() not in (dims + 1, dims + 2):
            raise RuntimeError(
                f"Expected {dims + 1}D (unbatched) or {dims + 2}D (batched) input, got {list(input.shape)}"
            )
        x = input
        if any(self.pads):
            x = F.pad(x, self.pads, mode="constant" if self.padding_mode == "zeros" else self.padding_mode)
        if prod(self.kernel_size) == 1:
            return laid_out_like(input, over_channels(x, self.viewed(), self.bias, self.stride, self.groups), dims)
        covered = tuple(d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel_size, strict=True))
        if tuple(x.shape[-dims:]) != covered:
            weight = self.viewed().reshape(self.out_channels, -1, *self.kernel_size)
            return CONV[dims](x, weight, self.bias, self.stride, 0, self.dilation, self.groups)
        return over_flattened(x, self.viewed(), self.bias, self.dilation, self.groups)

    def extra_repr(self) -> str:
        """What printing the network shows of it."""
        said = [f"{self.in_channels}, {self.out_channels}, kernel_size={'x'.join(map(str, self.kernel_size))}"]
        usual = {"stride": {1}, "dilation": {1}}
        said += [f"{n}={getattr(self, n)}" for n, values in usual.items() if set(getattr(self, n)) != values]
        said += [f"groups={self.groups}"] if self.groups > 1 else []
        said += [f"padding={self.padding}, padding_mode={self.padding_mode}"] if any(self.pads) else []
        said += ["bias=False"] if self.bias is None else []
        return ", ".join([*said, "over the channels"])


def rewritten(module: nn.Module) -> Iterator[tuple[str, Rewritten]]:
    """The layers of ``module`` that are in another form, each once, with their names."""
    return ((name, m) for name, m in module.named_modules() if isinstance(m, Rewritten))
