"""Operators that leave the axes of the image as they are: elementwise ones, over the channels, and changes of shape.

One that would touch those axes sees each crop by itself: the cells are folded into the samples first where that is the
network's head (a flatten), and it is declined where it would be computed for each of many overlapping crops.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import fx

from roundoff.forms.dense.values import Const, Several, Value, bound, decline, shape_of
from roundoff.forms.dense.walk import Walk
from roundoff.forms.dense.windows import on_flat, over_all

aten = torch.ops.aten
Rule = Callable[[Walk, fx.Node], Any]
_WHOLE_CROP = "it computes over the whole crop before the network's head, once for each of many overlapping crops."


def unchanged(walk: Walk, node: fx.Node) -> Any:
    """A copy, which nothing tells from the tensor itself where no operator is in place; dropout that drops nothing."""
    if bound(node).get("train"):
        decline(node, "it draws random numbers. Call eval() first.")
    return walk.values(node)[0]


def pointwise(walk: Walk, node: fx.Node) -> Any:
    """An operator that computes each element from those at its place."""
    found = walk.values(node)
    out = shape_of(node)
    if len(found) == 1 and found[0].flat and len(node.all_input_nodes) == 1:
        return replace(found[0], node=walk.again(node))  # flattened later: relu, for example
    values = walk.opened(node, [_unflat(walk, node, v) for v in found])
    if len({len(v.shape) for v in values}) > 1 or len(values[0].shape) != len(out):
        decline(node, "it joins values with different numbers of axes.")
    fixed = values[0].fixed
    for x in node.all_input_nodes:
        const = walk.known[x]
        if isinstance(const, Const) and node.target is not aten.prelu.default:
            lead = len(out) - len(const.shape)
            if any(const.shape[axis - lead] != 1 for axis in fixed if axis >= lead):
                decline(node, "it joins a tensor that has a value for each position of the image, or for each sample.")
    now = dict(zip(map(id, found), values, strict=True))
    nodes = {x: now[id(v)] for x in node.all_input_nodes if isinstance(v := walk.known[x], Value)}
    new = walk.again(node, **_replaced(node, nodes))
    step, ends = walk.joined(values)
    return Value(new, out, values[0].places, values[0].strides, step, ends)


def _replaced(node: fx.Node, nodes: dict[fx.Node, Any]) -> dict[str, Any]:
    return {k: fx.map_arg(x, lambda n: nodes.get(n, n)) if not isinstance(x, fx.Node) else nodes.get(x, x)
            for k, x in bound(node).items()}  # fmt: skip


def _unflat(walk: Walk, node: fx.Node, value: Value) -> Value:
    return walk.fold(node, value) if value.flat else value


def batch_norm(walk: Walk, node: fx.Node) -> Any:
    """Batch norm with the statistics that it has."""
    given = bound(node)
    value = walk.value(given["input"])
    if given.get("training") or given.get("train"):
        decline(node, "batch norm in training mode, where a cell depends on the others. Call eval() first.")
    if 1 in value.places:
        decline(node, "its channels are an axis of the image.")
    new = replace(value, node=walk.again(node))
    several = isinstance(node.meta["val"], (tuple, list))
    return Several(new.node, (new, None, None)) if several else new


def layer_norm(walk: Walk, node: fx.Node) -> Any:
    """Layer norm over axes that are not the image's."""
    (value,) = walk.values(node)
    axes = range(len(value.shape) - len(bound(node)["normalized_shape"]), len(value.shape))
    value = _apart(walk, node, value, axes, "it normalises over the image: " + _WHOLE_CROP)
    return replace(value, node=walk.again(node, input=value))


def per_sample(walk: Walk, node: fx.Node) -> Any:
    """An operator on whole samples, once the cells are samples."""
    values = [_alone(walk, node, v) for v in walk.values(node)]
    values = walk.opened(node, values)
    if any(v.places for v in values):
        decline(node, _WHOLE_CROP)
    old = [x for x in node.all_input_nodes if isinstance(walk.known[x], Value)]
    new = walk.again(node, **_replaced(node, dict(zip(old, values, strict=True))))
    return Value(new, shape_of(node), ends=walk.joined(values)[1])


def _alone(walk: Walk, node: fx.Node, value: Value) -> Value:
    """A map of one position per crop as samples."""
    return walk.fold(node, value) if value.places and set(value.sizes) == {1} else value


def _apart(walk: Walk, node: fx.Node, value: Value, axes: Any, why: str) -> Value:
    """The value, as samples where the operator touches axes of the image, of which a crop has one position."""
    axes = {a % len(value.shape) for a in axes}
    if 0 in axes:
        decline(node, "it computes over the samples.")
    if axes & set(value.places):
        value = _alone(walk, node, value)
        if value.places:
            decline(node, why)
    return value


def along(walk: Walk, node: fx.Node) -> Any:
    """An operator along one axis."""
    (value,) = walk.values(node)
    axis = bound(node)["dim"]
    value = _apart(walk, node, value, [axis], _WHOLE_CROP)
    return replace(value, node=walk.again(node, self=value), shape=shape_of(node))


def reduction(walk: Walk, node: fx.Node) -> Any:
    """A sum, mean, maximum or norm over some axes; over all of the image's it is one window at every cell."""
    given = bound(node)
    (value,) = walk.values(node)
    rank, out, dim = len(value.shape), shape_of(node), given["dim"]
    axes = {a % rank for a in ((dim,) if isinstance(dim, int) else dim or range(rank))}
    kinds: dict[Any, str] = {aten.mean.dim: "mean", aten.sum.dim_IntList: "sum", aten.amax.default: "max"}
    kind = kinds.get(node.target)
    plain = value.standard and (kind != "sum" or len(value.places) > 1) and given.get("dtype") is None
    if kind is not None and value.places and axes == set(value.places) and plain:
        pooled = over_all(walk, node, value, kind)
        return pooled if given["keepdim"] else walk.shaped(node, walk.fold(node, pooled), out)
    if 0 in axes:
        decline(node, "it computes over the samples.")
    if axes & set(value.places):
        value = walk.fold(node, value)
        walk.became(node, "the same, at every cell")
    new = walk.again(node, self=value)
    places = value.places
    if not given.get("keepdim"):
        places = tuple(p - sum(a < p for a in axes) for p in places)
    return replace(value, node=new, shape=out, places=places)


def linear(walk: Walk, node: fx.Node) -> Any:
    """A fully connected layer with constant weights."""
    given = bound(node)
    value = walk.value(given["input"])
    if not isinstance(value, Value) or not isinstance(walk.value(given["weight"]), Const):
        decline(node, "its weight depends on the image.")
    if value.flat:
        return on_flat(walk, node, value)
    value = _apart(walk, node, value, [-1], "it mixes the positions of the image.")
    return replace(value, node=walk.again(node, input=value), shape=shape_of(node))


def product(walk: Walk, node: fx.Node) -> Any:
    """A product with a constant matrix from the right."""
    given = bound(node)
    left = "mat1" if "mat1" in given else "self"
    right = next(name for name in ("mat2", "other") if name in given)
    value, matrix = walk.value(given[left]), walk.value(given[right])
    if isinstance(value, Value) and isinstance(matrix, Const) and len(matrix.shape) == 2 and len(value.shape) > 1:
        value = _apart(walk, node, value, [-1], "it mixes the positions of the image.")
        return replace(value, node=walk.again(node, **{left: value}), shape=shape_of(node))
    if all(isinstance(v, Value) and len(v.shape) > 2 for v in (value, matrix)):
        return per_sample(walk, node)
    decline(node, "it is not a product with a constant matrix from the right.")


def reshape(walk: Walk, node: fx.Node) -> Any:
    """A change of shape. Where it merges axes of the image with others the cells become samples."""
    (value,) = walk.values(node)
    out = shape_of(node)
    kept = _kept(value.shape, out)
    if value.shape and kept.get(0) != 0:
        decline(node, "it merges the samples with another axis.")
    if value.places and any(p not in kept for p in value.places):
        flat = value.standard and out == (value.shape[0], prod(value.shape[1:]))
        if flat and set(value.sizes) != {1}:
            return replace(value, flat=True)
        value = walk.fold(node, value)
        return walk.shaped(node, value, out)
    pairs = tuple((kept[p], p) for p in sorted(value.fixed))
    return replace(walk.shaped(node, value, out, pairs), places=tuple(kept[p] for p in value.places))


def _kept(old: tuple[int, ...], new: tuple[int, ...]) -> dict[int, int]:
    """The axes of ``old`` that are axes of ``new``, in row-major order."""
    kept, i, j = {}, 0, 0
    while i < len(old) and j < len(new):
        if old[i] == new[j]:
            kept[i] = j
            i, j = i + 1, j + 1
            continue
        if 1 in (old[i], new[j]):
            i, j = i + (old[i] == 1), j + (new[j] == 1)
            continue
        a, b, i, j = old[i], new[j], i + 1, j + 1
        while a != b:
            if a < b and i < len(old):
                a, i = a * old[i], i + 1
            elif j < len(new):
                b, j = b * new[j], j + 1
            else:
                return kept
    return kept


def permuted(walk: Walk, node: fx.Node) -> Any:
    """The axes in another order."""
    given = bound(node)
    (value,) = walk.values(node)
    rank = len(value.shape)
    order = list(range(rank))
    if "dims" in given:
        order = [d % rank for d in given["dims"]]
    else:
        a, b = (given["dim0"] % rank, given["dim1"] % rank) if "dim0" in given else (0, min(1, rank - 1))
        order[a], order[b] = order[b], order[a]
    if order[0] != 0:
        decline(node, "it moves the axis of the samples.")
    new = walk.again(node, self=value)
    return replace(value, node=new, shape=shape_of(node), places=tuple(order.index(p) for p in value.places))


def expanded(walk: Walk, node: fx.Node) -> Any:
    """Repeated along axes of size one."""
    (value,) = walk.values(node)
    out = shape_of(node)
    if len(out) != len(value.shape) or any(out[p] != value.shape[p] for p in value.fixed):
        decline(node, "it spreads a value of the whole crop over the positions of the image, or adds an axis in front.")
    sizes = [-1 if a == b else b for a, b in zip(value.shape, out, strict=True)]
    return replace(value, node=walk.again(node, self=value, size=sizes), shape=out)


def together(walk: Walk, node: fx.Node) -> Any:
    """Several tensors along one axis."""
    given = bound(node)
    known = [walk.known[x] for x in given["tensors"]]
    if not all(isinstance(v, Value) for v in known):
        decline(node, "it joins a tensor that does not depend on the image (a class token, or coordinates).")
    values = walk.opened(node, [v for v in known if isinstance(v, Value)])
    out, new_axis = shape_of(node), "stack" in str(node.target)
    axis = given["dim"] % len(out)
    if axis in values[0].fixed and not (new_axis and axis):
        decline(node, "it puts tensors together along the samples or along an axis of the image.")
    places = tuple(p + (new_axis and p >= axis) for p in values[0].places)
    step, ends = walk.joined(values)
    return Value(walk.again(node, tensors=values), out, places, values[0].strides, step, ends)


def taken_apart(walk: Walk, node: fx.Node) -> Any:
    """Parts of an axis that is not the image's."""
    given = bound(node)
    (value,) = walk.values(node)
    value = _apart(walk, node, value, [given.get("dim", 0)], "it takes apart an axis of the image.")
    new = walk.again(node, self=value)
    axis, meta = given.get("dim", 0) % len(value.shape), node.meta["val"]
    gone = len((meta[0] if isinstance(meta, (tuple, list)) else meta).shape) < len(value.shape)
    places = tuple(p - (gone and p > axis) for p in value.places)
    if not isinstance(meta, (tuple, list)):
        return replace(value, node=new, shape=shape_of(node), places=places)
    return Several(new, tuple(replace(value, shape=tuple(m.shape), places=places) for m in meta))


def group_norm(walk: Walk, node: fx.Node) -> Any:
    """Norms over the image."""
    values = [_alone(walk, node, v) for v in walk.values(node)]
    if any(v.places for v in values):
        decline(node, "it normalises over the image: " + _WHOLE_CROP)
    return per_sample(walk, node)


def upsampling(walk: Walk, node: fx.Node) -> Any:
    """Finer maps."""
    if any(v.places and set(v.sizes) != {1} for v in walk.values(node)):
        decline(node, "it makes a finer map, whose positions depend on where the crop begins.")
    return per_sample(walk, node)


def _named(*names: str) -> list[Any]:
    """The overloads of these operators that this PyTorch has."""
    found = []
    for name in names:
        packet, _, overload = name.partition(".")
        if hasattr(aten, packet):
            overloads = [overload] if overload else getattr(aten, packet).overloads()
            found += [getattr(getattr(aten, packet), o) for o in overloads if o in getattr(aten, packet).overloads()]
    return found


#: Elementwise, without PyTorch's tag that says so.
POINTWISE = set(
    _named("prelu", "to", "_to_copy", "type_as", "relu6", "hardswish", "selu", "celu", "hardsigmoid", "log_sigmoid",
           "softsign", "mish")
)  # fmt: skip

RULES: dict[Any, Rule] = {
    **dict.fromkeys(_named("clone", "alias", "detach", "contiguous", "lift_fresh_copy", "dropout.default",
                           "feature_dropout.default", "alpha_dropout.default"), unchanged),
    **dict.fromkeys(_named("batch_norm.default", "_native_batch_norm_legit_no_training.default", "cudnn_batch_norm.default",
                           "_batch_norm_no_update.default", "native_batch_norm.default"), batch_norm),
    **dict.fromkeys(_named("layer_norm.default"), layer_norm),
    **dict.fromkeys(_named("softmax.int", "log_softmax.int", "_softmax.default", "_log_softmax.default", "glu.default",
                           "cumsum.default"), along),
    **dict.fromkeys(_named("mean.dim", "sum.dim_IntList", "amax.default", "amin.default", "linalg_vector_norm.default",
                           "logsumexp.default", "var.correction", "std.correction"), reduction),
    **dict.fromkeys(_named("linear.default"), linear),
    **dict.fromkeys(_named("matmul.default", "mm.default", "bmm.default", "addmm.default"), product),
    **dict.fromkeys(_named("view.default", "_unsafe_view.default", "reshape.default", "flatten.using_ints", "unflatten.int",
                           "squeeze", "unsqueeze.default"), reshape),
    **dict.fromkeys(_named("permute.default", "transpose.int", "t.default"), permuted),
    **dict.fromkeys(_named("expand.default"), expanded),
    **dict.fromkeys(_named("cat.default", "stack.default"), together),
    **dict.fromkeys(_named("split.Tensor", "split_with_sizes.default", "chunk.default", "unbind.int", "select.int"),
                    taken_apart),
    **dict.fromkeys(_named("group_norm.default", "instance_norm.default", "native_group_norm.default"), group_norm),
    **dict.fromkeys(_named("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_bilinear2d",
                           "upsample_bicubic2d", "upsample_linear1d", "upsample_trilinear3d", "pixel_shuffle"), upsampling),
    **dict.fromkeys(_named("scaled_dot_product_attention.default"), per_sample),
}  # fmt: skip
