"""Parameters in the verdict: the same numbers, a few that changed, folded ones, and others."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from tests.judge.pairs import Perceptron, kinds, nudged, told
from torch import Tensor, nn
from torch.nn import functional as F

import roundoff


@pytest.fixture
def net() -> Perceptron:
    return Perceptron()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(100, 16)


def parts(net: Perceptron) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Copies of w, b, v, c."""
    w, b, v, c = (p.detach().clone() for p in net.parameters())
    return w, b, v, c


def reshaped(net: Perceptron) -> Callable[[Tensor], Tensor]:
    w, b, v, c = parts(net)
    first, second = w.reshape(24, 16, 1), v.reshape(4, 24, 1)

    def forward(x: Tensor) -> Tensor:
        return F.conv1d(F.gelu(F.conv1d(x[:, :, None], first, b)), second, c)[:, :, 0]

    return forward


def transposed(net: Perceptron) -> Callable[[Tensor], Tensor]:
    w, b, v, c = parts(net)
    left, right = w.t().contiguous(), v.t().contiguous()
    return lambda x: F.gelu(x @ left + b) @ right + c


def split(net: Perceptron) -> Callable[[Tensor], Tensor]:
    w, b, v, c = parts(net)
    pieces = list(zip(w.split(8), b.split(8), (p.contiguous() for p in v.split(8, 1)), strict=True))

    def forward(x: Tensor) -> Tensor:
        y = c
        for first, bias, second in pieces:
            y = y + F.gelu(F.linear(x, first, bias)) @ second.t()
        return y

    return forward


def stacked(net: Perceptron) -> Callable[[Tensor], Tensor]:
    w, b, v, c = parts(net)
    both = torch.cat([w, b[:, None]], 1)
    return lambda x: F.linear(F.gelu(torch.cat([x, torch.ones(len(x), 1)], 1) @ both.t()), v, c)


def reordered(net: Perceptron) -> Callable[[Tensor], Tensor]:
    w, b, v, c = parts(net)
    order = torch.randperm(24)
    first, bias, second = w[order], b[order], v[:, order].contiguous()
    return lambda x: F.linear(F.gelu(F.linear(x, first, bias)), second, c)


@pytest.mark.parametrize("form", [reshaped, transposed, split, stacked, reordered])
def test_the_same_numbers_in_another_layout(form: Callable[[Perceptron], Callable[[Tensor], Tensor]],
                                            net: Perceptron, x: Tensor) -> None:  # fmt: skip
    c = roundoff.compare(net, form(net), x)
    assert c, c.reason
    assert kinds(c) == set()


def test_the_same_numbers_in_the_same_layout_at_the_wrong_place(x: Tensor) -> None:
    """A square weight that was transposed holds the same numbers, and is another function."""
    one, two = nn.Linear(16, 16), nn.Linear(16, 16)
    two.load_state_dict({"weight": one.weight.t(), "bias": one.bias})
    c = roundoff.compare(one, two, x)
    assert c.verdict == "different"
    assert "weights-differ" not in kinds(c) and "with the same parameters" in c.reason


@pytest.mark.parametrize(
    ("name", "index", "shape"),
    [("inner.weight", (5, 3), "[24, 16]"), ("outer.bias", (2,), "[4]"), ("outer.weight", (3, 23), "[4, 24]")],
)
def test_one_ulp_of_one_weight_is_different_and_named(name: str, index: tuple[int, ...], shape: str,
                                                      net: Perceptron, x: Tensor) -> None:  # fmt: skip
    c = roundoff.compare(net, nudged(net, name, *index), x)
    assert c.verdict == "different"
    said = told(c, "weights-differ").splitlines()
    assert len(said) == 2
    for side, line in zip("AB", said, strict=True):
        assert line.startswith(f"{side}'s {name} {shape}: 1 of ")
        assert f"at {list(index)}" in line
    assert said[0] in c.reason


def test_one_ulp_of_a_buffer(x: Tensor) -> None:
    one = nn.BatchNorm1d(16).eval()
    one.running_mean.normal_()
    two = copy.deepcopy(one)
    two.running_mean[11] = torch.nextafter(two.running_mean[11], torch.tensor(9.0))
    c = roundoff.compare(one, two, x)
    assert c.verdict == "different"
    assert told(c, "weights-differ").startswith("A's running_mean [16]: 1 of 16") and "at [11]" in c.reason


@pytest.mark.parametrize("layer", ["inner", "outer"])
def test_a_missing_bias(layer: str, net: Perceptron, x: Tensor) -> None:
    other = copy.deepcopy(net)
    getattr(other, layer).bias = None
    for a, b, side in ((net, other, "A"), (other, net, "B")):
        c = roundoff.compare(a, b, x)
        assert c.verdict == "different"
        assert f"{side}'s {layer}.bias" in told(c, "weights-differ")


def test_a_missing_bias_of_zeros_is_no_difference(net: Perceptron, x: Tensor) -> None:
    nn.init.zeros_(net.outer.bias)
    other = copy.deepcopy(net)
    other.outer.bias = None
    c = roundoff.compare(net, other, x)
    assert c and kinds(c) == set()


def test_weights_that_were_drawn_apart_come_with_the_hint(net: Perceptron, x: Tensor) -> None:
    c = roundoff.compare(net, Perceptron(), x)
    assert c.verdict == "different"
    assert "weights-differ" in kinds(c)
    assert "match_weights=True" in c.reason and "--match-weights" in c.reason


def test_a_function_of_the_other_shape_and_other_weights_is_different(net: Perceptron, x: Tensor) -> None:
    assert roundoff.compare(net, Perceptron(31), x).verdict == "different"


def rounded_once_more(net: Perceptron) -> Perceptron:
    """Each weight moved to one of its neighbours or left, as dividing and multiplying by a scale does."""
    other = copy.deepcopy(net)
    with torch.no_grad():
        for p in other.parameters():
            p.copy_(p.mul(1.1).div(1.1).mul(1.3).div(1.3))
    return other


def test_weights_that_were_rounded_once_more_leave_it_undecided_with_z(net: Perceptron, x: Tensor) -> None:
    c = roundoff.compare(net, rounded_once_more(net), x)
    assert c.verdict == "undecided"
    assert kinds(c) == {"weights-differ"}
    z = float(c.reason.split("(z = ")[1].split(")")[0])
    # Each weight moved by at most a few roundings and z counts in roundings of all: of order one, not zero, not many.
    assert 0.01 < z < 10


def test_rounding_of_weights_that_does_not_show_is_no_other_mathematics(net: Perceptron, x: Tensor) -> None:
    other = rounded_once_more(net)
    c = roundoff.compare(lambda x: net(x).round(decimals=1), lambda x: other(x).round(decimals=1) * 1.0, x)
    assert c.verdict == "identical" and kinds(c) <= {"branch-crossing"}, c
    c = roundoff.compare(lambda x: net(x[:9]).bfloat16(), lambda x: other(x[:9]).bfloat16(), x)
    assert c.verdict == "identical" and kinds(c) == {"weights-differ"}, c
    assert "In exact arithmetic they differ" in c.reason


def test_weights_that_were_rounded_to_a_shorter_format_are_different(net: Perceptron, x: Tensor) -> None:
    other = copy.deepcopy(net)
    with torch.no_grad():
        for p in other.parameters():
            p.copy_(p.half())
    c = roundoff.compare(net, other, x)
    assert c.verdict == "different" and "weights-differ" in kinds(c)


def test_other_weights_that_do_not_reach_the_output(net: Perceptron, x: Tensor) -> None:
    """What counts is what a run computes: a weight that is used and then multiplied by zero changes nothing."""
    other = Perceptron()
    c = roundoff.compare(net, lambda x: net(x) + 0 * other(x), x)
    assert c, c.reason


def test_constants_of_functions_are_parameters_too(x: Tensor) -> None:
    w = torch.randn(16, 4)
    v = w.clone()
    v[2, 1] *= 1 + 2**-20
    c = roundoff.compare(lambda x: x @ w, lambda x: x @ v, x)
    assert c.verdict == "different"
    assert told(c, "weights-differ").startswith("A's constant [16, 4]: 1 of 64") and "at [2, 1]" in c.reason


def test_python_numbers_are_not_parameters(x: Tensor) -> None:
    c = roundoff.compare(lambda x: x * 0.1, lambda x: x * 0.1001, x)
    assert c.verdict == "different" and "weights-differ" not in kinds(c)
    assert roundoff.compare(lambda x: x * 0.1, lambda x: x * torch.tensor(0.1), x)
