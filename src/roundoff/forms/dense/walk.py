"""The dense network, built operator by operator: what every rule uses."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import fx
from torch.utils._pytree import tree_map

from roundoff.forms.calls import name_of
from roundoff.forms.dense import run
from roundoff.forms.dense.receptive import Step, Window
from roundoff.forms.dense.values import Const, Several, Value, bound, decline, module_of, named, shape_of
from roundoff.records import Converted


class Walk:
    """A walk through the captured graph. ``total`` is the stride between cells, in pixels; None on the first walk, which
    finds it."""

    def __init__(self, crop: tuple[int, ...], total: tuple[int, ...] | None) -> None:
        self.crop, self.total = crop, total
        self.graph = fx.Graph()
        self.known: dict[fx.Node, Value | Const | Several | None] = {}
        self.steps: list[Step] = []
        self.needs: list[tuple[int, ...]] = []
        self.changed: dict[tuple[str, str, str], None] = {}
        self.image: fx.Node | None = None
        self.cells: fx.Node | None = None

    def start(self, node: fx.Node) -> None:
        """The image: as much of it as the crops cover."""
        image = self.image = self.graph.placeholder("image")
        places = tuple(range(2, len(self.crop) + 2))
        total = self.total or (1,) * len(self.crop)
        self.cells = self.graph.call_function(run.count_cells, (image, self.crop, total))
        covered = self.graph.call_function(run.first, (image, places, self.cells, total, self.crop))
        self.known[node] = Value(covered, shape_of(node), places, (1,) * len(places), self.step(()))

    def step(self, sources: tuple[int, ...]) -> int:
        """Note that the exact positions of a new map are those of all of these."""
        self.steps.append(Step(sources))
        return len(self.steps) - 1

    def slides(self, node: fx.Node, value: Value, windows: Sequence[Window]) -> int:
        """Note that a new map comes from ``value`` through these windows, one per axis."""
        self.steps.append(Step((value.step,), tuple(windows), value.strides, named(node)))
        return len(self.steps) - 1

    def between(self, strides: Sequence[int]) -> tuple[int, ...]:
        """How many positions of a map with these strides lie from one cell to the next."""
        if self.total is None:
            return (1,) * len(strides)
        return tuple(t // s if s else 1 for t, s in zip(self.total, strides, strict=True))

    @property
    def per_cell(self) -> tuple[int, ...]:
        """The strides of a map with one position per cell."""
        return self.total or (0,) * len(self.crop)

    def need(self, node: fx.Node, value: Value) -> None:
        """Cells are cut from this map: their stride must be a multiple of its strides."""
        if 0 in value.shape:
            decline(node, f"the crop is too small: its map has the shape {list(value.shape)} here. Give a larger one.")
        self.needs.append(value.strides)

    def value(self, x: Any) -> Any:
        """What is known of an argument."""
        return self.known[x] if isinstance(x, fx.Node) else x

    def values(self, node: fx.Node) -> list[Value]:
        """The operands that depend on the image."""
        return [v for v in map(self.known.get, node.all_input_nodes) if isinstance(v, Value)]

    def call(self, like: fx.Node, target: Any, *args: Any) -> fx.Node:
        """A call of a function, said to come from where ``like`` does."""
        new = self.graph.call_function(target, args)
        new.meta = {k: like.meta[k] for k in ("stack_trace", "nn_module_stack") if k in like.meta}
        return new

    def again(self, node: fx.Node, /, **changes: Any) -> fx.Node:
        """The same operator on what its operands have become, with some arguments changed."""
        schema = node.target._schema  # type: ignore[union-attr]
        given = {**bound(node), **changes}
        args, kwargs = [], {}
        for a in schema.arguments:
            x = tree_map(self._node, given[a.name])
            if a.kwarg_only:
                kwargs[a.name] = x
            else:
                args.append(x)
        new = self.graph.call_function(node.target, tuple(args), kwargs)  # type: ignore[arg-type]
        new.meta = {k: node.meta[k] for k in ("stack_trace", "nn_module_stack") if k in node.meta}
        return new

    def _node(self, x: Any) -> Any:
        if isinstance(x, (Value, Const, Several)):
            return x.node
        if isinstance(x, fx.Node) and x in self.known:
            known = self.known[x]
            return known.node if known is not None else None
        return x

    def fold(self, like: fx.Node, value: Value) -> Value:
        """Cells as samples: what follows sees each crop by itself."""
        if not value.places:
            return value
        self.need(like, value)
        steps = self.between(value.strides)
        node = self.call(like, run.fold, value.node, value.places, self.cells, steps, value.sizes)
        folded = Value(node, value.shape, ends=frozenset({value.step}))
        return self.shaped(like, folded, (value.shape[0], -1)) if value.flat else folded

    def shaped(self, like: fx.Node, value: Value, shape: Sequence[int], kept: Any = ((0, 0),)) -> Value:
        """In another shape. ``kept``: axes of the new shape that have the size of an axis of the old one."""
        node = self.call(like, run.reshaped, value.node, tuple(shape), kept)
        sizes = list(shape)
        if -1 in sizes:
            known = 1
            for n in sizes:
                known *= n if n != -1 else 1
            whole = 1
            for n in value.shape:
                whole *= n
            sizes[sizes.index(-1)] = whole // known
        return replace(value, node=node, shape=tuple(sizes), flat=False)

    def opened(self, node: fx.Node, values: list[Value]) -> list[Value]:
        """Operands that can meet: maps of the same geometry, or samples. A map with one position per crop becomes samples
        where others are; declines what mixes a map with a value of the whole crop."""
        if any(not v.places for v in values) and any(v.places for v in values):
            values = [self.fold(node, v) if v.places and set(v.sizes) == {1} else v for v in values]
        if len({(v.places, v.sizes) for v in values}) > 1:
            decline(
                node,
                "it joins a map with what was computed from the whole crop (squeeze-and-excitation, for example). "
                "Overlapping crops then have different values at the same pixel, so that no map holds them all.",
            )
        if len({v.strides for v in values}) > 1:
            if any(set(v.sizes) != {1} for v in values):
                decline(node, f"it joins maps with the strides {' and '.join(str(v.strides) for v in values)}.")
            values = [self.thinned(node, v) for v in values]
        return values

    def thinned(self, like: fx.Node, value: Value) -> Value:
        """A map with one position per crop, with one position per cell."""
        self.need(like, value)
        steps = self.between(value.strides)
        node = value.node if set(steps) == {1} else self.call(like, run.thinned, value.node, value.places, steps)
        return replace(value, node=node, strides=self.per_cell)

    def joined(self, values: list[Value]) -> tuple[int, frozenset[int]]:
        """Which positions are exact where these values are joined one by one."""
        steps = tuple(dict.fromkeys(v.step for v in values if v.places))
        ends = frozenset[int]().union(*(v.ends for v in values))
        return (steps[0] if len(steps) == 1 else self.step(steps) if steps else -1), ends

    def became(self, node: fx.Node, after: str) -> None:
        """Note that the layer this operator came from is another one in the dense network."""
        name, kind = module_of(node)
        self.changed.setdefault((name, kind if name else name_of(node.target), after))

    def converted(self) -> tuple[Converted, ...]:
        """The layers that are others in the dense network."""
        return tuple(Converted(*c) for c in self.changed)

    def getitem(self, node: fx.Node) -> Value | Const:
        """One of several outputs."""
        several: Any = self.known[node.args[0]]  # type: ignore[index]
        new = self.call(node, operator.getitem, several.node, node.args[1])
        if isinstance(several, Const):
            return Const(new, shape_of(node))
        value: Value | None = several.values[node.args[1]]
        if value is None:
            decline(node, "it uses an output that has no counterpart in the dense network (the indices of a pooling).")
        return replace(value, node=new)
