"""Where two networks part: the changed line is named, on the side that has it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tests.judge.pairs import Perceptron, case, nudged, told
from torch import Tensor, nn
from torch.nn import functional as F

import roundoff
from roundoff.judge.parting import find_parting

X = torch.randn(6, 16, generator=torch.Generator().manual_seed(1))
W = torch.randn(16, 16, generator=torch.Generator().manual_seed(2))
V = torch.randn(16, 4, generator=torch.Generator().manual_seed(3))


def plain(x: Tensor) -> Tensor:
    h = x @ W
    h = F.gelu(h)
    h = F.layer_norm(h, (16,))
    return torch.softmax(h @ V, 1)


def tanh_gelu(x: Tensor) -> Tensor:
    h = x @ W
    h = F.gelu(h, approximate="tanh")  # here
    h = F.layer_norm(h, (16,))
    return torch.softmax(h @ V, 1)


def other_eps(x: Tensor) -> Tensor:
    h = x @ W
    h = F.gelu(h)
    h = F.layer_norm(h, (16,), eps=1e-6)  # here
    return torch.softmax(h @ V, 1)


def other_axis(x: Tensor) -> Tensor:
    h = x @ W
    h = F.gelu(h)
    h = F.layer_norm(h, (16,))
    return torch.softmax(h @ V, 0)  # here


def transposed(x: Tensor) -> Tensor:
    h = x @ W.t()  # here
    h = F.gelu(h)
    h = F.layer_norm(h, (16,))
    return torch.softmax(h @ V, 1)


def in_another_form(x: Tensor) -> Tensor:
    h = F.conv1d(x[:, :, None], W.t()[:, :, None])[:, :, 0]
    h = F.gelu(h)
    h = F.layer_norm(h, (16,), eps=1e-6)  # here
    return torch.softmax((V.t() @ h.t()).t(), 1)


def in_two_parts(x: Tensor) -> Tensor:
    """The partial products are nothing that the other side has; their sum is."""
    h = x[:, :7] @ W[:7] + x[:, 7:] @ W[7:]
    h = F.gelu(h)
    h = F.layer_norm(h, (16,), eps=1e-6)  # here
    return torch.softmax(h @ V, 1)


@pytest.mark.parametrize("net", [tanh_gelu, other_eps, other_axis, transposed, in_another_form, in_two_parts])
def test_the_changed_line_is_named(net: Callable[[Tensor], Tensor]) -> None:
    c = roundoff.compare(plain, net, X)
    assert c.verdict == "different"
    said = told(c, "different-mathematics")
    assert len(said.splitlines()) == 1
    first, _, second = said.partition("; B: ")
    assert first.startswith("A: test_parting.py:")
    assert "# here" in second


def test_the_module_is_named() -> None:
    one = nn.Sequential(nn.Linear(16, 8), nn.Sequential(nn.GELU(), nn.LayerNorm(8)))
    two = nn.Sequential(one[0], nn.Sequential(nn.GELU("tanh"), one[1][1]))
    c = roundoff.compare(one, two, X)
    assert told(c, "different-mathematics").startswith("A: 1.0; B: 1.0: ")


@pytest.mark.parametrize("change", [1e-2, 1e-6])
def test_small_changes_are_placed_as_well(change: float) -> None:
    def scaled(x: Tensor) -> Tensor:
        h = x @ W
        h = F.gelu(h) * (1 + change)  # here
        h = F.layer_norm(h, (16,), eps=1e-2)
        return torch.softmax(h @ V, 1)

    c = roundoff.compare(lambda x: torch.softmax(F.layer_norm(F.gelu(x @ W), (16,), eps=1e-2) @ V, 1), scaled, X)
    assert "# here" in told(c, "different-mathematics")


def test_one_ulp_of_one_weight_parts_at_its_layer() -> None:
    net = Perceptron()
    c = roundoff.compare(net, nudged(net, "inner.weight", 5, 3), torch.randn(100, 16))
    assert c.verdict == "different"
    assert told(c, "different-mathematics").startswith("A: inner, ")


def test_networks_that_agree_do_not_part() -> None:
    opened = case(plain, lambda x: plain(x.clone()), X)
    find_parting(opened)
    assert opened.findings == []


def test_one_side_goes_on_where_the_other_ends() -> None:
    c = roundoff.compare(plain, lambda x: plain(x) * 1.5, X)
    (found,) = [f for f in c.findings if f.kind == "different-mathematics"]
    assert "mul" in found.text and "B:" in found.where and "A:" not in found.where


def test_networks_without_a_computing_step() -> None:
    c = roundoff.compare(lambda x: x, lambda x: x.flip(0), X)
    assert c.verdict == "different"
