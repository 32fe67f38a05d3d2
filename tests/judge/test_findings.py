"""Findings beside a verdict: each where it is true, and not where it is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tests.judge.pairs import Perceptron, backwards, kinds, product, told
from torch import Tensor, nn

import roundoff


@pytest.fixture
def args() -> tuple[Tensor, Tensor]:
    return torch.randn(9, 40), torch.randn(40, 6)


# -- magnitude --------------------------------------------------------------------------------------------------------


def test_large_values_are_put_in_proportion_by_output(args: tuple[Tensor, Tensor]) -> None:
    x, w = args
    c = roundoff.compare(lambda x: {"large": product(x * 1e9, w), "small": product(x, w)},
                         lambda x: {"large": backwards(x * 1e9, w), "small": backwards(x, w)}, x)  # fmt: skip
    assert c.verdict == "roundoff"
    said = told(c, "magnitude")
    assert said.startswith("['large']") and len(said.splitlines()) == 1
    large = next(o for o in c.outputs if o.name == "['large']")
    assert f"{large.max_abs:.3g} at {large.value_abs:.3g}" in said


@pytest.mark.parametrize("scale", [1e-9, 1.0, 30.0])
def test_ordinary_values_have_no_magnitude(scale: float, args: tuple[Tensor, Tensor]) -> None:
    x, w = args
    c = roundoff.compare(product, backwards, (x * scale, w))
    assert c.verdict == "roundoff" and kinds(c) == set()


def test_a_difference_that_is_large_among_its_values_is_no_magnitude(args: tuple[Tensor, Tensor]) -> None:
    """What is left of large numbers that cancel is nothing but round-off."""
    x, w = args[0] * 1e5, args[1]
    exact = (x.double() @ w.double()).float()
    c = roundoff.compare(lambda x: product(x, w) - exact, lambda x: backwards(x, w) - exact, x)
    assert c.verdict == "roundoff", c
    assert c.outputs[0].max_abs > 1e-2 and "magnitude" not in kinds(c)


def test_a_real_difference_of_large_values_is_no_magnitude(args: tuple[Tensor, Tensor]) -> None:
    c = roundoff.compare(product, lambda x, w: product(x, w) * (1 + 1e-6), (args[0] * 1e9, args[1]))
    assert c.verdict == "different" and "magnitude" not in kinds(c)


# -- branch crossings -------------------------------------------------------------------------------------------------


class Steps(nn.Module):
    def __init__(self, at: float) -> None:
        super().__init__()
        self.at = at

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > self.at, x * 2, -x)  # chooses


def test_where_it_is_and_how_many_elements(args: tuple[Tensor, Tensor]) -> None:
    """0.5 + 2^-30 is above a half, and is a half in float32."""
    x, w, net = torch.full((5, 40), 0.5), args[1], nn.Sequential(Steps(0.5))
    c = roundoff.compare(lambda x: product(net(x + 2**-30), w), lambda x: backwards(net(2**-30 + x), w), x)
    assert c.verdict == "roundoff", c
    assert kinds(c) == {"branch-crossing"}
    said = told(c, "branch-crossing").splitlines()
    assert [line.split(":")[0] for line in said] == ["A", "B"]
    assert all("# chooses" in line and "in 200 elements" in line for line in said)


def test_a_threshold_that_nothing_is_near_is_not_named(args: tuple[Tensor, Tensor]) -> None:
    x, w = args
    net = Steps(1e3)
    c = roundoff.compare(lambda x: net(product(x, w)), lambda x: net(backwards(x, w)), x)
    assert c.verdict == "roundoff" and kinds(c) == set()


@pytest.mark.parametrize(
    "move",
    [
        lambda y: nn.functional.interpolate(y[None, None] * 1e9, scale_factor=2)[0, 0] / 1e9,
        lambda y: torch.fmod(y * 1e9, 1e20) / 1e9,
        lambda y: torch.relu(y * 1e9) / 1e9,
        lambda y: y.sort(1).values,
    ],
)
def test_large_round_off_is_no_choice(move: Callable[[Tensor], Tensor], args: tuple[Tensor, Tensor]) -> None:
    x, w = args
    c = roundoff.compare(lambda x: move(product(x, w)), lambda x: move(backwards(x, w)), x)
    assert c.verdict == "roundoff", c
    assert kinds(c) == set()


# -- what is not deterministic, and what cannot be followed -----------------------------------------------------------


def test_draws_from_the_seed_are_deterministic() -> None:
    net, x = nn.Sequential(Perceptron(), nn.Dropout(0.4)).train(), torch.randn(9, 16)
    c = roundoff.compare(net, lambda x: net(x) * 3 / 3, x)
    assert c, c
    assert kinds(c) == set()


def test_printing_and_shapes_are_followed() -> None:
    net, x = Perceptron(), torch.randn(9, 16)

    def talks(x: Tensor) -> Tensor:
        y = net(x)
        str(y)
        return y * (y.shape[0] / 3) * 3 / y.numel() * 4

    c = roundoff.compare(net, talks, x)
    assert c.verdict == "roundoff", c
    assert kinds(c) == set()


# -- weights ------------------------------------------------------------------------------------------------------------


def test_the_same_weights_in_another_form_are_not_named() -> None:
    net, x = Perceptron(), torch.randn(9, 16)
    w, b = net.inner.weight.detach().clone(), net.inner.bias.detach().clone()
    c = roundoff.compare(net, lambda x: net.outer(nn.functional.gelu(x @ w.T.contiguous() + b)), x)
    assert c, c
    assert kinds(c) == set()
