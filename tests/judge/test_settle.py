"""Is the real difference rounding, real, or a branch that rounding decides?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.judge.pairs import backwards, case, product
from torch import Tensor

import roundoff
from roundoff.judge.difference import SAME
from roundoff.judge.settle import Settled, State, settle

Product = Callable[[Tensor, Tensor], Tensor]


def settled(a: Callable[..., Any], b: Callable[..., Any], *args: Any) -> Settled:
    opened = case(a, b, *args)
    return settle(opened, opened.ran_a, opened.ran_b)


@pytest.mark.parametrize("k", [1, 7, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.complex64])
def test_another_order_of_summation_is_the_same(k: int, dtype: torch.dtype) -> None:
    x, w = torch.randn(9, k, dtype=dtype), torch.randn(k, 5, dtype=dtype)
    found = settled(product, backwards, x, w)
    assert found.state is State.SAME
    assert found.worst[1] <= SAME


@pytest.mark.parametrize("change", [1e-3, 1e-6, 1e-9, 1e-12])
def test_a_change_far_below_float32_is_real(change: float) -> None:
    x, w = torch.randn(9, 30), torch.randn(30, 5)
    found = settled(product, lambda x, w: backwards(x, w) * (1 + change), x, w)
    assert found.state is State.REAL
    # |d| is the change times |y|, and E some 2^-53 |x|ᵀ|w|, which is a few times |y|: within a factor of 50.
    assert change / 2**-53 / 50 < found.worst[1] < change / 2**-53 * 50


def test_the_difference_is_known_by_name() -> None:
    found = settled(lambda x: {"a": x, "b": x + 1}, lambda x: {"a": x, "b": x + 2}, torch.randn(3))
    assert list(found.real) == ["['a']", "['b']"]
    assert found.worst[0] == "['b']"


def test_nothing_to_compare_is_no_difference() -> None:
    found = settled(lambda x: x, lambda x: x[:1], torch.randn(3))
    assert (found.state, found.real, found.worst) == (State.SAME, {}, ("", 0.0))


@pytest.mark.parametrize("size", [1e-5, 1e-3, 1.0])
def test_a_small_element_beside_one_that_is_a_billion_times_larger(size: float) -> None:
    def sums(x: Tensor, scale: float) -> Tensor:
        return torch.stack([x.sum() * 1e9, x.abs().mean() * scale])

    x = torch.randn(40, 30)
    found = settled(lambda x: sums(x, 1), lambda x: sums(x.flip(0), 1 + size), x)
    assert found.state is State.REAL
    assert settled(lambda x: sums(x, 1), lambda x: sums(x.flip(0), 1), x).state is State.SAME


def test_columns_of_several_scales() -> None:
    scale = torch.ones(40)
    scale[::2] = 1e9
    changed = scale.double()
    changed[7] *= 1 + 1e-5
    x, w = torch.randn(20, 30), torch.randn(30, 40)
    assert settled(lambda x: (x @ w) * scale, lambda x: backwards(x, w) * scale, x).state is State.SAME
    # One column of forty is off by 1e-5 of itself, which is 1e-14 of its neighbours.
    assert settled(lambda x: (x @ w) * scale, lambda x: (backwards(x, w) * changed).float(), x).state is State.REAL


# Values that are equal up to rounding: which is larger is decided by the order of summation alone.


def with_argmax(f: Product) -> Callable[..., Tensor]:
    return lambda x, w: torch.stack([f(x, w), f(x.roll(7, 1), w.roll(7, 0))]).argmax(0)


def with_where(f: Product) -> Callable[..., Tensor]:
    def net(x: Tensor, w: Tensor) -> Tensor:
        one, two = f(x, w), f(x.roll(7, 1), w.roll(7, 0))
        return torch.where(one > two, one * 2, two * 3)

    return net


def with_topk(f: Product) -> Callable[..., Tensor]:
    def net(x: Tensor, w: Tensor) -> Tensor:
        h = torch.cat([f(x, w), f(x.roll(7, 1), w.roll(7, 0))], 1)
        return torch.gather(torch.arange(2.0 * w.shape[1]).expand(len(x), -1), 1, h.topk(3, 1).indices)

    return net


def with_threshold(f: Product) -> Callable[..., Tensor]:
    def net(x: Tensor, w: Tensor) -> Tensor:
        one, two = f(x, w), f(x.roll(7, 1), w.roll(7, 0))
        return (one - two > 0).float() + one

    return net


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("net", [with_argmax, with_where, with_topk, with_threshold])
def test_a_near_tie_is_never_called_different(net: Callable[[Product], Callable[..., Tensor]], seed: int) -> None:
    torch.manual_seed(seed)
    c = roundoff.compare(net(product), net(backwards), (torch.randn(12, 30), torch.randn(30, 6)))
    assert c.verdict != "different", c.reason
    if c.verdict == "undecided":
        assert {f.kind for f in c.findings} == {"branch-crossing"}


def test_a_tie_names_where_it_is_decided() -> None:
    found = settled(with_where(product), with_where(backwards), torch.randn(40, 30), torch.randn(30, 6))
    assert found.state is State.TIED
    assert any("aten.gt.Tensor" in where for where in found.flips)


def test_a_real_difference_beside_a_near_tie_is_real() -> None:
    """The change is larger than what the tie can do, and is not hidden by it."""

    def changed(x: Tensor, w: Tensor) -> Tensor:
        return with_where(backwards)(x, w) + 1e4

    args = torch.randn(40, 30), torch.randn(30, 6)
    assert settled(with_where(product), changed, *args).state is State.REAL


def crossing() -> tuple[Tensor, Tensor, float]:
    """x, w and a threshold on x @ w of which the native product and the backward one are not on the same side."""
    x, w = torch.randn(64, 48), torch.randn(48, 32)
    one, two = product(x, w).flatten(), backwards(x, w).flatten()
    at = ((one - two).abs() / one.abs()).argmax()
    return x, w, max(one[at].item(), two[at].item())


@pytest.mark.parametrize("change", [1e-9, 1e-11])
def test_a_small_real_difference_beside_a_native_crossing_is_real(change: float) -> None:
    """The crossing makes a round-off of 1 in every output, which says nothing of how float64 rounds."""
    x, w, threshold = crossing()
    row = ((product(x, w) >= threshold) != (backwards(x, w) >= threshold)).any(1)
    mix = torch.randn(32, 32)

    def net(f: Product, change: float) -> Callable[..., Tensor]:
        return lambda x: (f(x, w)[row] >= threshold).float() @ mix + f(x, w)[row] * (1 + change)

    assert settled(net(product, 0), net(backwards, 0), x).state is State.SAME
    assert settled(net(product, 0), net(backwards, change), x).state is State.REAL


def test_the_threshold_that_only_one_native_side_crosses() -> None:
    """Natively the two sides of a threshold are taken, in exact arithmetic the same one."""
    x, w, threshold = crossing()

    def net(f: Product) -> Callable[..., Tensor]:
        return lambda x: (f(x, w) >= threshold).float() * 2

    c = roundoff.compare(net(product), net(backwards), x)
    assert c.verdict == "roundoff", c.reason
    assert c.outputs[0].max_abs == 2 and c.outputs[0].real_abs == 0
    (finding,) = [f for f in c.findings if f.kind == "branch-crossing"]
    assert "aten.ge.Scalar" in finding.text and "1 elements" in finding.text
