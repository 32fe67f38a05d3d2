"""Networks on sequences built twice: as PyTorch has it, and by hand. The second can have a bug.

The comment behind a line holds the names of the bugs that are planted there, or that first show there in the values: on
the side without the bug, the line that does the same.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

N, L, D = 2, 4, 8
SHORT = 2  # steps of the recurrent networks


class Recurrent(nn.Module):
    """An embedding, an LSTM, a GRU, and a head on the last step."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, D)
        self.lstm = nn.LSTM(D, D, batch_first=True)
        self.gru = nn.GRU(D, D, batch_first=True)
        self.head = nn.Linear(D, 5)

    def forward(self, words: Tensor) -> Tensor:
        h = self.table(words)  # words
        h = self.lstm(h)[0]  # gates cell start backwards
        h = self.gru(h)[0]  # reset update
        return F.log_softmax(self.head(h[:, -1]), -1)  # last logs


def unrolled(net: Recurrent, bug: str = "") -> Callable[[Tensor], Tensor]:
    """The same, step by step, each gate by itself."""

    def gate(x: Tensor, h: Tensor, layer: nn.LSTM | nn.GRU, i: int) -> tuple[Tensor, Tensor]:
        wx, wh = (w[i * D : (i + 1) * D] for w in (layer.weight_ih_l0, layer.weight_hh_l0))
        bx, bh = (b[i * D : (i + 1) * D] for b in (layer.bias_ih_l0, layer.bias_hh_l0))
        return x @ wx.t() + bx, torch.einsum("nd,od->no", h, wh) + bh  # start backwards

    def lstm(x: Tensor) -> Tensor:
        h, c, found = x.new_zeros(N, D), x.new_zeros(N, D), []
        if bug == "start":
            h = h + 0.1  # start
        for t in range(SHORT) if bug != "backwards" else range(SHORT - 1, -1, -1):
            i, f, g, o = (
                sum(gate(x[:, t], h, net.lstm, k)) for k in ((0, 1, 2, 3) if bug != "gates" else (1, 0, 2, 3))
            )
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)  # gates
            h = torch.sigmoid(o) * (torch.tanh(c) if bug != "cell" else c)  # cell
            found.append(h)
        return torch.stack(found, 1)  # backwards

    def gru(x: Tensor) -> Tensor:
        h, found = x.new_zeros(N, D), []
        for t in range(SHORT):
            (rx, rh), (zx, zh), (nx, nh) = (gate(x[:, t], h, net.gru, k) for k in range(3))
            r, z = torch.sigmoid(rx + rh), torch.sigmoid(zx + zh)
            n = torch.tanh(r * (nx + nh) if bug == "reset" else nx + r * nh)  # reset
            h = z * n + (1 - z) * h if bug == "update" else (1 - z) * n + z * h  # update
            found.append(h)
        return torch.stack(found, 1)

    def forward(words: Tensor) -> Tensor:
        chosen = F.one_hot((words + 1) % 11 if bug == "words" else words, 11)
        h = chosen.to(torch.float32) @ net.table.weight  # words
        h = gru(lstm(h))
        h = h[:, 0 if bug == "last" else -1]  # last
        y = h @ net.head.weight.t() + net.head.bias  # last
        return y - y.logsumexp(0 if bug == "logs" else 1, keepdim=True)  # logs

    return forward


class Rotary(nn.Module):
    """Attention with grouped queries and rotated positions, a root mean square norm, and a gated feed-forward."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(D, eps=2.0**-17)
        self.q, self.k, self.v = nn.Linear(D, 16, bias=False), nn.Linear(D, 8, bias=False), nn.Linear(D, 8, bias=False)
        self.out = nn.Linear(16, D, bias=False)
        self.gate, self.up, self.down = nn.Linear(D, 12), nn.Linear(D, 12), nn.Linear(12, D)
        self.groups = nn.GroupNorm(2, L)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)  # root
        q, k, v = self.q(h), self.k(h), self.v(h)
        q = rotated(q.view(N, L, 4, 4).transpose(1, 2))  # angle pairs base
        k = rotated(k.view(N, L, 2, 4).transpose(1, 2))  # offset
        v = v.view(N, L, 2, 4).transpose(1, 2)
        k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)  # repeat
        h = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # causal repeat window late offset
        x = x + self.out(h.transpose(1, 2).reshape(N, L, 16))
        h = F.silu(self.gate(x)) * self.up(x)  # silu swap
        x = x + self.down(h)  # half
        return self.groups(x)  # groups


def rotated(x: Tensor, base: float = 100.0, shift: int = 0) -> Tensor:
    """Rotate the first half of the channels against the second."""
    n = x.shape[-1] // 2
    angle = torch.outer(torch.arange(L) + shift, base ** -(torch.arange(n) / n))  # angle base
    one, two = x[..., :n], x[..., n:]
    cos, sin = angle.cos(), angle.sin()  # angle base
    return torch.cat([one * cos - two * sin, two * cos + one * sin], -1)  # angle pairs base offset


def grouped(net: Rotary, bug: str = "") -> Callable[[Tensor], Tensor]:
    """The same with one product for q, k and v, rotation by complex numbers, and heads that are broadcast."""

    def turn(x: Tensor, base: float = 100.0, shift: int = 0) -> Tensor:
        n = x.shape[-1] // 2
        angle = torch.outer(torch.arange(L) + shift, base ** -(torch.arange(n) / n))  # base offset
        turned = torch.polar(torch.ones(L, n), angle if bug != "angle" else -angle)  # angle pairs
        if bug == "pairs":
            z = torch.view_as_complex(x.unflatten(-1, (n, 2)).contiguous()) * turned[:, None]  # pairs
            return torch.view_as_real(z).flatten(-2)
        z = torch.complex(x[..., :n], x[..., n:]) * turned.view(L, *[1] * (x.dim() - 3), n)  # angle base offset
        return torch.cat([z.real, z.imag], -1)  # angle base offset

    def attend(h: Tensor) -> Tensor:
        whole = torch.tensordot(h, torch.cat([net.q.weight, net.k.weight, net.v.weight]), ([2], [1]))
        q, k, v = whole.split([16, 8, 8], -1)
        q = turn(q.reshape(N, L, 4, 4), base=90.0 if bug == "base" else 100.0)
        k = turn(k.reshape(N, L, 2, 4), shift=1 if bug == "offset" else 0)
        v = v.reshape(N, L, 2, 4)
        q = q.reshape(N, L, 2, 2, 4)
        if bug == "repeat":
            q = q.transpose(2, 3)  # repeat
        scores = torch.einsum("nlgre,nmge->ngrlm", q, k) / 2  # repeat offset
        hidden = torch.ones(L, L).triu(1) > 0
        if bug == "window":
            hidden = hidden | (torch.ones(L, L).tril(-3) > 0)
        if bug == "late":
            p = torch.softmax(scores, -1).masked_fill(hidden, 0.0)  # late
        else:
            p = torch.softmax(scores if bug == "causal" else scores - hidden * 1e30, -1)  # causal window
        return torch.einsum("ngrlm,nmge->nlgre", p, v).reshape(N, L, 16)

    def forward(x: Tensor) -> Tensor:
        size = x.square().mean(-1, keepdim=True) if bug != "root" else x.square().sum(-1, keepdim=True)  # root
        h = x * torch.rsqrt(size + net.norm.eps) * net.norm.weight
        x = x + F.linear(attend(h), net.out.weight)
        one, two = (net.gate, net.up) if bug != "swap" else (net.up, net.gate)
        gate = one(x)
        gate = gate * torch.sigmoid(gate * (1.702 if bug == "silu" else 1))  # silu swap
        h = gate * two(x)
        x = x + net.down(h) * (0.5 if bug == "half" else 1)  # half
        y = x.reshape(N, 2, -1) if bug != "groups" else x.reshape(N, 4, -1)
        y = y - y.mean(-1, keepdim=True)  # groups
        y = y / torch.sqrt(y.square().mean(-1, keepdim=True) + net.groups.eps)
        return y.reshape(N, L, D) * net.groups.weight[:, None] + net.groups.bias[:, None]

    return forward
