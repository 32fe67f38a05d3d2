"""What is proved, and what is said of what is not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.judge.pairs import Perceptron, backwards, nudged, product
from torch import Tensor, nn

import roundoff
from roundoff.judge import proof
from roundoff.replay.enclosure import Enclosure
from roundoff.rules import lookup


def compared(a: Callable[..., Any], b: Callable[..., Any], *args: Any, **options: Any) -> roundoff.Comparison:
    return roundoff.compare(a, b, args, prove=True, **options)


class Reversed(nn.Module):
    """A perceptron whose sums are added from the last to the first."""

    def __init__(self, net: Perceptron) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        inner, outer = self.net.inner, self.net.outer
        h = F.gelu(x.flip(-1) @ inner.weight.flip(-1).t() + inner.bias)
        return h.flip(-1) @ outer.weight.flip(-1).t() + outer.bias


class Block(nn.Module):
    """A residual block of convolutions with batch norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.two = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.norm2(self.two(torch.relu(self.norm1(self.one(x))))))


class Residual(nn.Module):
    """A small network of residual blocks: [n, 3, 24, 24] to [n, 10]."""

    def __init__(self, width: int = 16, blocks: int = 2) -> None:
        super().__init__()
        self.stem, self.pool = nn.Conv2d(3, width, 3, stride=2, padding=1), nn.MaxPool2d(2)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(blocks)))
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.blocks(self.pool(torch.relu(self.stem(x))))
        return self.head(F.adaptive_avg_pool2d(h, 1).flatten(1))


class Transformer(nn.Module):
    """One block of a transformer, with queries, keys and values in one product or in three."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.fused = heads, True
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(x)
        if self.fused:
            q, k, v = self.qkv(h).chunk(3, -1)
        else:
            parts = zip(self.qkv.weight.chunk(3), self.qkv.bias.chunk(3), strict=True)
            q, k, v = (F.linear(h, w, b) for w, b in parts)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        if self.fused:
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            mixed = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1) @ v
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


def residuals() -> tuple[Any, Any, Tensor]:
    net, x = Residual(), torch.randn(2, 3, 24, 24)
    net.train()
    with torch.no_grad():
        net(torch.randn(8, 3, 24, 24))
    net.eval()
    last = copy.deepcopy(net).to(memory_format=torch.channels_last)
    return net, lambda x: last(x.contiguous(memory_format=torch.channels_last)), x


def transformers() -> tuple[Any, Any, Tensor]:
    fused = Transformer().eval()
    apart = copy.deepcopy(fused)
    apart.fused = False
    return fused, apart, torch.randn(2, 10, 32)


def perceptrons() -> tuple[Any, Any, Tensor]:
    net = Perceptron()
    return net, Reversed(net), torch.randn(9, 16)


PAIRS = {"perceptron": perceptrons, "residual": residuals, "transformer": transformers}


@pytest.mark.parametrize("name", PAIRS)
def test_the_same_function_is_proved_to_be(name: str) -> None:
    a, b, x = PAIRS[name]()
    c = compared(a, b, x)
    assert (c.verdict, c.evidence) == ("roundoff", "proved"), c.reason
    assert "Proved: in exact arithmetic they differ by" in c.reason
    assert roundoff.compare(a, b, x).evidence == "statistical"


@pytest.mark.parametrize("name", PAIRS)
def test_one_weight_by_a_millionth_is_proved_to_differ(name: str) -> None:
    a, b, x = PAIRS[name]()
    changed = copy.deepcopy(a)
    weight = next(p for p in changed.parameters() if p.dim() > 1)
    with torch.no_grad():
        weight.view(-1)[weight.abs().argmax()] *= 1 + 1e-6
    c = compared(changed, b, x)
    assert (c.verdict, c.evidence) == ("different", "proved"), c.reason
    assert "Proved: in exact arithmetic they differ in" in c.reason


def test_one_weight_by_one_ulp() -> None:
    net = Perceptron()
    c = compared(nudged(net, "inner.weight", 0, 0), Reversed(net), torch.randn(9, 16))
    assert (c.verdict, c.evidence) == ("different", "proved"), c.reason


def test_digits() -> None:
    from examples import digits

    x = digits.images()[0][:50]
    same = compared(digits.flat(), digits.kernel(), x)
    assert (same.verdict, same.evidence) == ("roundoff", "proved"), same.reason
    other = compared(digits.flat(), digits.mistaken(), x)
    assert (other.verdict, other.evidence) == ("different", "proved"), other.reason


def test_other_structures_can_be_seen() -> None:
    c = compared(lambda x: (x, x), lambda x: x, torch.randn(3))
    assert (c.verdict, c.evidence) == ("different", "proved")


def unproved(a: Any, b: Any, *args: Any, verdict: str = "roundoff") -> str:
    """The reason of a comparison that is not proved, and has the verdict that it has without."""
    c = compared(a, b, *args)
    assert (c.verdict, c.evidence) == (verdict, "statistical"), c.reason
    plain = roundoff.compare(a, b, args)
    assert plain.verdict == verdict and c.reason.startswith(plain.reason)
    return c.reason.removeprefix(plain.reason)


X, W = torch.randn(6, 40, generator=torch.Generator().manual_seed(0)), torch.randn(40, 5)


def test_an_operator_without_a_propagation_is_named() -> None:
    said = unproved(lambda x, w: torch.erfinv((x @ w).tanh() / 2), lambda x, w: torch.erfinv(backwards(x, w).tanh() / 2),
                    X, W)  # fmt: skip
    assert "Not proved: in A, aten.erfinv.default (" in said
    assert "no rigorous propagation is known of " in said


def test_a_statistical_bound_is_no_proof() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0).eval()

    def slow(x: Tensor) -> Tensor:
        with torch.enable_grad():
            return layer(x)

    with torch.no_grad():
        said = unproved(layer, slow, torch.randn(2, 5, 16))
    assert "a bound that is statistical, not rigorous" in said


def test_a_choice_that_hangs_on_rounding_is_no_proof() -> None:
    def steered(x: Tensor, w: Tensor) -> Tensor:
        y = x @ w
        return y * 2 if y.sum() > 0 else y

    def backwards_steered(x: Tensor, w: Tensor) -> Tensor:
        y = backwards(x, w)
        return y * 2 if y.sum() > 0 else y

    assert compared(steered, backwards_steered, X, W).evidence == "proved"  # far from the threshold it hangs on nothing

    def balanced(f: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        def net(x: Tensor, w: Tensor) -> Tensor:
            y = f(x, w)
            gap = y[:1] - f(x[:1], w)  # nothing, as far as can be known
            return y * 2 if gap.sum() > -1e-300 else 2 * y

        return net

    assert "steers what comes next" in unproved(balanced(product), balanced(backwards), X, W)


def test_bounds_that_say_nothing_are_no_proof() -> None:
    """Differences of what is 30 and 29 times as large: the errors may grow by 59 each time, though they do not."""
    w = torch.linalg.qr(torch.randn(16, 16))[0] * 1.0

    def deep(f: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def net(x: Tensor) -> Tensor:
            for _ in range(20):
                x = f(x, w) * 30 - f(x, w) * 29
            return x

        return net

    said = unproved(deep(product), deep(backwards), torch.randn(4, 16))
    assert "times the native round-off somewhere; 0.0625 would do" in said


def test_folded_parameters_are_no_proof() -> None:
    conv, norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
    norm.running_mean = torch.randn(8)
    norm.running_var = torch.rand(8) + 0.5
    net = nn.Sequential(conv, norm).eval()
    fused = torch.nn.utils.fusion.fuse_conv_bn_eval(conv.eval(), norm)
    c = compared(net, fused, torch.randn(2, 3, 8, 8))
    assert c.verdict == "roundoff" and c.evidence == "statistical"
    assert "how a fold rounds is not enclosed" in c.reason


def test_undecided_stays_undecided() -> None:
    said = unproved(lambda x: (x, 0.5), lambda x: (x, 0.25), torch.randn(3), verdict="undecided")
    assert "Nothing is proved where nothing is decided" in said


# -- faults that are planted -------------------------------------------------------------------------------------------


def test_a_propagation_that_is_too_small_is_no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two orders of addition differ by more than nothing: an enclosure that says nothing does not prove them the same."""
    monkeypatch.setattr(Enclosure, "value", lambda self, x: torch.zeros(x.shape, dtype=torch.float64))
    said = unproved(product, backwards, X, W)
    assert "differ by more than rounding in float64 can explain" in said


def test_a_kernel_beyond_its_bound_is_no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "limits", lambda executed: [1e-12 for _ in executed.outs])
    assert "are not within a finite bound of its local error" in unproved(product, backwards, X, W)


def test_an_infinite_bound_is_no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "limits", lambda executed: [float("inf") for _ in executed.outs])
    assert "are not within a finite bound of its local error" in unproved(product, backwards, X, W)


def test_every_rule_that_is_statistical_says_so() -> None:
    for name in ("_native_multi_head_attention", "_transformer_encoder_layer_fwd", "mkldnn_rnn_layer"):
        assert not proof.is_rigorous(lookup(getattr(torch.ops.aten, name).default))
    assert not proof.is_rigorous(None)
    assert proof.is_rigorous(lookup(torch.ops.aten.mm.default))


def test_a_float64_network_has_nothing_finer_to_be_held_against() -> None:
    said = unproved(product, backwards, X.double(), W.double())
    assert "times the native round-off somewhere" in said


def test_exact_results_have_no_roundoff_to_be_held_against() -> None:
    """Both give zeros: one by a subtraction of what was rounded, of which no bound knows that nothing is left."""
    x = torch.ones(2, 4)
    said = unproved(lambda x: x * 0.1 - x * 0.1, lambda x: -(x * 0.1 - x * 0.1), x)
    assert "and nothing was rounded" in said
