"""Carry the order in which values are held through a graph, and move what is held only where an operator needs it.

Each node is given to the first rule that takes it; a rule adds lines to the program and gives the value of the node. What no
rule takes runs on values held as the network has them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import torch
from torch import fx, nn

from roundoff.forms.flow.capture import Captured, Like, draws
from roundoff.forms.flow.program import Line, Program, freed, replaced, within
from roundoff.forms.flow.steps import aligned, moved
from roundoff.forms.flow.values import Axes, Ref, Value, between, identity

FlowRule = Callable[["Push", fx.Node], Value | None]


@dataclass
class Push:
    """A pass over a graph. ``keep``: where two orders meet, the one of the first operand is taken (True) or that of the
    last (False). ``early``: a value is moved before it is normalised for a layer, so that a sum with it later may use it."""

    module: nn.Module
    keep: bool
    early: bool
    rules: Sequence[FlowRule]
    lines: list[Line] = field(default_factory=list)
    values: dict[fx.Node, Value] = field(default_factory=dict)
    permutes: int = 0
    own: int = 0  # moves of axes that the network makes itself
    _moved: dict[tuple[int, Axes, Axes | None], Ref] = field(default_factory=dict)

    def line(self, kind: str, target: Any, *args: Any, **kwargs: Any) -> Ref:
        """Add a line; where its result is held."""
        ref = Ref(len(self.lines))
        self.lines.append(Line(ref.number, kind, target, args, tuple(kwargs.items())))
        return ref

    def value(self, node: Any) -> Value:
        """The value of a node that was passed."""
        return self.values[node]

    def tensor(self, node: Any) -> Value | None:
        """The value of an argument where it is a tensor of the network, and no weight."""
        value = self.values.get(node) if isinstance(node, fx.Node) else None
        return value if value is not None and value.axes is not None and not value.weight else None

    def at(self, value: Value, want: Axes, order: Axes | None = None) -> Ref:
        """The value held in the order ``want``: where it is held so, or moved, once for all who want it."""
        assert value.axes is not None
        if value.axes == want:
            return value.ref
        if value.weight:
            return self.line("function", aligned, value.ref, want)
        key = (value.ref.number, between(value.axes, want), order)
        if key not in self._moved:
            self._moved[key] = self.line("function", moved, value.ref, key[1], order)
            self.permutes += 1
        return self._moved[key]

    def plain(self, value: Value) -> Ref:
        """The value held as the network has it."""
        if value.parts is not None and value.parts != identity(len(value.parts)):
            raise NotImplementedError
        if value.axes is None:
            return value.ref
        plain = identity(len(value.axes))
        return self.at(value, plain, plain if value.order == plain else None)

    def exact(self, value: Value) -> Ref:
        """The value held as the network has it, also in memory: random numbers are drawn in that order."""
        if value.axes is None or value.order is None:
            return self.plain(value)
        plain = identity(len(value.axes))
        return self.line("function", moved, self.at(value, plain), plain, value.order)

    def weight(self, value: Value, axes: Axes) -> Ref:
        """A weight as it broadcasts against values held in the order ``axes``."""
        return value.ref if axes == identity(len(axes)) else self.line("function", aligned, value.ref, axes)

    def made(self, node: fx.Node, ref: Ref, axes: Axes | None = None, weight: bool = False) -> Value:
        """The value of ``node``, held at ``ref``."""
        like = node.meta.get("like")
        if isinstance(like, Like):
            return Value(ref, identity(len(like.shape)) if axes is None else axes, weight, like.order)
        if isinstance(like, tuple) and axes is not None:
            return Value(ref, None, parts=axes)
        return Value(ref)

    def opaque(self, node: fx.Node) -> Value:
        """The node as it stands, on values held as the network has them."""
        held = self.exact if draws(node, self.module) else self.plain
        args, kwargs = replaced((node.args, node.kwargs), fx.Node, lambda n: held(self.values[n]))
        kind = {"call_module": "module", "call_function": "function", "call_method": "method", "output": "output",
                "get_attr": "attribute", "placeholder": "input"}[node.op]  # fmt: skip
        if node.op in ("placeholder", "get_attr"):
            ref = self.line(kind, str(node.target))
        else:
            # what is held may lie otherwise than what the network has, so a view of it need not exist
            target = "reshape" if kind == "method" and node.target == "view" and _is_shape(args[1:]) else node.target
            ref = self.line(kind, None if kind == "output" else target, *args, **kwargs)
        given = [self.values[n] for n in node.all_input_nodes]
        weight = node.op == "get_attr" or (bool(given) and node.op != "call_module" and all(v.weight for v in given))
        return self.made(node, ref, weight=weight)


def _is_shape(args: Any) -> bool:
    return bool(args) and not isinstance(args[0], torch.dtype)


def push(module: nn.Module, captured: Captured, rules: Sequence[FlowRule]) -> tuple[Program, int, int]:
    """The program with the fewest moves of what is held, of the ways to choose where two orders meet; these moves, and
    those of the network itself."""
    made, inner = [], within(module)
    tensors = {name for name, rank, *_ in captured.given if rank is not None}
    for keep, early in product((True, False), (False, True)):
        work = Push(module, keep, early, rules)
        for node in captured.graph.nodes:
            if node.op == "placeholder" and str(node.target) not in tensors:
                continue
            if node.op in ("placeholder", "get_attr", "output"):
                work.values[node] = work.opaque(node)
                continue
            found = (value for rule in rules if (value := rule(work, node)) is not None)
            value = next(found, None)
            work.values[node] = work.opaque(node) if value is None else value
        made.append((Program(freed(work.lines), captured.given, inner), work.permutes, work.own))
    return min(made, key=lambda each: each[1])
