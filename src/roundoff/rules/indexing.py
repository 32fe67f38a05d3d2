"""Adding into places that indices name: what falls on one place is summed there, one rounding each.

On bfloat16 and float16 the sums are kept in the format itself by some kernels.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from roundoff.rules.registry import register
from roundoff.rules.rule import Call, Limit, Nature, Rule
from roundoff.rules.samples import Operands, given

_SOURCE = "Higham, Accuracy and Stability of Numerical Algorithms (2002), §4.2: a sum of what falls on one place"


def _largest_heap(index: Tensor) -> int:
    """How many indices are equal at most."""
    return int(index.flatten().bincount().max()) if index.numel() and int(index.min()) >= 0 else index.numel()


def _index_add(call: Call) -> Limit:
    x, dim, index, source = call.args[:4]
    alpha = abs(call.kwargs.get("alpha", 1))
    total = torch.index_add(x.abs(), dim, index, source.abs(), alpha=alpha)
    return total.mul_(call.gamma_out(2 * _largest_heap(index) + 1))


def _scatter_add(call: Call) -> Limit:
    x, dim, index, source = call.args[:4]
    total = torch.scatter_add(x.abs(), dim, index, source.abs())
    return total.mul_(call.gamma_out(index.shape[dim] + 1 if index.dim() else 2))


def _scatter_reduce(call: Call) -> Limit:
    x, dim, index, source, reduce = call.args[:5]
    include = bool(call.kwargs.get("include_self", True))
    n = index.shape[dim] + 2 if index.dim() else 3
    if reduce in ("amax", "amin"):
        return 0.0
    if reduce == "prod":
        return call.out[0].abs() * call.gamma_out(n)
    total = torch.scatter_reduce(x.abs(), dim, index, source.abs(), reduce, include_self=include)
    return total.mul_(call.gamma_out(n))


def _scatter(call: Call) -> Limit:
    """``scatter`` with ``reduce``: adds or multiplies, one index after another."""
    x, dim, index, source = call.args[:4]
    n = index.shape[dim] + 1 if index.dim() else 2
    if call.kwargs.get("reduce", call.args[4] if len(call.args) > 4 else None) == "multiply":
        return call.out[0].abs() * (call.gamma_out(n) + n * call.scalar(source))
    source = source.abs() if isinstance(source, Tensor) else torch.full(index.shape, abs(source), dtype=x.dtype)
    total = torch.scatter_add(x.abs(), dim, index, source.to(x.dtype))
    return total.mul_(call.gamma_out(2 * n))


def _index_put(call: Call) -> Limit:
    if not call.arg(3, "accumulate", False):
        return 0.0
    x, indices, values = call.args[:3]
    total: Tensor = torch.ops.aten.index_put(x.abs(), indices, values.abs(), True)
    ones = torch.ops.aten.index_put(torch.zeros_like(x), indices, torch.ones_like(values), True)
    return total.mul_(call.gamma_out(float(ones.max()) + 1 if ones.numel() else 1))


def _index_reduce(call: Call) -> Limit:
    x, dim, index, source, reduce = call.args[:5]
    n = _largest_heap(index) + 2
    if reduce in ("amax", "amin"):
        return 0.0
    if reduce == "prod":
        return call.out[0].abs() * call.gamma_out(n)
    include = bool(call.kwargs.get("include_self", True))
    total = torch.index_reduce(x.abs(), dim, index, source.abs(), reduce, include_self=include)
    return total.mul_(call.gamma_out(n))


def _embedding_bag(call: Call) -> tuple[Limit, ...]:
    """Sums or means of rows, perhaps weighted; the largest row exactly. What follows are integers."""
    indices = call.args[1]
    if call.arg(4, "mode", 0) == 2:
        return (0.0,) * len(call.out)
    args = [a.abs() if isinstance(a, Tensor) and a.is_floating_point() else a for a in call.args]
    kwargs = {k: a.abs() if isinstance(a, Tensor) and a.is_floating_point() else a for k, a in call.kwargs.items()}
    total: Tensor = call.op(*args, **kwargs)[0]
    return total.mul_(call.gamma_out(indices.numel() + 3)), *(0.0,) * (len(call.out) - 1)


def _bincount(call: Call) -> Limit:
    weights = call.arg(1, "weights")
    if weights is None or not call.out[0].is_floating_point():
        return 0.0
    total = torch.bincount(call.args[0], weights.abs(), int(call.arg(2, "minlength", 0)))
    return total.mul_(call.gamma(call.args[0].numel()))


def _adds(r: Operands) -> Iterable[Any]:
    yield r.normal(5, 4), 0, r.integers(5, 9), r.normal(9, 4)
    yield r.wild(5, 4, decades=2), 0, torch.zeros(300, dtype=torch.int64), r.normal(300, 4)
    yield r.normal(5, 4), 1, r.integers(4, 6), r.strided(r.normal(5, 6)), {"alpha": 0.3}


def _scatters(r: Operands) -> Iterable[Any]:
    yield r.normal(5, 40), 1, r.integers(40, 5, 30), r.normal(5, 30)
    yield r.normal(50, 4), 0, r.integers(2, 50, 4), r.wild(50, 4, decades=2)


def _reduces(r: Operands) -> Iterable[Any]:
    for x, dim, index, source in _scatters(r):
        for reduce in ("sum", "mean", "prod", "amax", "amin"):
            yield x, dim, index, source, reduce
            yield x, dim, index, source, reduce, {"include_self": False}


def _index_reduces(r: Operands) -> Iterable[Any]:
    for reduce in ("mean", "prod", "amax", "amin"):
        yield r.normal(5, 4), 0, r.integers(5, 9), r.normal(9, 4), reduce


def _puts(r: Operands) -> Iterable[Any]:
    for accumulate in (False, True):
        yield r.normal(5, 4), [torch.tensor([0, 2, 4])], r.normal(3, 4), accumulate
    yield r.normal(5, 4), [r.integers(5, 90), r.integers(4, 90)], r.normal(90), True
    yield r.normal(6), [r.mask(6)], r.normal(), False


def _bags(r: Operands) -> Iterable[Any]:
    for mode in (0, 1, 2):
        yield r.normal(20, 8), r.integers(20, 30), torch.tensor([0, 4, 5, 29]), False, mode
    yield r.normal(20, 8), r.integers(20, 30), torch.tensor([0, 4]), False, 0, False, r.normal(30)


for _names, _bound, _cases in (
    (("index_add",), _index_add, _adds),
    (("scatter_add",), _scatter_add, _scatters),
    (("scatter_reduce",), _scatter_reduce, _reduces),
    (
        ("scatter.reduce",),
        _scatter,
        lambda r: [(r.normal(5, 40), 1, r.integers(40, 5, 30), r.normal(5, 30), {"reduce": "add"})],
    ),
    (
        ("scatter.value_reduce",),
        _scatter,
        lambda r: [(r.normal(5, 40), 1, r.integers(40, 5, 30), 0.1, {"reduce": "multiply"})],
    ),
    (("index_put", "_unsafe_index_put", "_index_put_impl"), _index_put, _puts),
    (("index_reduce",), _index_reduce, _index_reduces),
    (("bincount",), _bincount, lambda r: [(r.integers(5, 90), r.normal(90))] if not r.half else []),
):
    register(Rule(tuple(f"aten.{n}" for n in _names), Nature.ROUNDS, _bound, source=_SOURCE, samples=given(_cases)))


def _embedding_bag_wide(*args: Any, native: tuple[Tensor, ...], **kwargs: Any) -> tuple[Tensor, ...]:
    """The bags themselves; which whole numbers come with them depends on the kernel."""
    return torch.ops.aten._embedding_bag(*args, **kwargs)[0], *native[1:]


register(
    Rule(
        ("aten._embedding_bag", "aten._embedding_bag_forward_only"),
        Nature.ROUNDS,
        _embedding_bag,
        source=_SOURCE,
        samples=given(_bags),
        wide=_embedding_bag_wide,
    )
)


def _bag_gradient(call: Call) -> Limit:
    """For each row the sum of the gradients of its bags, each divided by its bag's size or weighted."""
    indices = call.args[1]
    args = [a.abs() if isinstance(a, Tensor) and a.is_floating_point() else a for a in call.args]
    total: Tensor = call.op(*args, **call.kwargs)
    most = int(torch.bincount(indices).max()) if indices.numel() else 0
    return total.mul_(call.gamma_out(most + 4)).add_(call.underflow * most)


def _bag_gradients(r: Operands) -> Iterable[Any]:
    for mode in (0, 1):
        for case in ([0, 4, 5, 29], [0, 3]):
            weight, offsets = r.normal(20, 8), torch.tensor(case)
            indices = r.integers(20, 30)
            y, bag, sizes, largest = torch.ops.aten._embedding_bag(weight, indices, offsets, False, mode)
            yield r.normal(*y.shape), indices, offsets, bag, sizes, largest, 20, False, mode, False, None


register(
    Rule(("aten._embedding_bag_backward",), Nature.ROUNDS, _bag_gradient, source=_SOURCE, samples=given(_bag_gradients))
)
