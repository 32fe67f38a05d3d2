"""The bound of an operator without a rule, or of one that hides many, from the primitives it is made of.

The operator is written out in primitives (PyTorch's own decomposition, or a rule's) and run in float64 a few times, each
primitive's result moved by half to all of its own rule's bound, with random signs. How far the end moves says how far the
roundings inside can carry.

This is statistical and not rigorous: a few draws find typical directions, not the worst one, and in one of them the moves
may cancel. Four things make up for it: each primitive is moved by much of its whole bound where a kernel's error is a
small part of that; the largest of eight draws is taken, of which all are below an eighth of their typical size in one of
10^7 elements; that is taken sixteen times, for a kernel may also compute a primitive by a coarser formula than the operator
of that name; and what moved elsewhere in the same result, pooled, is added.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch
from torch import Tensor
from torch._decomp import decomposition_table
from torch.utils._python_dispatch import TorchDispatchMode

from roundoff.formats import is_inexact, wide_dtype
from roundoff.rules.registry import lookup
from roundoff.rules.rule import Call, Limit, Nature

_DRAWS = 8
_FACTOR = 16.0
_DEEPEST = 8
_SAME = 1e-9  # a decomposition that differs by more than this, relative, is not the same function

#: What n roundings add up to with all but certainty, λ √n instead of n (Higham and Mary 2019; 2 exp(-λ²/2) = 2e-14).
_LAMBDA = 8.0


class Unknown(Exception):
    """A primitive has no rule and cannot be taken apart."""


@dataclass(frozen=True)
class Likely(Call):
    """A call whose roundings are counted as independent ones."""

    def gamma(self, n: float) -> float:
        return super().gamma(min(n, _LAMBDA * sqrt(n)))

    def gamma_out(self, n: float) -> float:
        return super().gamma_out(min(n, _LAMBDA * sqrt(n)))


def opened(call: Call) -> tuple[Limit, ...] | None:
    """The bounds of the results of ``call`` through PyTorch's decomposition of its operator; None where there is none."""
    op = call.op
    if op in decomposition_table:
        program = decomposition_table[op]
    elif _is_composite(op):
        program = op.decompose
    else:
        return None

    def run() -> Any:
        with torch.no_grad():
            return program(*_copied(call.args), **_copied(call.kwargs))

    return simulated(call, run)


def simulated(call: Call, program: Callable[[], Any]) -> tuple[Limit, ...] | None:
    """How far rounding inside ``program``, which computes the results of ``call`` from primitives, can move them.

    None where a primitive is unknown, or where the program does not give the results of the call.
    """
    generators = [torch.Generator().manual_seed(seed) for seed in range(1 if call.typical else _DRAWS)]
    moved = []
    try:
        straight = tensors(program())
        if not _agree(straight, call.out):
            return None
        for generator in generators:
            with _Shaken(call, generator):
                moved.append(tensors(program()))
    except (Unknown, RuntimeError, NotImplementedError, TypeError, ValueError, IndexError):
        return None
    return tuple(
        weighed(call, y, torch.stack([draw[i] for draw in moved])) if is_inexact(y.dtype) else 0.0
        for i, y in enumerate(straight)
    )


def weighed(call: Call, y: Tensor, draws: Tensor) -> Tensor:
    """From ``draws`` [n, ...] of y: sixteen times the largest deviation, once for the typical size; and the pooled one."""
    deviations = (draws - y).abs().to(torch.float64)
    finite = y.isfinite()
    deviations = torch.where(finite, deviations, 0.0).nan_to_num_(nan=float("inf"), posinf=float("inf"))
    pooled = deviations.square().mean().sqrt()
    if call.typical:
        return deviations.amax(0) + pooled
    return deviations.amax(0).mul_(_FACTOR).add_(pooled)


def _agree(program: list[Tensor], out: tuple[Tensor, ...]) -> bool:
    if len(program) != len(out):
        return False
    for a, b in zip(program, out, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        if is_inexact(a.dtype) and a.numel():
            room = _SAME * b.abs()[b.isfinite()].amax() if bool(b.isfinite().any()) else 0.0
            if not bool(((a - b).abs() <= room).logical_or_(~b.isfinite()).all()):
                return False
    return True


class _Shaken(TorchDispatchMode):
    """Moves the result of each primitive by half to all of its rule's bound, with random signs."""

    def __init__(self, call: Call, generator: torch.Generator) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.call = call
        self.generator = generator
        self.depth = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        rule = lookup(func)
        if rule is None or rule.nature is Nature.DRAWS:
            return self._open(func, args, kwargs)
        operands = _copied(args) if func._schema.is_mutable else args
        out = func(*args, **kwargs)
        results = tensors(out)
        if rule.nature is not Nature.ROUNDS or rule.discrete or not any(is_inexact(y.dtype) for y in results):
            return out
        call = self.call
        seen = Likely(func, operands, kwargs, tuple(results), call.u, call.typical, call.u_out)
        limits: Any = rule.bound(seen) if rule.bound is not None else 0.0
        if not isinstance(limits, tuple):
            limits = (limits,) * len(results)
        for y, limit in zip(results, limits, strict=True):
            if is_inexact(y.dtype):
                self._move(y, limit)
        return out

    def _move(self, y: Tensor, limit: Limit) -> None:
        part = torch.rand(y.shape, dtype=torch.float64, generator=self.generator).to(y.device).sub_(0.5)
        size = y.abs() * max(self.call.u, self.call.u_out) + limit
        y.add_(torch.where(y.isfinite(), size * (part + 0.5 * part.sign()), 0.0))

    def _open(self, func: Any, args: Any, kwargs: Any) -> Any:
        program = decomposition_table.get(func) or (func.decompose if _is_composite(func) else None)
        if program is None or self.depth >= _DEEPEST:
            raise Unknown(str(func))
        self.depth += 1
        try:
            with self:
                return program(*args, **kwargs)
        finally:
            self.depth -= 1


def _is_composite(op: Any) -> bool:
    name = op.name() if hasattr(op, "name") else ""
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(name, "CompositeImplicitAutograd")) if name else False


def tensors(out: Any) -> list[Tensor]:
    """The tensors among the results of an operator, in order."""
    if isinstance(out, Tensor):
        return [out]
    return [x for item in out for x in tensors(item)] if isinstance(out, (list, tuple)) else []


def _copied(value: Any) -> Any:
    """Copies that the operator may write to, and wide formats where it names one."""
    if isinstance(value, (list, tuple)):
        return type(value)(_copied(v) for v in value)
    if isinstance(value, dict):
        return {k: _copied(v) for k, v in value.items()}
    if isinstance(value, torch.dtype):
        return wide_dtype(value)
    return value.clone() if isinstance(value, Tensor) else value
