"""Leave no trace: after a run everything is as it was before, also when the run raised."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from roundoff.tape.leaves import operands
from roundoff.tape.storages import StorageMap, has_storage
from roundoff.tape.watch import Step


class Restore:
    """A listener that keeps the old content of whatever existed before the run and is about to be overwritten."""

    def __init__(self) -> None:
        self._made: StorageMap[bool] = StorageMap()
        self._kept: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def before(self, step: Step) -> None:
        for x in step.overwritten:
            if not has_storage(x) or x in self._made:
                continue
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
        """Put the old contents back. They stay known, so that a run that is not watched can be undone as well."""
        for storage, content in self._kept.values():
            if storage.nbytes() != content.nbytes():
                storage.resize_(content.nbytes())
            storage.copy_(content)


@contextmanager
def untouched(model: Any, inputs: Any) -> Iterator[Restore]:
    """Whatever happens inside, the model, its inputs, random state and global settings come back as they were.

    The listener that it yields must be among those that watch the runs inside.
    """
    restore = Restore()
    modules = _module_state(model)
    randomness = random_state()
    settings = (torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled())
    try:
        yield restore
    finally:
        torch.set_default_dtype(settings[0])
        if torch.get_num_threads() != settings[1]:
            torch.set_num_threads(settings[1])
        if torch.is_grad_enabled() != settings[2]:
            torch.set_grad_enabled(settings[2])
        set_random_state(randomness)
        _restore_modules(modules)
        restore.undo()


def _module_state(model: Any) -> list[tuple[nn.Module, bool, dict[str, Any], dict[str, Any]]]:
    if not isinstance(model, nn.Module):
        return []
    return [(m, m.training, dict(m._buffers), dict(m._parameters)) for m in model.modules()]


def _restore_modules(state: list[tuple[nn.Module, bool, dict[str, Any], dict[str, Any]]]) -> None:
    for module, training, buffers, parameters in state:
        module.training = training
        for now, then in ((module._buffers, buffers), (module._parameters, parameters)):
            if now.keys() != then.keys() or any(now[name] is not value for name, value in then.items()):
                now.clear()
                now.update(then)


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
