"""Try a rule on its sample operands: the native kernel against the same operator in float64."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from roundoff.formats import UNIT_ROUNDOFF, is_inexact, wide_dtype, widen
from roundoff.rules import Call, Limit, Nature, Rule, lookup
from roundoff.rules.rule import compute_unit, rounding

REDUCED = (torch.bfloat16, torch.float16)


def tree(value: Any, change: Any) -> Any:
    """``value`` with ``change`` applied to every tensor and dtype in it."""
    if isinstance(value, (list, tuple)):
        return type(value)(tree(v, change) for v in value)
    if isinstance(value, dict):
        return {k: tree(v, change) for k, v in value.items()}
    return change(value) if isinstance(value, (Tensor, torch.dtype)) else value


def wide(value: Any) -> Any:
    return tree(value, lambda v: wide_dtype(v) if isinstance(v, torch.dtype) else widen(v).clone())


def tensors(out: Any) -> list[Tensor]:
    if isinstance(out, Tensor):
        return [out]
    return [x for item in out for x in tensors(item)] if isinstance(out, (list, tuple)) else []


class First(TorchDispatchMode):
    """Notes the first operator that runs, with its arguments as the dispatcher passes them on."""

    seen: tuple[Any, tuple[Any, ...], dict[str, Any]] | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if self.seen is None:  # before it runs: it may write to its operands
            self.seen = func, wide(args), wide(dict(kwargs or {}))
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class Trial:
    """One sample, executed on both sides."""

    call: Call
    native: list[Tensor]
    reference: list[Tensor]
    limits: list[Limit]

    def excess(self, output: int, native: Tensor | None = None) -> float:
        """The largest local error over its limit; 0 where the limit is kept exactly at 0."""
        y = self.native[output] if native is None else native
        reference, limit = self.reference[output], self.limits[output]
        if not is_inexact(y.dtype):
            return 0.0 if torch.equal(y, reference) else float("inf")
        assert y.shape == reference.shape, f"native {list(y.shape)}, wide {list(reference.shape)}"
        largest = torch.finfo(y.dtype).max
        skip = ~reference.isfinite() & ~y.isfinite()
        skip |= ~y.isfinite() & (reference.abs() > largest * 0.99)
        error = (widen(y) - reference).abs()
        limit = limit if isinstance(limit, Tensor) else torch.tensor(limit, dtype=torch.float64)
        skip = skip | (limit == float("inf"))  # the rule judges nothing there
        ratio = torch.where(error == 0, 0.0, error / limit).masked_fill(skip, 0.0)
        return float(ratio.nan_to_num(nan=float("inf")).max()) if ratio.numel() else 0.0


class Composite(Exception):
    """The operator is taken apart before anything is executed, so that its rule is never asked."""


def run(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    default = torch.get_default_dtype()
    try:
        if not any(isinstance(x, Tensor) and is_inexact(x.dtype) for x in tensors([*args, *kwargs.values()])):
            wanted = [v for v in kwargs.values() if isinstance(v, torch.dtype)]
            torch.set_default_dtype(torch.float64 if torch.float64 in wanted else default)
        return tensors(op(*args, **kwargs))
    finally:
        torch.set_default_dtype(default)


def bounds(rule: Rule, call: Call, native: list[Tensor], reference: list[Tensor]) -> list[Limit]:
    if rule.nature is Nature.EXACT:
        return [0.0] * len(native)
    found = rule.bound(call) if rule.bound is not None else 0.0
    each = found if isinstance(found, tuple) else (found,) * len(native)
    assert len(each) == len(native), f"{len(each)} bounds for {len(native)} results"
    return [
        limit + rounding(x, y) if is_inexact(x.dtype) else limit
        for limit, x, y in zip(each, native, reference, strict=True)
    ]


def trial(rule: Rule, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Trial:
    with torch.no_grad():
        with First() as first:
            native = tensors(op(*args, **kwargs))
        overload, args, kwargs = first.seen or (op, wide(args), wide(kwargs))
        if lookup(overload) is not rule:
            raise Composite(f"{op} is not seen, but {overload} in its place")
        if rule.wide is not None:
            out = rule.wide(*wide(args), native=tuple(native), **wide(kwargs))
            reference = [r.to(wide_dtype(n.dtype)) for r, n in zip(tensors(out), native, strict=True)]
        else:
            reference = run(overload, wide(args), wide(kwargs))
        inexact = [x.dtype for x in native if is_inexact(x.dtype)] or [torch.float32]
        call = Call(overload, args, kwargs, tuple(reference), compute_unit(*inexact),
                    u_out=max(UNIT_ROUNDOFF[d] for d in inexact))  # fmt: skip
        return Trial(call, native, reference, bounds(rule, call, native, reference))


def tried(op: Any, *args: Any, **kwargs: Any) -> Trial:
    """One call of ``op``, with the rule that is looked up for what then runs."""
    with torch.no_grad(), First() as first:
        op(*args, **kwargs)
    assert first.seen is not None
    rule = lookup(first.seen[0])
    assert rule is not None
    return trial(rule, op, args, kwargs)


def samples(rule: Rule, dtype: torch.dtype, seed: int = 0) -> Iterator[tuple[Any, tuple[Any, ...], dict[str, Any]]]:
    """The rule's operators, each with its sample operands."""
    for name in rule.ops:
        namespace, _, rest = name.partition(".")
        packet, _, overload = rest.partition(".")
        op = getattr(getattr(torch.ops, namespace), packet, None)
        if op is None:
            continue
        if overload:
            op = getattr(op, overload)
        assert rule.samples is not None
        for args, kwargs in rule.samples(dtype, torch.Generator().manual_seed(seed)):
            yield op, args, kwargs
