"""Recurrent layers written out: the same function as PyTorch's, and bounds that see a fault."""

from __future__ import annotations

import pytest
import torch
from tests.rules.trial import samples, trial
from torch import Tensor, nn

from roundoff.rules import Call, lookup
from roundoff.rules.recurrent import lstm

aten = torch.ops.aten
RULE = lookup(aten.mkldnn_rnn_layer.default)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_it_is_the_lstm_of_pytorch(bias: bool, reverse: bool) -> None:
    layer = nn.LSTM(6, 5, bias=bias, dtype=torch.float64)
    x, h, c = (torch.randn(*shape, dtype=torch.float64) for shape in ((9, 3, 6), (1, 3, 5), (1, 3, 5)))
    with torch.no_grad():
        expected, (last, cell) = layer(x.flip(0) if reverse else x, (h, c))
        b = layer.bias_ih_l0 + layer.bias_hh_l0 if bias else None
        y, hy, cy = lstm(x, (layer.weight_ih_l0, layer.weight_hh_l0), b, h[0], c[0], reverse)
    torch.testing.assert_close(y, expected.flip(0) if reverse else expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close((hy, cy), (last[0], cell[0]), rtol=1e-12, atol=1e-14)


def test_one_step_that_is_off_is_seen() -> None:
    assert RULE is not None
    for op, args, kwargs in samples(RULE, torch.float32):
        t = trial(RULE, op, args, kwargs)
        wrong = t.native[0].clone()
        wrong[-1, 0, 1] += 2.0**-10
        assert t.excess(0) < 0.2
        assert t.excess(0, wrong) > 1


def test_other_modes_are_refused_with_a_reason() -> None:
    assert RULE is not None and RULE.wide is not None
    x = torch.zeros(2, 1, 3)
    args = (x, x, x, x, x, x, x, False, [], 3, 3, 1, True, False, False, False)
    with pytest.raises(RuntimeError, match="only LSTM"):
        RULE.wide(*args, native=(x, x, x))


def gates(u: torch.dtype) -> tuple[Tensor, ...]:
    return tuple(torch.randn(7, n).to(u) for n in (20, 20, 5, 20, 20))


def test_the_fused_lstm_cell_against_its_formulas_in_float32() -> None:
    """The fused cell runs on graphics processors; its formulas, in float32 on the CPU, must keep the bound as well."""
    rule = lookup(aten._thnn_fused_lstm_cell.default)
    assert rule is not None and rule.bound is not None

    def cell(a: Tensor, b: Tensor, c: Tensor, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        i, f, g, o = (a + b + p + q).chunk(4, -1)
        new = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * new.tanh(), new

    args = gates(torch.float32)
    reference = cell(*(x.double() for x in args))
    limits = rule.bound(Call(None, tuple(x.double() for x in args), {}, reference, 2.0**-24))
    assert isinstance(limits, tuple)
    for y, z, limit in zip(cell(*args), reference, limits, strict=True):
        assert ((y - z).abs() <= limit + z.abs() * 2**-24).all()
        assert (limit < 2e-5).all()


def test_the_fused_gru_cell_against_its_formulas_in_float32() -> None:
    rule = lookup(aten._thnn_fused_gru_cell.default)
    assert rule is not None and rule.bound is not None

    def cell(a: Tensor, b: Tensor, h: Tensor, p: Tensor, q: Tensor) -> Tensor:
        ir, iz, i = (a + p).chunk(3, -1)
        hr, hz, n = (b + q).chunk(3, -1)
        r, z = (ir + hr).sigmoid(), (iz + hz).sigmoid()
        new = (i + r * n).tanh()
        return new + z * (h - new)

    args = tuple(torch.randn(7, n) for n in (15, 15, 5, 15, 15))
    reference = cell(*(x.double() for x in args))
    limits = rule.bound(Call(None, tuple(x.double() for x in args), {}, (reference,), 2.0**-24))
    assert isinstance(limits, tuple)
    assert ((cell(*args) - reference).abs() <= limits[0] + reference.abs() * 2**-24).all()
    assert (torch.as_tensor(limits[0]) < 2e-5).all()
