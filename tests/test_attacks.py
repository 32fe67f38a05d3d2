"""What once made ``compare`` wrong, each reduced to its smallest form and named after what was wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import roundoff
from roundoff import compare


class _Cache:
    """Holds tensors and says where they are, as the caches of model libraries do."""

    def __init__(self, keys: Tensor) -> None:
        self.keys = keys
        self.device = torch.device("cpu")
        self.lock = object()


def test_attributes_of_outputs_that_are_equal_but_not_one_object() -> None:
    net = nn.Linear(8, 8)
    c = compare(lambda x: _Cache(net(x)), lambda x: _Cache(x @ net.weight.T + net.bias), torch.randn(3, 8))
    assert c, c.reason


def test_numpy_arrays_in_outputs() -> None:
    x = torch.ones(2)
    assert compare(lambda x: (x, np.ones(3)), lambda x: (x, np.ones(3)), x).verdict == "identical"
    assert compare(lambda x: (x, np.ones(3)), lambda x: (x, np.ones(3) * 1.5), x).verdict == "undecided"
    assert compare(lambda x: (x, np.ones(3)), lambda x: (x, np.ones(4)), x).verdict == "different"
    assert compare(lambda x: (x, np.arange(3)), lambda x: (x, np.arange(3) + 1), x).verdict == "different"


@pytest.mark.parametrize("factors", ["eigh", "svd"])
def test_factors_without_a_bound_that_are_multiplied_again(factors: str) -> None:
    x = torch.randn(3, 6, 6, generator=torch.Generator().manual_seed(0))
    a = x @ x.mT / 6 + torch.eye(6)

    def again(a: Tensor) -> Tensor:
        if factors == "eigh":
            values, vectors = torch.linalg.eigh(a)
            return (vectors * values.unsqueeze(-2)) @ vectors.mT
        u, s, v = torch.linalg.svd(a)
        return (u * s.unsqueeze(-2)) @ v

    assert compare(lambda a: a + 0, again, a).verdict == "roundoff"
    assert compare(lambda a: a + 0, lambda a: again(a) * (1 + 1e-9), a).verdict == "different"


def test_the_most_negative_number_as_a_mask_in_float64() -> None:
    x = torch.randn(4, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    lowest = torch.finfo(torch.float64).min
    hidden = torch.ones(5, 5, dtype=torch.float64).triu(1)

    def added(x: Tensor) -> Tensor:
        return torch.softmax(x @ x.mT + (hidden * lowest), -1) @ x

    def filled(x: Tensor) -> Tensor:
        scores = torch.einsum("bid,bjd->bij", x, x).masked_fill(hidden.bool(), -torch.inf)
        return (scores - scores.logsumexp(-1, keepdim=True)).exp() @ x

    assert compare(added, filled, x).verdict != "different"


@pytest.mark.parametrize(
    "reduce", ["mean", "sum", "norm", "prod", "var", "std", "logsumexp", "nansum", "nanmean", "cumsum"]
)
def test_reductions_of_nothing(reduce: str) -> None:
    def fn(x: Tensor) -> Any:
        return getattr(x, reduce)(0)

    assert compare(fn, fn, torch.zeros(0, 4)).verdict == "identical"
    assert isinstance(compare(fn, lambda x: x.sum(0) + 1, torch.zeros(0, 4)).verdict, roundoff.Verdict)


def test_forward_derivatives_that_are_made_ready_on_the_meta_device() -> None:
    net = nn.Linear(4, 3)
    forward, reverse = torch.func.jacfwd, torch.func.jacrev
    c = compare(
        lambda x: forward(lambda y: net(y).tanh())(x), lambda x: reverse(lambda y: net(y).tanh())(x), torch.ones(4)
    )
    assert c, c.reason


def test_sparse_outputs() -> None:
    s = torch.eye(4).to_sparse()
    assert compare(lambda x: s * x, lambda x: s * x, torch.ones(1)).verdict == "identical"
    assert compare(lambda x: s * x, lambda x: s * (2 * x), torch.ones(1)).verdict == "undecided"


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_nested_outputs(layout: torch.layout) -> None:
    def nest(x: Tensor) -> Tensor:
        return torch.nested.nested_tensor([x, x[:1]], layout=layout)

    x = torch.arange(1.0, 7.0).reshape(3, 2)
    assert compare(lambda x: nest(x) / 3, lambda x: nest(x) / 3, x).verdict == "identical"
    assert compare(lambda x: nest(x) / 3, lambda x: nest(x) * (1 / 3), x).verdict in ("roundoff", "undecided")
    c = compare(lambda x: nest(x) * 2, lambda x: nest(x) * 3, x)
    assert c.verdict == "different"
    assert [o.shape for o in c.outputs] == [(3, 2), (1, 2)]


def test_outputs_without_values() -> None:
    with pytest.raises(roundoff.RoundoffError, match="meta device"):
        compare(lambda x: x.to("meta"), lambda x: x, torch.ones(2))


def test_quantised_outputs() -> None:
    def quantised(x: Tensor) -> Tensor:
        return torch.quantize_per_tensor(x, 0.1, 0, torch.qint8)

    assert compare(quantised, quantised, torch.ones(2)).verdict == "identical"
    assert compare(quantised, lambda x: quantised(x * 2), torch.ones(2)).verdict == "undecided"


@pytest.mark.parametrize(
    "dtype", [torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz]
)
def test_float8(dtype: torch.dtype) -> None:
    x = torch.cat([torch.linspace(-3, 3, 50), torch.tensor([1e-3, 1e-4, 1e5])])
    assert compare(lambda x: (x / 3).to(dtype).float(), lambda x: (x * (1 / 3)).to(dtype).float(), x)
    assert compare(lambda x: (x / 3).to(dtype), lambda x: (x / 3.5).to(dtype), x).verdict == "different"
    assert compare(lambda x: x.to(dtype).float() * 2, lambda x: x + x, x[:52]).verdict == "roundoff"


def test_systems_solved_with_factors_for_which_there_was_no_rule() -> None:
    g = torch.Generator().manual_seed(0)
    x, b = torch.randn(3, 6, 6, generator=g), torch.randn(3, 6, 2, generator=g)
    a = x @ x.mT + torch.eye(6)

    def solve(a: Tensor, b: Tensor) -> Tensor:
        return torch.linalg.solve(a, b)

    ways = [
        lambda a, b: torch.cholesky_solve(b, torch.linalg.cholesky(a)),
        lambda a, b: torch.cholesky_inverse(torch.linalg.cholesky(a)) @ b,
        lambda a, b: torch.linalg.lu_solve(*torch.linalg.lu_factor(a), b),
        lambda a, b: torch.linalg.pinv(a) @ b,
    ]
    for way in ways:
        c = compare(solve, way, (a, b))
        assert c, c.reason
        ridge = compare(solve, lambda a, b, way=way: way(a + 1e-4 * torch.eye(6), b), (a, b))
        assert ridge.verdict == "different", ridge.reason


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_cancellation_leaves_may_fit_in_few_digits(dtype: torch.dtype) -> None:
    x = (torch.randn(2, 8, 5, 5, generator=torch.Generator().manual_seed(0)) + 1e4).to(dtype)

    def rows(x: Tensor) -> Tensor:
        return nn.functional.group_norm(x, 4)

    def images(x: Tensor) -> Tensor:
        return nn.functional.group_norm(x.contiguous(memory_format=torch.channels_last), 4)

    c = compare(rows, images, x)
    assert c, c.reason


@pytest.mark.parametrize("size", [1e-11, 1e-13, 1e-20, 1e-40])
def test_normalisation_of_numbers_whose_variance_is_nothing_beside_eps(size: float) -> None:
    g = torch.Generator().manual_seed(0)
    x = (torch.randn(16, 32, generator=g) * size).double()
    x[:, ::3] *= 1e-6
    x = (x - x.mean(-1, keepdim=True)).float()

    def by_hand(x: Tensor) -> Tensor:
        spread = x.var(-1, keepdim=True, unbiased=False) + 1e-5
        return (x - x.mean(-1, keepdim=True)) / spread.sqrt()

    c = compare(lambda x: nn.functional.layer_norm(x, (32,)), by_hand, x)
    assert c, c.reason
    c = compare(lambda x: nn.functional.group_norm(x[None], 16)[0], by_hand, x)
    assert c, c.reason


@pytest.mark.parametrize("size", [1e-20, 1e-30])
def test_products_that_underflow(size: float) -> None:
    x = torch.randn(2, 4, 9, 8, generator=torch.Generator().manual_seed(0)) * size
    for a, b in (
        (lambda x: (x * 0.1) @ x.mT, lambda x: (x @ x.mT) * 0.1),
        (lambda x: torch.softmax(x @ x.mT, -1) @ x, lambda x: torch.softmax((x.flip(-1) @ x.flip(-1).mT), -1) @ x),
    ):
        c = compare(a, b, x)
        assert c, c.reason


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_functions_that_come_near_a_number_of_few_digits(dtype: torch.dtype) -> None:
    """log_softmax, logsumexp and tanh far out: 1 - 1e-17 is 1 in float64, and that it fits does not make it exact."""
    for seed in range(6):
        x = (torch.randn(2, 4, 9, 8, generator=torch.Generator().manual_seed(seed)) * 100).to(dtype)
        c = compare(lambda x: x.log_softmax(1), lambda x: x - x.logsumexp(1, keepdim=True), x)
        assert c, c.reason
        c = compare(lambda x: 1 - torch.tanh(x / 8), lambda x: 2 * torch.sigmoid(x / -4), x)
        assert c, c.reason


def test_numbers_below_the_normal_ones_are_rounded_to_what_there_is() -> None:
    x = torch.randn(12, 6)
    assert compare(lambda x: x * 1e-38 * 1e-5, lambda x: x * 1e-43, x).verdict != "different"


def test_values_whose_squares_do_not_fit_are_held_against_their_own_rounding() -> None:
    x, w = torch.randn(8, 16, dtype=torch.float64), torch.randn(16, 16, dtype=torch.float64)
    changed = compare(lambda x: (x @ w) * 3.3e300, lambda x: (x @ w) * 3.3e300 * (1 + 1e-6), x)
    assert changed.verdict == "different"
    small = compare(lambda x: (x @ w) * 3.3e-200, lambda x: (x.flip(1) @ w.flip(0)) * 3.3e-200, x)
    assert small.verdict == "roundoff"


def test_a_number_that_comes_back_as_a_whole_number_is_noticed() -> None:
    x, w = torch.randn(8, 16), torch.randn(16, 16)

    def one(x: Tensor) -> Tensor:
        return (x @ w) * int((x @ w).sum().item() * 1e6)

    def other(x: Tensor) -> Tensor:
        h = x.flip(1) @ w.flip(0)
        return h * int(h.sum().item() * 1e6)

    assert compare(one, other, x).verdict == "undecided"


def test_a_fold_of_single_numbers_is_not_called_a_changed_weight() -> None:
    p, q = torch.tensor([0.3]), torch.tensor([0.7])
    folded = p * q
    assert compare(lambda x: x * p * q, lambda x: x * folded, torch.randn(8, 16)).verdict != "different"


def test_shapes_that_hang_on_rounding_are_undecided() -> None:
    v = torch.arange(1, 3000).float()
    x = torch.cat([v, v + 1e-7, v * (1 + 6e-8)])
    c = compare(lambda v: (v / 3 * 1.7e-3).unique().sum(), lambda v: (v * 1.7e-3 / 3).unique().sum(), x)
    assert c.verdict == "undecided"
