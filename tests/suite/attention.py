"""Attention families: a transformer written by hand, PyTorch's own modules, a causal language model."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .draw import Draw
from .family import Change, Family
from .pieces import Dense, LayerNorm, activation, filled, softmax

ATTENTION = ("sdpa", "matmul", "prescaled", "einsum", "heads", "queries", "baddbmm", "wide values")


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    *,
    way: str = "sdpa",
    scale: float | None = None,
    probabilities: str = "module",
    dim: int = -1,
) -> Tensor:
    """Attention of [batch, heads, length, depth], with an additive mask that broadcasts to the scores."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if way == "sdpa" and dim == -1:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    if way == "heads":
        parts = zip(q.split(1, 1), k.split(1, 1), v.split(1, 1), strict=True)
        options = {"way": "matmul", "scale": scale, "probabilities": probabilities, "dim": dim}
        return torch.cat([attend(*part, mask, **options) for part in parts], 1)
    if way == "queries" and dim == -1 and mask is None:
        options = {"way": "matmul", "scale": scale, "probabilities": probabilities}
        return torch.cat([attend(part, k, v, **options) for part in q.split(2, 2)], 2)
    if way == "prescaled":
        s = (q * scale) @ k.transpose(-1, -2)
    elif way == "einsum":
        s = torch.einsum("bhid,bhjd->bhij", q, k) * scale
    elif way == "baddbmm" and mask is not None:
        shape = (*q.shape[:-1], k.shape[2])
        s = torch.baddbmm(mask.expand(shape).flatten(0, 1), q.flatten(0, 1), k.flatten(0, 1).mT, alpha=scale).view(
            shape
        )
        mask = None
    else:
        s = q @ k.transpose(-1, -2) * scale
    if mask is not None:
        s = s + mask
    if way == "wide values":  # the sum of the exponentials as one more column of the values
        e = torch.exp(s - s.amax(dim, keepdim=True))
        if dim == -1:
            both = e @ torch.cat([v, torch.ones_like(v[..., :1])], -1)
            return both[..., :-1] / both[..., -1:]
    p = softmax(s, dim, probabilities)
    return torch.einsum("bhij,bhjd->bhid", p, v) if way == "einsum" else p @ v


class Attention(nn.Module):
    """Multi-head self-attention, [batch, length, width] to itself."""

    def __init__(
        self,
        draw: Draw,
        name: str,
        width: int,
        heads: int,
        *,
        qkv: str = "fused",
        attention: str = "sdpa",
        probabilities: str = "module",
        proj: str = "linear",
        scale: float | None = None,
        swapped: bool = False,
        split: str = "heads first",
        dim: int = -1,
    ) -> None:
        super().__init__()
        self.heads, self.qkv, self.split, self.swapped = heads, qkv, split, swapped
        self.options = {"way": attention, "scale": scale, "probabilities": probabilities, "dim": dim}
        parts = [Dense(draw, f"{name}.{c}", width, width) for c in "qkv"]
        if qkv == "separate":
            self.parts = nn.ModuleList(parts)
        else:
            w, b = (torch.cat([getattr(p.layer, n) for p in parts]).detach() for n in ("weight", "bias"))
            if qkv == "interleaved":  # per head: its q, its k, its v
                order = torch.arange(3 * width).view(3, heads, -1).transpose(0, 1).flatten()
                w, b = w[order], b[order]
            self.fused = filled(nn.Linear(width, 3 * width), weight=w, bias=b)
        self.out = Dense(draw, f"{name}.o", width, width, proj)

    def _heads(self, x: Tensor) -> Tensor:
        if self.split == "depth first":
            return x.unflatten(-1, (-1, self.heads)).permute(0, 3, 1, 2)
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.qkv == "separate":
            q, k, v = (self._heads(part(x)) for part in self.parts)
        elif self.qkv == "interleaved":
            q, k, v = self.fused(x).unflatten(-1, (self.heads, 3, -1)).permute(3, 0, 2, 1, 4)
        else:
            q, k, v = (self._heads(part) for part in self.fused(x).chunk(3, -1))
        if self.swapped:
            q, k = k, q
        return self.out(attend(q, k, v, mask, **self.options).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """A transformer layer; ``order`` says where the norms stand."""

    def __init__(
        self,
        draw: Draw,
        name: str,
        width: int,
        heads: int,
        *,
        ff: str = "linear",
        norm: str = "module",
        act: str = "gelu",
        written: str = "module",
        eps: float = 1e-5,
        order: str = "pre",
        residual: bool = True,
        neurons: str = "kept",
        **attention: object,
    ) -> None:
        super().__init__()
        self.attention = Attention(draw, f"{name}.a", width, heads, **attention)  # type: ignore[arg-type]
        self.norm1 = LayerNorm(draw, f"{name}.n1", width, norm, eps)
        self.norm2 = LayerNorm(draw, f"{name}.n2", width, norm, eps)
        shuffled = draw.order(f"{name}.up", 2 * width) if neurons == "shuffled" else None
        self.up = Dense(draw, f"{name}.up", width, 2 * width, ff, rows=shuffled)
        self.down = Dense(draw, f"{name}.down", 2 * width, width, ff, columns=shuffled)
        self.act, self.order, self.residual = activation(act, written), order, residual

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.order == "post":
            x = self.norm1(x + self.attention(x, mask))
            y = self.down(self.act(self.up(x)))
            return self.norm2(x + y if self.residual else y)
        x = x + self.attention(self.norm1(x), mask)
        y = self.down(self.act(self.up(self.norm2(x))))
        return x + y if self.residual else y


class Transformer(nn.Module):
    """An encoder of ``depth`` blocks on [batch, length, width], averaged into ``classes`` logits."""

    def __init__(
        self, draw: Draw, *, width: int = 16, heads: int = 2, depth: int = 2, classes: int = 5, **block: object
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(draw, str(i), width, heads, **block)  # type: ignore[arg-type]
            for i in range(depth)
        )
        self.head = Dense(draw, "head", width, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1)), x


class Encoder(nn.Module):
    """nn.TransformerEncoder with relu or gelu, or the same written by hand; ``padded`` masks the last positions."""

    def __init__(
        self,
        draw: Draw,
        *,
        way: str = "module",
        width: int = 16,
        heads: int = 4,
        depth: int = 2,
        order: str = "post",
        act: str = "relu",
        eps: float = 1e-5,
        padded: int = 2,
        **hand: object,
    ) -> None:
        super().__init__()
        self.way, self.padded = way, padded
        blocks = [
            Block(draw, str(i), width, heads, order=order, act=act, eps=eps, **hand)  # type: ignore[arg-type]
            for i in range(depth)
        ]
        if way == "hand":
            self.blocks = nn.ModuleList(blocks)
            return
        layer = nn.TransformerEncoderLayer(
            width, heads, 2 * width, 0.0, act, eps, batch_first=True, norm_first=order == "pre"
        )
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False).eval()
        for to, block in zip(self.encoder.layers, blocks, strict=True):
            fused, out = block.attention.fused, block.attention.out.layer
            filled(to.self_attn, in_proj_weight=fused.weight.data, in_proj_bias=fused.bias.data)
            pairs = (
                (to.self_attn.out_proj, out),
                (to.linear1, block.up.layer),
                (to.linear2, block.down.layer),
                (to.norm1, block.norm1.layer),
                (to.norm2, block.norm2.layer),
            )
            for module, source in pairs:
                filled(module, weight=source.weight.data, bias=source.bias.data)

    def forward(self, x: Tensor) -> Tensor:
        padding = torch.arange(x.shape[1], device=x.device) >= x.shape[1] - self.padded
        if self.way == "module":
            return self.encoder(x, src_key_padding_mask=padding.expand(len(x), -1))
        mask = torch.zeros_like(x[0, :, 0]).masked_fill(padding, -math.inf).view(1, 1, 1, -1)
        for block in self.blocks:
            x = block(x, mask)
        return x


class MultiHead(nn.Module):
    """nn.MultiheadAttention of a query on a memory, with its weights, or the same by hand."""

    def __init__(
        self, draw: Draw, *, way: str = "module", probabilities: str = "module", heads: int = 4, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.way, self.heads, self.scale, self.probabilities = way, heads, scale, probabilities
        self.parts = nn.ModuleList(Dense(draw, c, 16, 16) for c in ("q", "k", "v", "o"))
        if way == "module":
            w, b = (torch.cat([getattr(p.layer, n) for p in self.parts[:3]]) for n in ("weight", "bias"))
            self.module = nn.MultiheadAttention(16, heads, batch_first=True)
            filled(self.module, in_proj_weight=w.data, in_proj_bias=b.data)
            out = self.parts[3].layer
            filled(self.module.out_proj, weight=out.weight.data, bias=out.bias.data)
            del self.parts

    def forward(self, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
        if self.way == "module":
            y, weights = self.module(x, memory, memory)
            return y, weights
        q, k, v = (
            part(t).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part, t in zip(self.parts, (x, memory, memory), strict=False)
        )
        p = softmax(q @ k.mT * (self.scale * q.shape[-1] ** -0.5), -1, self.probabilities)
        return self.parts[3]((p @ v).transpose(1, 2).flatten(2)), p.mean(1)


class LanguageModel(nn.Module):
    """Tokens, positions, causal blocks, logits tied to the embedding; returns a dict."""

    def __init__(
        self,
        draw: Draw,
        *,
        lookup: str = "module",
        causal: str = "infinite",
        tied: str = "linear",
        words: int = 40,
        width: int = 16,
        length: int = 12,
        depth: int = 2,
        first: int = 0,
        diagonal: int = 1,
        **block: object,
    ) -> None:
        super().__init__()
        self.embedding = filled(nn.Embedding(words, width), weight=draw.weight("words", words, width))
        self.positions = nn.Parameter(draw.weight("positions", length + 1, width))
        self.blocks = nn.ModuleList(
            Block(draw, str(i), width, 2, **block)  # type: ignore[arg-type]
            for i in range(depth)
        )
        self.norm = LayerNorm(draw, "norm", width)
        self.lookup, self.causal, self.tied = lookup, causal, tied
        self.first, self.diagonal = first, diagonal

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        w, n = self.embedding.weight, tokens.shape[1]
        if self.lookup == "one-hot":
            x = F.one_hot(tokens, len(w)).to(w.dtype) @ w
        elif self.lookup == "index":
            x = w[tokens]
        else:
            x = self.embedding(tokens)
        x = x + self.positions[self.first : self.first + n].to(x.dtype)
        above = torch.ones(n, n, dtype=torch.bool).triu(self.diagonal)
        fill = -math.inf if self.causal == "infinite" else -1e9
        mask = torch.zeros(n, n, dtype=x.dtype).masked_fill(above, fill)
        for block in self.blocks:
            x = block(x, mask)
        h = self.norm(x)
        logits = F.linear(h, w) if self.tied == "linear" else torch.einsum("bld,vd->blv", h, w)
        return {"hidden": h, "logits": logits}


BLOCK = {
    "qkv": ("fused", "separate", "interleaved"),
    "attention": ATTENTION,
    "ff": ("linear", "conv1d", "conv2d", "tensordot", "halves"),
    "norm": ("module", "formula", "moments"),
    "written": ("module", "formula"),
    "probabilities": ("module", "shifted", "log"),
    "proj": ("linear", "conv2d", "einsum"),
    "neurons": ("kept", "shuffled"),
}

FAMILIES: tuple[Family, ...] = (
    Family(
        "transformer",
        Transformer,
        lambda draw: (draw.input("x", 3, 7, 16),),
        ways=BLOCK,
        settings=({}, {"order": "post"}, {"act": "silu"}),
        changes=(
            Change("layer norm eps", {"eps": 1e-6}),
            Change("gelu tanh", {"act": "gelu tanh"}),
            Change("softmax axis", {"dim": -2}),
            Change("wrong scale", {"scale": 16**-0.5}),
            Change("swapped q and k", {"swapped": True}),
            Change("missing residual", {"residual": False}),
            Change("norm order", {"order": "post"}, {"order": "pre"}),
            Change("wrong activation", {"act": "gelu"}, {"act": "silu"}),
            Change("head split", {"qkv": "separate", "split": "depth first"}),
        ),
        square=("0.a.q.w", "0.a.v.w", "1.a.k.w", "1.a.o.w"),
    ),
    Family(
        "encoder",
        Encoder,
        lambda draw: (draw.input("x", 3, 8, 16),),
        ways={"way": ("module", "hand")},
        settings=({}, {"act": "gelu"}, {"order": "pre"}),
        changes=(
            Change("layer norm eps", {"eps": 1e-6}),
            Change("wrong mask", {"padded": 1}),
            Change("gelu tanh", {"act": "gelu tanh", "way": "hand"}, {"act": "gelu"}),
            Change("missing residual", {"residual": False, "way": "hand"}),
        ),
        square=("0.a.q.w", "1.a.o.w"),
    ),
    Family(
        "multi-head",
        MultiHead,
        lambda draw: (draw.input("x", 3, 5, 16), draw.input("memory", 3, 9, 16)),
        ways={"way": ("module", "hand"), "probabilities": ("module", "shifted", "log")},
        changes=(Change("wrong scale", {"scale": 1 + 1e-5, "way": "hand"}),),
        square=("q.w", "k.w", "v.w", "o.w"),
    ),
    Family(
        "language model",
        LanguageModel,
        lambda draw: (draw.tokens("tokens", 40, 3, 12),),
        ways={
            "lookup": ("module", "one-hot", "index"),
            "causal": ("infinite", "large"),
            "tied": ("linear", "einsum"),
            **{k: BLOCK[k] for k in ("qkv", "attention", "ff", "neurons")},
        },
        changes=(
            Change("position off by one", {"first": 1}),
            Change("wrong mask", {"diagonal": 2}),
            Change("layer norm eps", {"eps": 1e-6}),
            Change("gelu tanh", {"act": "gelu tanh"}),
        ),
        square=("0.a.q.w", "0.a.k.w"),
    ),
)
