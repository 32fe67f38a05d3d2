"""The suite is what it says: its pairs of the same function are the same, its planted changes change something."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from tests.suite import minilm, networks
from tests.suite.changed import changed_pairs
from tests.suite.draw import Draw, nudged
from tests.suite.pair import distance, measure, outputs, wide_outputs
from tests.suite.pieces import Dense
from tests.suite.planted import Fault, Faulty, element
from tests.suite.same import same_pairs
from torch.utils._pytree import tree_leaves

# Two float64 runs of one function differ by their own rounding: some hundred steps of 2^-53 each, times how far the
# network magnifies it. Where all weights are one, a layer norm divides a difference that is nothing but rounding by
# sqrt(eps): such a network magnifies by 1/sqrt(1e-5) ~ 300 per norm, and has up to five.
ROUNDING = 1e-12
MAGNIFIED = ROUNDING * 300**2
# A fold computed in float32 rounds a weight a few times, one in float64 once: a few units of 2^-24 of each weight.
FOLDED = 16 * 2.0**-24


def test_pairs_of_the_same_function_agree_in_float64() -> None:
    wrong, kinds, bits = [], Counter[str](), 0
    for pair in same_pairs():
        truth = measure(pair)
        allowed = ROUNDING
        if "folded" in pair.label:
            allowed = FOLDED
        elif "weights ones" in pair.label:
            allowed = MAGNIFIED
        bits += truth.bits
        kinds[pair.label.split()[0]] += 1
        if not truth.real <= allowed:
            wrong.append((pair.label, truth))
    assert wrong == []
    assert kinds.total() >= 300
    assert bits > kinds.total() / 3  # they do ask something of whoever judges them


def test_changed_pairs_are_not_the_same() -> None:
    count, unseen, silent = 0, [], []
    for pair in changed_pairs():
        truth = measure(pair)
        count += 1
        fault = getattr(pair.b, "fault", None)
        if fault is not None:
            with pair.context():
                wrong = outputs(pair.b, pair)
            right = outputs(pair.clean, pair) if pair.clean is not None else []
            if not fault.fired:
                silent.append(pair.label)
            elif distance(right, wrong) == 0:
                unseen.append(pair.label)
        elif not truth.above_floor:
            unseen.append(pair.label)
    assert count >= 300
    assert silent == []
    # Some changes touch nothing at this input: a unit that relu holds at zero, a bias that a norm takes off again.
    assert len(unseen) <= 0.08 * count, unseen


def test_a_planted_kernel_is_right_in_float64_and_elsewhere() -> None:
    draw = Draw(0)
    net, x = Dense(draw, "fc", 8, 6), draw.input("x", 4, 8)
    fault = Fault("addmm", 0, element(0.5))
    faulty = Faulty(net, fault)
    assert fault.aim(lambda: faulty(x)) == 1
    with fault.planted():
        off = faulty(x) - net(x)
        assert int((off != 0).sum()) == 1
        assert torch.equal(faulty(x + 1), net(x + 1))
        wide = copy.deepcopy(faulty).double()
        assert torch.equal(wide(x.double()), wide.net(x.double()))
    assert torch.equal(faulty(x), net(x))


def test_a_nudge_moves_one_element_by_an_ulp() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.ones(5, dtype=dtype)
        y = nudged(1, 0.5)(x)
        assert (y - x).tolist() == [0, 0, torch.finfo(dtype).eps, 0, 0]


@pytest.mark.parametrize("form", ["conv2d", "tensordot", "reversed", "left"])
def test_edits_reach_every_form(form: str) -> None:
    x = Draw(0).input("x", 3, 8)
    plain, other = (Dense(Draw(0, edits={"fc.w": lambda w: w * 2}), "fc", 8, 4, f)(x) for f in ("linear", form))
    assert torch.allclose(plain, other)  # the same edit on both sides
    assert not torch.allclose(plain, Dense(Draw(0), "fc", 8, 4, form)(x))


@pytest.mark.parametrize("network", networks.ALL, ids=lambda n: n.name)
def test_networks_run_and_are_drawn_alike(network: networks.Network) -> None:
    found = []
    for _ in range(2):
        model, args, kwargs = network.make(3)
        torch.manual_seed(1)
        found.append([t for t in tree_leaves(model(*args, **kwargs)) if isinstance(t, torch.Tensor)])
    assert found[0]
    for x, y in zip(*found, strict=True):
        assert torch.equal(x, y)


def test_names_are_apart() -> None:
    names = [network.name for network in networks.ALL]
    assert len(set(names)) == len(names)


def test_the_trained_transformer_in_two_ways() -> None:
    args = minilm.tokens()
    with torch.no_grad():
        one, two, wrong = (make()(*args) for make in (minilm.fused, minilm.separate, minilm.mistaken))
        wide = [make().double()(*args) for make in (minilm.fused, minilm.separate)]
    assert distance([wide[0]], [wide[1]]) < ROUNDING
    assert 0 < distance([one], [two]) < distance([one], [wrong])
    likeness = one @ one.t()
    # The weights are the trained ones: the two sentences on sums are nearer to each other than to any other sentence.
    assert likeness[0].argsort(descending=True)[:2].tolist() == [0, 1]


def test_wide_outputs_leave_the_pair_as_it_is() -> None:
    pair = next(same_pairs())
    before = copy.deepcopy(pair.a.state_dict())
    wide_outputs(pair.a, pair)
    assert all(torch.equal(v, before[k]) and v.dtype == before[k].dtype for k, v in pair.a.state_dict().items())
