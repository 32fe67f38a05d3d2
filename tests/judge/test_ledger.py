"""The ledger: it sums, it names the step that was planted, and it refuses what it cannot do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import roundoff
from roundoff.errors import RoundoffError


class Forum(nn.Module):
    """The network of the question, in either form."""

    def __init__(self, conv: bool, act: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(3)
        pairs = ((24, 16), (16, 32), (32, 4))
        self.layers = nn.ModuleList([nn.Linear(i, o) for i, o in pairs])
        self.act, self.conv = act or nn.ELU(), conv

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = x.permute(0, 2, 1).unsqueeze(3) if self.conv else x
        for i, layer in enumerate(self.layers):
            h = self.act(h) if i else h
            h = nn.functional.conv2d(h, layer.weight[:, :, None, None], layer.bias) if self.conv else layer(h)
        h = h.squeeze(3).permute(0, 2, 1) if self.conv else h
        return h, h * 2


@pytest.fixture
def compared() -> roundoff.Comparison:
    x = torch.randn(4, 5, 24)
    return roundoff.compare(Forum(False), Forum(True), x)


def test_everything_is_booked(compared: roundoff.Comparison) -> None:
    e = compared.explain()
    # Local errors and differences are kept in float32: 2^-24 for each of some ten steps.
    assert e.booked == pytest.approx(1.0, abs=1e-5)
    assert sum(row.share for row in e.ledger) + e.real_share == pytest.approx(e.booked, abs=1e-9)
    assert e.residual_abs == pytest.approx(abs(1 - e.booked) * abs(e.difference), rel=1e-6)
    assert {row.side for row in e.ledger} == {"A", "B"}
    assert [abs(row.share) for row in e.ledger] == sorted((abs(row.share) for row in e.ledger), reverse=True)


def test_the_permutation_makes_exactly_nothing(compared: roundoff.Comparison) -> None:
    moves = [row for row in compared.explain().ledger if row.op.split(".")[1] in ("permute", "unsqueeze", "view", "t")]
    assert len(moves) >= 4
    assert all(row.share == row.local_abs == row.bound_abs == row.bent_share == 0 for row in moves)


def test_every_local_error_is_within_its_bound(compared: roundoff.Comparison) -> None:
    rows = [row for row in compared.explain().ledger if row.local_abs]
    assert rows and all(row.bound_abs is not None and row.local_abs <= row.bound_abs for row in rows)
    assert any("layers.0" in row.module for row in rows) and any("test_ledger.py" in row.source for row in rows)


def test_the_target_is_the_largest_difference_by_default(compared: roundoff.Comparison) -> None:
    worst = max(compared.outputs, key=lambda o: o.max_abs)
    e = compared.explain()
    assert abs(e.difference) == worst.max_abs
    assert e.target == f"{worst.name}{list(worst.index or ())}"


def test_an_element_can_be_chosen(compared: roundoff.Comparison) -> None:
    e = compared.explain("[0]", (2, 1, 3))
    assert e.target == "[0][2, 1, 3]"
    a, b = Forum(False), Forum(True)
    torch.manual_seed(0)
    x = torch.randn(4, 5, 24)
    assert e.difference == pytest.approx(float((a(x)[0] - b(x)[0])[2, 1, 3].detach()), abs=0)


def test_several_directions_still_add_up(compared: roundoff.Comparison) -> None:
    e = compared.explain(directions=4)
    assert e.booked == pytest.approx(1.0, abs=1e-5) and e.difference > 0
    assert sum(row.share for row in e.ledger) + e.real_share == pytest.approx(e.booked, abs=1e-9)


def test_little_memory_gives_the_same_ledger(compared: roundoff.Comparison) -> None:
    whole, parts = compared.explain(), compared.explain(memory=4000)
    assert [(r.side, r.step, r.op) for r in parts.ledger] == [(r.side, r.step, r.op) for r in whole.ledger]
    for a, b in zip(whole.ledger, parts.ledger, strict=True):
        assert b.share == pytest.approx(a.share, abs=1e-12)


def test_it_runs_in_the_modes_of_the_comparison() -> None:
    x = torch.randn(4, 5, 24)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        c = roundoff.compare(Forum(False), Forum(True), x)
    e = c.explain()
    assert any("_to_copy" in row.op for row in e.ledger), "autocast casts"
    assert e.booked == pytest.approx(1.0, abs=1e-3)
    with torch.no_grad():
        c = roundoff.compare(Forum(False), Forum(True), x)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert c.explain().booked == pytest.approx(1.0, abs=1e-5)
        assert torch.is_inference_mode_enabled() and torch.is_autocast_enabled("cpu")


def test_matched_weights_are_matched_again() -> None:
    torch.manual_seed(1)
    a, b = nn.Linear(8, 4), nn.Linear(8, 4)
    x = torch.randn(3, 8)
    before = b.weight.detach().clone()
    c = roundoff.compare(a, lambda x: (b.weight @ x.T).T + b.bias, x, match_weights=False)
    assert c.verdict == "different"
    matched = roundoff.compare(a, nn.Sequential(b), x, match_weights=True)
    assert matched.explain().booked == 1.0
    assert torch.equal(b.weight, before)


def test_identical_networks_have_a_ledger_of_zeros() -> None:
    net = nn.Linear(8, 4)
    e = roundoff.compare(net, net, torch.randn(3, 8)).explain()
    assert e.difference == 0.0 and e.booked == 1.0 and e.residual_abs == 0.0
    assert all(row.share == 0.0 for row in e.ledger)


def test_a_real_difference_is_an_entry_of_its_own() -> None:
    net = nn.Linear(8, 4)
    e = roundoff.compare(net, lambda x: net(x) * 1.5, torch.randn(3, 8)).explain()
    assert e.real_share == pytest.approx(1.0, abs=1e-5) and e.booked == pytest.approx(1.0, abs=1e-9)


def test_the_step_that_rounds_most_comes_first() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 8))

    def coarse(x: Tensor) -> Tensor:
        h = net[1](net[0](x)).bfloat16().float()
        return net[2](h)

    e = roundoff.compare(net, coarse, torch.randn(6, 32)).explain()
    assert e.ledger[0].side == "B" and "_to_copy" in e.ledger[0].op
    assert e.ledger[0].share == pytest.approx(1.0, abs=1e-2)
    assert "bfloat16().float()" in e.ledger[0].source


def test_changed_weights_are_refused() -> None:
    net = nn.Linear(8, 4)
    c = roundoff.compare(net, lambda x: x @ net.weight.T + net.bias, torch.randn(3, 8))
    with torch.no_grad():
        net.weight += 1
    with pytest.raises(RoundoffError, match="A no longer gives the bits that were compared"):
        c.explain()


@pytest.mark.parametrize(
    ("output", "index", "message"),
    [
        ("nothing", None, r"There is no output 'nothing'. The outputs of both networks are: \[0\], \[1\]"),
        ("[0]", (9, 0, 0), r"has no element \[9, 0, 0\]: its shape is \[4, 5, 4\]"),
        ("[0]", (0, 0), r"has no element \[0, 0\]"),
        (None, (0, 0, 0), r"Several outputs have an element \[0, 0, 0\]. Say which"),
    ],
)
def test_what_is_not_there(
    compared: roundoff.Comparison, output: str | None, index: tuple[int, ...] | None, message: str
) -> None:
    with pytest.raises(RoundoffError, match=message):
        compared.explain(output, index)


def test_functions_without_common_outputs_cannot_be_explained() -> None:
    c = roundoff.compare(lambda x: x, lambda x: x[:1], torch.ones(3))
    with pytest.raises(RoundoffError, match="no output of the same place"):
        c.explain()


def test_amplification_is_named_where_it_begins() -> None:
    x = torch.rand(4, 8) + 0.5

    def cancels(x: Tensor) -> Tensor:
        shifted = x + 30000.0
        return (shifted - 30000.0) * 0.1

    e = roundoff.compare(cancels, lambda x: x * 0.1, x).explain()
    (finding,) = e.findings
    assert finding.kind == "amplification" and finding.where.startswith("A: ")
    assert "shifted = x + 30000.0" in finding.where
    # 30000 over the size of the output before it is scaled, about 1: between 4 and 5 digits.
    assert "4." in finding.text and "digits" in finding.text


def test_amplification_is_not_claimed_where_there_is_none(compared: roundoff.Comparison) -> None:
    assert compared.explain().findings == ()
    assert compared.explain(directions=3).findings == ()


def test_a_rounded_constant_is_a_line_of_its_own() -> None:
    e = roundoff.compare(lambda x: x * torch.tensor(0.1), lambda x: x / 10, torch.rand(8)).explain()
    (row,) = [row for row in e.ledger if row.op == "a rounded constant"]
    assert row.side == "A" and row.local_abs == pytest.approx(abs(float(torch.tensor(0.1).double()) - 0.1), rel=1e-6)
    assert e.booked == pytest.approx(1.0, abs=1e-5)


def test_what_could_not_be_followed_is_said() -> None:
    e = roundoff.compare(lambda x: torch.from_numpy(np.sin(x.numpy())), torch.sin, torch.randn(4, 8)).explain()
    assert [f.kind for f in e.findings] == ["opaque-operator"]
    assert "or was made where the network could not be followed" in " ".join(str(e).split())
    assert e.booked == pytest.approx(1.0, abs=1e-5)
