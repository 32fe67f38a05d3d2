"""How deep networks may be for ``prove=True`` to prove them the same, and what that costs.

    python -m benchmarks.prove [NAME ...]      # of DEPTHS; without a name all but minilm

Each network is written in two ways with the same weights: sums in another order, or another layout in memory. Times are
seconds of the processor, of one thread, so that what else runs on the machine counts for little.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import roundoff

Made = tuple[Callable[..., Any], Callable[..., Any], Any]


class Transformer(nn.Module):
    """A block of a transformer encoder: with fused attention, or with its products written out."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.fused = heads, True
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(self.norm1(x)).chunk(3, -1))
        if self.fused:
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            mixed = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1) @ v
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        y: Tensor = x + self.down(F.gelu(self.up(self.norm2(x))))
        return y


class Residual(nn.Module):
    """A block of two convolutions with batch norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.two = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.norm1, self.norm2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.norm2(self.two(torch.relu(self.norm1(self.one(x))))))


def _in_use(net: nn.Module, x: Tensor) -> Made:
    """In evaluation with the statistics of ``x``, and the same with channels last."""
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.momentum = 1.0
    with torch.no_grad():
        net.train()(x)
    last = copy.deepcopy(net.eval()).to(memory_format=torch.channels_last)
    return net, lambda x: last(x.contiguous(memory_format=torch.channels_last)), x


def dense(depth: int, started: Callable[[Tensor], Any] | None = None, width: int = 128) -> Made:
    """Fully connected, with ReLU."""
    net = nn.Sequential(*(m for _ in range(depth) for m in (nn.Linear(width, width), nn.ReLU())))
    for m in net:
        if started is not None and isinstance(m, nn.Linear):
            started(m.weight)

    def backwards(x: Tensor) -> Tensor:
        for m in net:
            x = x.flip(-1) @ m.weight.flip(-1).t() + m.bias if isinstance(m, nn.Linear) else m(x)
        return x

    return net, backwards, torch.randn(32, width)


def kept(depth: int) -> Made:
    """Fully connected, started so that layers keep the size of numbers (He)."""
    return dense(depth, lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu"))


def convolution(depth: int, width: int = 16) -> Made:
    """3 x 3 convolutions with batch norm and ReLU."""
    parts = [
        [nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()] for _ in range(depth)
    ]
    net = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), *(m for part in parts for m in part))
    return _in_use(net, torch.randn(4, 3, 16, 16))


def residual(depth: int, width: int = 16) -> Made:
    """Residual blocks of two convolutions."""
    net = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), *(Residual(width) for _ in range(depth)))
    return _in_use(net, torch.randn(4, 3, 16, 16))


def transformer(depth: int, width: int = 64, heads: int = 4) -> Made:
    """Blocks of an encoder, 16 tokens wide."""
    fused = nn.Sequential(*(Transformer(width, heads) for _ in range(depth))).eval()
    apart = copy.deepcopy(fused)
    for m in apart.modules():
        if isinstance(m, Transformer):
            m.fused = False
    return fused, apart, torch.randn(2, 16, width)


def minilm(depth: int) -> Made:
    """all-MiniLM-L6-v2, six layers 384 wide with trained weights."""
    from tests.suite import minilm as suite

    return suite.fused(), suite.separate(), suite.tokens()


DEPTHS: dict[str, tuple[Callable[[int], Made], tuple[int, ...]]] = {
    "dense": (dense, (10, 30, 60, 100)),
    "dense, sizes kept": (kept, (10, 20, 30, 40)),
    "convolution": (convolution, (5, 10, 20, 30)),
    "residual": (residual, (4, 8, 16)),
    "transformer": (transformer, (2, 4, 8, 12)),
    "minilm": (minilm, (6,)),
}


def main(names: list[str]) -> None:
    """Print a line for each network."""
    torch.set_num_threads(1)
    roundoff.compare(torch.sin, torch.sin, torch.randn(3), prove=True)  # what is loaded once
    for name in names or [n for n in DEPTHS if n != "minilm"]:
        make, depths = DEPTHS[name]
        for depth in depths:
            torch.manual_seed(0)
            a, b, x = make(depth)
            seconds: list[float] = []
            stages: list[str] = []
            with torch.no_grad():
                for prove in (False, True):
                    start = time.process_time()
                    c = roundoff.compare(a, b, x, prove=prove, progress=lambda _, __, text, to=stages: to.append(text))
                    seconds.append(time.process_time() - start)
            stage = "pairs" if "in pairs" in stages[-1] else "float64"
            said = c.reason[c.reason.index("roved: ") + 7 :].split(", and every")[0]
            print(f"{name:18} {depth:4} {c.verdict.value} {c.evidence.value:12} {stage:8} "
                  f"{seconds[0]:6.1f} s {seconds[1]:6.1f} s  {said}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
