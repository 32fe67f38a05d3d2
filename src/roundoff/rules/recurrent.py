"""Recurrent layers in one operator, and the fused cells they are made of.

oneDNN's LSTM layer has no kernel in float64, so it is written out here. A layer's rounding errors are carried on from step
to step, so its bound is had by running it a few times, moved at each step by what rounding makes there (see ``opened`` for
why that is statistical). All draws run at once, side by side in the batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt
from typing import Any

import torch
from torch import Tensor
from torch.linalg import vector_norm

from roundoff.rules.opened import weighed
from roundoff.rules.registry import register
from roundoff.rules.rule import Call, Limit, Nature, Rule
from roundoff.rules.samples import Operands, given
from roundoff.rules.ulps import roundings

LSTM = 2
DRAWS = 3
_LAMBDA = 8.0  # n mean-zero roundings add up to λ √n with all but certainty (Higham and Mary 2019)


def lstm(
    x: Tensor,
    weights: tuple[Tensor, Tensor],
    bias: Tensor | None,
    h: Tensor,
    c: Tensor,
    reverse: bool,
    noise: Noise | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """One LSTM layer in one direction: the outputs [T, B, H] and the last h and c [B, H]. Gates in the order i, f, g, o."""
    w, v = weights
    given_ = torch.matmul(x, w.t())
    if bias is not None:
        given_ = given_ + bias
    outputs = [h] * x.shape[0]
    for t in range(x.shape[0] - 1, -1, -1) if reverse else range(x.shape[0]):
        gates = given_[t] + torch.matmul(h, v.t())
        if noise is not None:
            gates = noise.gates(gates, t, h)
        i, f, g, o = gates.chunk(4, -1)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        c = f * c + i * g
        h = o * c.tanh()
        if noise is not None:
            c, h = noise.state(c), noise.state(h)
        outputs[t] = h
    return torch.stack(outputs), h, c


class Noise:
    """Moves gates and states by what rounding makes of them, with random signs; the first of the draws stays unmoved."""

    def __init__(self, call: Call, x: Tensor, weights: tuple[Tensor, Tensor], bias: Tensor | None) -> None:
        w, v = weights
        n = w.shape[1] + v.shape[1] + 3
        self.relative = call.gamma(min(n, _LAMBDA * sqrt(n)))
        self.stored = max(call.u, call.u_out) + call.gamma(2 * roundings("tanh") + 2 * roundings("sigmoid"))
        self.own = vector_norm(x, dim=-1).unsqueeze(-1) * vector_norm(w, dim=-1)
        if bias is not None:
            self.own = self.own + bias.abs()
        self.rows = vector_norm(v, dim=-1)
        self.generator = torch.Generator().manual_seed(0)

    def _signs(self, x: Tensor) -> Tensor:
        signs = torch.randint(2, x.shape, generator=self.generator).mul_(2).sub_(1).to(x)
        signs[0] = 0
        return signs

    def gates(self, gates: Tensor, t: int, h: Tensor) -> Tensor:
        size: Tensor = self.own[t] + vector_norm(h, dim=-1).unsqueeze(-1) * self.rows
        return gates + self._signs(gates) * size * self.relative

    def products(self, y: Tensor, x: Tensor, v: Tensor) -> Tensor:
        """``y``, the product x v."""
        size: Tensor = vector_norm(x, dim=-1).unsqueeze(-1) * vector_norm(v, dim=0)
        return y + self._signs(y) * size * self.relative

    def state(self, x: Tensor) -> Tensor:
        return x + self._signs(x) * x.abs() * self.stored


def layer_operands(args: tuple[Any, ...]) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor | None, Tensor, Tensor, bool]:
    """The arguments of ``mkldnn_rnn_layer`` as those of :func:`lstm`. Raises RuntimeError for other kinds of layer."""
    x, w, v, b, b2, h, c, reverse, _, mode = args[:10]
    if mode != LSTM:
        raise RuntimeError(f"mkldnn_rnn_layer of mode {mode} is not written out, only LSTM (mode {LSTM})")
    has_bias = bool(args[12])
    return x, (w, v), b + b2 if has_bias else None, h, c, bool(reverse)


def _mkldnn_wide(*args: Any, native: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    x, weights, bias, h, c, reverse = layer_operands(args)
    y, h, c = lstm(x, weights, bias, h, c, reverse)
    return y, h.reshape(native[1].shape), c.reshape(native[2].shape), *native[3:]


def _mkldnn(call: Call) -> tuple[Limit, ...]:
    x, weights, bias, h, c, reverse = layer_operands(call.args)
    draws = 1 + (1 if call.typical else DRAWS)
    noise = Noise(call, x, weights, bias)
    start = (h.reshape(1, *h.shape[-2:]), c.reshape(1, *c.shape[-2:]))
    h, c = (s.expand(draws, *s.shape[1:]) for s in start)
    y, h, c = lstm(x.unsqueeze(1), weights, bias, h, c, reverse, noise)
    moved = [(z.movedim(-3, 0), out) for z, out in zip((y, h, c), call.out, strict=False)]
    limits = [weighed(call, z[0], z[1:]).reshape(out.shape) for z, out in moved]
    return *limits, *(float("inf"),) * (len(call.out) - 3)


def _lstm_cell(call: Call) -> tuple[Limit, ...]:
    """h and c of one step: each gate is a sum of four, seen through its function's slope."""
    parts = [call.args[0], call.args[1]]
    biases = [b for b in (call.arg(3, "input_bias"), call.arg(4, "hidden_bias")) if b is not None]
    total = sum(parts[1:] + biases, parts[0])
    size = sum((p.abs() for p in parts[1:] + biases), parts[0].abs())
    i, f, g, o = total.chunk(4, -1)
    ei, ef, eg, eo = size.mul(call.gamma(4)).chunk(4, -1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    c = call.args[2]
    sigmoid, tanh = call.gamma(roundings("sigmoid")), call.gamma(roundings("tanh"))
    new = f * c + i * g
    error = c.abs() * (f * (1 - f) * ef + f * sigmoid) + g.abs() * (i * (1 - i) * ei + i * sigmoid)
    error = error + i * ((1 - g.square()) * eg + g.abs() * tanh) + (f * c.abs() + i * g.abs()) * call.gamma(3)
    t = new.tanh()
    out = t.abs() * (o * (1 - o) * eo + o * sigmoid) + o * ((1 - t.square()) * error + t.abs() * tanh)
    return out + t.abs() * call.gamma(2), error, *(float("inf"),) * (len(call.out) - 2)


def _gru_cell(call: Call) -> tuple[Limit, ...]:
    """h = n + z (h - n) with n = tanh(i_n + r h_n): each gate is a sum of four, seen through its function's slope."""
    given_, own, h = call.args[:3]
    b, b2 = call.arg(3, "input_bias"), call.arg(4, "hidden_bias")
    size, size2 = given_.abs(), own.abs()
    if b is not None:
        given_, own, size, size2 = given_ + b, own + b2, size + b.abs(), size2 + b2.abs()
    ir, iz, in_ = given_.chunk(3, -1)
    hr, hz, hn = own.chunk(3, -1)
    sr, sz, sn = size.chunk(3, -1)
    tr, tz, tn = size2.chunk(3, -1)
    r, z = (ir + hr).sigmoid(), (iz + hz).sigmoid()
    n = (in_ + r * hn).tanh()
    sigmoid = call.gamma(roundings("sigmoid"))
    er = r * (1 - r) * (sr + tr) * call.gamma(4) + r * sigmoid
    ez = z * (1 - z) * (sz + tz) * call.gamma(4) + z * sigmoid
    en = (1 - n.square()) * ((sn + r * tn) * call.gamma(4) + hn.abs() * er) + n.abs() * call.gamma(roundings("tanh"))
    out = (1 - z).abs() * en + (h - n).abs() * ez + (n.abs() + h.abs()) * call.gamma(4)
    return out, *(float("inf"),) * (len(call.out) - 1)


def _layers(r: Operands) -> Iterable[Any]:
    if r.dtype == torch.float16:
        return
    shapes = (
        (5, 2, 8, 4, True, False),
        (30, 3, 40, 33, True, True),
        (4, 2, 8, 4, False, False),
        (100, 1, 5, 64, True, False),
    )
    for steps, batch, width, hidden, bias, reverse in shapes:
        w, v = r.normal(4 * hidden, width, scale=hidden**-0.5), r.normal(4 * hidden, hidden, scale=hidden**-0.5)
        b = (r.normal(4 * hidden, scale=0.1), r.normal(4 * hidden, scale=0.1)) if bias else (w, v)
        start = r.normal(batch, hidden), r.normal(batch, hidden)
        yield (r.normal(steps, batch, width), w, v, *b, *start, reverse, [], LSTM, hidden, 1, bias, False, False,
               False)  # fmt: skip


register(
    Rule(
        ("aten.mkldnn_rnn_layer",),
        Nature.ROUNDS,
        _mkldnn,
        source="LSTM written out; a step's roundings carried on by a few random draws (Higham and Mary 2019 for sums)",
        assumes="statistical; one LSTM layer in one direction, as PyTorch calls it",
        samples=given(_layers),
        wide=_mkldnn_wide,
    )
)
register(
    Rule(("aten._thnn_fused_lstm_cell",), Nature.ROUNDS, _lstm_cell, source="first-order error of the cell's formulas")
)
register(
    Rule(("aten._thnn_fused_gru_cell",), Nature.ROUNDS, _gru_cell, source="first-order error of the cell's formulas")
)
