from __future__ import annotations

import dataclasses
import math
from functools import reduce
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.order.planted import KINDS, could_be_fused, kernel_that_adds, order_of, with_bias
from tests.order.test_build import trees
from torch import Tensor

from roundoff import RoundoffError
from roundoff.order import reveal as module
from roundoff.order.kernel import Kernel
from roundoff.order.kernels import Shape
from roundoff.order.order import Order
from roundoff.order.reveal import reveal
from roundoff.order.tree import SumTree

F32 = torch.float32


def reveal_planted(kernel: Kernel) -> Order:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "kernel_of", lambda op, shape: kernel)
        return reveal(
            "planted", Shape(kernel.products, kernel.bias, kernel.rows, kernel.cols, kernel.dtype, "", {}), None
        )


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("where", ["none", "first", "middle", "last"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_planted_orders(kind: str, where: str, fused: bool, dtype: torch.dtype) -> None:
    nested = order_of(kind, 24)
    if "at once" in kind and dtype == torch.float64:
        pytest.skip("matrix units of float64 round each addition")
    tree = SumTree.from_nested(nested) if where == "none" else with_bias(nested, 24, where)
    planted = could_be_fused(tree, 24) if fused else frozenset()
    found = reveal_planted(kernel_that_adds(tree, planted, dtype))
    assert found.tree == tree
    assert found.certified, found.describe()
    if any(len(node) == 2 and min(node) < 24 for node in tree.nodes):
        assert found.fused is bool(planted)
        assert found.variants[0].fused == planted


@given(trees(24), st.booleans(), st.data())
@settings(max_examples=40, deadline=None)
def test_any_tree(tree: SumTree, bias: bool, data: st.DataObject) -> None:
    tree = dataclasses.replace(tree, bias=bias and tree.length > 2)
    products = tree.length - tree.bias
    able = sorted(could_be_fused(tree, products))
    fused = frozenset(i for i in able if data.draw(st.booleans()))
    found = reveal_planted(kernel_that_adds(tree, fused))
    assert found.tree == tree and found.certified
    assert found.variants[0].fused == fused


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["sequential", "blocked", "strided", "8 at once"])
def test_short_formats_added_in_float32(kind: str, dtype: torch.dtype) -> None:
    tree = with_bias(order_of(kind, 300), 300, "first")
    found = reveal_planted(kernel_that_adds(tree, frozenset(), dtype))
    assert found.tree == tree and found.certified and found.fused is None


@pytest.mark.parametrize("kind", ["sequential", "backwards", "pairwise", "blocked", "strided"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_functions(kind: str, dtype: torch.dtype) -> None:
    nested = order_of(kind, 20)

    def add(values: Tensor) -> Tensor:
        def total(part: Any) -> Tensor:
            return values[part] if isinstance(part, int) else reduce(torch.add, map(total, part))

        return total(nested)

    found = reveal(add, Shape(20, False, 1, 1, dtype, "contiguous", {}), None)
    assert found.tree == SumTree.from_nested(nested)
    assert found.certified and found.fused is None
    assert found.variants[0].arithmetic.adds_in == dtype


def test_outputs_that_add_in_other_orders_are_told_apart() -> None:
    one = kernel_that_adds(SumTree.from_nested(order_of("sequential", 24)), frozenset())
    two = kernel_that_adds(SumTree.from_nested(order_of("pairwise", 24)), frozenset())

    def mixed(x: Tensor, w: Tensor | None, b: Tensor | None) -> Tensor:
        return torch.cat([one.run(x, w, b)[:, :-1], two.run(x, w, b)[:, -1:]], 1)

    def draw(seed: int, cancel: bool) -> Any:
        operands, _ = one.draw(seed, cancel)
        return operands, mixed(*operands)

    found = reveal_planted(dataclasses.replace(one, run=mixed, draw=draw))
    assert not found.shared and found.certified
    assert {v.tree.describe() for v in found.variants} == {
        SumTree.from_nested(order_of(k, 24)).describe() for k in ("sequential", "pairwise")
    }
    with pytest.raises(RoundoffError, match="no one order"):
        found.replay(torch.ones(1, 24), torch.ones(1, 24))


def test_a_wrong_replay_is_no_certificate() -> None:
    kernel = kernel_that_adds(SumTree.from_nested(order_of("sequential", 24)), frozenset(range(1, 24)))

    def draw(seed: int, cancel: bool) -> Any:
        operands, y = kernel.draw(seed, cancel)
        return operands, torch.nextafter(y, torch.tensor(10.0))

    found = reveal_planted(dataclasses.replace(kernel, draw=draw))
    assert found.tree is not None and not found.certified
    assert "guess" in found.evidence


def call(fn: Any, k: int = 16, **more: Any) -> Order:
    return reveal(fn, Shape(k, False, 1, 1, more.get("dtype", F32), "contiguous", {}), None)


def test_exact_sums_have_no_tree() -> None:
    found = call(lambda v: torch.tensor(math.fsum(v.tolist()), dtype=F32))
    assert found.tree is None and not found.certified and not found.variants
    assert "every unit survives" in found.describe()
    with pytest.raises(RoundoffError, match="no tree"):
        found.to_svg("x.svg")


def test_an_fft_has_no_tree() -> None:
    found = call(_through_fft)
    assert found.tree is None and "no tree" in found.describe()


def _through_fft(v: Tensor) -> Tensor:
    """The sum as a convolution with ones, by FFT."""
    n = len(v)
    spectrum = torch.fft.rfft(v, 2 * n) * torch.fft.rfft(torch.ones(n), 2 * n)
    return torch.fft.irfft(spectrum, 2 * n)[n - 1]


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (lambda v: v.max(), "is not a sum"),
        (lambda v: (v * v).sum(), "is not a sum"),
        (lambda v: v[1:].sum(), "is not a sum"),
        (lambda v: v.abs().sum(), "is not a sum"),
        (lambda v: torch.tensor(3.0), "ignores its input"),
        (lambda v: v.sum() + torch.rand(()) * 1e-3, "not deterministic"),
        (lambda v: (v * 1e30).sum() / 1e30, "overflows"),
        (lambda v: v, "one number"),
        (lambda v: v.sum().double(), "must give"),
        (lambda v: 1 / 0, "ZeroDivisionError"),
        (lambda v: v.sum() if v.abs().max() < 1e6 else 1 / 0, "large ones are the masks"),
        (3, "Give one of"),
        ("lineal", "no operator"),
    ],
)
def test_what_is_no_sum_is_refused(fn: Any, message: str) -> None:
    with pytest.raises(RoundoffError, match=message):
        call(fn)


@pytest.mark.parametrize("k", [0, 1, -3])
def test_too_short(k: int) -> None:
    with pytest.raises(RoundoffError, match="at least 2"):
        call(lambda v: v.sum(), k)


OPERATORS = ["linear", "conv1d", "conv2d", "conv3d", "tensordot", "matmul", "bmm", "einsum", "sum", "mean"]


@pytest.mark.parametrize("k", [8, 100, 256])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("op", OPERATORS)
def test_operators_are_certified_or_have_no_tree(op: str, bias: bool, k: int) -> None:
    for layout in ["contiguous", "channels_last" if op.startswith("conv") else "transposed"]:
        found = reveal(op, Shape(k, bias, 4, 8, F32, layout, {}), 1)
        assert found.certified or found.tree is None, found.describe()
        assert found.length == k + (bias and op not in ("sum", "mean"))


@pytest.mark.parametrize(
    ("op", "k", "args"),
    [
        ("conv2d", 36, {"kernel_size": 3}),
        ("conv2d", 36, {"kernel_size": 3, "padding": 1, "stride": 2, "dilation": 2, "size": (9, 9)}),
        ("conv1d", 20, {"kernel_size": 5, "groups": 2}),
        ("conv3d", 16, {"kernel_size": 2}),
        ("linear", 64, {"size": 5}),
        ("einsum", 32, {"equation": "kb,ok->ob"}),
        ("bmm", 32, {"groups": 2}),
    ],
)
def test_options(op: str, k: int, args: dict[str, Any]) -> None:
    found = reveal(op, Shape(k, True, 4, 8, F32, "contiguous", args), 1)
    assert found.certified or found.tree is None, found.describe()


def test_the_replay_is_the_kernel() -> None:
    found = reveal("linear", Shape(48, True, 16, 64, F32, "contiguous", {}), 1)
    x, w, b = torch.randn(16, 48), torch.randn(64, 48), torch.randn(64)
    if found.shared:
        torch.testing.assert_close(found.replay(x, w, b), torch.nn.functional.linear(x, w, b), rtol=0, atol=0)
    with pytest.raises(RoundoffError, match="48 products and a bias"):
        found.replay(x, w)
    with pytest.raises(RoundoffError, match="48 products"):
        found.replay(x[:, 1:], w, b)


def test_the_bound_holds_and_is_of_the_depth() -> None:
    tree = SumTree.from_nested(order_of("pairwise", 64))
    found = reveal_planted(kernel_that_adds(tree, could_be_fused(tree, 64)))
    h = 7 * 2.0**-24  # six additions, and the product that has nothing to be fused with
    assert found.depth == 6 and found.bound == h / (1 - h)
    x, w = torch.randn(50, 64), torch.randn(50, 64)
    errors = (found.replay(x, w).double() - x.double() @ w.double().T).abs()
    assert bool((errors <= found.bound * (x.double().abs() @ w.double().abs().T)).all())


def test_settings_are_left_as_they_were() -> None:
    before = torch.get_num_threads()
    reveal("sum", Shape(16, False, 2, 1, F32, "contiguous", {}), 2)
    assert torch.get_num_threads() == before
    with pytest.raises(RoundoffError, match="at least 1"):
        reveal("sum", Shape(16, False, 2, 1, F32, "contiguous", {}), 0)


@pytest.mark.parametrize(
    ("op", "shape", "message"),
    [
        ("conv2d", Shape(10, True, 2, 4, F32, "contiguous", {"kernel_size": 3}), "multiple of 9"),
        ("linear", Shape(10, True, 2, 4, F32, "channels_last", {}), "for convolutions"),
        ("conv2d", Shape(10, True, 2, 4, F32, "transposed", {}), "not for conv2d"),
        ("linear", Shape(10, True, 2, 4, F32, "odd", {}), "no layout"),
        ("linear", Shape(10, True, 2, 4, F32, "contiguous", {"stride": 2}), "no option stride"),
        ("linear", Shape(10, True, 0, 4, F32, "contiguous", {}), "at least 1"),
        ("linear", Shape(10, True, 2, 4, torch.int32, "contiguous", {}), "int32"),
        ("einsum", Shape(10, True, 2, 4, F32, "contiguous", {"equation": "ij,jk->ik"}), "bk,ok->bo"),
    ],
)
def test_bad_shapes(op: str, shape: Shape, message: str) -> None:
    with pytest.raises(RoundoffError, match=message):
        reveal(op, shape, None)


def test_a_mean_that_float16_cannot_count_is_not_called_treeless() -> None:
    assert reveal("mean", Shape(500, False, 16, 1, torch.float16, "contiguous", {}), 1).certified
    found = reveal("mean", Shape(513, False, 16, 1, torch.float16, "contiguous", {}), 1)
    assert found.tree is None and "None was looked for" in found.reason and "adds in no tree" not in found.describe()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("op", ["linear", "conv2d", "tensordot", "sum"])
def test_on_a_gpu(op: str) -> None:
    found = reveal(op, Shape(96, True, 4, 8, F32, "contiguous", {}, torch.device("cuda")), None)
    assert found.certified or found.tree is None or "guess" in found.evidence
