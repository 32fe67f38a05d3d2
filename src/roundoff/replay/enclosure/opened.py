"""Operators without an enclosure of their own: written out in simpler ones, whose enclosures follow one another.

Any program for the same function will do, because what is enclosed is the exact result, and the program's own rounding is
part of its radius. (That is unlike ``rules.opened``, which asks how a native kernel rounds.)
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

import torch
from torch import Tensor
from torch._decomp import decomposition_table
from torch.utils._python_dispatch import TorchDispatchMode

from roundoff.formats import U64
from roundoff.replay.enclosure.ball import Ball, Unknown
from roundoff.replay.enclosure.radii import Radii, around
from roundoff.replay.enclosure.registry import Enclosing, Operation, enclose, enclosure_of
from roundoff.rules.fused import written_out
from roundoff.rules.recurrent import layer_operands, lstm
from roundoff.rules.rule import Call
from roundoff.tape.dispatcher import is_composite
from roundoff.tape.leaves import map_operands, operands
from roundoff.tape.storages import has_storage

_DEEPEST = 8


def balls_of(op: Any, operation: Operation) -> tuple[Ball, ...]:
    """The balls of the results of ``operation``, by its enclosure or through its decomposition. Raises Unknown."""
    rule = enclosure_of(op) or _decomposed(op)
    if rule is None:
        raise Unknown(f"no rigorous propagation is known of {op}")
    found = rule(operation)
    return found if isinstance(found, tuple) else (found,)


def _decomposed(op: Any) -> Enclosing | None:
    if op not in decomposition_table or op._schema.is_mutable:
        return None
    return lambda o: run_program(o, decomposition_table[op])


@enclose("_native_multi_head_attention", "_transformer_encoder_layer_fwd")
def _block(o: Operation) -> tuple[Ball, ...]:
    def program(*args: Any, **kwargs: Any) -> Any:
        written = written_out(Call(o.op, args, kwargs, o.out, U64))
        if written is None:
            raise Unknown("it is not written out")
        return written()

    return run_program(o, program)


@enclose("mkldnn_rnn_layer")
def _lstm(o: Operation) -> tuple[Ball, ...]:
    y, *states = run_program(o, lambda *args: lstm(*layer_operands(args)))
    shaped = (Ball(s.mid.reshape(t.shape), s.radius.reshape(t.shape)) for s, t in zip(states, o.out[1:3], strict=True))
    return y, *shaped, *(Ball(t, torch.full(t.shape, inf, dtype=torch.float64)) for t in o.out[3:])


def run_program(o: Operation, program: Callable[..., Any]) -> tuple[Ball, ...]:
    """The balls of what ``program`` makes of the operands of ``o``, followed primitive by primitive."""
    radii = Radii()

    def given(value: Any) -> Any:
        if not isinstance(value, Ball):
            return value
        mid = value.mid.clone()
        radii.set(mid, value)
        return mid

    args, kwargs = map_operands(given, o.args), {k: map_operands(given, v) for k, v in o.kwargs.items()}
    with torch.no_grad(), _Following(radii):
        out = program(*args, **kwargs)
    return tuple(radii.ball(x, x) for x in operands(out))


class _Following(TorchDispatchMode):
    """Gives each result of a primitive its radius."""

    def __init__(self, radii: Radii) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.radii = radii
        self.depth = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if enclosure_of(func) is None and not func._schema.is_mutable:
            if func in decomposition_table:
                return self._open(decomposition_table[func], args, kwargs)
            if is_composite(func):
                return self._open(func.decompose, args, kwargs)
        found = operands((args, kwargs))
        exact = all(self.radii.ball(x, x).rad is None for x in found)
        if func._schema.is_mutable:
            raise Unknown(f"{func} writes to its operands inside a decomposition")
        given = self._balls(args), {k: self._balls(v) for k, v in kwargs.items()}
        out = func(*args, **kwargs)
        results = operands(out)
        shared = {x.untyped_storage()._cdata for x in found if has_storage(x)}
        if results and all(x.untyped_storage()._cdata in shared for x in results):
            return out  # a view
        if exact and not any(x.is_floating_point() for x in results):
            return out
        balls = balls_of(func, Operation(func, *given, tuple(results)))
        for x, ball in zip(results, balls, strict=True):
            self.radii.set(x, around(x, ball))
        return out

    def _balls(self, value: Any) -> Any:
        return map_operands(lambda x: self.radii.ball(x, x) if isinstance(x, Tensor) else x, value)

    def _open(self, program: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        self.depth += 1
        try:
            if self.depth > _DEEPEST:
                raise Unknown("it is made of too much")
            with self:
                return program(*args, **kwargs)
        finally:
            self.depth -= 1
