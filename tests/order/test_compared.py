"""The same sums in two networks: other orders are found where they are, and not claimed where they are not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import roundoff
from roundoff.order.compared import Compared, SameSum, _numbered, _start, compare_orders
from roundoff.order.kernel import Kernel
from roundoff.order.kernels import Shape
from roundoff.order.order import Order
from roundoff.order.reveal import reveal
from roundoff.order.seen import Seen, Watcher, matching
from roundoff.replay.run import Side, run_wide
from roundoff.tape.trace import random_state

W, BIAS = (lambda g: (torch.randn(12, 40, generator=g), torch.randn(12, generator=g)))(torch.Generator().manual_seed(0))


def linear(x: Tensor) -> Tensor:
    return F.linear(x, W, BIAS)


def conv(x: Tensor) -> Tensor:
    return F.conv1d(x.transpose(1, 2), W[:, :, None], BIAS).transpose(1, 2)


def tensordot(x: Tensor) -> Tensor:
    return torch.tensordot(x, W, dims=([2], [1])) + BIAS


def backwards(x: Tensor) -> Tensor:
    """The products in the other order: the same sums, of operands that lie the other way round."""
    return F.linear(x.flip(2), W.flip(1), BIAS)


def by_columns(x: Tensor) -> Tensor:
    return (W @ x.flatten(0, 1).t()).t().view(*x.shape[:2], -1) + BIAS


def explained(a: Callable[..., Tensor], b: Callable[..., Tensor], orders: bool = True) -> roundoff.Explanation:
    with torch.no_grad():
        return roundoff.compare(a, b, torch.randn(4, 5, 40)).explain(orders=orders)


def claims(e: roundoff.Explanation) -> list[str]:
    return [f.text for f in e.findings if f.kind == "summation-order"]


def test_both_orders_are_told() -> None:
    e = explained(linear, conv)
    (found,) = e.orders
    assert found.a is not None and found.b is not None
    if not (found.a.certified and found.b.certified):
        pytest.skip("a kernel of this machine adds in no certified order")
    # What is said is what roundoff order says of these operators at these shapes.
    alone = [
        reveal("linear", Shape(40, True, 4, 12, torch.float32, "contiguous", {"size": 5}), None),
        reveal("conv1d", Shape(40, True, 4, 12, torch.float32, "channels_last", {"size": (5,)}), None),
    ]
    for mine, theirs in zip((found.a, found.b), alone, strict=True):
        assert [v.tree for v in mine.variants] == [v.tree for v in theirs.variants]
        assert mine.story_of_order in found.told and mine.evidence in found.told
    assert found.differ is (alone[0].variants[0].tree != alone[1].variants[0].tree)
    assert claims(e) == ([found.told] if found.differ else [])
    data = json.loads(e.to_json())["orders"][0]
    assert data["a"]["certified"] and data["b"]["variants"][0]["tree"]["length"] == 41
    assert data["share"] > 0 and data["op_b"] == "convolution"


def test_a_few_calls_say_so_without_the_orders() -> None:
    whole, few = explained(linear, conv), explained(linear, conv, orders=False)
    (found,) = few.orders
    assert found.a is None and found.b is None
    if found.differ:  # what was seen is so: the orders differ
        assert whole.orders[0].differ and "orders=True" in claims(few)[0]
    assert str(few).count("summation-order") == len(claims(few))


def seen(model: Callable[..., Tensor]) -> list[Seen]:
    watcher = Watcher()
    with torch.no_grad():
        run_wide(Side("A", model, (torch.ones(4, 5, 40),), {}, random_state()), observe=watcher)
    return watcher.found


def test_a_bias_that_is_added_by_a_step_of_its_own_is_one_of_the_summands() -> None:
    shares = {(side, step): 0.1 for side in "AB" for step in range(9)}  # at this length the bits may be the same
    sides = seen(linear), seen(tensordot)
    (found,) = compare_orders(*sides, shares, whole=True, say=lambda done, total, text: None)
    assert found.sum.op_b == "mm and add" and len(found.sum.steps_b) == 2
    assert found.b is not None and found.b.length == 41 and found.b.tree is not None
    assert sorted(found.b.tree.nodes[-1])[0] == 40, "the bias comes last"
    if found.b.certified:
        x = torch.randn(20, 40)
        torch.testing.assert_close(found.b.replay(x, W, BIAS), tensordot(x.view(4, 5, 40)).view(20, 12), rtol=0, atol=0)


@pytest.mark.parametrize("other", [linear, lambda x: linear(x * 1.0), lambda x: linear(x.clone()) + 0.0])
def test_the_same_kernel_is_not_said_to_differ(other: Callable[..., Tensor]) -> None:
    for orders in (False, True):
        e = explained(linear, other, orders)
        assert e.orders == () and claims(e) == []


def test_equal_orders_are_not_said_to_differ() -> None:
    # Another layout, the same kernel below: where the orders are equal there is no finding.
    e = explained(linear, lambda x: F.linear(x, W.t().contiguous().t(), BIAS))
    for found in e.orders:
        assert found.a is not None and found.b is not None
        assert found.differ is (found.a.variants != found.b.variants)
        if not found.differ:
            assert "in the same order" in found.told
    assert len(claims(e)) == sum(found.differ for found in e.orders)


def test_summands_are_numbered_alike() -> None:
    e = explained(linear, backwards)
    # The two calls are of one operator on operands that lie alike: there is nothing to ask.
    assert e.orders == ()
    (found,) = explained(conv, backwards).orders
    (plain,) = explained(conv, linear).orders
    assert found.b is not None and plain.b is not None and found.b.tree is not None and plain.b.tree is not None
    names = [*range(39, -1, -1), 40]
    turned = [[names[i] if i < 41 else i for i in node] for node in plain.b.tree.nodes]
    assert found.b.tree == type(plain.b.tree).of(41, turned, True)


def test_other_sums_are_not_paired() -> None:
    mine = seen(linear)[0]
    assert matching(mine, seen(conv)[0]) is not None
    assert matching(seen(lambda x: F.linear(x, W))[0], seen(by_columns)[0]) is not None
    for other in (
        lambda x: F.linear(x, W + 1e-4, BIAS),
        lambda x: F.linear(x, W, BIAS + 1e-4),
        lambda x: F.linear(x, W.flip(0), BIAS),
        lambda x: F.linear(x[:, :, :39], W[:, :39], BIAS),
        lambda x: F.linear(x, W),
    ):
        assert matching(mine, seen(other)[0]) is None


def test_another_bias_along_the_wrong_side_is_none() -> None:
    square = torch.randn(5, 40)

    def wrong(x: Tensor) -> Tensor:
        return F.linear(x[0], square) + torch.arange(5.0)[:, None]

    watcher = Watcher()
    with torch.no_grad():
        run_wide(Side("A", wrong, (torch.randn(1, 5, 40),), {}, random_state()), observe=watcher)
    assert [s.bias for s in watcher.found] == [False]


def test_what_is_not_certified_is_called_a_guess() -> None:
    a, b = (_guess(op) for op in ("linear", "tensordot"))
    same = SameSum("here", "there", (1,), (2,), "addmm", "mm and add", 0.5)
    kernel = Kernel(
        "", 40, True, 1, 1, torch.float32, lambda x, w, b: x, lambda seed, cancel: ((x := W, None, None), x)
    )
    assert _start(same, kernel, a, b, True).endswith("in different orders, by a guess that is not certified")
    assert _start(same, kernel, a, a, False).endswith("in the same order, by a guess that is not certified")
    assert "guess" not in _start(same, kernel, replace(a, reason=""), replace(a, reason=""), False)
    assert Compared(same, True, "", a, b).to_dict()["a"]["certified"] is False


def _guess(op: str) -> Order:
    return replace(reveal(op, Shape(40, True, 4, 12, torch.float32, "contiguous", {}), None), reason="Not replayed.")


def test_numbering_keeps_the_order_if_nothing_moves() -> None:
    order = reveal("linear", Shape(40, True, 4, 12, torch.float32, "contiguous", {}), None)
    assert _numbered(order, list(range(40))) is order


def test_a_bound_by_depth_holds_and_is_smaller() -> None:
    wide = nn.Linear(400, 32)
    x = torch.randn(6, 400)
    with torch.no_grad():
        e = roundoff.compare(wide, lambda x: F.conv1d(x.T[None], wide.weight[:, :, None], wide.bias)[0].T, x).explain(
            orders=True
        )
    rows = [row for row in e.ledger if row.order_bound_abs is not None]
    known = [o for found in e.orders for o in (found.a, found.b) if o is not None and o.bound is not None]
    assert len(rows) == len(known)
    for row in rows:
        assert row.bound_abs is not None and row.order_bound_abs is not None
        assert row.local_abs <= row.order_bound_abs <= row.bound_abs
    for order in known:
        assert order.bound is not None and order.length_bound is not None and order.bound <= order.length_bound


@pytest.mark.parametrize("fn", [partial(torch.sum, dim=2), partial(torch.mean, dim=(0, 2))])
def test_sums_of_other_layouts_are_asked(fn: Callable[..., Tensor]) -> None:
    def turned(x: Tensor) -> Tensor:
        return fn(x.transpose(0, 2).contiguous().transpose(0, 2))

    e = explained(fn, turned)
    for found in e.orders:
        assert found.a is not None and found.b is not None
        assert found.a.certified or found.a.tree is None or "guess" in found.told
