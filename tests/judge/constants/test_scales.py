"""Folds that no step shows: norms that are written by hand, scales merged between layers, weight norm taken off."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from tests.judge.pairs import kinds, told
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval
from torch.nn.utils.parametrizations import weight_norm

import roundoff

Net = Callable[[Tensor], Tensor]


class Statistics:
    """The numbers of a batch norm over eight channels."""

    def __init__(self) -> None:
        self.gain, self.shift, self.mean = torch.rand(8) + 0.5, torch.randn(8), torch.randn(8)
        self.var, self.eps = torch.rand(8) + 0.5, 1e-5

    def module(self, kind: type[nn.Module]) -> nn.Module:
        norm = kind(8).eval()
        norm.load_state_dict(
            {"weight": self.gain, "bias": self.shift, "running_mean": self.mean, "running_var": self.var}, strict=False
        )
        return norm


def plain(x: Tensor, s: Statistics, c: Callable[[Tensor], Tensor]) -> Tensor:
    return (x - c(s.mean)) / torch.sqrt(c(s.var) + s.eps) * c(s.gain) + c(s.shift)


def inverse(x: Tensor, s: Statistics, c: Callable[[Tensor], Tensor]) -> Tensor:
    return c(s.gain) * (x - c(s.mean)) * torch.rsqrt(c(s.var) + s.eps) + c(s.shift)


def gathered(x: Tensor, s: Statistics, c: Callable[[Tensor], Tensor]) -> Tensor:
    scale = s.gain / (s.var + s.eps) ** 0.5
    return x * c(scale) + c(s.shift - s.mean * scale)


def wide_fold(weight: Tensor, bias: Tensor, s: Statistics) -> tuple[Tensor, Tensor]:
    """In float64, each parameter rounded once."""
    scale = s.gain.double() / torch.sqrt(s.var.double() + s.eps)
    shift = (bias.double() - s.mean.double()) * scale + s.shift.double()
    return (weight.double() * scale.reshape(-1, *[1] * (weight.dim() - 1))).float(), shift.float()


def torch_fold(weight: Tensor, bias: Tensor, s: Statistics) -> tuple[Tensor, Tensor]:
    if weight.dim() == 2:
        layer = nn.Linear(weight.shape[1], 8).eval()
        layer.load_state_dict({"weight": weight, "bias": bias})
        fused = fuse_linear_bn_eval(layer, s.module(nn.BatchNorm1d))
    else:
        conv = nn.Conv2d(weight.shape[1], 8, weight.shape[2]).eval()
        conv.load_state_dict({"weight": weight, "bias": bias})
        fused = fuse_conv_bn_eval(conv, s.module(nn.BatchNorm2d))
    return fused.weight.detach(), fused.bias.detach()


def by_hand(formula: Callable[..., Tensor], weight: Tensor, bias: Tensor, s: Statistics) -> Net:
    if weight.dim() == 2:
        return lambda x: torch.relu(formula(F.linear(x, weight, bias), s, lambda v: v))
    return lambda x: torch.relu(formula(F.conv2d(x, weight, bias), s, lambda v: v[:, None, None]))


def layer(weight: Tensor, bias: Tensor) -> Net:
    return lambda x: torch.relu((F.linear if weight.dim() == 2 else F.conv2d)(x, weight, bias))


def drawn(kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """Weight, bias, input."""
    if kind == "linear":
        return torch.randn(8, 12), torch.randn(8), torch.randn(9, 12)
    return torch.randn(8, 3, 3, 3), torch.randn(8), torch.randn(2, 3, 9, 9)


@pytest.mark.parametrize("kind", ["linear", "convolution"])
@pytest.mark.parametrize("fold", [wide_fold, torch_fold])
@pytest.mark.parametrize("formula", [plain, inverse, gathered])
def test_a_norm_by_hand_folded(formula: Callable[..., Tensor], fold: Callable[..., tuple[Tensor, Tensor]],
                               kind: str) -> None:  # fmt: skip
    (w, b, x), s = drawn(kind), Statistics()
    hand, folded = by_hand(formula, w, b, s), layer(*fold(w, b, s))
    for one, two, side in ((hand, folded, "B"), (folded, hand, "A")):
        c = roundoff.compare(one, two, x)
        assert c.verdict == "roundoff", c
        assert kinds(c) == {"weights-refolded"}
        said = told(c, "weights-refolded").splitlines()
        assert len(said) == 2 and all(line.startswith(f"{side}'s constant") for line in said)


def ulp(x: Tensor, *index: int) -> Tensor:
    x = x.clone()
    x[index] = torch.nextafter(x[index], torch.tensor(torch.inf))
    return x


def refused(c: roundoff.Comparison) -> None:
    """Not allowed for: what is left is a change of the weights."""
    assert c.verdict in ("different", "undecided"), c
    assert "weights-refolded" not in kinds(c) and "weights-differ" in kinds(c)


@pytest.mark.parametrize("what", ["weight", "bias", "eps", "gain"])
@pytest.mark.parametrize("formula", [plain, inverse, gathered])
def test_a_norm_by_hand_folded_wrongly(formula: Callable[..., Tensor], what: str) -> None:
    (w, b, x), s = drawn("convolution"), Statistics()
    hand = by_hand(formula, w, b, s)
    other = copy.deepcopy(s)
    if what == "eps":
        other.eps = 1.1e-5
    if what == "gain":
        other.gain = ulp(other.gain, 3)
    weight, bias = wide_fold(w, b, other)
    if what == "weight":
        weight = ulp(weight, 2, 1, 0, 2)
    if what == "bias":
        bias = ulp(bias, 5)
    refused(roundoff.compare(hand, layer(weight, bias), x))


# -- scales ---------------------------------------------------------------------------------------------------------------


def scaled_after(w: Tensor, s: Tensor) -> tuple[Net, Net]:
    merged = w * s[:, None]
    return lambda x: torch.tanh(F.linear(x, w) * s), lambda x: torch.tanh(F.linear(x, merged))


def scaled_before(w: Tensor, s: Tensor) -> tuple[Net, Net]:
    merged = (w.double() * s.double()).float()
    return lambda x: torch.tanh(F.linear(x * s, w)), lambda x: torch.tanh(F.linear(x, merged))


def divided(w: Tensor, s: Tensor) -> tuple[Net, Net]:
    merged = w / s
    return lambda x: torch.tanh(F.linear(x / s, w)), lambda x: torch.tanh(F.linear(x, merged))


def by_a_number(w: Tensor, s: Tensor) -> tuple[Net, Net]:
    merged = w * 0.3
    return lambda x: torch.tanh(F.linear(x, w) * 0.3), lambda x: torch.tanh(F.linear(x, merged))


def over_a_number(w: Tensor, s: Tensor) -> tuple[Net, Net]:
    merged = (w.double() / 7**0.5).float()
    return lambda x: torch.tanh(F.linear(x, w) / 7**0.5), lambda x: torch.tanh(F.linear(x, merged))


FORMS = [scaled_after, scaled_before, divided, by_a_number, over_a_number]


@pytest.mark.parametrize("form", FORMS)
def test_a_scale_merged_into_a_weight(form: Callable[[Tensor, Tensor], tuple[Net, Net]]) -> None:
    w, s, x = torch.randn(12, 12), torch.rand(12) + 0.5, torch.randn(9, 12)
    apart, merged = form(w, s)
    for one, two, side in ((apart, merged, "B"), (merged, apart, "A")):
        c = roundoff.compare(one, two, x)
        assert c.verdict == "roundoff", c
        assert kinds(c) == {"weights-refolded"}
        assert told(c, "weights-refolded").startswith(f"{side}'s constant [12, 12]: is a constant [12, 12] ")


@pytest.mark.parametrize("form", FORMS)
def test_a_scale_merged_into_a_weight_of_which_one_is_an_ulp_off(
    form: Callable[[Tensor, Tensor], tuple[Net, Net]],
) -> None:
    w, s, x = torch.randn(12, 12), torch.rand(12) + 0.5, torch.randn(9, 12)
    apart, merged = form(w, s)
    (cell,) = (c for c in merged.__closure__ or () if isinstance(c.cell_contents, Tensor))
    cell.cell_contents = ulp(cell.cell_contents, 3, 7)
    refused(roundoff.compare(apart, merged, x))


def test_a_layer_scale_merged_with_its_bias() -> None:
    w, b, s, x = torch.randn(8, 12), torch.randn(8), torch.rand(8) * 1e-2, torch.randn(9, 12)
    v, c = w * s[:, None], b * s
    found = roundoff.compare(lambda x: F.linear(x, w, b) * s, lambda x: F.linear(x, v, c), x)
    assert found.verdict == "roundoff", found
    assert len(told(found, "weights-refolded").splitlines()) == 2
    wrong = ulp(c, 2)
    refused(roundoff.compare(lambda x: F.linear(x, w, b) * s, lambda x: F.linear(x, v, wrong), x))


# -- weight norm -------------------------------------------------------------------------------------------------------


def normed(kind: str) -> tuple[nn.Module, nn.Module, Tensor]:
    """With its weight norm, with the weight that comes of it, and an input."""
    make = (lambda: nn.Linear(12, 8)) if kind == "linear" else (lambda: nn.Conv1d(3, 8, 5))
    net, bare = weight_norm(make()), make()
    with torch.no_grad():
        net.parametrizations.weight.original0.mul_(1.3)
        bare.weight.copy_(net.weight)
        bare.bias.copy_(net.bias)
    return net, bare, torch.randn(9, 12) if kind == "linear" else torch.randn(2, 3, 17)


@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_weight_norm_taken_off(kind: str) -> None:
    net, bare, x = normed(kind)
    for one, two, side in ((net, bare, "B"), (bare, net, "A")):
        c = roundoff.compare(one, lambda x, two=two: two(x.flip(0)).flip(0) * 3 / 3, x)
        assert c.verdict == "roundoff", c
        assert kinds(c) == {"weights-refolded"}
        said = told(c, "weights-refolded")
        assert said.startswith(f"{side}'s ") and "what the other side computes with aten._weight_norm_interface" in said


@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_weight_norm_taken_off_with_one_weight_an_ulp_off(kind: str) -> None:
    net, bare, x = normed(kind)
    with torch.no_grad():
        bare.weight.copy_(ulp(bare.weight.detach(), 1))
    refused(roundoff.compare(net, bare, x))


def test_weight_norm_by_hand_and_its_value() -> None:
    g, v, x = torch.rand(8, 1) + 0.5, torch.randn(8, 12), torch.randn(9, 12)
    value = (v.double() * (g.double() / v.double().norm(dim=1, keepdim=True))).float()

    def by_hand(x: Tensor) -> Tensor:
        return F.linear(x, v * (g / v.norm(dim=1, keepdim=True)))

    c = roundoff.compare(by_hand, lambda x: F.linear(x, value), x)
    assert c.verdict == "roundoff", c
    assert kinds(c) == {"weights-refolded"}
    assert "what the other side computes with aten.mul.Tensor" in told(c, "weights-refolded")
    wrong = ulp(value, 3, 4)
    refused(roundoff.compare(by_hand, lambda x: F.linear(x, wrong), x))


def test_a_verified_scale_at_the_wrong_place_is_different() -> None:
    """Every weight is the merged one, and it is applied where the scale was not."""
    w, s, x = torch.randn(12, 12), torch.rand(12) + 0.5, torch.randn(9, 12)
    merged = w * s[:, None]
    c = roundoff.compare(lambda x: F.linear(x * s, w), lambda x: F.linear(x, merged), x)
    assert c.verdict == "different", c


def test_a_fold_whose_rounding_does_not_show_is_no_other_mathematics() -> None:
    """In bfloat16 the two have the same bits; what float64 shows is the rounding of the folded weights."""
    (w, b, x), s = drawn("linear"), Statistics()
    hand, folded = by_hand(plain, w, b, s), layer(*wide_fold(w, b, s))

    def shown(net: Net) -> Net:
        return lambda x: (net(x).bfloat16() * 0.01).round()

    c = roundoff.compare(shown(hand), lambda x: shown(folded)(x), x)
    assert (c.verdict, kinds(c)) == ("identical", set())
    c = roundoff.compare(lambda x: hand(x).bfloat16(), lambda x: folded(x).bfloat16(), x)
    assert c.verdict == "identical" and kinds(c) == {"weights-refolded"}, c
