"""Compare and explain a transformer of 100 million parameters, on 8 sequences of 128 tokens: time over native, peak memory.

    python benchmarks/large.py

A computes query, key and value by one product, B by three products with parts of the same weights.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import roundoff

WIDTH, HEADS, LAYERS, WORDS = 768, 12, 12, 20_000


class Block(nn.Module):
    """A layer of a language model, normalised first."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor, separate: bool) -> Tensor:
        h, (batch, length, _) = self.before(x), x.shape
        if separate:
            parts = zip(self.qkv.weight.chunk(3), self.qkv.bias.chunk(3), strict=True)
            found = [F.linear(h, weight, bias) for weight, bias in parts]
        else:
            found = [*self.qkv(h).chunk(3, -1)]
        q, k, v = (t.view(batch, length, HEADS, WIDTH // HEADS).transpose(1, 2) for t in found)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(batch, length, WIDTH)
        x = x + self.out(mixed)
        return x + self.down(F.gelu(self.up(self.between(x))))


class Network(nn.Module):
    """Words in, states out."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.last = nn.Embedding(WORDS, WIDTH), nn.LayerNorm(WIDTH)
        self.blocks = nn.ModuleList([Block() for _ in range(LAYERS)])

    def forward(self, words: Tensor, separate: bool = False) -> Tensor:
        x = self.words(words)
        for block in self.blocks:
            x = block(x, separate)
        return self.last(x)


def timed(what: Callable[[], object]) -> tuple[float, object]:
    start = time.perf_counter()
    found = what()
    return time.perf_counter() - start, found


def peak() -> str:
    return f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB"  # kilobytes on Linux


def main() -> None:
    torch.manual_seed(0)
    net, words = Network(), torch.randint(0, WORDS, (8, 128))
    print(f"{sum(p.numel() for p in net.parameters()) / 1e6:.0f} million parameters")
    with torch.no_grad():
        native, _ = timed(lambda: (net(words), net(words, True)))
        seconds, comparison = timed(lambda: roundoff.compare(net, lambda w: net(w, True), words))
        assert isinstance(comparison, roundoff.Comparison)
        print(f"compare {seconds / native:.1f} x native, {comparison.verdict}, {peak()}")
        seconds, _ = timed(comparison.explain)
        print(f"explain {seconds / native:.1f} x native, {peak()}")


if __name__ == "__main__":
    main()
