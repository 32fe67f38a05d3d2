"""What an operator that does many things at once holds in between, had by writing it out.

One side may call one operator for what the other writes out in many: attention, a normalisation, a product with a bias.
Its values in between are what the steps of the other side are to be found among.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch._decomp import decomposition_table
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from roundoff.formats import is_inexact
from roundoff.replay.redo import redo
from roundoff.replay.wide import Executed
from roundoff.rules import Call, Nature
from roundoff.rules.fused import written_out
from roundoff.tape.leaves import map_operands, operands
from roundoff.tape.storages import has_storage

#: One value in between: it, and which of the operands (counted as in the step) it was made from.
Inner = tuple[Tensor, frozenset[int]]


def values_inside(executed: Executed) -> Iterator[Inner]:
    """The floating-point values that the step holds in between, on its wide operands; none where it cannot be opened."""
    rule, step = executed.rule, executed.step
    if rule is None or rule.nature is not Nature.ROUNDS or step.op._schema.is_mutable:
        return
    if any(x.is_nested for x in operands((step.args, step.kwargs))):
        return  # few operators know them
    given: list[Tensor] = []

    def wide(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        w = executed.twins.wide(x)
        w = w.clone() if step.overwritten else w.view_as(w)  # a tensor of its own for each operand
        given.append(w)
        return w

    args, kwargs = map_operands(wide, step.args), map_operands(wide, step.kwargs)
    program = _program(executed, args, kwargs)
    if program is None:
        return
    noted = _Note(given)
    try:
        with torch.no_grad(), noted:
            program()
    except (RuntimeError, NotImplementedError, TypeError, ValueError, IndexError):
        return  # a form of the operator that the program does not know
    yield from noted.found


#: Operators that hold nothing in between, though PyTorch writes some of them out.
_PLAIN = {
    "add",
    "sub",
    "rsub",
    "mul",
    "div",
    "neg",
    "pow",
    "mm",
    "bmm",
    "sum",
    "mean",
    "where",
    "masked_fill",
    "constant_pad_nd",
    "relu",
    "threshold",
    "cat",
    "stack",
}


#: Patches of more elements than this are not written out.
_MOST = 2**22


def _program(executed: Executed, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], Any] | None:
    op, rule = executed.step.op, executed.rule
    name = op._schema.name.removeprefix("aten::")
    if name in _PLAIN:
        return None
    whole = written_out(Call(op, args, kwargs, tuple(executed.wide), 0.0))
    if whole is not None:
        return whole
    if name == "convolution":
        return lambda: _convolution(*args)
    program = decomposition_table.get(op)
    if program is None:
        if rule is None or rule.wide is None:
            return None
        program = lambda *args, **kwargs: redo(executed.step, rule, args, kwargs, executed.outs)  # noqa: E731

    def forms() -> None:
        if "attention" in name:
            _scores(*args)
        if "batch_norm" in name:
            _folded(*args)
        program(*args, **kwargs)

    return forms


def _scores(query: Tensor, key: Tensor, *rest: Any) -> None:
    """The scores before they are scaled: a program may scale its operands instead."""
    if query.shape[1] == key.shape[1]:
        torch.matmul(query, key.transpose(-2, -1))


def _folded(x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Any, var: Any, *rest: Any) -> None:
    """A normalisation by running statistics as a product and a sum."""
    if not isinstance(mean, Tensor) or not isinstance(var, Tensor) or rest[0] is True:
        return
    deviation = (var + rest[-2 if isinstance(rest[-1], bool) else -1]).sqrt()
    scale = deviation.reciprocal() if weight is None else weight / deviation
    shift = mean * scale
    if bias is not None:
        shift = bias - shift
    torch.mul(x, scale.view(-1, *[1] * (x.dim() - 2)))


def _convolution(
    x: Tensor, weight: Tensor, bias: Any, stride: Any, padding: Any, dilation: Any, turned: bool, out: Any, groups: int
) -> None:
    """The padded image, its patches, what each group makes, and the sum before the bias."""
    if not turned:
        sides = [p for p in reversed(padding) for _ in range(2)]
        padded = F.pad(x, sides[: 2 * (x.dim() - 2)]) if any(padding) else x
        if x.dim() == 4 and prod(weight.shape[2:]) > 1 and prod(weight.shape[2:]) * x.numel() <= _MOST:
            F.unfold(x, weight.shape[2:], dilation, padding, stride)
        if 1 < groups <= _GROUPS:
            for i, (part, w) in enumerate(zip(padded.chunk(groups, 1), weight.chunk(groups), strict=True)):
                y = torch.convolution(part.clone(), w, None, stride, [0] * len(padding), dilation, False, out, 1)
                if isinstance(bias, Tensor):
                    y + bias.chunk(groups)[i].view(-1, *[1] * (x.dim() - 2))
    torch.convolution(x, weight, None, stride, padding, dilation, turned, out, groups)


#: The groups of a convolution are written out up to so many.
_GROUPS = 8


class _Note(TorchDispatchMode):
    """Keeps the result of each primitive, and from which of the operands it comes."""

    def __init__(self, given: list[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[Inner] = []
        self._from: dict[int, frozenset[int]] = {}
        self._alive: list[Tensor] = list(given)
        for i, x in enumerate(given):
            if has_storage(x):
                self._from[id(x)] = frozenset((i,))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            with self:
                return func.decompose(*args, **kwargs)
        read = operands((args, kwargs))
        sources = frozenset[int]().union(*(self._from.get(id(x), frozenset()) for x in read))
        out = func(*args, **kwargs)
        storages = {x.untyped_storage()._cdata for x in read if has_storage(x)}
        for y in operands(out):
            self._alive.append(y)  # so that no other tensor gets its id
            self._from[id(y)] = self._from.get(id(y), frozenset()) | sources
            if not has_storage(y) or not is_inexact(y.dtype) or not y.numel():
                continue
            if y.untyped_storage()._cdata not in storages or func._schema.is_mutable:  # the rest are other looks
                self.found.append((y, self._from[id(y)]))
        return out
