"""A context in which PyTorch's functions are the exact ones, and what is not exact is told."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from roundoff.errors import RoundoffError
from roundoff.exact import compound, contractions, ops
from roundoff.exact.rounding import SHORT
from roundoff.rules import Nature, lookup
from roundoff.tape.leaves import operands

#: Single operations that IEEE arithmetic rounds once, in whatever kernel.
SINGLE = {"add", "sub", "rsub", "mul", "div", "reciprocal", "add_", "sub_", "mul_", "div_"}
SINGLE |= {"where", "clamp", "clamp_min", "clamp_max", "select_backward", "slice_backward"}  # these choose


def _each(name: str) -> Callable[..., Tensor]:
    def function(x: Tensor) -> Tensor:
        return ops.each(x, name)

    return function


def _softmax(x: Tensor, dim: int, _stacklevel: int = 3, dtype: torch.dtype | None = None) -> Tensor:
    return compound.softmax(x if dtype is None else x.to(dtype), dim)


def _log_softmax(x: Tensor, dim: int, _stacklevel: int = 3, dtype: torch.dtype | None = None) -> Tensor:
    return compound.log_softmax(x if dtype is None else x.to(dtype), dim)


def _elu(x: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    y = compound.elu(x, alpha)
    return x.copy_(y) if inplace else y


def _silu(x: Tensor, inplace: bool = False) -> Tensor:
    y = ops.each(x, "silu")
    return x.copy_(y) if inplace else y


def _sum(x: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Tensor:
    return contractions.sum(x if dtype is None else x.to(dtype), dim, keepdim)


def _mean(x: Tensor, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None) -> Tensor:
    return contractions.mean(x if dtype is None else x.to(dtype), dim, keepdim)


def _layer_norm(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return compound.layer_norm(input, *args, **kwargs)


def _cross_entropy(x: Tensor, target: Tensor, *, ignore_index: int = -100, reduction: str = "mean",
                   label_smoothing: float = 0.0) -> Tensor:  # fmt: skip
    if label_smoothing or ignore_index >= 0:
        raise RoundoffError("exact.cross_entropy smooths no labels and ignores no class.")
    return compound.cross_entropy(x, target, reduction)


def _right(b: Tensor, a: Tensor) -> Tensor:
    return contractions.matmul(a, b)


EXACT: dict[Any, Callable[..., Any]] = {
    F.linear: contractions.linear,
    F.layer_norm: _layer_norm,
    F.group_norm: compound.group_norm,
    F.batch_norm: compound.batch_norm,
    F.elu: _elu,
    F.silu: _silu,
    F.gelu: compound.gelu,
    F.softplus: compound.softplus,
    F.scaled_dot_product_attention: compound.attention,
    F.mse_loss: compound.mse_loss,
    F.l1_loss: compound.l1_loss,
    F.cross_entropy: _cross_entropy,
    F.softmax: _softmax,
    F.log_softmax: _log_softmax,
    Tensor.__rmatmul__: _right,
    torch.special.erfc: _each("erfc"),
    torch.special.expit: _each("sigmoid"),
}
for _owner in (torch, Tensor):
    for _name in ("exp", "expm1", "log", "log1p", "log2", "log10", "sqrt", "rsqrt", "sin", "cos", "tanh", "sigmoid",
                  "erf", "erfc"):  # fmt: skip
        EXACT[getattr(_owner, _name)] = _each(_name)
    EXACT |= {
        getattr(_owner, "matmul"): contractions.matmul,  # noqa: B009
        _owner.mm: contractions.matmul,
        _owner.bmm: contractions.matmul,
        _owner.mv: contractions.matmul,
        _owner.sum: _sum,
        _owner.mean: _mean,
        _owner.softmax: _softmax,
        _owner.log_softmax: _log_softmax,
    }
EXACT |= {Tensor.__matmul__: contractions.matmul, torch.tensordot: contractions.tensordot,
          F.tanh: _each("tanh"), F.sigmoid: _each("sigmoid")}  # fmt: skip
for _i in (1, 2, 3):
    EXACT[getattr(F, f"conv{_i}d")] = EXACT[getattr(torch, f"conv{_i}d")] = contractions.convolution
    EXACT[getattr(F, f"conv_transpose{_i}d")] = contractions.conv_transpose

_ADD = {torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__}
_WITH_BIAS: dict[Any, Callable[..., Tensor]] = {
    torch.tensordot: contractions.tensordot,
    F.linear: contractions.linear,
    **dict.fromkeys((torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__), contractions.matmul),
}


class _Told(TorchDispatchMode):
    """Notes every operation that rounds otherwise than once."""

    def __init__(self, inexact: dict[str, None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.inexact = inexact

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        namespace, name = str(func).split(".")[:2]
        if namespace == "roundoff" or not any(t.dtype.is_floating_point for t in operands(out)):
            return out
        if name in SINGLE and (kwargs or {}).get("alpha", 1) in (1, -1):
            return out
        if name in ("_to_copy", "copy_") and all(t.dtype in SHORT for t in operands((args, out))):
            return out
        rule = lookup(func)
        if rule is None or rule.nature not in (Nature.EXACT, Nature.MAKES, Nature.DRAWS):
            self.inexact[str(func)] = None
        return out


class mode(TorchFunctionMode):
    """In this context PyTorch's functions are the exact ones: ``with roundoff.exact.mode() as m: ...``.

    ``m.inexact`` names the operations that ran and are not exact; with ``strict`` the first raises RoundoffError on
    leaving the context. A bias that is added to a product made in the context belongs to its sum: both are rounded once.
    Gradients of what ran in it are exact, also when they are taken after it.
    """

    def __init__(self, *, strict: bool = False) -> None:
        super().__init__()
        self.strict = strict
        self._inexact: dict[str, None] = {}
        self._told: list[_Told] = []

    @property
    def inexact(self) -> tuple[str, ...]:
        """The operations that are not exact, in the order in which they first ran."""
        return tuple(self._inexact)

    def __enter__(self) -> mode:
        self._told.append(_Told(self._inexact))
        self._told[-1].__enter__()  # type: ignore[no-untyped-call]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._told.pop().__exit__(*error)  # type: ignore[no-untyped-call]
        if self.strict and self._inexact and error[0] is None:
            raise RoundoffError(
                f"Not exact: {', '.join(self._inexact)}. Leave them out of the context, or use it without strict."
            )

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in _ADD and not kwargs and len(args) == 2:
            found = self._as_one_sum(*args)
            if found is not None:
                return found
        made = EXACT.get(func)
        tensors = operands((args, kwargs))
        floats = [t for t in tensors if t.dtype.is_floating_point]
        if made is None or not floats or any(t.dtype not in SHORT for t in floats):
            return func(*args, **kwargs)
        try:
            y = made(*args, **_renamed(kwargs))
        except (RoundoffError, TypeError):
            return func(*args, **kwargs)  # as it is; what of it rounds otherwise is told
        sums = func in _WITH_BIAS and len(args) >= 2 and not self._biased(func, args, kwargs)
        if sums and not any(t.is_inference() for t in (y, *tensors)):
            y._roundoff_sum = (func, args, kwargs, tuple(t._version for t in tensors), y._version)
        return y

    @staticmethod
    def _biased(func: Any, args: Any, kwargs: Mapping[str, Any]) -> bool:
        return func is F.linear and ((len(args) > 2 and args[2] is not None) or kwargs.get("bias") is not None)

    def _as_one_sum(self, a: Any, b: Any) -> Tensor | None:
        for y, bias in ((a, b), (b, a)):
            if not isinstance(y, Tensor) or not isinstance(bias, Tensor) or not hasattr(y, "_roundoff_sum"):
                continue
            func, args, kwargs, versions, version = y._roundoff_sum
            if bias.dim() != 1 or not y.dim() or bias.shape[0] != y.shape[-1] or bias.dtype != y.dtype:
                continue
            if y._version != version or tuple(t._version for t in operands((args, kwargs))) != versions:
                continue
            return _WITH_BIAS[func](*args[:3], **_renamed(kwargs), bias=bias) if func is torch.tensordot else _WITH_BIAS[
                func](*args[:2], bias=bias)  # fmt: skip
        return None


_NAMES = {"input": "x", "axis": "dim"}


def _renamed(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {_NAMES.get(name, name): value for name, value in kwargs.items() if value is not None}


class ExactModel(torch.nn.Module):
    """A network whose forward runs in :class:`mode`; what of it is not exact is warned of once, and listed."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network
        self.inexact: list[str] = []

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The network's own forward, by exact operations."""
        with mode() as m:
            out = self.network(*args, **kwargs)
        new = [op for op in m.inexact if op not in self.inexact]
        if new:
            self.inexact += new
            warnings.warn(f"Not exact in this network: {', '.join(new)}.", stacklevel=2)
        return out
