"""From a classifier to the dense network: one walk through its graph finds the stride of the cells, a second builds it."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from math import lcm
from typing import Any

import torch
from torch import fx, nn
from torch.utils._pytree import tree_leaves, tree_unflatten

from roundoff.errors import RoundoffError
from roundoff.forms.dense import local, run, windows
from roundoff.forms.dense.capture import Captured, capture
from roundoff.forms.dense.receptive import Dense
from roundoff.forms.dense.values import Const, Several, Value, decline, shape_of
from roundoff.forms.dense.walk import Walk
from roundoff.records import Converted

RULES = {**windows.RULES, **local.RULES}
_RANDOM = torch.Tag.nondeterministic_seeded


@dataclass(frozen=True)
class Densified:
    """The dense network, where its cells lie, and which layers are others in it."""

    model: nn.Module
    dense: Dense
    converted: tuple[Converted, ...]
    ranks: tuple[int, ...]  # of the original's outputs


def densify(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Densified:
    """The dense network of ``model``, whose crop has the size of ``args``.

    Raises RoundoffError, with the module and the line, where it has none.
    """
    captured = capture(model, args, kwargs, _is_known)
    crop = shape_of(captured.image)[2:]
    needs = _walk(captured, crop, None)[0].needs
    total = tuple(lcm(*(s for s in strides if s)) for strides in zip(*needs, strict=True))
    walk, ends = _walk(captured, crop, total)
    return Densified(
        _module(captured, walk), Dense(crop, total, tuple(walk.steps), ends), walk.converted(), _ranks(captured)
    )


def _ranks(captured: Captured) -> tuple[int, ...]:
    (output,) = (node for node in captured.graph.nodes if node.op == "output")
    return tuple(len(shape_of(x)) for x in tree_leaves(output.args[0]) if isinstance(x, fx.Node))


def _walk(captured: Captured, crop: tuple[int, ...], total: tuple[int, ...] | None) -> tuple[Walk, tuple[int, ...]]:
    walk = Walk(crop, total)
    ends: set[int] = set()
    for node in captured.graph.nodes:
        if node is captured.image:
            walk.start(node)
        elif node.op == "placeholder":
            name = captured.names[node.name]
            walk.known[node] = Const(walk.graph.get_attr(_attribute(name, captured)), shape_of(node))
        elif node.op == "output":
            leaves = [_output(walk, node, walk.value(x), ends) for x in tree_leaves(node.args[0])]
            walk.graph.output(_put_together(captured, leaves))
        elif node.op == "call_function" and not str(node.target).startswith("aten._assert"):
            walk.known[node] = _step(walk, node)
    return walk, tuple(sorted(ends))


def _step(walk: Walk, node: fx.Node) -> Any:
    if node.target is operator.getitem:
        return walk.getitem(node) if node.users else None
    if not any(isinstance(walk.known[x], (Value, Several)) for x in node.all_input_nodes):
        new = walk.graph.node_copy(node, lambda x: walk._node(x))
        return Const(new, shape_of(node) if isinstance(node.meta.get("val"), torch.Tensor) else ())
    rule = _rule(node)
    if _RANDOM in getattr(node.target, "tags", ()) and rule is not local.unchanged:
        decline(node, "it draws random numbers, and a cell would not have those of its crop.")
    if rule is None:
        decline(node, "nothing is known of this operator on a map. Convert the part of the network without it.")
    if rule not in (local.pointwise, local.linear, local.unchanged):
        for x in node.all_input_nodes:
            known = walk.known[x]
            if isinstance(known, Value) and known.flat:
                walk.known[x] = walk.fold(x, known)
    return rule(walk, node)


def _rule(node: fx.Node) -> Any:
    rule = RULES.get(node.target)
    pointwise = torch.Tag.pointwise in getattr(node.target, "tags", ()) or node.target in local.POINTWISE
    return local.pointwise if rule is None and pointwise else rule


def _is_known(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return (_rule(node) is not None or node.target is operator.getitem) and not getattr(schema, "is_mutable", False)


def _output(walk: Walk, node: fx.Node, value: Any, ends: set[int]) -> Any:
    """An output leaf: [N, ...] becomes [N, ..., cells]."""
    if isinstance(value, Const):
        decline(node, "an output does not depend on the image.")
    if not isinstance(value, Value):
        return value
    if value.flat:
        value = walk.fold(node, value)
    if value.places and set(value.sizes) != {1}:
        raise RoundoffError(
            f"This network is no classifier: its output {list(value.shape)} has positions of the image, "
            f"{' x '.join(map(str, value.sizes))} of them in a crop. It is dense already."
        )
    if value.places and not value.standard:
        value = walk.fold(node, value)
    if value.places:  # [N, K, 1, 1]: its last axes are those of the cells
        ends.add(value.step)
        return walk.thinned(node, value).node
    ends |= value.ends
    return walk.call(node, run.spread, value.node, walk.image, walk.cells)


def _put_together(captured: Captured, leaves: list[Any]) -> Any:
    whole = tree_unflatten(leaves, captured.outputs)
    if not _plain(whole):
        raise RoundoffError(
            f"The network's output is a {type(whole).__name__}. Give a network with tensors in tuples, lists and dicts."
        )
    return whole


def _plain(x: Any) -> bool:
    if type(x) in (tuple, list):
        return all(map(_plain, x))
    return all(map(_plain, x.values())) if type(x) is dict else x is None or isinstance(x, (fx.Node, int, float, bool))


def _attribute(name: str, captured: Captured) -> str:
    return f"constant_{list(captured.constants).index(name)}" if name in captured.constants else name


def _module(captured: Captured, walk: Walk) -> nn.Module:
    """The graph as a module with the parameters and buffers of the network's copy, under their names."""
    root = nn.Module()
    for module_name, module in captured.model.named_modules(remove_duplicate=False):
        holder = _holder(root, module_name)
        for name, parameter in module._parameters.items():
            holder.register_parameter(name, parameter)
        for name, buffer in module._buffers.items():
            holder.register_buffer(name, buffer, persistent=name not in module._non_persistent_buffers_set)
    for i, tensor in enumerate(captured.constants.values()):
        root.register_buffer(f"constant_{i}", tensor, persistent=False)
    walk.graph.eliminate_dead_code()
    walk.graph.lint()
    for node in walk.graph.nodes:  # torch.fx traces a module anew when it is loaded: what is ours stays one call
        node.meta["is_wrapped"] = getattr(node.target, "__module__", "") == run.__name__
    made = fx.GraphModule(root, walk.graph, class_name=f"Dense{type(captured.model).__name__}")
    for module_name, module in root.named_modules():  # all of them, also what the graph does not read
        holder = _holder(made, module_name)
        holder._parameters.update(module._parameters)
        holder._buffers.update(module._buffers)
        holder._non_persistent_buffers_set |= module._non_persistent_buffers_set
    return made.train(captured.model.training)


def _holder(root: nn.Module, name: str) -> nn.Module:
    for part in name.split(".") if name else ():
        if part not in root._modules:
            root.add_module(part, nn.Module())
        child = root._modules[part]
        assert child is not None
        root = child
    return root
