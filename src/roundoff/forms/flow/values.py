"""How a value of the network lies in memory: its axes, in another order than the network thinks.

The network's value is ``held.permute(axes)``: its axis i is the axis axes[i] of what is held. A move of axes in the network
changes ``axes`` alone; what is held moves only where an operator needs it otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

Axes = tuple[int, ...]


@dataclass(frozen=True)
class Ref:
    """A value of a program, by its number."""

    number: int


@dataclass(frozen=True)
class Value:
    """A value: where it is held, and in which order. ``axes`` is None for what is no tensor, or a list of them, whose
    ``parts`` lie so. ``weight``: it is computed from parameters alone. ``order``: the axes of the network's own value as
    memory holds them; None where it repeats some."""

    ref: Ref
    axes: Axes | None = None
    weight: bool = False
    order: Axes | None = None
    parts: Axes | None = None

    @property
    def plain(self) -> bool:
        """True where it is held as the network has it."""
        return self.axes is None or self.axes == identity(len(self.axes))

    def held_at(self, ref: Ref) -> Value:
        """The same order, held elsewhere: the result of an operator that treats all elements alike."""
        return replace(self, ref=ref, weight=False)


def identity(rank: int) -> Axes:
    """The order in which nothing is moved."""
    return tuple(range(rank))


def inverse(axes: Axes) -> Axes:
    """The order that undoes ``axes``."""
    return tuple(sorted(range(len(axes)), key=axes.__getitem__))


def then(axes: Axes, moved: Axes) -> Axes:
    """The order of a value after the network permutes it by ``moved``."""
    return tuple(axes[i] for i in moved)


def between(have: Axes, want: Axes) -> Axes:
    """The permutation of what is held that turns the order ``have`` into ``want``."""
    out = [0] * len(have)
    for source, target in zip(have, want, strict=True):
        out[target] = source
    return tuple(out)


def channels_first(rank: int) -> Axes:
    """How a value with its channels last is held with them at axis 1."""
    return (0, *range(2, rank), 1)


def channels_last(rank: int) -> Axes:
    """How a value with its channels at axis 1 is held with them last."""
    return (0, rank - 1, *range(1, rank - 1))


def squeezed(axes: Axes, gone: frozenset[int]) -> Axes:
    """The order after the network's axes ``gone`` are summed away."""
    left = [a for i, a in enumerate(axes) if i not in gone]
    return tuple(sorted(left).index(a) for a in left)
