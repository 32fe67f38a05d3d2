"""What is known of each value while the dense network is built, and how something is declined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import fx

from roundoff.errors import RoundoffError
from roundoff.forms.calls import name_of


@dataclass(frozen=True)
class Value:
    """A tensor that depends on the image.

    ``shape`` is what it has in one crop. A *map* has the axes of the image at ``places``, with ``strides`` pixels from one
    position to the next (0: one position per cell); ``step`` says which of its positions are exact. Without places it has
    its cells as samples, [N * cells, ...], and ``ends`` are the maps that they were cut from. ``flat``: the map stands for
    its flatten, [N, -1].
    """

    node: fx.Node
    shape: tuple[int, ...]
    places: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    step: int = -1
    ends: frozenset[int] = frozenset()
    flat: bool = False

    @property
    def sizes(self) -> tuple[int, ...]:
        """Of a map: how many positions a crop has along each axis of the image."""
        return tuple(self.shape[p] for p in self.places)

    @property
    def standard(self) -> bool:
        """True for a map [N, C, ...], as convolutions take it, and for samples of the same rank."""
        return not self.places or self.places == tuple(range(2, len(self.shape)))

    @property
    def fixed(self) -> frozenset[int]:
        """The axes that an operator must leave as they are: the samples, and the axes of the image."""
        return frozenset({0, *self.places})


@dataclass(frozen=True)
class Const:
    """A tensor that does not depend on the image."""

    node: fx.Node
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Several:
    """The outputs of an operator with several: what is known of each, still without a node (None: not to be used)."""

    node: fx.Node
    values: tuple[Value | None, ...]


def decline(node: fx.Node, why: str) -> NoReturn:
    """Raise the RoundoffError that says where the network cannot be dense, and why."""
    raise RoundoffError(f"This network cannot be made dense. {place(node)}: {why}")


def place(node: fx.Node) -> str:
    """The module and the operator, with the user's source line."""
    line = _source(node)
    return f"{named(node)}, {line}" if line else named(node)


def named(node: fx.Node) -> str:
    """The operator and the module."""
    name, kind = module_of(node)
    op = name_of(node.target)
    return f"{op} in {name or 'the network'}" + (f" ({kind})" if kind else "")


def module_of(node: fx.Node) -> tuple[str, str]:
    """The name and the class of the module that the node came from."""
    stack: Any = list((node.meta.get("nn_module_stack") or {}).values())
    if not stack:
        return "", ""
    name, kind = stack[-1]
    return str(name), str(getattr(kind, "__name__", kind)).rpartition(".")[2]


def _source(node: fx.Node) -> str:
    """The last line of the stack that is not PyTorch's: ``net.py:12: x = x.mean((2, 3))``."""
    inside = torch.__path__[0]
    lines = (node.meta.get("stack_trace") or "").splitlines()
    for i in reversed(range(len(lines) - 1)):
        text = lines[i].strip()
        if text.startswith('File "') and inside not in text:
            path, _, rest = text.removeprefix('File "').partition('", line ')
            number = rest.partition(",")[0]
            return f"{path.replace(chr(92), '/').rpartition('/')[2]}:{number}: {lines[i + 1].strip()}"
    return ""


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """The shape that the node had when it was captured."""
    return tuple(int(n) for n in node.meta["val"].shape)


def bound(node: fx.Node) -> dict[str, Any]:
    """The arguments of an operator by name, the defaults filled in."""
    schema = node.target._schema  # type: ignore[union-attr]
    given = {a.name: a.default_value for a in schema.arguments}
    given |= {a.name: x for a, x in zip(schema.arguments, node.args, strict=False)}
    return {**given, **node.kwargs}


def per_axis(x: Any, dims: int) -> tuple[int, ...]:
    """A size for each axis from one, from a list of one, or from as many."""
    xs = tuple(x) if isinstance(x, (list, tuple)) else (x,)
    return xs * dims if len(xs) == 1 else xs
