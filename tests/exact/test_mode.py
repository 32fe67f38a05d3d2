from __future__ import annotations

import copy
import math
from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roundoff import RoundoffError, Verdict, compare, exact
from roundoff.exact import make_exact
from roundoff.formats import same_bits
from roundoff.thread import ConvNetwork, LinearNetwork, TensordotNetwork, with_weights_of


@pytest.mark.parametrize(
    ("samples", "weight", "activation"), list(product((1, 5), (1.0, 0.001, None), (nn.ELU, nn.Sigmoid)))
)
def test_the_three_networks_of_the_question(samples: int, weight: float | None, activation: type[nn.Module]) -> None:
    linear = LinearNetwork(activation())
    if weight is not None:
        for p in linear.parameters():
            nn.init.constant_(p, weight)
    x = torch.randn(16, samples, 256)
    right = make_exact(linear).model(x)
    for form in (ConvNetwork, TensordotNetwork):
        other = make_exact(with_weights_of(linear, form(activation()))).model
        assert all(same_bits(a, b) for a, b in zip(right, other(x), strict=True))
        parts = [other(x[i : i + 1]) for i in range(16)]
        assert all(same_bits(a, torch.cat(b)) for a, b in zip(right, zip(*parts, strict=True), strict=True))


def test_compare_says_identical() -> None:
    linear = LinearNetwork(nn.ELU())
    conv = with_weights_of(linear, ConvNetwork(nn.ELU()))
    with torch.no_grad():
        c = compare(make_exact(linear).model, make_exact(conv).model, torch.randn(4, 2, 256))
    assert c.verdict is Verdict.IDENTICAL


def test_the_gradients_are_the_same_bits() -> None:
    linear = LinearNetwork(nn.ELU())
    conv = with_weights_of(linear, ConvNetwork(nn.ELU()))
    dot = with_weights_of(linear, TensordotNetwork(nn.ELU()))
    x = torch.randn(16, 5, 256)
    for net in (linear, conv, dot):
        make = make_exact(net)
        exact.sum(make.model(x)[0]).backward()
        net.found = [p.grad for p in make.model.parameters()]
    for other in (conv, dot):
        for a, b in zip(linear.found, other.found, strict=True):
            assert a is not None and b is not None and same_bits(a, b.reshape(a.shape))


def small_image_network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
                         nn.Linear(64, 8), nn.LayerNorm(8), nn.GELU(), nn.Softmax(-1))  # fmt: skip


def test_batches_threads_and_layouts() -> None:
    net = make_exact(small_image_network()).model.eval()
    x = torch.randn(64, 1, 8, 8)
    right = net(x)
    assert net.inexact == ()
    for size in (1, 7):
        assert same_bits(torch.cat([net(part) for part in x.split(size)]), right)
    assert same_bits(net(x.to(memory_format=torch.channels_last)), right)
    torch.set_num_threads(2)
    assert same_bits(net(x), right)


def test_a_training_step_is_the_same_in_both_forms() -> None:
    first = nn.Linear(12, 5)
    second = nn.Conv1d(12, 5, 1)
    with_weights_of(first, second)
    x, y = torch.randn(9, 12), torch.randint(0, 5, (9,))
    with exact.mode() as m:
        F.cross_entropy(first(x), y).backward()
        F.cross_entropy(second(x[:, :, None])[:, :, 0], y).backward()
    assert m.inexact == ()
    assert same_bits(first.weight.grad, second.weight.grad[:, :, 0]) and same_bits(first.bias.grad, second.bias.grad)


def test_the_original_is_untouched_and_what_is_not_exact_is_told() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.LSTM(4, 4))
    before = copy.deepcopy(net.state_dict())
    made = make_exact(net)
    assert [layer.module for layer in made.declined] == ["1"] and "no exact expression" in str(made)
    with pytest.warns(UserWarning, match="Not exact"):
        made.model(torch.randn(2, 3, 4))
    assert made.model.inexact
    assert all(same_bits(a, b) for a, b in zip(before.values(), net.state_dict().values(), strict=True))
    assert make_exact(nn.Linear(2, 2).double()).declined[0].reason.startswith("its parameters are torch.float64")


def test_strict() -> None:
    with pytest.raises(RoundoffError, match="Not exact"), exact.mode(strict=True):
        torch.cumsum(torch.randn(4), 0)


def test_a_bias_that_is_added_belongs_to_the_sum() -> None:
    x, w, b = torch.tensor([[1.0, 2.0**-25]]), torch.ones(2, 1), torch.tensor([-1.0])
    with exact.mode():
        assert float(x @ w + b) == 2.0**-25
        y = x @ w
        x[0, 0] = 5.0  # changed meanwhile: the product is what it was
        assert float(y + b) == 0.0


def test_a_bias_belongs_to_the_sum_in_inference_mode_too() -> None:
    with torch.inference_mode(), exact.mode():
        x, w, b = torch.tensor([[1.0, 2.0**-25]]), torch.ones(2, 1), torch.tensor([-1.0])
        assert float(x @ w + b) == 2.0**-25
        y = x @ w
        F.relu(x.neg_(), inplace=True)
        assert float(y + b) == 0.0


def test_compound_operations_are_near_their_float64_values() -> None:
    x = torch.randn(4, 6, 8)
    mask = torch.randn(6, 6)
    cases: list[tuple[Tensor, Tensor]] = [
        (exact.softmax(x, 1), torch.softmax(x.double(), 1)),
        (exact.log_softmax(x, -1), torch.log_softmax(x.double(), -1)),
        (exact.layer_norm(x, (6, 8)), F.layer_norm(x.double(), (6, 8))),
        (exact.group_norm(x, 3), F.group_norm(x.double(), 3)),
        (exact.batch_norm(x, None, None, training=True), F.batch_norm(x.double(), None, None, training=True)),
        (exact.attention(x, x, x, mask), F.scaled_dot_product_attention(x.double(), x.double(), x.double(), mask.double())),
        (exact.attention(x, x, x, is_causal=True),
         F.scaled_dot_product_attention(x.double(), x.double(), x.double(), is_causal=True)),
        (exact.elu(x, 0.5), F.elu(x.double(), 0.5)),
    ]  # fmt: skip
    for y, wide in cases:
        assert float((y - wide).abs().max()) < 30 * 2.0**-24 * max(1.0, float(wide.abs().max()))  # a few roundings each


def test_gradients_of_compound_operations() -> None:
    for f, g in (
        (lambda x: exact.softmax(x, 1), lambda x: torch.softmax(x, 1)),
        (lambda x: exact.log_softmax(x, 1), lambda x: torch.log_softmax(x, 1)),
        (lambda x: exact.layer_norm(x, 8), lambda x: F.layer_norm(x, (8,))),
        (
            lambda x: exact.batch_norm(x, None, None, training=True),
            lambda x: F.batch_norm(x, None, None, training=True),
        ),
        (exact.elu, F.elu),
    ):
        x = torch.randn(6, 8)
        wide = x.double().requires_grad_()
        x.requires_grad_()
        grad = torch.randn(6, 8)
        f(x).backward(grad)
        g(wide).backward(grad.double())
        assert float((x.grad - wide.grad).abs().max()) < 60 * 2.0**-24 * float(wide.grad.abs().max())  # type: ignore[union-attr]


def test_functions_at_odd_arguments() -> None:
    inf, nan = math.inf, math.nan
    x = torch.tensor([inf, -inf, nan, 0.0, -0.0, -1.0])
    assert same_bits(exact.exp(x[:5]), torch.tensor([inf, 0.0, nan, 1.0, 1.0]))
    assert same_bits(exact.log(x), torch.tensor([inf, nan, nan, -inf, -inf, nan]))
    assert same_bits(exact.sqrt(x), torch.tensor([inf, nan, nan, 0.0, -0.0, nan]))
    assert same_bits(exact.sin(x[:5]), torch.tensor([nan, nan, nan, 0.0, -0.0]))
    assert same_bits(exact.gelu(x[:5]), torch.tensor([inf, -0.0, nan, 0.0, -0.0]))
    assert same_bits(exact.tanh(x[:5]), torch.tensor([1.0, -1.0, nan, 0.0, -0.0]))
