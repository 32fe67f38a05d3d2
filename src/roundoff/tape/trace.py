"""Leave no trace: after a run everything is as it was before, also when the run raised."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch

from roundoff.tape.leaves import operands
from roundoff.tape.objects import Objects
from roundoff.tape.storages import StorageMap, has_storage
from roundoff.tape.watch import Step

_Setting = tuple[Callable[[], Any], Callable[[Any], Any]]  # how to ask for it and how to set it


def _precision_of(owner: Any) -> _Setting:
    return lambda: owner.fp32_precision, lambda value: setattr(owner, "fp32_precision", value)


_OWNERS = [
    getattr(getattr(torch.backends, backend), part, None)
    for backend, parts in (("mkldnn", ("matmul", "conv", "rnn")), ("cudnn", ("conv", "rnn")), ("cuda", ("matmul",)))
    for part in parts
]
#: Global settings. Setting the precision of all products also sets it for each backend, so those come after it.
_SETTINGS: tuple[_Setting, ...] = (
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    *(_precision_of(owner) for owner in _OWNERS if hasattr(owner, "fp32_precision")),  # PyTorch 2.9 and later
)


def _settings() -> list[Any]:
    values = []
    for get, _ in _SETTINGS:
        try:
            values.append(get())
        except RuntimeError:  # the precision cannot be asked for where it was set for each backend apart
            values.append(None)
    return values


class Restore:
    """A listener that keeps the old content of whatever existed before the run and is about to be overwritten.

    It also keeps the attributes of the network and of its inputs, how their tensors lie in memory, and global settings.
    """

    def __init__(self, model: Any = None, inputs: Any = ()) -> None:
        self._objects = Objects(model, inputs)
        self._settings = _settings()
        self._made: StorageMap[bool] = StorageMap()
        self._kept: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}
        self._generators: dict[int, tuple[torch.Generator, torch.Tensor]] = {}

    def before(self, step: Step) -> None:
        for x in step.overwritten:
            self.keep(x)
        if _draws(step.op):
            for value in (*step.args, *step.kwargs.values()):
                if isinstance(value, torch.Generator) and id(value) not in self._generators:
                    self._generators[id(value)] = (value, value.get_state())

    def keep(self, x: torch.Tensor) -> None:
        """``x`` may be about to change."""
        if self.is_older(x):
            storage = x.untyped_storage()
            if storage._cdata not in self._kept:
                self._kept[storage._cdata] = (storage, storage.clone())

    def after(self, step: Step, out: Any) -> None:
        before = {x.untyped_storage()._cdata for x in operands((step.args, step.kwargs)) if has_storage(x)}
        for x in operands(out):
            if has_storage(x) and x.untyped_storage()._cdata not in before:
                self._made.set(x, True)

    def is_older(self, x: torch.Tensor) -> bool:
        """True when ``x`` lives in memory that existed before the run."""
        return has_storage(x) and x not in self._made

    def undo(self) -> None:
        """Put everything back. It stays known, so that a run that is not watched can be undone as well."""
        for (_, put), then, now in zip(_SETTINGS, self._settings, _settings(), strict=True):
            if now != then and then is not None:
                put(then)
        self._objects.restore()
        for storage, content in self._kept.values():
            if storage.nbytes() != content.nbytes():
                storage.resize_(content.nbytes())
            storage.copy_(content)
        for generator, state in self._generators.values():
            generator.set_state(state)
        torch.clear_autocast_cache()


@cache
def _draws(op: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in op.tags


@contextmanager
def untouched(model: Any, inputs: Any) -> Iterator[Restore]:
    """Whatever happens inside, the model, its inputs, random state and global settings come back as they were.

    The listener that it yields must be among those that watch the runs inside.
    """
    restore = Restore(model, inputs)
    randomness = random_state()
    torch.clear_autocast_cache()  # a cast that is kept there would enter the run without a step having made it
    try:
        yield restore
    finally:
        set_random_state(randomness)
        restore.undo()


def random_state() -> dict[str, Any]:
    """The state of every random generator that a network is likely to use: PyTorch's, Python's, NumPy's."""
    state: dict[str, Any] = {"torch": torch.get_rng_state(), "python": random.getstate()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    if "numpy" in sys.modules:
        state["numpy"] = sys.modules["numpy"].random.get_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Put the generators back to ``state``."""
    torch.set_rng_state(state["torch"])
    random.setstate(state["python"])
    if "cuda" in state:
        torch.cuda.set_rng_state_all(state["cuda"])
    if "numpy" in state:
        sys.modules["numpy"].random.set_state(state["numpy"])


def drew_elsewhere(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """True when Python's or NumPy's generator was used in between: draws that no step shows."""
    if bool(before["python"] != after["python"]):
        return True
    if "numpy" not in before or "numpy" not in after:
        return False
    (_, words, *rest), (_, words_after, *rest_after) = before["numpy"], after["numpy"]
    return bool(rest != rest_after or (words != words_after).any())


def drew(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """True when any of the generators was used in between."""
    states = zip(before.get("cuda", ()), after.get("cuda", ()), strict=True)
    same = torch.equal(before["torch"], after["torch"]) and all(torch.equal(x, y) for x, y in states)
    return not same or drew_elsewhere(before, after)
