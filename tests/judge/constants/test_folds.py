"""Folded batch norms: allowed for when they are verified, and only then."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.judge.pairs import kinds, nudged, told
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

import roundoff
from roundoff.judge.constants.folds import Norm, NormLog, find_folds
from roundoff.replay.run import Side, run_wide
from roundoff.tape.trace import random_state

IMAGES = (2, 3, 9, 9)


def settled(norm: nn.Module) -> nn.Module:
    """A batch norm as it is after training."""
    with torch.no_grad():
        for name, x in [*norm.named_parameters(), *norm.named_buffers()]:
            if x.is_floating_point():
                x.uniform_(0.5, 2) if name in ("weight", "running_var") else x.normal_()
    return norm.eval()


def convolution(*, bias: bool = False, transpose: bool = False) -> nn.Module:
    make = nn.ConvTranspose2d if transpose else nn.Conv2d
    return nn.Sequential(make(3, 8, 3, bias=bias), settled(nn.BatchNorm2d(8)), nn.ReLU()).eval()


def by_hand(net: nn.Module) -> nn.Module:
    """The norm of ``net`` folded in float64, each parameter rounded once."""
    layer, norm = copy.deepcopy(net[0]), net[1]
    scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
    shift = norm.bias.double() - norm.running_mean.double() * scale
    with torch.no_grad():
        if layer.bias is not None:
            shift += layer.bias.double() * scale
        layer.weight.copy_(layer.weight.double() * scale.reshape(-1, *[1] * (layer.weight.dim() - 1)))
        layer.bias = nn.Parameter(shift.float())
    return nn.Sequential(layer, net[2]).eval()


def by_torch(net: nn.Module) -> nn.Module:
    layer, norm = copy.deepcopy(net[0]), copy.deepcopy(net[1])
    if isinstance(layer, nn.Linear):
        return nn.Sequential(fuse_linear_bn_eval(layer, norm), net[2]).eval()
    return nn.Sequential(fuse_conv_bn_eval(layer, norm, isinstance(layer, nn.ConvTranspose2d)), net[2]).eval()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("fold", [by_hand, by_torch])
def test_a_fold_into_a_convolution_is_roundoff(fold: object, bias: bool) -> None:
    net, x = convolution(bias=bias), torch.randn(IMAGES)
    folded = fold(net)  # type: ignore[operator]
    for a, b, side in ((net, folded, "B"), (folded, net, "A")):
        c = roundoff.compare(a, b, x)
        assert c.verdict == "roundoff", c.reason
        assert c.evidence == "statistical"
        said = told(c, "weights-refolded").splitlines()
        assert [line.split(":")[0] for line in said] == [f"{side}'s 0.weight [8, 3, 3, 3]", f"{side}'s 0.bias [8]"]
        assert c.outputs[0].real_abs < c.outputs[0].floor_abs


def test_a_fold_into_a_transposed_convolution() -> None:
    net = convolution(transpose=True)
    c = roundoff.compare(net, by_torch(net), torch.randn(IMAGES))
    assert c.verdict == "roundoff" and "weights-refolded" in kinds(c)


def test_a_fold_into_a_linear_layer() -> None:
    net = nn.Sequential(nn.Linear(16, 8), settled(nn.BatchNorm1d(8)), nn.ReLU()).eval()
    c = roundoff.compare(net, by_torch(net), torch.randn(5, 16))
    assert c.verdict == "roundoff" and "weights-refolded" in kinds(c)


def test_two_folds_in_a_row() -> None:
    one, two = convolution(), nn.Sequential(nn.Conv2d(8, 4, 3), settled(nn.BatchNorm2d(4)), nn.ReLU()).eval()
    c = roundoff.compare(nn.Sequential(one, two), nn.Sequential(by_torch(one), by_hand(two)), torch.randn(IMAGES))
    assert c.verdict == "roundoff", c.reason
    assert len(told(c, "weights-refolded").splitlines()) == 4


@pytest.mark.parametrize(("name", "index"), [("0.weight", (2, 1, 0, 2)), ("0.bias", (5,))])
def test_a_fold_with_one_ulp_changed_is_not_allowed_for(name: str, index: tuple[int, ...]) -> None:
    net = convolution()
    c = roundoff.compare(net, nudged(by_hand(net), name, *index), torch.randn(IMAGES))
    assert c.verdict in ("undecided", "different")
    assert "weights-refolded" not in kinds(c) and "weights-differ" in kinds(c)


def test_a_fold_with_another_eps_is_different() -> None:
    net = convolution()
    wrong = copy.deepcopy(net)
    wrong[1].eps = 1e-3
    assert roundoff.compare(net, by_hand(wrong), torch.randn(IMAGES)).verdict == "different"


def test_a_verified_fold_does_not_hide_another_difference() -> None:
    net = convolution()
    folded = nn.Sequential(by_hand(net)[0], nn.LeakyReLU(1e-9))
    c = roundoff.compare(net, folded, torch.randn(IMAGES))
    assert c.verdict == "different"
    assert "the folded parameters are verified" in c.reason


def test_the_log_keeps_norms_in_evaluation_mode_only() -> None:
    norm = settled(nn.BatchNorm2d(3))
    for training in (False, True):
        log = NormLog()
        net = copy.deepcopy(norm).train(training)
        run_wide(Side("A", net, (torch.randn(IMAGES),), {}, random_state()), also=[log])
        assert len(log.norms) == (not training)
        if log.norms:
            assert torch.equal(log.norms[0].var, norm.running_var) and log.norms[0].eps == norm.eps


def test_the_value_of_a_fold_is_what_it_was_before_it_was_rounded() -> None:
    norm = Norm(torch.rand(4) + 0.5, torch.randn(4), torch.randn(4), torch.rand(4) + 0.5, 1e-5)
    w = torch.randn(4, 6)
    scale = norm.weight.double() / torch.sqrt(norm.var.double() + norm.eps)  # type: ignore[union-attr]
    exact = w.double() * scale[:, None]
    (fold,) = find_folds((exact.float(),), [w], [norm])
    assert torch.equal(fold.value, exact)
    assert find_folds((exact.float().nextafter(torch.tensor(9.0)),), [w], [norm]) == []


def test_a_norm_without_scale_and_shift() -> None:
    mean, var = torch.randn(4), torch.rand(4) + 0.5
    norm = Norm(None, None, mean, var, 1e-5)
    w: Tensor = torch.randn(4, 6)
    exact = w.double() / torch.sqrt(var.double() + 1e-5)[:, None]
    assert [f.text for f in find_folds((exact.float(),), [w], [norm])] == [
        "a weight [4, 6] times the scale of a batch norm"
    ]
