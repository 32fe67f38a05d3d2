"""What surrounds the exact operators: gradients of gradients, hooks, writing in place, odd calls, compiled training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roundoff import RoundoffError, exact, make_exact
from roundoff.formats import same_bits

X, W, B = (torch.randn(s, generator=torch.Generator().manual_seed(3)) for s in ((4, 8), (8, 5), (5,)))


@pytest.fixture
def flushing() -> Iterator[None]:
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot set subnormal numbers to zero")
    yield
    torch.set_flush_denormal(False)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: F.layer_norm(x, (8,)),
        lambda x: F.batch_norm(x, None, None, training=True),
        lambda x: F.softmax(x, 1),
        lambda x: F.log_softmax(x, 1),
        lambda x: x.norm(dim=1),
        lambda x: F.gelu(x),
        lambda x: x[torch.tensor([0, 0, 1])] ** 2,
    ],
)
def test_gradients_of_gradients(f: Callable[[Tensor], Tensor]) -> None:
    """As those in float64: some functions keep what they computed, which is itself a function of their argument."""

    def twice(x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        y = f(x)
        (g,) = torch.autograd.grad((y * y.detach().cos()).sum(), x, create_graph=True)
        return torch.autograd.grad((g * g.detach().sin()).sum(), x)[0]

    right = twice(X.double())
    with exact.mode():
        found = twice(X)
    assert float((found - right).abs().max()) < 1e-5 * float(right.abs().max())


def test_a_bias_that_is_added_leaves_the_graph_as_it_is() -> None:
    """The gradient goes by way of the product: hooks see it, and what is cut off stays so."""
    w = W.clone().requires_grad_()
    with exact.mode():
        y = X @ w
        y.register_hook(lambda g: g * 0)
        exact.sum(y + B).backward()
        with torch.no_grad():
            z = X @ w
        assert not (z + B).requires_grad
    assert w.grad is not None and not w.grad.any()


def test_a_bias_that_is_added_in_place() -> None:
    w, b = W.clone().requires_grad_(), B.clone().requires_grad_()
    grad = torch.randn(4, 5)
    with exact.mode() as m:
        y = X @ w
        y += b
        y.backward(grad)
    right = exact.linear(X, w.t(), b)
    assert m.inexact == () and same_bits(y.detach(), right.detach())
    assert all(same_bits(p.grad, g) for p, g in zip((w, b), torch.autograd.grad(right, (w, b), grad), strict=True))


@pytest.mark.parametrize("layer", [nn.ELU(0.7, True), nn.SiLU(True), nn.SELU(True), nn.Mish(True), nn.Hardswish(True)])
def test_activations_in_place(layer: nn.Module) -> None:
    found = []
    for inplace in (True, False):
        layer.inplace = inplace  # type: ignore[assignment]
        net = make_exact(nn.Sequential(nn.Linear(8, 5), layer)).model
        with torch.no_grad():
            net[0].weight.copy_(W.t())
            net[0].bias.copy_(B)
        y = net(X)
        y.backward(torch.ones_like(y))
        found.append((y.detach(), net[0].weight.grad))
    assert all(same_bits(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize(
    ("name", "options", "dims"),
    [
        ("max_pool1d", (3, 1), 1),
        ("max_pool2d", (3, 2, 1), 2),
        ("max_pool3d", (2, 1), 3),
        ("adaptive_max_pool2d", (4,), 2),
    ],
)
def test_windows_that_share_their_largest(name: str, options: tuple[Any, ...], dims: int) -> None:
    x = torch.randn(2, 3, *[7] * dims)
    with exact.mode(strict=True):
        y = getattr(F, name)(x.requires_grad_(), *options)
    wide = x.detach().double().requires_grad_()
    right = getattr(F, name)(wide, *options)
    grad = torch.randn_like(y)
    y.backward(grad)
    right.backward(grad.double())
    assert x.grad is not None and wide.grad is not None
    assert torch.equal(y, right.float()) and torch.equal(x.grad, wide.grad.float())


def test_an_infinite_weight_does_not_meet_the_zeros_in_between() -> None:
    for stride, groups in ((1, 1), (2, 1), (3, 2)):
        x, w, b = torch.randn(2, 4, 5, 6), torch.randn(4, 3, 3, 2), torch.randn(3 * groups)
        w[0, 0, 1, 1], w[3, 2, 0, 0], x[0, 1, 2, 2] = math.inf, math.nan, -math.inf
        right = F.conv_transpose2d(x.double(), w.double(), b.double(), stride, 1, 0, groups).float()
        assert same_bits(exact.conv_transpose2d(x, w, b, stride, 1, 0, groups), right)
        assert right.isfinite().any()


def told(f: Callable[[], Any]) -> tuple[str, ...]:
    with exact.mode() as m:
        f()
    return m.inexact


def test_what_writes_to_lists_of_tensors_is_told() -> None:
    parts = [torch.randn(3), torch.randn(2)]
    assert told(lambda: torch._foreach_mul_(parts, 0.3)) == ("aten._foreach_mul_.Scalar",)
    net = nn.Linear(8, 5)

    def step(**options: bool) -> None:
        optimizer = torch.optim.Adam(net.parameters(), **options)
        F.mse_loss(net(X), torch.zeros(4, 5)).backward()
        optimizer.step()

    assert "aten._fused_adam_.default" in told(lambda: step(fused=True))
    assert told(lambda: step(foreach=False)) == ()


def test_a_copy_that_broadcasts_and_a_rounded_quotient_are_told() -> None:
    b = B.clone().requires_grad_()
    assert told(lambda: torch.zeros(9, 5).copy_(b)) == ("the gradient of aten.copy_.default",)
    assert told(lambda: torch.div(X, 3, rounding_mode="floor"))


def test_hooks_of_the_network_itself_run_in_the_context() -> None:
    net = nn.Linear(8, 8)
    net.register_forward_pre_hook(lambda module, args: (args[0].exp(),))
    net.register_forward_hook(lambda module, args, out: out.cumsum(0))
    made = make_exact(net).model
    with pytest.warns(UserWarning, match="cumsum"):
        made(X)
    assert made.inexact == ("aten.cumsum.default",)


@pytest.mark.parametrize(
    ("f", "says"),
    [
        (lambda: exact.layer_norm(X, 4), "last sizes"),
        (lambda: exact.rms_norm(X, (4,)), "last sizes"),
        (lambda: exact.group_norm(torch.randn(2, 4, 3), 3), "equal groups"),
        (lambda: exact.batch_norm(X[:1], None, None, training=True), "no variance"),
        (lambda: exact.conv2d(torch.randn(1, 1, 2, 2), torch.randn(1, 1, 3, 3)), "does not fit"),
        (lambda: exact.conv1d(torch.randn(1, 1, 5), torch.randn(1, 1, 3), padding=-1), "padding"),
        (lambda: exact.conv_transpose1d(torch.randn(1, 2, 5), torch.randn(3, 2, 3)), "does not fit"),
        (lambda: exact.attention(X, X, X, torch.ones(4, 4), is_causal=True), "both were given"),
        (lambda: exact.einsum("ij,kj->iz", X, X), "no operand"),
    ],
)
def test_what_pytorch_refuses_is_refused(f: Callable[[], Tensor], says: str) -> None:
    with pytest.raises(RoundoffError, match=says):
        f()


def test_odd_calls() -> None:
    with exact.mode():
        assert torch.softmax(X, 1, torch.float64).dtype == X.softmax(1, torch.float64).dtype == torch.float64
        assert same_bits(torch.einsum("ij,jk->ik", [X, W]), exact.matmul(X, W))
        assert same_bits(torch.einsum(X, [0, 1], W, [1, 2], [0, 2]), exact.matmul(X, W))
        with pytest.raises(IndexError):
            F.embedding(torch.tensor([-1]), X)
    for dtype in (torch.float32, torch.bfloat16):
        empty = torch.zeros(2, 0, dtype=dtype), torch.zeros(5, 0, dtype=dtype)
        right = torch.tensor([0.0, 0.3, -1.7, 0.0, 2.0], dtype=dtype)
        assert same_bits(
            exact.linear(*empty, right * torch.tensor([-1.0, 1, 1, 1, 1], dtype=dtype)), right.expand(2, 5)
        )


def test_subnormal_numbers_that_are_set_to_zero_are_refused(flushing: None) -> None:
    with pytest.raises(RoundoffError, match="set_flush_denormal"):
        exact.linear(X, W.t())
    with pytest.raises(RoundoffError, match="set_flush_denormal"), exact.mode():
        pass


def test_settings_change_nothing() -> None:
    w = torch.randn(5, 8)
    right = exact.linear(X, w, B), exact.layer_norm(X, 8), exact.hardswish(X), exact.softmax(X, 1)
    products = torch.backends.mkldnn.matmul.fp32_precision
    try:
        torch.set_default_dtype(torch.float64)
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16):
            found = exact.linear(X, w, B), exact.layer_norm(X, 8), exact.hardswish(X), exact.softmax(X, 1)
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_float32_matmul_precision("highest")
        torch.backends.mkldnn.matmul.fp32_precision = products
    assert all(same_bits(a, b) for a, b in zip(right, found, strict=True))


class Net(nn.Module):
    """Layers and functions that a compiler might take for its own, and a bias added apart."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.rms = nn.Linear(8, 8), nn.LayerNorm(8), nn.RMSNorm(8)
        self.weight, self.bias = nn.Parameter(torch.randn(8, 5)), nn.Parameter(torch.randn(5))

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.norm(self.first(x))) + F.tanh(x) * F.sigmoid(x) + F.hardsigmoid(x)
        x = 1 - self.rms(x) / 3 + 2 / (x**2 + 1)
        return F.softmax(torch.einsum("...i,ij->...j", x, self.weight) + self.bias, 1)


def test_compiled_training_has_the_same_bits() -> None:
    net = make_exact(Net()).model
    grad = torch.randn(4, 5)
    found = []
    for run in (net, torch.compile(net, backend="aot_eager", fullgraph=True)):
        x = X.clone().requires_grad_()
        y = run(x)
        found.append([y.detach(), *torch.autograd.grad(y, [x, *net.parameters()], grad)])
    assert net.inexact == () and all(same_bits(a, b) for a, b in zip(*found, strict=True))


def test_gradients_far_out() -> None:
    """Where a written derivative could cancel to 0, or multiply 0 and an infinity."""
    x = torch.tensor([-20.0, 3e38, -3e38, math.nan])
    for f, g in ((exact.expm1, torch.expm1), (exact.selu, F.selu), (exact.elu, F.elu),
                 (partial(exact.gelu, approximate="tanh"), partial(F.gelu, approximate="tanh"))):  # fmt: skip
        found, right = x.clone().requires_grad_(), x.double().requires_grad_()
        f(found).sum().backward()
        g(right).sum().backward()
        assert found.grad is not None and right.grad is not None
        assert found.grad[3].isnan()
        torch.testing.assert_close(found.grad[:3], right.grad[:3].float(), rtol=4 * 2.0**-24, atol=2.0**-149)
