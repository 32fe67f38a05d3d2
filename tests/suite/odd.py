"""Networks with habits that are hard to follow: in-place writes, views, control flow, ties, outputs of every kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .draw import Draw
from .family import Change, Family
from .pieces import Conv, Dense, filled


class InPlace(nn.Module):
    """Writes into rows, masks, slices and views, or does the same without writing: [batch, 6, 8]."""

    def __init__(self, draw: Draw, *, way: str = "in", form: str = "linear", row: int = 0, slope: float = 0.1) -> None:
        super().__init__()
        self.one, self.two = Dense(draw, "one", 8, 8, form), Dense(draw, "two", 8, 8, form)
        self.register_buffer("offset", draw.shift("offset", 8))
        self.way, self.row, self.slope = way, row, slope

    def forward(self, x: Tensor) -> Tensor:
        h = self.one(x)
        return self._out(h, x) if self.way == "out" else self._in(h, x)

    def _in(self, h: Tensor, x: Tensor) -> Tensor:
        h = h.clone(memory_format=torch.contiguous_format)
        h[:, self.row] += self.offset.to(h.dtype)
        F.leaky_relu_(h, self.slope)
        h[:, 1:3, ::2] = x[:, 1:3, ::2].to(h.dtype)
        h.select(1, 4).mul_(0.5).sub_(h[:, 5])
        h.masked_fill_(torch.eye(6, 8, dtype=torch.bool), 0.3)
        rows = torch.tensor([3, 5, 3])
        h.index_put_((torch.arange(len(h))[:, None], rows), x[:, :3].to(h.dtype), accumulate=True)
        flat = h.view(len(h), -1)
        flat[:, -4:].add_(flat[:, :4]).tanh_()
        return self.two(h).add_(1)

    def _out(self, h: Tensor, x: Tensor) -> Tensor:
        first = torch.zeros(6, 1, dtype=h.dtype)
        first[self.row] = 1
        h = F.leaky_relu(h + first * self.offset.to(h.dtype), self.slope)
        mixed = torch.where(torch.arange(8) % 2 == 0, x[:, 1:3].to(h.dtype), h[:, 1:3])
        fourth = (h[:, 4] * 0.5 - h[:, 5])[:, None]
        h = torch.cat([h[:, :1], mixed, h[:, 3:4], fourth, h[:, 5:]], 1)
        h = torch.where(torch.eye(6, 8, dtype=torch.bool), 0.3, h)
        h = h.index_add(1, torch.tensor([3, 5, 3]), x[:, :3].to(h.dtype))
        flat = h.flatten(1)
        flat = torch.cat([flat[:, :-4], torch.tanh(flat[:, -4:] + flat[:, :4])], 1)
        return 1 + self.two(flat.view(h.shape))


FAMILIES: tuple[Family, ...] = (
    Family(
        "in place",
        InPlace,
        lambda draw: (draw.input("x", 3, 6, 8),),
        ways={"way": ("in", "out"), "form": ("linear", "conv1d", "tensordot", "left")},
        changes=(
            Change("wrong row", {"row": 3}),
            Change("wrong activation", {"slope": 0.1001}),
        ),
        square=("one.w", "two.w"),
    ),
)


class Signs(NamedTuple):
    """Two outputs with names."""

    scores: Tensor
    chosen: Tensor


@dataclass
class Answer:
    """A dataclass output, as model libraries have them, with an optional part."""

    logits: Tensor
    hidden: tuple[Tensor, ...]
    loss: Tensor | None = None


torch.utils._pytree.register_dataclass(Answer)


class ControlFlow(nn.Module):
    """Python looks at values: how often to loop, which branch to take, which samples to keep."""

    def __init__(self, draw: Draw) -> None:
        super().__init__()
        self.layer, self.other = Dense(draw, "one", 8, 8), Dense(draw, "two", 8, 8)

    def forward(self, x: Tensor) -> Signs:
        for _ in range(6):
            x = x + 0.5 * torch.tanh(self.layer(x))
            if x.norm().item() > 40:
                break
        x = self.other(x) if bool(x.mean() > 0) else self.layer(x)
        kept = x[x.sum(-1) > 0] if bool((x.sum(-1) > 0).any()) else x
        return Signs(kept, x.argmax(-1))


class Tied(nn.Module):
    """An autoencoder whose decoder is the transpose of its encoder; a buffer counts calls; a keyword scales."""

    def __init__(self, draw: Draw) -> None:
        super().__init__()
        self.encode = Dense(draw, "one", 12, 5).layer
        self.decode = filled(nn.Linear(12, 5, bias=False))
        self.decode.weight = self.encode.weight
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor, *, scale: float = 1.0, target: Tensor | None = None) -> Answer:
        self.calls += 1
        code = torch.sigmoid(self.encode(x)) * scale
        out = code @ self.decode.weight
        loss = None if target is None else F.mse_loss(out, target)
        return Answer(out, (code, code.square()), loss)


class _Clipped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, limit: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.limit = limit
        return x.clamp(-limit, limit) * 0.5

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (x,) = ctx.saved_tensors
        return grads[0] * 0.5 * (x.abs() < ctx.limit), None


class Custom(nn.Module):
    """A custom autograd function, an einsum of three operands, a cumulative sum, sorting and gathering."""

    def __init__(self, draw: Draw) -> None:
        super().__init__()
        self.u, self.v = nn.Parameter(draw.shift("u", 6, 4)), nn.Parameter(draw.shift("v", 6, 4))
        self.layer = Dense(draw, "one", 6, 6)

    def forward(self, x: Tensor) -> dict[str, Any]:
        x = _Clipped.apply(self.layer(x), 0.4)
        mixed = torch.einsum("blk,kr,nr->bln", x, self.u, self.v)
        summed = mixed.cumsum(1)
        values, where = summed.sort(-1, descending=True)
        return {"top": (values[..., :2], where[..., :2]), "gathered": x.gather(-1, where)}


class Training(nn.Module):
    """Batch norm that takes its statistics from the batch, and dropout: in training mode."""

    def __init__(self, draw: Draw, drop: float = 0.3) -> None:
        super().__init__()
        self.conv, self.norm = Conv(draw, "conv", 2, 6, padding=1), nn.BatchNorm2d(6)
        self.drop, self.head = nn.Dropout(drop), Dense(draw, "head", 6, 4)
        self.train()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(F.relu_(self.norm(self.conv(x))).mean((2, 3))))


class Casts(nn.Module):
    """A part that the author runs in bfloat16, one in float64, and a logarithm that is kept in float32."""

    def __init__(self, draw: Draw) -> None:
        super().__init__()
        self.one, self.two = Dense(draw, "one", 8, 16), Dense(draw, "two", 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.one(x)).bfloat16()
        h = (h * h).float()
        h = (h.double() - h.double().mean(-1, keepdim=True)).to(x.dtype)
        return torch.log_softmax(self.two(h), -1)


class Quiet(nn.Module):
    """Outputs that are integers, booleans, constants and empty, beside one that is not."""

    def __init__(self, draw: Draw) -> None:
        super().__init__()
        self.layer = Dense(draw, "one", 8, 4)

    def forward(self, x: Tensor) -> list[Tensor]:
        y = self.layer(x)
        return [y.argmax(-1), y > 0, torch.ones(3), y[:0], y.std(-1)]


class Library(nn.Module):
    """A model of the transformers library with random weights: its output is a dataclass of that library."""

    def __init__(self, kind: str, seed: int) -> None:
        super().__init__()
        import transformers

        torch.manual_seed(seed)
        if kind == "bert":
            config = transformers.BertConfig(
                vocab_size=50,
                hidden_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=32,
                max_position_embeddings=16,
            )
            self.model: Any = transformers.BertModel(config).eval()
        else:
            config = transformers.GPT2Config(
                vocab_size=50,
                n_positions=16,
                n_embd=16,
                n_layer=2,
                n_head=2,
                bos_token_id=0,
                eos_token_id=0,
            )
            self.model = transformers.GPT2LMHeadModel(config).eval()

    def forward(self, tokens: Tensor, **kwargs: Any) -> Any:
        return self.model(tokens, **kwargs)
