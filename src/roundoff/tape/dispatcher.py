"""The dispatcher of PyTorch as a kernel finds it: with a mode above it as without.

A mode is called with everything above it switched off. What is switched off there decides what kernels compute: autocast,
lazy conjugation, and the tracking of views (``matmul`` folds or not by whether a view of a parameter asks for a
gradient). So kernels are run, and replayed, with the keys that are on and off where no mode is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd


def _keys(*names: str) -> Any:
    found = torch._C.DispatchKeySet(torch._C.DispatchKey.Undefined)
    for name in names:
        found = found | torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, name))
    return found


def _off(inference: bool) -> Any:
    with torch.inference_mode(inference):
        return torch._C._dispatch_tls_local_exclude_set()


def _has(op: Any, key: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(op.name(), key)


_MODE = _keys("Python", "PythonTLSSnapshot")
_VIEWS = _keys("ADInplaceOrView")
_AUTOCAST = _keys("AutocastCPU", "AutocastCUDA")
_AUTOGRAD = _off(True) - _off(False)
_ABOVE = _AUTOCAST | _AUTOGRAD | _VIEWS

#: Called by an operator that autocast lists, and calling others that it lists: there autocast has done its part.
_CAST_ABOVE = {"aten::_euclidean_dist", "aten::_cdist_forward"}


@dataclass(frozen=True)
class Setting:
    """How a kernel finds PyTorch set: the keys of the dispatcher that are on and off, gradients, and autocast's format."""

    on: Any
    off: Any
    grad: bool
    cast_to: torch.dtype

    def keys(self) -> Any:
        """A context in which these keys are on and off."""
        return torch._C._ForceDispatchKeyGuard(self.on, self.off)

    def aside(self) -> Any:
        """A context for what is computed beside the kernel: without autocast, gradients and modes."""
        return torch._C._ForceDispatchKeyGuard(self.on - _MODE, self.off | _ABOVE)

    @contextmanager
    def again(self) -> Iterator[None]:
        """The whole setting once more, after the run."""
        cast_to = torch.get_autocast_dtype("cpu")
        torch.set_autocast_dtype("cpu", self.cast_to)
        try:
            with torch.set_grad_enabled(self.grad), torch._C._ForceDispatchKeyGuard(self.on - _MODE, self.off):
                yield
        finally:
            torch.set_autocast_dtype("cpu", cast_to)


def setting_of(op: Any) -> Setting:
    """The setting in which the kernel of ``op``, which a mode was just asked to run, runs where no mode is."""
    on, off = _without(_passed(op, torch.is_inference_mode_enabled()))
    if torch._C._len_torch_dispatch_stack():  # a mode of the user's, outside of the one that was asked
        on = on | _MODE
    return Setting(on, off, torch.is_grad_enabled(), torch.get_autocast_dtype("cpu"))


@contextmanager
def inside(op: Any) -> Iterator[None]:
    """A context for what ``op`` calls, seen by the mode again."""
    with torch._C._RestorePythonTLSSnapshot(), torch._C._ExcludeDispatchKeyGuard(_cast(op)):  # type: ignore[attr-defined]
        yield


def _without(passed: Any) -> tuple[Any, Any]:
    """The keys that were on and off where the user's call came in, less the mode's own and those ``passed``."""
    with torch._C._RestorePythonTLSSnapshot():  # type: ignore[attr-defined]
        on = torch._C._dispatch_tls_local_include_set() - _MODE
        return on, torch._C._dispatch_tls_local_exclude_set() | passed


@cache
def _passed(op: Any, inference: bool) -> Any:
    """The keys that a call of ``op`` has behind it when its kernel runs."""
    return _cast(op) | _AUTOGRAD | (_keys() if inference and not _has(op, "ADInplaceOrView") else _VIEWS)


@cache
def _cast(op: Any) -> Any:
    """The keys of autocast that have dealt with ``op``; inside operators that autocast does not list it acts still."""
    if op._schema.name in _CAST_ABOVE:
        return _AUTOCAST
    return _keys(*(key for key in ("AutocastCPU", "AutocastCUDA") if _has(op, key)))


@cache
def is_composite(op: Any) -> bool:
    """True for operators that only call others. ``inference_mode`` shows them whole.

    Views that keep track of their base stay whole, for their results must come from below that bookkeeping; and what has
    a kernel of its own beside the composite one runs that.
    """
    return _has(op, "CompositeImplicitAutograd") and not any(_has(op, k) for k in ("ADInplaceOrView", "CPU", "CUDA"))
