"""The gradients of one LSTM layer in one operator.

oneDNN has no kernel in float64 for them either, so they are written out: backwards in time, with the gates of the forward
pass computed again. The kernel reads its own gates from a workspace, rounded, so the forward pass is moved by what
rounding makes there, as in ``recurrent``, and the backward pass likewise; the bound is had from a few such draws.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from roundoff.rules.opened import weighed
from roundoff.rules.recurrent import DRAWS, LSTM, Noise, layer_operands
from roundoff.rules.registry import register
from roundoff.rules.rule import Call, Limit, Nature, Rule
from roundoff.rules.samples import Operands, given

aten = torch.ops.aten
Weights = tuple[Tensor, Tensor]


def gradients(
    x: Tensor,
    weights: Weights,
    bias: Tensor | None,
    start: tuple[Tensor, Tensor],
    given_: tuple[Tensor | None, Tensor | None, Tensor | None],
    reverse: bool,
    noise: Noise | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of the gates [T, ..., B, 4H] and of the first h and c [..., B, H]; with them, h before each step.

    ``given_`` are the gradients of the outputs [T, B, H] and of the last h and c.
    """
    w, v = weights
    h, c = start
    entering = torch.matmul(x, w.t()) if bias is None else torch.matmul(x, w.t()) + bias
    steps = list(range(x.shape[0] - 1, -1, -1) if reverse else range(x.shape[0]))
    kept = {}
    for t in steps:
        gates = entering[t] + torch.matmul(h, v.t())
        gates = gates if noise is None else noise.gates(gates, t, h)
        i, f, g, o = gates.chunk(4, -1)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        if noise is not None:
            i, f, g, o = (noise.state(y) for y in (i, f, g, o))
        old, c = c, f * c + i * g
        kept[t] = i, f, g, o, old, c.tanh()
        h = o * kept[t][-1]
    of_y, of_h, of_c = given_
    dh = torch.zeros_like(h) if of_h is None else of_h.reshape(of_h.shape[-2:]).expand_as(h)
    dc = torch.zeros_like(c) if of_c is None else of_c.reshape(of_c.shape[-2:]).expand_as(c)
    found: list[Tensor] = [dh] * len(steps)
    for t in reversed(steps):
        i, f, g, o, old, top = kept[t]
        dh = dh if of_y is None else dh + of_y[t]
        dc = dc + dh * o * (1 - top.square())
        da = torch.cat(
            [dc * g * i * (1 - i), dc * old * f * (1 - f), dc * i * (1 - g.square()), dh * top * o * (1 - o)], -1
        )
        da = da if noise is None else noise.state(da)
        dc, dh = dc * f, torch.matmul(da, v)
        if noise is not None:
            dc, dh = noise.state(dc), noise.products(dh, da, v)
        found[t] = da
    return torch.stack(found), dh, dc


def _operands(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments as those of :func:`gradients`, and the outputs of the forward pass."""
    layer = (*args[:7], args[13], [], args[14], args[15], args[16], args[17])
    x, weights, bias, h, c, reverse = layer_operands(layer)
    start = h.reshape(h.shape[-2:]), c.reshape(c.shape[-2:])
    return x, weights, bias, start, tuple(args[10:13]), reverse, args[7]


def before_each(y: Tensor, h: Tensor, reverse: bool) -> Tensor:
    """h before each step [T, B, H]."""
    return torch.cat([y[1:], h[None]]) if reverse else torch.cat([h[None], y[:-1]])


def finished(x: Tensor, weights: Weights, before: Tensor, da: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, of both weights and of the bias."""
    each = da.flatten(0, 1).t()
    return da @ weights[0], each @ x.flatten(0, 1), each @ before.flatten(0, 1), each.sum(1)


def _wide(*args: Any, native: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    x, weights, bias, start, given_, reverse, y = _operands(args)
    da, dh, dc = gradients(x, weights, bias, start, given_, reverse)
    dx, dw, dv, db = finished(x, weights, before_each(y, start[0], reverse), da)
    found = dx, dw, dv, db, db, dh, dc
    return tuple(z.reshape(n.shape) if z.numel() == n.numel() else n for z, n in zip(found, native, strict=True))


def _bound(call: Call) -> tuple[Limit, ...]:
    x, weights, bias, start, given_, reverse, y = _operands(call.args)
    noise = Noise(call, x, weights, bias)
    draws = 1 + (1 if call.typical else DRAWS)
    start_ = tuple(s.expand(draws, *s.shape) for s in start)
    da, dh, dc = gradients(x.unsqueeze(1), weights, bias, start_, given_, reverse, noise)
    da, before = da.movedim(1, 0), before_each(y, start[0], reverse)
    each = [finished(x, weights, before, d) for d in da]
    sizes = finished(x.abs(), (weights[0].abs(), weights[1]), before.abs(), da[0].abs())
    sums = da.shape[-1], *(x.shape[0] * x.shape[1],) * 3
    limits = [weighed(call, z[0], torch.stack(z[1:])) for z in zip(*each, strict=True)]
    limits = [m + s * call.gamma_out(n + 2) for m, s, n in zip(limits, sizes, sums, strict=True)]
    limits = [*limits[:3], limits[3], limits[3], weighed(call, dh[0], dh[1:]), weighed(call, dc[0], dc[1:])]
    return tuple(m.reshape(z.shape) if m.numel() == z.numel() else 0.0 for m, z in zip(limits, call.out, strict=True))


def _samples(r: Operands) -> Iterable[Any]:
    if r.half:
        return
    for steps, batch, width, hidden, bias, reverse in ((5, 2, 8, 4, True, False), (30, 3, 40, 33, True, True)):
        w, v = r.normal(4 * hidden, width, scale=hidden**-0.5), r.normal(4 * hidden, hidden, scale=hidden**-0.5)
        b = r.normal(4 * hidden, scale=0.1), r.normal(4 * hidden, scale=0.1)
        x, h, c = r.normal(steps, batch, width), r.normal(batch, hidden), r.normal(batch, hidden)
        y, hy, cy, workspace = aten.mkldnn_rnn_layer(
            x, w, v, *b, h, c, reverse, [], LSTM, hidden, 1, bias, False, False, True
        )
        given_ = r.normal(*y.shape), r.normal(*hy.shape), r.normal(*cy.shape)
        yield (x, w, v, *b, h, c, y, hy, cy, *given_, reverse, LSTM, hidden, 1, bias, True, False, [], False, workspace)


register(
    Rule(
        ("aten.mkldnn_rnn_layer_backward",),
        Nature.ROUNDS,
        _bound,
        source="LSTM gradients written out; roundings carried on by a few random draws (Higham and Mary 2019 for sums)",
        assumes="statistical; one LSTM layer in one direction, as PyTorch calls it",
        samples=given(_samples),
        wide=_wide,
    )
)
