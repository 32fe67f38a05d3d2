"""match_weights: what fits, what is refused and why, and that B is as it was afterwards."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.judge.pairs import Perceptron
from torch import Tensor, nn

import roundoff
from roundoff import RoundoffError
from roundoff.judge.matching import matched_weights


class Convolutions(nn.Module):
    """The perceptron with 1x1 convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(16, 24, 1)
        self.second = nn.Conv2d(24, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(nn.functional.gelu(self.first(x[:, :, None, None])))[:, :, 0, 0]


class Matrices(nn.Module):
    """The perceptron with matrices that multiply from the right, the middle one square where ``width`` is 16."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        for name, shape in (("w", (16, width)), ("b", (width,)), ("v", (width, 4)), ("c", (4,))):
            self.register_parameter(name, nn.Parameter(torch.randn(shape)))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.gelu(x @ self.w + self.b) @ self.v + self.c


class Listening(nn.Linear):
    """A linear layer that raises."""

    def forward(self, x: Tensor) -> Tensor:
        raise KeyError("it does not work")


def state(net: nn.Module) -> dict[str, tuple[int, Tensor]]:
    return {k: (v.data_ptr(), v.clone()) for k, v in [*net.named_parameters(), *net.named_buffers()]}


def untouched(net: nn.Module, before: dict[str, tuple[int, Tensor]]) -> bool:
    now = state(net)
    return now.keys() == before.keys() and all(
        now[k][0] == before[k][0] and torch.equal(now[k][1], before[k][1]) for k in now
    )


@pytest.mark.parametrize("other", [Perceptron, Convolutions, Matrices])
def test_it_answers_where_the_weights_were_drawn_apart(other: type[nn.Module]) -> None:
    a, b, x = Perceptron(), other(), torch.randn(8, 16)
    before, before_a = state(b), state(a)
    c = roundoff.compare(a, b, x, match_weights=True)
    assert c, c.reason
    assert untouched(b, before) and untouched(a, before_a)
    assert roundoff.compare(a, b, x).verdict == "different"


def test_square_matrices_follow_the_others() -> None:
    a, x = Perceptron(16), torch.randn(8, 16)
    assert roundoff.compare(a, Matrices(16), x, match_weights=True)  # v is 16 by 4: so w is transposed as well


def test_square_matrices_alone_are_taken_as_they_are() -> None:
    a, b, x = nn.Linear(16, 16), nn.Linear(16, 16), torch.randn(8, 16)
    assert roundoff.compare(a, b, x, match_weights=True)


def test_a_flattened_kernel() -> None:
    a = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 5, 7))
    b = nn.Sequential(nn.Conv2d(3, 7, (4, 5)), nn.Flatten())
    assert roundoff.compare(a, b, torch.randn(2, 3, 4, 5), match_weights=True)


def test_buffers_are_matched_too() -> None:
    a, b = nn.BatchNorm1d(16).eval(), nn.BatchNorm1d(16).eval()
    a.running_mean.normal_()
    before = state(b)
    assert roundoff.compare(a, b, torch.randn(8, 16), match_weights=True)
    assert untouched(b, before)


def test_a_longer_format_holds_a_shorter_one_and_not_the_reverse() -> None:
    wide, short = nn.Linear(4, 3).double(), nn.Linear(4, 3)
    with matched_weights(short, wide):
        assert torch.equal(wide.weight.float(), short.weight) and wide.weight.dtype == torch.float64
    before = state(short)
    nn.init.constant_(wide.weight, 1 / 3)
    with (
        pytest.raises(RoundoffError, match=r"B's weight is torch.float32 and cannot hold A's weight.*float64"),
        matched_weights(wide, short),
    ):
        pass
    assert untouched(short, before)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (nn.Linear(4, 3), torch.sin, r"needs modules, and B is a builtin_function_or_method"),
        (torch.sin, nn.Linear(4, 3), r"needs modules, and A is"),
        (nn.Linear(4, 3), nn.Linear(4, 3, bias=False), r"A has 2 of them but B has 1: A: weight \[3, 4\], bias \[3\]"),
        (nn.Linear(4, 3), nn.Linear(5, 3), r"A's weight \[3, 4\] does not fit B's weight \[3, 5\]"),
        (nn.BatchNorm1d(3), nn.LayerNorm(3), r"copies buffers in order, and A has 3 of them but B has 0: .*B: none"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(a: nn.Module, b: nn.Module, message: str) -> None:
    with pytest.raises(RoundoffError, match=message):
        roundoff.compare(a, b, torch.randn(2, 4), match_weights=True)


def test_nothing_is_copied_when_a_later_pair_does_not_fit() -> None:
    a, b = Perceptron(), Perceptron(31)
    before = state(b)
    with pytest.raises(RoundoffError, match="does not fit"):
        roundoff.compare(a, b, torch.randn(8, 16), match_weights=True)
    assert untouched(b, before)


def test_b_is_as_it_was_after_a_network_raised() -> None:
    a, b = nn.Linear(16, 3), Listening(16, 3)
    before = state(b)
    with pytest.raises(RoundoffError, match="B raised KeyError"):
        roundoff.compare(a, b, torch.randn(8, 16), match_weights=True)
    assert untouched(b, before)


def test_b_is_as_it_was_after_an_interruption() -> None:
    a, b = Perceptron(), Perceptron()
    before = state(b)

    def stop(done: int, total: int, text: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        roundoff.compare(a, b, torch.randn(8, 16), match_weights=True, progress=stop)
    assert untouched(b, before)


def test_tied_parameters_are_copied_once() -> None:
    def tied() -> nn.Module:
        net = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
        net[1].weight = net[0].weight
        return net

    a, b = tied(), tied()
    before = state(b)
    assert roundoff.compare(a, b, torch.randn(3, 6), match_weights=True)
    assert untouched(b, before) and b[1].weight is b[0].weight


def test_a_network_matched_with_itself_stays_as_it_is() -> None:
    a = Perceptron()
    before = state(a)
    assert roundoff.compare(a, a, torch.randn(8, 16), match_weights=True).verdict == "identical"
    assert untouched(a, before)
    b = copy.deepcopy(a)
    assert roundoff.compare(a, b, torch.randn(8, 16), match_weights=True).verdict == "identical"
