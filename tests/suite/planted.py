"""A CPU kernel that is wrong: on one call of one operator, in one network, in the native format only.

The fault is a function of the operands, as a real one would be: it strikes whenever the kernel is called inside that
network with the very operands of the chosen call. A run in float64, or a check of the same kernel on other operands,
gets the right result.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

Kernel = Callable[..., Any]
NATIVE = (torch.float32, torch.bfloat16, torch.float16)


def element(position: float, size: float = 0.01) -> Callable[[Kernel, tuple[Any, ...], dict[str, Any]], Any]:
    """One element of the result is off by ``size`` times the largest."""

    def damage(kernel: Kernel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        out = kernel(*args, **kwargs)
        first = out[0] if isinstance(out, tuple) else out
        wrong = first.clone().flatten()
        largest = wrong.abs().max() if bool(wrong.abs().max() > 0) else wrong.new_tensor(1.0)
        wrong[int(position * len(wrong))] += size * largest
        wrong = torch.empty_like(first).copy_(wrong.view(first.shape))  # laid out as the kernel did
        return (wrong, *out[1:]) if isinstance(out, tuple) else wrong

    return damage


def rounded(bits: int) -> Callable[[Kernel, tuple[Any, ...], dict[str, Any]], Any]:
    """The kernel rounds its operands to ``bits`` bits: 11 as TF32 has, 8 as bfloat16 has."""

    def cut(x: Any) -> Any:
        if not isinstance(x, Tensor) or x.dtype != torch.float32:
            return x
        mantissa, exponent = torch.frexp(x)
        return torch.ldexp((mantissa * 2**bits).round(), exponent - bits)

    def damage(kernel: Kernel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return kernel(*tree_map(cut, args), **kwargs)

    return damage


def _tensors(op: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments with a tensor for each number that stands where the operator wants a tensor, as PyTorch does it."""
    name, _, overload = op.partition(".")
    schema = getattr(getattr(torch.ops.aten, name), overload or "default")._schema
    formats = [x.dtype for x in args if isinstance(x, Tensor)]
    found = []
    for x, wanted in zip(args, schema.arguments, strict=False):
        if isinstance(x, int | float) and str(wanted.type) == "Tensor":
            like = formats[0] if formats and (formats[0].is_floating_point or isinstance(x, int)) else None
            x = torch.tensor(x, dtype=like)
        found.append(x)
    return tuple(found)


@dataclass
class Fault:
    """``damage`` done to call number ``call`` of ``op``; ``fired`` counts how often it struck."""

    op: str
    call: int
    damage: Callable[[Kernel, tuple[Any, ...], dict[str, Any]], Any]
    operands: list[Tensor] = field(default_factory=list)
    fired: int = 0
    inside: bool = False
    seen: list[list[Tensor]] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Fault:
        return self  # the network that is copied keeps its kernel

    def _strikes(self, tensors: list[Tensor]) -> bool:
        return len(tensors) == len(self.operands) and all(
            x.dtype == y.dtype and x.shape == y.shape and torch.equal(x, y)
            for x, y in zip(tensors, self.operands, strict=True)
        )

    @contextmanager
    def planted(self) -> Iterator[None]:
        """The kernel is wrong while this lasts."""
        original = torch.library.get_kernel(f"aten::{self.op}", "CPU")

        def kernel(keys: Any, *args: Any, **kwargs: Any) -> Any:
            def right(*args: Any, **kwargs: Any) -> Any:
                return original.call_boxed(keys, *_tensors(self.op, args), **kwargs)

            tensors = [x for x in tree_leaves(args) if isinstance(x, Tensor)]
            if not self.inside or not any(x.dtype in NATIVE for x in tensors):
                return right(*args, **kwargs)
            self.inside = False  # what follows may call this very kernel
            try:
                if self.seen is not None:
                    self.seen.append([x.clone() for x in tensors])
                if not self._strikes(tensors):
                    return right(*args, **kwargs)
                self.fired += 1
                return self.damage(right, args, kwargs)
            finally:
                self.inside = True

        library = torch.library.Library("aten", "IMPL")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that a kernel is overridden is the point
                library.impl(self.op, kernel, "CPU", with_keyset=True)
            yield
        finally:
            library._destroy()

    def aim(self, run: Callable[[], Any]) -> int:
        """Run once to learn the operands of the chosen call (counted round); the number of calls, 0 for none."""
        self.seen = []
        with self.planted():
            run()
        calls, self.seen = self.seen, None
        if calls:
            self.operands = calls[self.call % len(calls)]
        return len(calls)


class Faulty(nn.Module):
    """A network whose kernels may be wrong while it runs."""

    def __init__(self, net: nn.Module, fault: Fault) -> None:
        super().__init__()
        self.net, self.fault = net, fault

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.fault.inside = True
        try:
            return self.net(*args, **kwargs)
        finally:
            self.fault.inside = False


@contextmanager
def both(fault: Fault, mode: Callable[[], AbstractContextManager[Any]]) -> Iterator[None]:
    """The planted kernel and a gradient mode."""
    with fault.planted(), mode():
        yield
