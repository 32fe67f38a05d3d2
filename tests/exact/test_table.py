"""PyTorch's functions in the exact context: near their float64 values with their gradients, and nothing told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roundoff import exact
from roundoff.exact.table import EXACT

WHICH = torch.tensor([[0, 2, 2], [1, 0, 5], [5, 5, 5]])
CLASSES = torch.tensor([0, 3, -100, 2, 3, 1])
SHARES = torch.softmax(torch.arange(24.0).reshape(6, 4).sin(), 1)

#: What runs, and the shapes of its operands, drawn from a normal distribution.
CASES: dict[str, tuple[Callable[..., Any], list[tuple[int, ...]]]] = {
    "matmul by name": (lambda a, b: torch.matmul(input=a, other=b), [(3, 4), (4, 2)]),
    "dot": (lambda a, b: a.dot(b), [(5,), (5,)]),
    "addmm": (torch.addmm, [(2,), (3, 4), (4, 2)]),
    "addmm scaled": (lambda c, a, b: torch.addmm(c, a, b, beta=0.5, alpha=3), [(3, 2), (3, 4), (4, 2)]),
    "addmv": (torch.addmv, [(3,), (3, 4), (4,)]),
    "baddbmm": (torch.baddbmm, [(2, 3, 5), (2, 3, 4), (2, 4, 5)]),
    "baddbmm scaled": (lambda c, a, b: torch.baddbmm(c, a, b, beta=0, alpha=0.3), [(2, 3, 5), (2, 3, 4), (2, 4, 5)]),
    "addbmm": (torch.addbmm, [(3, 5), (2, 3, 4), (2, 4, 5)]),
    "einsum": (lambda a, b: torch.einsum("bij,bjk->bki", a, b), [(2, 3, 4), (2, 4, 5)]),
    "einsum implicit": (lambda a, b: torch.einsum("ij,jk", a, b), [(3, 4), (4, 5)]),
    "einsum outer": (lambda a, b: torch.einsum("i,j->ji", a, b), [(3,), (4,)]),
    "einsum dots": (lambda a, b: torch.einsum("...ij,...j->...i", a, b), [(2, 3, 4), (2, 4)]),
    "einsum one": (lambda a: torch.einsum("iij->j", a), [(3, 3, 4)]),
    "einsum three": (lambda a, b, c: torch.einsum("ij,jk,kl->il", a, b, c), [(3, 4), (4, 5), (5, 2)]),
    "einsum alone": (lambda a, b: torch.einsum("ij,k->i", a, b), [(3, 4), (5,)]),
    "expand": (lambda a, b: a.expand(2, -1, 5) * 2 + a.expand_as(b) * b, [(4, 1), (2, 4, 5)]),
    "broadcast": (lambda a, b, c: (a + b) * c - b / (c * c + 1), [(4, 3), (3,), (4, 1)]),
    "scaled": (lambda a, b: torch.add(a, b, alpha=0.3) - torch.sub(b, a, alpha=2), [(4, 3), (4, 3)]),
    "numbers": (lambda a: 1 - a / 3 + 2 / (a * a + 0.7) - (0.1 - a), [(4, 3)]),
    "addcmul": (lambda a, b, c: torch.addcmul(a, b, c, value=0.3), [(4, 3)] * 3),
    "addcdiv": (lambda a, b, c: torch.addcdiv(a, b, c * c + 1, value=0.3), [(4, 3)] * 3),
    "lerp": (lambda a, b: torch.lerp(a, b, 0.3), [(4, 3)] * 2),
    "powers": (lambda a: a**2 + a**3 - (a * a + 1) ** -2 + (a * a) ** 0.5 + a.square() + torch.pow(a, 1), [(4, 3)]),
    "sums": (lambda a: a.sum(1, keepdim=True) + torch.mean(a, dim=0) + a.sum(), [(4, 3)]),
    "var": (lambda a: a.var(1) + a.std(1, correction=0) + torch.var(a), [(4, 3)]),
    "norms": (lambda a: a.norm(dim=1) + torch.linalg.vector_norm(a, 1, 1) + F.normalize(a).sum(1), [(4, 3)]),
    "logsumexp": (lambda a: torch.logsumexp(a, 1), [(4, 3)]),
    "softmax": (lambda a: a.softmax(-1) + F.log_softmax(a, dim=1), [(4, 3)]),
    "gelu": (lambda a: F.gelu(a) + F.gelu(a, approximate="tanh"), [(4, 30)]),
    "mish": (F.mish, [(4, 30)]),
    "selu": (F.selu, [(4, 30)]),
    "celu": (lambda a: F.celu(a, 0.7), [(4, 30)]),
    "elu": (lambda a: F.elu(a, 0.7), [(4, 30)]),
    "logsigmoid": (F.logsigmoid, [(4, 30)]),
    "softplus": (F.softplus, [(4, 30)]),
    "silu": (F.silu, [(4, 30)]),
    "hard": (lambda a: F.hardswish(a) + F.hardsigmoid(a) + F.relu6(a) + F.hardtanh(a), [(4, 30)]),
    "leaky": (lambda a: F.leaky_relu(a, 0.2) + F.softsign(a) + F.tanhshrink(a), [(4, 30)]),
    "prelu": (F.prelu, [(4, 3, 5), (3,)]),
    "glu": (F.glu, [(4, 6)]),
    "exp2": (lambda a: torch.exp2(a) + torch.special.exp2(a), [(4, 3)]),
    "avg_pool1d": (lambda a: F.avg_pool1d(a, 3, 2, 1), [(2, 3, 9)]),
    "avg_pool2d": (lambda a: F.avg_pool2d(a, 2), [(2, 3, 8, 6)]),
    "avg_pool2d odd": (lambda a: F.avg_pool2d(a, (3, 2), 2, 1, True, False), [(2, 3, 8, 7)]),
    "avg_pool2d counted": (lambda a: F.avg_pool2d(a, 3, 2, 1, ceil_mode=True), [(2, 3, 8, 8)]),
    "avg_pool2d over": (lambda a: F.avg_pool2d(a, 3, 1, divisor_override=5), [(2, 3, 8, 7)]),
    "avg_pool3d": (lambda a: F.avg_pool3d(a, 2), [(2, 3, 4, 6, 4)]),
    "adaptive": (lambda a: F.adaptive_avg_pool2d(a, (3, None)), [(2, 3, 8, 7)]),
    "adaptive1d": (lambda a: F.adaptive_avg_pool1d(a, 3), [(3, 7)]),
    "adaptive whole": (lambda a: F.adaptive_avg_pool2d(a, 1), [(2, 3, 8, 7)]),
    "max_pool": (lambda a: F.max_pool2d(a, 2), [(2, 3, 8, 6)]),
    "layer_norm": (lambda a, w, b: F.layer_norm(a, (6,), w, b), [(4, 6), (6,), (6,)]),
    "group_norm": (lambda a, w, b: F.group_norm(a, 2, w, b), [(3, 4, 5), (4,), (4,)]),
    "instance_norm": (lambda a, w, b: F.instance_norm(a, weight=w, bias=b), [(3, 4, 5), (4,), (4,)]),
    "rms_norm": (lambda a, w: F.rms_norm(a, (6,), w, 1e-5), [(4, 6), (6,)]),
    "attention": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v), [(2, 3, 5, 4)] * 3),
    "attention causal": (lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), [(2, 3, 5, 4)] * 3),
    "attention grouped": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True, scale=0.3),
        [(2, 6, 5, 4), (2, 3, 7, 4), (2, 3, 7, 4)],
    ),
    "attention masked": (
        lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, attn_mask=m),
        [(2, 3, 5, 4)] * 3 + [(5, 5)],
    ),
    "embedding": (lambda w: F.embedding(WHICH, w, 2) + w[WHICH], [(6, 4)]),
    "embedding_bag": (lambda w: F.embedding_bag(WHICH, w) + F.embedding_bag(WHICH, w, mode="sum", padding_idx=5), [(6, 4)]),
    "embedding_bag offsets": (
        lambda w, p: F.embedding_bag(WHICH.flatten(), w, torch.tensor([0, 2, 2, 7]), mode="sum", per_sample_weights=p),
        [(6, 4), (9,)],
    ),
    "mse": (lambda a, b: F.mse_loss(a, b) + F.l1_loss(a, b, reduction="sum"), [(4, 3), (4, 3)]),
    "huber": (lambda a, b: F.huber_loss(a, b) + F.smooth_l1_loss(a, b, beta=0.5), [(4, 3), (4, 3)]),
    "kl": (lambda a: F.kl_div(a.log_softmax(1), SHARES.to(a.dtype), reduction="batchmean"), [(6, 4)]),
    "kl log": (lambda a: F.kl_div(a.log_softmax(1), SHARES.to(a.dtype).log(), reduction="sum", log_target=True), [(6, 4)]),
    "cross_entropy": (lambda a: F.cross_entropy(a, CLASSES), [(6, 4)]),
    "cross_entropy weighted": (
        lambda a: F.cross_entropy(a, CLASSES.abs() % 4, SHARES[0].to(a.dtype), ignore_index=3),
        [(6, 4)],
    ),
    "cross_entropy smooth": (
        lambda a: F.cross_entropy(a, CLASSES, SHARES[0].to(a.dtype), label_smoothing=0.2)
        + F.cross_entropy(a, CLASSES, label_smoothing=0.1, reduction="sum"),
        [(6, 4)],
    ),
    "cross_entropy shares": (lambda a: F.cross_entropy(a, SHARES.to(a.dtype), label_smoothing=0.1), [(6, 4)]),
    "cross_entropy images": (lambda a: F.cross_entropy(a, WHICH[None] % 4, reduction="none"), [(1, 4, 3, 3)]),
    "nll": (lambda a: F.nll_loss(a.log_softmax(1), CLASSES), [(6, 4)]),
    "bce": (lambda a: F.binary_cross_entropy(a.sigmoid(), SHARES.to(a.dtype)), [(6, 4)]),
    "bce logits": (
        lambda a: F.binary_cross_entropy_with_logits(a, SHARES.to(a.dtype), pos_weight=SHARES[0].to(a.dtype)),
        [(6, 4)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_near_its_float64_value_and_nothing_told(name: str) -> None:
    f, shapes = CASES[name]
    native = [torch.randn(s, requires_grad=True) for s in shapes]
    wide = [t.detach().double().requires_grad_() for t in native]
    right = f(*wide)
    grad = torch.randn_like(right)
    right.backward(grad)
    grad = grad.float()
    with exact.mode() as m:
        y = f(*native)
        y.backward(grad)
    assert m.inexact == ()
    near(y, right, 0)
    for a, b in zip(native, wide, strict=True):
        near(torch.zeros_like(a) if a.grad is None else a.grad, b.grad, len(native))  # what takes no part has none


def near(found: Tensor | None, right: Tensor | None, more: int) -> None:
    """A few roundings each, of values and sums up to some ten times the largest."""
    assert found is not None and right is not None and found.shape == right.shape
    size = max(1.0, float(right.detach().abs().max()))
    assert float((found - right).detach().abs().max()) < (60 + 40 * more) * 2.0**-24 * size


def test_the_table_names_functions_that_pytorch_calls() -> None:
    """Each is seen by a mode as it is listed, so none is listed in vain."""
    assert all(callable(f) for f in EXACT)


def test_in_place() -> None:
    x, y = torch.randn(4, 3), torch.randn(4, 3)
    with exact.mode() as m:
        z = x.clone()
        z.mul_(0.9).add_(y, alpha=0.3).addcmul_(x, y, value=0.1).addcdiv_(x, y, value=2.0).lerp_(y, 0.2).exp_().div_(3)
    a, b = x.double(), y.double()
    wide = a.clone().mul_(0.9).add_(b, alpha=0.3).addcmul_(a, b, value=0.1).addcdiv_(a, b, value=2.0).lerp_(b, 0.2)
    assert m.inexact == ()
    assert torch.allclose(z, (wide.exp() / 3).float(), rtol=2e-5)


def test_what_is_not_exact_is_told() -> None:
    w, x = torch.randn(6, 4, requires_grad=True), torch.randn(1, 1, 8, 8, requires_grad=True)
    for f, name in (
        (lambda: torch.cumsum(w, 0), "aten.cumsum.default"),
        (lambda: w.index_select(0, WHICH[0]), "the gradient of aten.index_select.default"),
        (lambda: w[WHICH, WHICH % 4], "the gradient of aten.index.Tensor"),
        (lambda: w.repeat(2, 1), "the gradient of aten.repeat.default"),
        (lambda: F.max_pool2d(x, 3, 1, return_indices=True), "the gradient of aten.max_pool2d_with_indices.default"),
        (lambda: w.double() @ w.double().t(), "aten.mm.default"),
        (lambda: F.interpolate(x, scale_factor=2, mode="bilinear"), "upsample_bilinear2d"),
        (lambda: torch.broadcast_to(w, (3, 6, 4)), "the gradient of aten.expand.default"),
        (lambda: nn.LSTM(4, 2)(w), "rnn"),
    ):
        with exact.mode() as m:
            f()
        assert name in m.inexact or any(name in n for n in m.inexact), (name, m.inexact)
