"""Record a run: a listener that keeps the steps, so that they can be looked at and replayed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from roundoff.errors import RoundoffError
from roundoff.formats import is_inexact
from roundoff.tape.dispatcher import Setting
from roundoff.tape.leaves import is_wrapper, leaves, map_operands, operands
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
    requires_grad: bool = False  # some kernels decide by it how they compute
    nested: tuple[Tensor, ...] | None = field(default=None, compare=False)  # sizes, strides and offsets of the parts


@dataclass(frozen=True)
class Seed:
    """A random generator of the network's own, in the state in which a step found it."""

    device: torch.device
    state: Tensor = field(compare=False)


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
    setting: Setting = field(repr=False, compare=False)

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
            for step in self.steps:
                args, kwargs = _real((step.args, step.kwargs), memory)
                with step.setting.again():
                    out = step.op(*args, **kwargs)
                for place, x in zip(step.results, operands(out), strict=True):
                    memory[place.storage] = x.untyped_storage()
        finally:
            set_random_state(before)
        return tuple(_tensor(place, memory).detach() for place in self.outputs)


class _Recorder:
    """Keeps every step; a storage that no step made is kept as it is when it is first met."""

    def __init__(self) -> None:
        self.steps: list[Recorded] = []
        self.starts: dict[int, torch.UntypedStorage] = {}
        self._numbers: StorageMap[int] = StorageMap()
        self._count = 0
        self._found: tuple[Any, Any] = ((), {})

    def place(self, x: Tensor, *, made: bool = False) -> Place:
        if not has_storage(x) or is_wrapper(x):
            kind = type(x).__name__ if is_wrapper(x) else str(x.layout)
            raise RoundoffError(f"A {kind} tensor cannot be recorded. Record a network on dense tensors.")
        number = self._numbers.get(x)
        if number is None:
            number = self._count
            self._count += 1
            self._numbers.set(x, number)
            if not made:
                self.starts[number] = x.untyped_storage().clone()
        if x.is_nested:
            parts = x._nested_tensor_size(), x._nested_tensor_strides(), x._nested_tensor_storage_offsets()
            return Place(number, x.dtype, (), (), 0, requires_grad=x.requires_grad, nested=parts)
        size, stride, offset = tuple(x.size()), tuple(x.stride()), int(x.storage_offset())
        return Place(number, x.dtype, size, stride, offset, x.is_conj(), x.is_neg(), x.requires_grad)

    def before(self, step: Step) -> None:
        places: dict[int, Place] = {}  # a tensor that is given twice is the same one when the step is replayed

        def placed(x: Any) -> Any:
            if isinstance(x, torch.Generator):
                return Seed(x.device, x.get_state())
            if not isinstance(x, Tensor):
                return x
            if id(x) not in places:
                places[id(x)] = self.place(x)
            return places[id(x)]

        self._found = map_operands(placed, step.args), map_operands(placed, step.kwargs)

    def after(self, step: Step, out: Any) -> None:
        args, kwargs = self._found
        results = tuple(self.place(x, made=True) for x in operands(out))
        self.steps.append(Recorded(step.index, step.op, args, kwargs, results, step.module, step.source, step.setting))


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
    made: dict[int, Tensor] = {}

    def real(x: Any) -> Any:
        if isinstance(x, Seed):
            return torch.Generator(x.device).set_state(x.state)
        if not isinstance(x, Place):
            return x
        if id(x) not in made:
            made[id(x)] = _tensor(x, memory)
        return made[id(x)]

    return map_operands(real, value)


@torch.no_grad()
def _tensor(place: Place, memory: dict[int, torch.UntypedStorage]) -> Tensor:
    storage = memory[place.storage]
    x = torch.empty(0, dtype=place.dtype, device=storage.device)
    if place.nested is not None:
        x = torch._nested_view_from_buffer(x.set_(storage), *place.nested)
    else:
        x = x.set_(storage, place.offset, place.size, place.stride)
    if place.conj:
        x = x.conj()
    if place.neg:
        x = torch._neg_view(x)
    return x.requires_grad_(place.requires_grad) if is_inexact(place.dtype) else x
