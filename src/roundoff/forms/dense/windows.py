"""Operators with a window that slides over the image: convolutions, pooling, padding, steps along an axis; and means over
all of it, which become a window of the crop's size.

A window that fits into a crop's map at one position only could have any stride: in the dense network it slides by one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from roundoff.forms.dense import run
from roundoff.forms.dense.receptive import Window
from roundoff.forms.dense.values import Const, Several, Value, bound, decline, per_axis, shape_of
from roundoff.forms.dense.walk import Walk

aten = torch.ops.aten
Rule = Callable[[Walk, fx.Node], Any]
_AVERAGES = {1: aten.avg_pool1d.default, 2: aten.avg_pool2d.default, 3: aten.avg_pool3d.default}
_LARGEST = {1: aten.max_pool1d.default, 2: aten.max_pool2d.default, 3: aten.max_pool3d.default}


def _slide(
    walk: Walk, node: fx.Node, value: Value, windows: list[Window], out: tuple[int, ...], **changes: Any
) -> Value:
    """The operator on the map, with the strides of ``windows``, and no more of it than the cells cover."""
    made = walk.again(node, **changes)
    between = walk.between(value.strides)
    if any(w.out == 1 and w.size + w.before + w.after > w.dilation * (w.kernel - 1) + 1 for w in windows):
        steps = tuple(b // w.stride for b, w in zip(between, windows, strict=True))
        made = walk.call(node, run.first, made, value.places, walk.cells, steps, tuple(w.out for w in windows))
    strides = tuple(s * w.stride for s, w in zip(value.strides, windows, strict=True))
    return Value(made, out, value.places, strides, walk.slides(node, value, windows))


def _free(w: Window) -> Window:
    """With a stride of one, where the crop has one position and the window fits into it."""
    fits = w.size + w.before + w.after >= w.dilation * (w.kernel - 1) + 1
    return replace(w, stride=1) if w.out == 1 and fits else w


def convolution(walk: Walk, node: fx.Node) -> Any:
    """A convolution with constant weights."""
    given = bound(node)
    value, weight = walk.value(given["input"]), walk.value(given["weight"])
    if not isinstance(value, Value) or not isinstance(weight, Const):
        decline(node, "its kernel depends on the image.")
    dims, out = len(weight.shape) - 2, shape_of(node)
    if given.get("transposed"):
        decline(node, "it is a transposed convolution, and makes a finer map than its input.")
    if not value.places:
        return replace(value, node=walk.again(node), shape=out)
    _check_axes(node, value, dims)
    kernel = weight.shape[2:]
    stride, dilation = per_axis(given["stride"], dims), per_axis(given["dilation"], dims)
    padding = given["padding"]
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        before, after = tuple(n // 2 for n in total), tuple(n - n // 2 for n in total)
    else:
        before = after = per_axis(0 if padding == "valid" else padding, dims)
    windows = [
        _free(Window(*each)) for each in zip(value.sizes, out[2:], kernel, stride, before, after, dilation, strict=True)
    ]
    return _slide(walk, node, value, windows, out, stride=[w.stride for w in windows])


def pooling(walk: Walk, node: fx.Node) -> Any:
    """Maximum and average pooling."""
    given = bound(node)
    value = walk.value(given.get("self", given.get("input")))
    meta = node.meta["val"]
    several = isinstance(meta, (tuple, list))
    out = tuple(meta[0].shape) if several else shape_of(node)
    if not value.places:
        made = replace(value, node=walk.again(node), shape=out)
        return Several(made.node, (made,) * len(meta)) if several else made
    dims = len(value.shape) - 2
    kernel = per_axis(given["kernel_size"], dims)
    stride = per_axis(given["stride"], dims) if given["stride"] else kernel
    padding, dilation = per_axis(given["padding"], dims), per_axis(given.get("dilation", 1), dims)
    windows_at = dict(enumerate(zip(kernel, stride, padding, strict=True), 2))
    if not several and all(windows_at.get(p) == (1, 1, 0) for p in value.places):
        return replace(value, node=walk.again(node), shape=out)  # over the channels, as local response norm has it
    _check_axes(node, value, dims)
    # An average counts padding, and not what ceil_mode adds beyond it.
    counted = bool(given.get("count_include_pad")) and not given.get("divisor_override")
    each = zip(value.sizes, out[2:], kernel, stride, padding, padding, dilation, strict=True)
    windows = [replace(_free(Window(*w)), counted=counted) for w in each]
    made = _slide(walk, node, value, windows, out, stride=[w.stride for w in windows])
    return Several(made.node, (made, None)) if several else made


def padded(walk: Walk, node: fx.Node) -> Any:
    """Padding, of any mode."""
    given = bound(node)
    (value,) = walk.values(node)
    mode, pad, out = given.get("mode", "constant"), tuple(given["pad"]), shape_of(node)
    amounts = {len(out) - 1 - i: pad[2 * i : 2 * i + 2] for i in range(len(pad) // 2)}
    if any(amounts.get(0, ())):
        decline(node, "it pads the samples.")
    made = walk.again(node)
    if not value.places:
        return replace(value, node=made, shape=out)
    windows = tuple(
        replace(Window(value.shape[p], out[p], 1, 1, *amounts.get(p, (0, 0))), mode=mode) for p in value.places
    )
    step = walk.slides(node, value, windows)
    return replace(value, node=made, shape=out, step=step)


def sliced(walk: Walk, node: fx.Node) -> Any:
    """A stretch of an axis, or every k-th position of it."""
    given = bound(node)
    (value,) = walk.values(node)
    axis, out, k = given["dim"] % len(value.shape), shape_of(node), given["step"]
    size = value.shape[axis]
    start, end = given["start"] or 0, size if given["end"] is None else given["end"]
    start, end = (min(max(n + size if n < 0 else n, 0), size) for n in (start, end))
    if axis == 0:
        if (start, end, k) == (0, size, 1):
            return replace(value, node=walk.again(node, start=None, end=None), shape=out)
        decline(node, "it takes some of the samples.")
    if axis not in value.places:
        return replace(value, node=walk.again(node), shape=out)
    made = walk.again(node, start=start, end=end - size if end < size else None)
    windows = tuple(Window(value.shape[p], out[p], 1, *((k, -start) if p == axis else (1, 0))) for p in value.places)
    strides = tuple(s * w.stride for s, w in zip(value.strides, windows, strict=True))
    return Value(made, out, value.places, strides, walk.slides(node, value, windows))


def over_all(walk: Walk, node: fx.Node, value: Value, kind: str) -> Value:
    """The mean, sum or maximum of each channel over the whole crop: a pooling of the crop's size."""
    dims, sizes = len(value.places), value.sizes
    walk.need(node, value)
    steps = walk.between(value.strides)
    pools = _LARGEST if kind == "max" else _AVERAGES
    more = (0, False, True, 1) if kind == "sum" else ()
    made = walk.call(node, pools[dims], value.node, list(sizes), list(steps), *more)
    windows = tuple(Window(n, 1, n, 1) for n in sizes)
    walk.became(node, f"{'average' if kind == 'mean' else kind} over {_by(sizes)}, at every cell")
    step = walk.slides(node, value, windows)
    return Value(made, (*value.shape[:2], *[1] * dims), value.places, walk.per_cell, step)


def adaptive(walk: Walk, node: fx.Node) -> Any:
    """Adaptive pooling: nothing where the crop has that size already, one window where it has one output."""
    (value,) = walk.values(node)
    largest = "max" in str(node.target)
    meta = node.meta["val"]
    out = tuple(meta[0].shape) if largest and isinstance(meta, (tuple, list)) else shape_of(node)

    def told(v: Value) -> Any:
        return Several(v.node, (v, None)) if isinstance(meta, (tuple, list)) else v

    if value.places and value.standard and out == value.shape:
        walk.became(node, "nothing: the crop has this size")
        return _alone(walk, node, value, meta)
    if value.places and value.standard and set(out[2:]) == {1}:
        return _alone(walk, node, over_all(walk, node, value, "max" if largest else "mean"), meta)
    if value.places:
        value = walk.fold(node, value)
        walk.became(node, "the same, at every cell")
    args = walk.again(node, self=value)
    return told(replace(value, node=args, shape=out))


def _alone(walk: Walk, node: fx.Node, value: Value, meta: Any) -> Any:
    """The value, as the first of several where the operator has several outputs."""
    if not isinstance(meta, (tuple, list)):
        return value
    return Several(walk.call(node, run.several, value.node), (value, None))


def on_flat(walk: Walk, node: fx.Node, value: Value) -> Value:
    """A fully connected layer on a flattened map: a convolution with the kernel of the crop's size."""
    given = bound(node)
    weight, bias = walk.value(given["weight"]), walk.value(given["bias"])
    walk.need(node, value)
    steps = walk.between(value.strides)
    parts = (value.node, weight.node, bias.node if bias is not None else None)
    made = walk.call(node, run.full_kernel, *parts, walk.cells, steps, value.sizes)
    walk.became(node, f"convolution with a kernel of {_by(value.sizes)}, at every cell")
    return Value(made, (value.shape[0], weight.shape[0]), ends=frozenset({value.step}))


def _check_axes(node: fx.Node, value: Value, dims: int) -> None:
    if not value.standard or len(value.places) != dims:
        decline(node, "it does not slide over the axes of the image, which are not the last ones of its input here.")


def _by(sizes: tuple[int, ...]) -> str:
    return " x ".join(map(str, sizes))


RULES: dict[Any, Rule] = {
    **dict.fromkeys(
        [aten.conv1d.default, aten.conv2d.default, aten.conv3d.default, aten.conv1d.padding, aten.conv2d.padding,
         aten.conv3d.padding, aten.convolution.default], convolution),
    **dict.fromkeys(
        [aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default, aten.avg_pool1d.default,
         aten.avg_pool2d.default, aten.avg_pool3d.default, aten.max_pool2d_with_indices.default,
         aten.max_pool3d_with_indices.default, aten.max_pool1d_with_indices.default], pooling),
    **dict.fromkeys([aten.pad.default, aten.constant_pad_nd.default], padded),
    aten.slice.Tensor: sliced,
    **dict.fromkeys(
        [aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default, aten.adaptive_avg_pool3d.default,
         aten._adaptive_avg_pool2d.default, aten._adaptive_avg_pool3d.default, aten.adaptive_max_pool1d.default,
         aten.adaptive_max_pool2d.default, aten.adaptive_max_pool3d.default], adaptive),
}  # fmt: skip
