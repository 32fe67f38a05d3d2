"""Record a run: a listener that keeps the steps, so that they can be looked at and replayed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from roundoff.errors import RoundoffError
from roundoff.tape.leaves import leaves, map_operands, operands
from roundoff.tape.storages import StorageMap, has_storage
from roundoff.tape.trace import random_state, set_random_state, untouched
from roundoff.tape.watch import Step, watch


@dataclass(frozen=True)
class Place:
    """A tensor of the run: which storage, and how it lies in it."""

    storage: int
    dtype: torch.dtype
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    conj: bool = False
    neg: bool = False


@dataclass(frozen=True)
class Recorded:
    """One step of a tape. ``args`` and ``kwargs`` hold a :class:`Place` for each tensor."""

    index: int
    op: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: tuple[Place, ...]
    module: str
    source: str

    def __str__(self) -> str:
        shapes = ", ".join(f"{str(p.dtype).removeprefix('torch.')}{list(p.size)}" for p in self.results)
        return f"{self.index:4d}  {self.op} -> {shapes or 'no tensor'}  {self.module}  {self.source}".rstrip()


@dataclass(frozen=True)
class Tape:
    """The steps of one run in order; ``len``, indexing, iteration and printing work as on a sequence.

    :meth:`replay` runs the steps again on the same constants and inputs and gives the tensors that the network returned,
    in order.
    """

    steps: tuple[Recorded, ...]
    outputs: tuple[Place, ...]
    names: tuple[str, ...]
    _starts: dict[int, torch.UntypedStorage] = field(repr=False)
    _randomness: dict[str, Any] = field(repr=False)

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, index: int) -> Recorded:
        return self.steps[index]

    def __iter__(self) -> Iterator[Recorded]:
        return iter(self.steps)

    def __str__(self) -> str:
        return "\n".join(str(step) for step in self.steps)

    def replay(self) -> tuple[Tensor, ...]:
        """The outputs of the run, computed again by its steps alone. Nothing that exists is overwritten."""
        memory = {key: storage.clone() for key, storage in self._starts.items()}
        before = random_state()
        set_random_state(self._randomness)
        try:
            with torch.no_grad():
                for step in self.steps:
                    out = step.op(*_real(step.args, memory), **_real(step.kwargs, memory))
                    for place, x in zip(step.results, operands(out), strict=True):
                        memory[place.storage] = x.untyped_storage()
        finally:
            set_random_state(before)
        return tuple(_tensor(place, memory) for place in self.outputs)


class _Recorder:
    """Keeps every step; a storage that no step made is kept as it is when it is first met."""

    def __init__(self) -> None:
        self.steps: list[Recorded] = []
        self.starts: dict[int, torch.UntypedStorage] = {}
        self._numbers: StorageMap[int] = StorageMap()
        self._count = 0
        self._found: tuple[Any, Any] = ((), {})

    def place(self, x: Tensor, *, made: bool = False) -> Place:
        if not has_storage(x):
            raise RoundoffError(f"A {x.layout} tensor cannot be recorded. Record a network on dense tensors.")
        number = self._numbers.get(x)
        if number is None:
            number = self._count
            self._count += 1
            self._numbers.set(x, number)
            if not made:
                self.starts[number] = x.untyped_storage().clone()
        return Place(
            number, x.dtype, tuple(x.size()), tuple(x.stride()), int(x.storage_offset()), x.is_conj(), x.is_neg()
        )

    def before(self, step: Step) -> None:
        def placed(x: Any) -> Any:
            return self.place(x) if isinstance(x, Tensor) else x

        self._found = map_operands(placed, step.args), map_operands(placed, step.kwargs)

    def after(self, step: Step, out: Any) -> None:
        args, kwargs = self._found
        results = tuple(self.place(x, made=True) for x in operands(out))
        self.steps.append(Recorded(step.index, step.op, args, kwargs, results, step.module, step.source))


def record_run(model: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tape:
    """Run ``model`` watched and keep its steps. What the model raises goes through."""
    recorder = _Recorder()
    with untouched(model, (args, kwargs)) as restore:
        randomness = random_state()
        out = watch(model, args, kwargs, [restore, recorder])
        found = [(name, recorder.place(x)) for name, x in leaves(out) if isinstance(x, Tensor)]
    return Tape(
        tuple(recorder.steps),
        tuple(place for _, place in found),
        tuple(name or "output" for name, _ in found),
        recorder.starts,
        randomness,
    )


def _real(value: Any, memory: dict[int, torch.UntypedStorage]) -> Any:
    return map_operands(lambda x: _tensor(x, memory) if isinstance(x, Place) else x, value)


def _tensor(place: Place, memory: dict[int, torch.UntypedStorage]) -> Tensor:
    storage = memory[place.storage]
    x = torch.empty(0, dtype=place.dtype, device=storage.device).set_(storage, place.offset, place.size, place.stride)
    if place.conj:
        x = x.conj()
    return torch._neg_view(x) if place.neg else x
