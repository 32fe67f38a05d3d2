"""Record one run of a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from roundoff.tape.record import Tape, record_run


def record(model: Callable[..., Any], args: Any, kwargs: dict[str, Any] | None = None) -> Tape:
    """Run ``model`` and keep every executed ATen operation, with its operands, module and source line.

    >>> import torch
    >>> tape = record(torch.nn.Linear(3, 2), torch.ones(1, 3))
    >>> [str(step.op) for step in tape]
    ['aten.t.default', 'aten.addmm.default']
    >>> tape.replay()[0].shape
    torch.Size([1, 2])
    """
    return record_run(model, as_tuple(args), dict(kwargs or {}))


def as_tuple(args: Any) -> tuple[Any, ...]:
    """Positional arguments as a tuple: one argument may be given by itself."""
    if isinstance(args, tuple):
        return args
    if isinstance(args, Tensor) or not isinstance(args, list):
        return (args,)
    return tuple(args)
