"""make_exact on networks of PyTorch's own modules, and on what it cannot make exact."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from roundoff import Conversion, RoundoffError, exact, make_exact
from roundoff.formats import same_bits


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_a_transformer_encoder(norm_first: bool, training: bool) -> None:
    """Under evaluation and without gradients PyTorch has a fast path of its own, which must not be taken."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True, norm_first=norm_first, activation="gelu")
    made = make_exact(nn.TransformerEncoder(layer, 2, enable_nested_tensor=not norm_first))
    net = made.model.train(training)
    x, hidden = torch.randn(3, 5, 8), torch.arange(5)[None] > torch.tensor([[4], [2], [3]])
    right = net(x, src_key_padding_mask=hidden)
    assert made.declined == () and net.inexact == () and right.requires_grad
    with torch.no_grad():
        same = net(x, src_key_padding_mask=hidden)
        alone = net(x[1:2], src_key_padding_mask=hidden[1:2])
    assert same_bits(same[~hidden], right[~hidden]) and same_bits(alone[~hidden[1:2]], right[1:2][~hidden[1:2]])
    assert net.inexact == ()


def test_attention_layers_beside_their_float64_values() -> None:
    for options in ({}, {"kdim": 6, "vdim": 4}, {"add_bias_kv": True, "add_zero_attn": True}, {"bias": False}):
        net = nn.MultiheadAttention(8, 2, batch_first=True, **options)
        q, k, v = (
            torch.randn(3, 5, 8),
            torch.randn(3, 7, options.get("kdim", 8)),
            torch.randn(3, 7, options.get("vdim", 8)),
        )
        mask = torch.rand(5, 7) < 0.3
        mask[:, 0] = False
        made = make_exact(net).model
        y, weights = made(q, k, v, attn_mask=mask)
        wide, wide_weights = net.double()(q.double(), k.double(), v.double(), attn_mask=mask)
        assert made.inexact == ()
        assert float((y - wide).abs().max()) < 1e-6 and float((weights - wide_weights).abs().max()) < 1e-6


def test_dropout_draws_the_same_for_the_same_seed() -> None:
    q = torch.randn(2, 3, 5, 4)
    found = []
    for _ in range(2):
        torch.manual_seed(3)
        found.append(exact.attention(q, q, q, dropout_p=0.4))
    assert same_bits(*found) and not torch.equal(found[0], exact.attention(q, q, q))
    torch.manual_seed(3)
    keep = torch.empty(2, 3, 5, 5).bernoulli_(0.6)
    p = exact.softmax(exact.matmul(q, q.transpose(2, 3)) * 0.5, -1)
    assert same_bits(found[0], exact.matmul(p * (keep / torch.tensor(0.6)), q))


def test_what_it_gives() -> None:
    net = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.ReLU(), nn.LSTM(4, 4))
    made = make_exact(net)
    assert isinstance(made, Conversion) and made.to == "exact"
    assert [c.module for c in made.converted] == ["0", "1"] and [d.module for d in made.declined] == ["3"]
    assert list(made.model.state_dict()) == list(net.state_dict())
    back = made.state_dict_from(made.model.state_dict())
    assert all(same_bits(a, b) for a, b in zip(net.state_dict().values(), back.values(), strict=True))
    again = make_exact(made.model)
    assert again.converted == made.converted and type(again.model) is type(made.model)
    assert isinstance(made.model[1], nn.Linear) and type(net[1]) is nn.Linear


def test_parametrised_and_user_modules() -> None:
    class Halved(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x / 2

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)
            nn.utils.parametrize.register_parametrization(self.layer, "weight", Halved())

        def forward(self, x: Tensor) -> Tensor:
            return torch.cumsum(self.layer(x), 0)

    made = make_exact(Own())
    assert made.declined == () and [c.before for c in made.converted] == ["Linear"]
    with pytest.warns(UserWarning, match="cumsum"):
        made.model(torch.randn(2, 4))
    assert "aten.cumsum.default" in made.model.inexact


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (F.relu, "takes an nn.Module"),
        (nn.LazyLinear(3), "Run the network once first"),
        (torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), "TorchScript"),
    ],
)
def test_what_is_refused(model: object, says: str) -> None:
    with pytest.raises(RoundoffError, match=says):
        make_exact(model)  # type: ignore[arg-type]


def test_float64_and_complex_numbers_are_told() -> None:
    made = make_exact(nn.Sequential(nn.Linear(3, 3).double()))
    assert "float64" in made.declined[0].reason
    with pytest.warns(UserWarning, match=r"addmm"):
        made.model(torch.randn(2, 3, dtype=torch.float64))
    with exact.mode() as m:
        torch.randn(2, 2, dtype=torch.complex64) @ torch.randn(2, 2, dtype=torch.complex64)
    assert m.inexact
