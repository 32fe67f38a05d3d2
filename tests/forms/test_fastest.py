"""The fastest form: what is measured and chosen, with a clock that the tests hold; no time of this machine decides."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from copy import deepcopy
from math import comb
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import roundoff
from roundoff.forms.fastest import Layer, fastest
from roundoff.forms.fastest.candidates import candidates_for
from roundoff.forms.fastest.in_place import in_place
from roundoff.forms.fastest.plan import chosen
from roundoff.forms.fastest.race import in_turns, race, rank
from roundoff.forms.fastest.ways import LaidConv2d, PatchConv2d, Product, ways
from roundoff.forms.layers import PointwiseConv1d
from roundoff.forms.observe import observe
from roundoff.forms.rule import Site


class Clock:
    """Time passes only where a layer says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def costs(self, monkeypatch: pytest.MonkeyPatch, kind: type[nn.Module], seconds: float) -> None:
        forward = kind.forward

        def slow(module: Any, input: Tensor) -> Any:
            self.now += seconds
            return forward(module, input)

        monkeypatch.setattr(kind, "forward", slow)


def test_the_interval_of_the_sign_test() -> None:
    for n in range(1, 60):
        k = rank(n)
        assert sum(comb(n, i) for i in range(k)) / 2**n <= 0.005  # P(B < k)
        assert sum(comb(n, i) for i in range(k + 1)) / 2**n > 0.005
    assert rank(7) == 0 and rank(8) == 1
    one = race("x", [2.0] * 7, [1.0] * 7)
    assert (one.gain, one.low, one.high) == (2, 0, float("inf"))
    many = race("x", [3.0, *[2.0] * 20], [1.0] * 21)
    assert (many.gain, many.low, many.high) == (2, 2, 2)


def test_the_interval_holds() -> None:
    """Of two that are equally fast, few are called different: at most 1 in 100 by its definition, here of 400."""
    generator = torch.Generator().manual_seed(0)
    outside = 0
    for _ in range(400):
        a, b = torch.rand(2, 21, generator=generator).add(0.5).tolist()
        found = race("x", a, b)
        outside += not found.low <= 1 <= found.high
    assert outside <= 10  # beyond 4 by more than a binomial of 400 and 0.01 gives once in 200


def test_turns() -> None:
    said: list[str] = []
    clock = Clock()

    def run(name: str, seconds: float) -> Callable[[], None]:
        def go() -> None:
            said.append(name)
            clock.now += seconds

        return go

    times = in_turns([run("a", 1), run("b", 2)], 3, clock=clock)
    assert times == [[1, 1, 1], [2, 2, 2]] and "".join(said) == "abbaabba"
    assert [len(t) for t in in_turns([run("a", 1)], 50, seconds=4, least=2, clock=clock)] == [4]


def layer(name: str, **seconds: float) -> Layer:
    """Times of ways by ``way__layout``: f is channels first, l last."""
    full = {"f": "channels first", "l": "channels last", "a": "as it is"}
    times = {(full[k[0]], full[k[-1]]): v for k, v in seconds.items()}
    return Layer(name, "Conv2d", (1, 1, 1, 1), times)


def test_changes_of_layout_count() -> None:
    stays = layer("x", a_f=10, a_l=9, l_f=14, l_l=9, f_f=10, f_l=14)
    assert [x.chosen for x in chosen([stays])] == ["as it is"]
    found = chosen([stays] * 0 + [layer(f"{i}", a_f=10, a_l=8, l_f=13, l_l=8, f_f=10, f_l=13) for i in range(3)])
    assert found[0].chosen == "channels last" and [x.changes for x in found] == [1, 0, 0]
    assert all(x.chosen in ("as it is", "channels last") for x in found[1:])


def site(module: nn.Module, x: Tensor) -> Site:
    return Site("", module, observe(module, (x,), {}).calls[""])


WAYS: dict[str, tuple[nn.Module, tuple[int, ...], set[str]]] = {
    "linear": (nn.Linear(6, 4), (2, 3, 6), {"1x1 convolution", "product"}),
    "1x1": (nn.Conv2d(6, 4, 1), (2, 6, 5, 5), {"linear", "channels last", "channels first"}),
    "patches": (nn.Conv2d(6, 4, (2, 3), (2, 3)), (2, 6, 5, 7), {"patches", "channels last", "channels first"}),
    "patches of one axis": (nn.Conv1d(6, 4, 2, 2, bias=False), (2, 6, 7), {"patches"}),
    "3x3": (nn.Conv2d(6, 4, 3, padding=1, groups=2), (2, 6, 5, 5), {"channels last", "channels first"}),
    "three axes": (nn.Conv3d(2, 4, 2, 2), (1, 2, 4, 4, 5), {"patches", "channels last", "channels first"}),
}


@pytest.mark.parametrize("name", list(WAYS))
def test_each_way_is_the_same_function(name: str) -> None:
    module, shape, names = WAYS[name]
    module = module.double()
    x = torch.randn(*shape, dtype=torch.float64)
    found = ways(site(module, x))
    assert set(found) == names
    for way, make in found.items():
        made = make()
        y, want = made.module(x), module(x)
        assert y.shape == want.shape
        assert (y - want).abs().max() < 1e-14, way  # sums of at most 36 products of about 1
        for parameter, there in made.maps.items():
            assert torch.equal(there.back(getattr(made.module, parameter)), getattr(module, parameter))


class TestWhole:
    def test_the_winner_is_proved(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = Clock()
        clock.costs(monkeypatch, nn.Linear, 10)
        clock.costs(monkeypatch, Product, 1)
        net, x = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), torch.randn(4, 6)
        monkeypatch.setattr("roundoff.api.fastest.fastest", lambda *a: fastest(*a, clock=clock))
        done = roundoff.convert(net, x, "fastest")
        assert done.fastest.decision.gain > 2 and done.model is not net and done.comparison and done.second
        assert {c.after for c in done.converted} <= {"product", "1x1 convolution"}
        state = done.state_dict_to(net.state_dict())
        done.model.load_state_dict(state)
        assert all(torch.equal(v, net.state_dict()[k]) for k, v in done.state_dict_from(state).items())

    def test_racing_leaves_no_trace(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Layers are called by keyword; batch norm keeps statistics of its runs, and dropout draws."""

        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.fc, self.norm, self.drop = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout()

            def forward(self, x: Tensor) -> Tensor:
                return self.drop(self.norm(self.fc(input=x)))

        clock = Clock()
        clock.costs(monkeypatch, nn.Linear, 10)
        monkeypatch.setattr("roundoff.api.fastest.fastest", lambda *a: fastest(*a, clock=clock))
        net, x, randomness = Net(), torch.randn(4, 6), torch.get_rng_state()
        done = roundoff.convert(net, x, "fastest")
        assert done.model is not net and torch.equal(torch.get_rng_state(), randomness)
        back = done.state_dict_from(done.model.state_dict())
        assert all(torch.equal(v, back[k]) for k, v in net.state_dict().items())

    def test_a_gain_that_does_not_last(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = Clock()
        clock.costs(monkeypatch, nn.Linear, 10)
        found = fastest(nn.Sequential(nn.Linear(6, 8)), (torch.randn(4, 6),), {}, lambda *a: None, clock=clock)
        assert found.winner is not None and found.confirmed().winner is found.winner
        clock.costs(monkeypatch, type(found.winner.model[0]), 10)
        lost = found.confirmed()
        assert lost.winner is None and lost.fastest.name == "" and lost.fastest.decision.gain == 1

    def test_without_a_gain_the_original_stays(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = Clock()
        for kind in (nn.Linear, Product, PointwiseConv1d):
            clock.costs(monkeypatch, kind, 1)
        net, x = nn.Sequential(nn.Linear(6, 8), nn.ReLU()), torch.randn(4, 6)
        monkeypatch.setattr("roundoff.api.fastest.fastest", lambda *a: fastest(*a, clock=clock))
        done = roundoff.convert(net, x, "fastest")
        assert done.model is net and not done.converted and "the original stays" in str(done)
        assert done.comparison.verdict == "identical"

    def test_no_other_way(self) -> None:
        done = roundoff.convert(nn.Sequential(nn.ReLU()), torch.randn(3), "fastest")
        assert "there is no other way for any of its layers" in str(done)


def test_layouts_are_brought_about() -> None:
    x = torch.randn(2, 6, 5, 5)
    found = ways(site(nn.Conv2d(6, 4, 3), x))
    last = found["channels last"]().module
    assert isinstance(last, LaidConv2d) and last(x).is_contiguous(memory_format=torch.channels_last)
    assert last.weight.is_contiguous(memory_format=torch.channels_last)
    assert found["channels first"]().module(x.contiguous(memory_format=torch.channels_last)).is_contiguous()
    assert isinstance(ways(site(nn.Conv2d(6, 4, 2, 2), x))["patches"]().module, PatchConv2d)


class TestInPlace:
    @staticmethod
    def net() -> nn.Sequential:
        block = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU())
        return nn.Sequential(nn.ReLU(), block, nn.Identity(), nn.ReLU(), nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Flatten())

    @pytest.mark.parametrize("training", [False, True])
    def test_the_same_bits_and_gradients(self, training: bool) -> None:
        net = self.net().train(training)
        other = deepcopy(net)
        assert in_place(other) == ["", "1"]
        found = []
        for model in (net, other, deepcopy(other), pickle.loads(pickle.dumps(other))):
            x = torch.randn(2, 2, 6, 6, generator=torch.Generator().manual_seed(1)).requires_grad_()
            y = model(x)
            found.append([y, *torch.autograd.grad(y.square().sum(), [x, *model.parameters()])])
        for others in found[1:]:
            assert all(torch.equal(a, b) for a, b in zip(found[0], others, strict=True))

    def test_less_memory_is_asked_for(self) -> None:
        net, x = self.net().eval(), torch.randn(2, 2, 6, 6)
        other = deepcopy(net)
        in_place(other)
        ops = [[str(step.op) for step in roundoff.record(model, x)] for model in (net, other)]
        assert sum("relu_" in op or "clamp_min_" in op for op in ops[0]) == 0
        assert (
            sum("relu_" in op or "clamp_min_" in op for op in ops[1]) == 2
        )  # after the norm, and after the convolution

    def test_who_looks_sees_what_was_there(self) -> None:
        """A hook has the layer's result; the network's input and what is called beside the sequence are not written to."""
        net = self.net().eval()
        in_place(net)
        x = torch.randn(2, 2, 6, 6)
        kept = x.clone()
        seen: list[Tensor] = []
        net[4].register_forward_hook(lambda module, args, out: seen.append(out))
        net[1][2].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        with torch.no_grad():
            net(x)
            y = net[1][1](net[1][0](x.relu()))
            assert torch.equal(net[1][2](y), y.relu()) and (y < 0).any()
            assert torch.equal(seen[0], y) and torch.equal(seen[1], net[4](net[:4](x)))
        assert torch.equal(x, kept)

    def test_what_keeps_its_result_is_left_alone(self) -> None:
        class Keeps(nn.Linear):
            def forward(self, input: Tensor) -> Tensor:
                self.last = super().forward(input)
                return self.last

        for layer in (Keeps(4, 4), nn.Dropout(), nn.Sigmoid(), nn.Identity()):
            assert in_place(nn.Sequential(layer, nn.ReLU())) == []
        replaced = nn.Linear(4, 4)
        replaced.forward = lambda input: input  # type: ignore[method-assign]
        assert in_place(nn.Sequential(replaced, nn.ReLU())) == []


class WithCalls(nn.Module):
    """A layer, calls with a weight, and activations between them."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.w = nn.Linear(6, 8), nn.Linear(8, 6), nn.Parameter(torch.randn(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.tanh(F.linear(torch.tanh(self.up(x)), self.w)))


def candidates(net: nn.Module, x: Tensor, **ways: str) -> dict[str, Any]:
    """The candidates by name, each layer in the way that is given for it, or as it is."""
    seen = observe(net, (x,), {})
    kinds = {name: type(net.get_submodule(name)).__name__ for name in seen.calls}
    layers = [
        Layer(name, kind, (1,), {}, ways.get(name, "as it is")) for name, kind in kinds.items() if kind == "Linear"
    ]
    return {c.name: c for c in candidates_for(net, (x,), {}, seen, layers)}


def test_candidates_with_calls() -> None:
    net, x = WithCalls().double(), torch.randn(2, 3, 6, dtype=torch.float64)
    found = candidates(net, x, up="product")
    assert set(found) == {"layer by layer", "layer by layer, calls as convolutions", "all convolutions"}
    mixed = found["layer by layer, calls as convolutions"]
    assert [(c.module, c.after) for c in mixed.converted] == [("up", "product"), ("", "conv1d")]
    for c in found.values():
        assert (c.model(x) - net(x)).abs().max() < 1e-13  # three layers of at most 8 products of about 1


@pytest.mark.parametrize("layers", [1, 3])
def test_candidates_in_flow(layers: int) -> None:
    """Where more layers than one follow each other, fewer moves of axes are left."""
    net = nn.Sequential(*[x for _ in range(layers) for x in (nn.Linear(6, 6), nn.Tanh())])
    found = candidates(net, torch.randn(2, 3, 6))
    flow = found.pop("all convolutions, in flow", None)
    assert set(found) == {"all convolutions"}
    assert flow is None if layers == 1 else flow and flow.changes == 2 < found["all convolutions"].changes
