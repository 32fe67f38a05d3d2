"""Do the operation of a step again, on other operands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from roundoff.formats import is_inexact, wide_dtype
from roundoff.rules import Rule
from roundoff.tape.leaves import map_operands, operands
from roundoff.tape.storages import has_storage
from roundoff.tape.watch import Step, written


def redo(
    step: Step, rule: Rule | None, args: tuple[Any, ...], kwargs: dict[str, Any], native: list[Tensor]
) -> list[Tensor]:
    """The operation of ``step`` on the given wide operands, in float64. Raises what PyTorch raises where it cannot."""
    if rule is not None and rule.wide is not None:
        out = rule.wide(*args, native=tuple(native), **kwargs)
        results = [x.to(wide_dtype(n.dtype)) for x, n in zip(operands(out), native, strict=True)]
        return _apart(step, results, native, args, kwargs)
    args = tuple(map_operands(_wide_format, a) for a in args)
    kwargs = {k: map_operands(_wide_format, v) for k, v in kwargs.items()}
    out = None
    for name, value in list(kwargs.items()):
        if _is_out(step.op, name):
            kwargs[name] = map_operands(lambda x: torch.empty(0, dtype=x.dtype, device=x.device), value)
    anchored = any(is_inexact(x.dtype) for x in operands((args, kwargs)))
    with _float64_by_default(not anchored):
        out = step.op(*args, **kwargs)
    results = operands(out) or written(step.op, args, kwargs)
    if len(results) != len(native):
        raise RuntimeError(f"{len(results)} results in float64, {len(native)} natively")
    for result, n in zip(results, native, strict=True):
        if is_inexact(n.dtype) and result.dtype != wide_dtype(n.dtype):
            raise RuntimeError(f"the result is {result.dtype} on float64 operands")
    return results if rule is not None else _apart(step, results, native, args, kwargs)


def _apart(step: Step, results: list[Tensor], native: list[Tensor], args: Any, kwargs: Any) -> list[Tensor]:
    """``results``, copied where they lie in memory that is not theirs; the native ones themselves stay."""
    if step.overwritten:
        return results
    given = {x.untyped_storage()._cdata for x in operands((args, kwargs, native)) if has_storage(x)}
    return [
        x.clone() if has_storage(x) and x.untyped_storage()._cdata in given and x is not n else x
        for x, n in zip(results, native, strict=True)
    ]


def _wide_format(value: Any) -> Any:
    return wide_dtype(value) if isinstance(value, torch.dtype) else value


def _is_out(op: Any, name: str) -> bool:
    return any(a.name == name and a.is_out for a in op._schema.arguments)


@contextmanager
def _float64_by_default(wanted: bool) -> Iterator[None]:
    """Operators on integers or on nothing give the default format: let it be the wide one meanwhile."""
    if not wanted:
        yield
        return
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
