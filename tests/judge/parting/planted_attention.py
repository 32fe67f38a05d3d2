"""A transformer block built twice: of PyTorch's modules, and by hand. The second can have a bug.

The comment behind a line holds the names of the bugs that are planted there, or that first show there in the values: on
the side without the bug, the line that does the same.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

D, H, L, N = 12, 3, 5, 2
E = D // H


class Block(nn.Module):
    """Attention and feed-forward, each with its norm before it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(D), nn.LayerNorm(D)
        self.attention = nn.MultiheadAttention(D, H, batch_first=True)
        self.up, self.down = nn.Linear(D, 2 * D), nn.Linear(2 * D, D)
        with torch.no_grad():
            for p in self.parameters():
                p.add_(torch.randn(p.shape) * 0.3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(x)  # eps variance centre affine order
        hidden = torch.ones(L, L, dtype=torch.bool).triu(1)
        h = self.attention(h, h, h, None, False, hidden)[0]  # inside
        x = x + h  # residual
        h = self.norm2(x)  # affine
        h = F.gelu(self.up(h))  # gelu weight relu
        return x + self.down(h)  # skip


def by_hand(block: Block, bug: str = "") -> Callable[[Tensor], Tensor]:
    """The same in other operators, every projection a 1x1 convolution on ``[N, D, L]``."""

    def norm(x: Tensor, layer: nn.LayerNorm, bug: str = "") -> Tensor:
        mean = x.mean(-1, keepdim=True)  # residual
        var = ((x - (0 if bug == "centre" else mean)) ** 2).mean(-1, keepdim=True)  # centre
        if bug == "variance":
            var = x.var(-1, keepdim=True)  # variance
        y = (x - mean) / torch.sqrt(var + (1e-6 if bug == "eps" else layer.eps))  # eps
        return y * (layer.weight if bug != "affine" else 1) + layer.bias  # affine

    def conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv1d(x.transpose(1, 2), weight[:, :, None], bias).transpose(1, 2)  # bias-q order

    def heads(x: Tensor) -> Tensor:
        if bug == "split":
            return x.reshape(N, L, E, H).permute(0, 3, 1, 2)  # split
        return x.reshape(N, L, H, E).transpose(1, 2)

    def attend(x: Tensor) -> Tensor:
        wq, wk, wv = block.attention.in_proj_weight.chunk(3)
        bq, bk, bv = block.attention.in_proj_bias.chunk(3)
        if bug == "swapped":
            wq, wk, bq, bk = wk, wq, bk, bq
        if bug == "kv":
            wk, wv, bk, bv = wv, wk, bv, bk
        q = heads(conv(x, wq, None if bug == "bias-q" else bq))
        k, v = heads(conv(x, wk, bk)), heads(conv(x, wv, bv))
        if bug == "value":
            v = v * 0.9  # value
        scale = D**-0.5 if bug == "scale" else E**-0.5
        scores = torch.einsum("nhle,nhme->nhlm", q, k)  # split kv
        scores = scores * scale  # scale
        hidden = torch.ones(L, L, dtype=torch.bool).triu(0 if bug == "mask" else 1)
        hidden[0, 0] = False
        scores = scores.masked_fill(hidden, -torch.inf)  # mask swapped
        p = torch.softmax(scores, -2 if bug == "axis" else -1)  # axis
        if bug == "twice":
            p = torch.softmax(p, -1)  # twice
        out = p @ v
        if bug == "permuted":
            out = out[:, [1, 0, 2]]  # permuted
        if bug != "merged":
            out = out.transpose(1, 2)
        out = out.reshape(N, L, D)  # merged
        layer = block.attention.out_proj
        return conv(out, layer.weight, layer.bias)

    def forward(x: Tensor) -> Tensor:
        h = attend(x if bug == "order" else norm(x, block.norm1, bug))
        x = h if bug == "residual" else x + h
        h = norm(x, block.norm2, "affine" if bug == "affine" else "")
        h = conv(h, block.up.weight.flip(1) if bug == "weight" else block.up.weight, block.up.bias)  # weight
        if bug == "relu":
            h = F.relu(h)  # relu
        elif bug == "gelu":
            h = h * 0.5 * (1 + torch.tanh(0.7978845608 * (h + 0.044715 * h**3)))  # gelu
        else:
            h = h * 0.5 * (1 + torch.erf(h / 2**0.5))
        h = conv(h, block.down.weight, block.down.bias)
        return h if bug == "skip" else x + h

    return forward
