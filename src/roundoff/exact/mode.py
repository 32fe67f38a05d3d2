"""A context in which PyTorch's functions are the exact ones, and what is not exact is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

from roundoff.errors import RoundoffError
from roundoff.exact.gradients import reduce_to
from roundoff.exact.rounding import SHORT, subnormal_numbers
from roundoff.exact.table import EXACT, WITH_BIAS
from roundoff.exact.told import Told
from roundoff.tape.leaves import operands

#: Methods that PyTorch wraps in Python: the compiler does not find these in a table by what they are.
_WRAPPED = {name: EXACT[getattr(Tensor, name)] for name in ("__rsub__", "__rdiv__", "__pow__", "pow")}
_ADD = {torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__radd__}


@dataclass(frozen=True)
class _Sum:
    """A product that was made, which a bias may still be added to, and what tells that it was not written to since."""

    function: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    version: int
    versions: tuple[int, ...]


class _Biased(torch.autograd.Function):
    """A product with its bias: one sum of the value ``value``. Its gradient goes by way of the product."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, bias: Tensor, value: Tensor) -> Tensor:
        ctx.shape = bias.shape
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
        return grad, reduce_to(grad, ctx.shape) if ctx.needs_input_grad[1] else None, None


class mode(TorchFunctionMode):
    """In this context PyTorch's functions are the exact ones: ``with roundoff.exact.mode() as m: ...``.

    ``m.inexact`` names the operations that ran and are not exact; with ``strict`` leaving the context raises RoundoffError
    if there are any. A bias that is added to a product made in the context belongs to its sum: both are rounded once.
    Gradients of what ran in it are exact, also when they are taken after it. While PyTorch compiles or exports what runs
    in the context, nothing is told: run it once as it is.
    """

    def __init__(self, *, strict: bool = False) -> None:
        super().__init__()
        self.strict = strict
        self._inexact: dict[str, None] = {}
        self._told: list[Told | None] = []
        self._last: tuple[Tensor, _Sum] | None = None

    @property
    def inexact(self) -> tuple[str, ...]:
        """The operations that are not exact, in the order in which they first ran."""
        return tuple(self._inexact)

    def __enter__(self) -> mode:
        told = None if torch.compiler.is_compiling() else Told(self._inexact)
        if told is None:
            _show_the_compiler()
        else:
            subnormal_numbers()
        self._told.append(told)
        if told is not None:
            told.__enter__()  # type: ignore[no-untyped-call]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        told = self._told.pop()
        if told is not None:
            told.__exit__(*error)  # type: ignore[no-untyped-call]
        if self.strict and self._inexact and error[0] is None:
            raise RoundoffError(
                f"Not exact: {', '.join(self._inexact)}. Leave them out of the context, or use it without strict."
            )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs = dict(kwargs or {})
        made = _WRAPPED.get(getattr(func, "__name__", "")) or EXACT.get(func)
        if made is None:
            if not _reads(func):
                self._last = None
            return func(*args, **kwargs)
        tensors = operands((args, kwargs))
        floats = [t for t in tensors if t.dtype.is_floating_point]
        if not floats or any(t.dtype not in SHORT for t in floats):
            return func(*args, **kwargs)
        given = {name: value for name, value in kwargs.items() if value is not None}
        if func in _ADD and not given and len(args) == 2:
            found = self._as_one_sum(*args)
            if found is not None:
                return args[0].copy_(found) if func is Tensor.add_ else found
        try:
            y = made(*args, **given)
        except (RoundoffError, TypeError):
            return func(*args, **kwargs)  # as it is; what of it rounds otherwise is told
        self._last = None
        if func in WITH_BIAS and "bias" not in given and not (func is torch.nn.functional.linear and len(args) > 2):
            self._keep(y, _Sum(func, args, given, *self._versions(y, tensors)))
        return y

    def _versions(self, y: Tensor, operands: list[Tensor]) -> tuple[int, tuple[int, ...]]:
        """What changes when a tensor is written to; for those that PyTorch does not count for, all that is written to."""
        if torch.compiler.is_compiling():
            return 0, ()
        if any(t.is_inference() for t in (y, *operands)):
            told = self._told[-1]
            return -1 if told is None else told.written, ()
        return y._version, tuple(t._version for t in operands)

    def _keep(self, y: Tensor, made: _Sum) -> None:
        if torch.compiler.is_compiling():
            self._last = y, made  # an attribute of a tensor would not be traced
        else:
            y._roundoff_sum = made  # type: ignore[attr-defined]

    def _as_one_sum(self, a: Any, b: Any) -> Tensor | None:
        for y, bias in ((a, b), (b, a)):
            if not isinstance(y, Tensor) or not isinstance(bias, Tensor):
                continue
            if torch.compiler.is_compiling():
                made = self._last[1] if self._last is not None and self._last[0] is y else None
            else:
                made = getattr(y, "_roundoff_sum", None)
            if made is None or bias.dim() != 1 or not y.dim():
                continue
            if bias.shape[0] != y.shape[-1] or bias.dtype != y.dtype:
                continue
            if (made.version, made.versions) != self._versions(y, operands((made.args, made.kwargs))):
                continue
            with torch.no_grad():
                value = WITH_BIAS[made.function](*made.args, **made.kwargs, bias=bias)
            found: Tensor = _Biased.apply(y, bias, value)  # type: ignore[no-untyped-call]
            return found
        return None


def _show_the_compiler() -> bool:
    """The compiler asks a context only about the functions in a set of its own, which lacks some of the table."""
    from torch._dynamo.variables.torch import get_overridable_functions

    get_overridable_functions().update(EXACT)
    return True


_show_the_compiler._dynamo_marked_constant = True  # type: ignore[attr-defined]  # it runs while the rest is traced


def _reads(func: Any) -> bool:
    """True for what only asks a tensor about itself, such as its shape."""
    return getattr(func, "__name__", "") in ("__get__", "size", "dim", "stride", "numel", "is_contiguous")


def active() -> bool:
    """True inside the context."""
    return any(isinstance(m, mode) for m in _get_current_function_mode_stack())
