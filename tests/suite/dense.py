"""Fully connected families: the perceptron of the forum, a mixer, a head with norms and logarithms, Fourier mixing."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .draw import Draw
from .family import Change, Family
from .pieces import FORMS, Dense, LayerNorm, activation, filled


class Mlp(nn.Module):
    """The forum's network: an activation after each hidden layer; returns (logits, feats)."""

    def __init__(
        self,
        draw: Draw,
        *,
        sizes: tuple[int, ...] = (24, 16, 32, 20, 4),
        act: str = "elu",
        form: str = "linear",
        hidden: str = "kept",
        written: str = "module",
        place: str = "out",
        unbiased: int = -1,
    ) -> None:
        super().__init__()
        self.act, self.place = activation(act, written), place
        layers, columns = [], None
        for i, (k, n) in enumerate(pairwise(sizes)):
            rows = None
            if i < len(sizes) - 3 and hidden != "kept":  # the last hidden layer is an output: it keeps its order
                rows = draw.order(f"fc{i}", n) if hidden == "shuffled" else torch.arange(n).flip(0)
            layers.append(Dense(draw, f"fc{i}", k, n, form, bias=i != unbiased, rows=rows, columns=columns))
            columns = rows
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for layer in self.layers[:-1]:
            y = layer(x)
            x = y.copy_(self.act(y)) if self.place == "in" else self.act(y)
        return self.layers[-1](x), x


class Mixer(nn.Module):
    """Mixes tokens, then channels: [batch, tokens, channels] to itself (an MLP-Mixer without patches)."""

    def __init__(
        self,
        draw: Draw,
        *,
        tokens: int = 10,
        channels: int = 12,
        depth: int = 2,
        token_form: str = "linear",
        channel_form: str = "linear",
        norm: str = "module",
        written: str = "module",
        act: str = "gelu",
        eps: float = 1e-5,
        residual: bool = True,
    ) -> None:
        super().__init__()
        self.token_form, self.residual, self.act = token_form, residual, activation(act, written)
        self.blocks = nn.ModuleList()
        for i in range(depth):
            form = "linear" if token_form in ("conv", "left") else token_form
            block = {
                "norm1": LayerNorm(draw, f"{i}.n1", channels, norm, eps),
                "norm2": LayerNorm(draw, f"{i}.n2", channels, norm, eps),
                "up": Dense(draw, f"{i}.up", tokens, 2 * tokens, form),
                "down": Dense(draw, f"{i}.down", 2 * tokens, tokens, form),
                "wide": Dense(draw, f"{i}.wide", channels, 2 * channels, channel_form),
                "narrow": Dense(draw, f"{i}.narrow", 2 * channels, channels, channel_form),
            }
            if token_form == "conv":  # over channels as positions: a kernel of one
                block["up"] = filled(
                    nn.Conv1d(tokens, 2 * tokens, 1),
                    weight=block["up"].layer.weight.detach()[..., None],
                    bias=block["up"].layer.bias.detach(),
                )
            self.blocks.append(nn.ModuleDict(block))

    def forward(self, x: Tensor) -> Tensor:
        for b in self.blocks:
            y = b["norm1"](x)
            if self.token_form == "conv":
                y = self.act(b["up"](y)).transpose(1, 2)
            elif self.token_form == "left":
                up = b["up"].layer
                y = self.act(up.weight @ y + up.bias[:, None]).transpose(1, 2)
            else:
                y = self.act(b["up"](y.transpose(1, 2)))
            y = b["down"](y).transpose(1, 2)
            x = x + y if self.residual else y
            x = x + b["narrow"](self.act(b["wide"](b["norm2"](x))))
        return x


class Head(nn.Module):
    """Cosine similarities to prototypes, a temperature, log-probabilities and an energy; returns a dict."""

    def __init__(
        self,
        draw: Draw,
        *,
        form: str = "linear",
        unit: str = "module",
        logs: str = "module",
        spread: str = "module",
        temperature: float = 0.1,
        dim: int = -1,
        correction: int = 1,
    ) -> None:
        super().__init__()
        self.dense = Dense(draw, "fc", 20, 12, form)
        self.prototypes = nn.Parameter(draw.shift("prototypes", 6, 12))
        self.unit, self.logs, self.spread = unit, logs, spread
        self.temperature, self.dim, self.correction = temperature, dim, correction

    def _unit(self, x: Tensor) -> Tensor:
        if self.unit == "norm":
            return x / x.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        if self.unit == "root":
            return x / torch.sqrt((x * x).sum(-1, keepdim=True)).clamp(min=1e-12)
        return F.normalize(x, dim=-1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.dense(x)
        s = self._unit(h) @ self._unit(self.prototypes).t() / self.temperature
        if self.logs == "difference":
            p = s - torch.logsumexp(s, self.dim, keepdim=True)
        elif self.logs == "log":
            p = torch.log(torch.softmax(s, self.dim))
        else:
            p = F.log_softmax(s, self.dim)
        energy = s.exp().sum(-1).log() if self.logs == "log" else torch.logsumexp(s, -1)
        if self.spread == "formula":
            centred = h - h.mean(-1, keepdim=True)
            std = torch.sqrt((centred**2).sum(-1) / (h.shape[-1] - self.correction))
        else:
            std = h.std(-1, correction=self.correction)
        return {"log_probabilities": p, "energy": energy, "spread": std}


class Fourier(nn.Module):
    """Fourier mixing (the real part of a 2-D transform), then a filter of complex numbers over frequencies."""

    def __init__(
        self, draw: Draw, *, mix: str = "fft2", product: str = "complex", norm: str = "backward", conj: bool = False
    ) -> None:
        super().__init__()
        self.filter = nn.Parameter(torch.complex(draw.gain("re", 7, 8), draw.shift("im", 7, 8)))
        self.dense = Dense(draw, "fc", 8, 8)
        self.mix, self.product, self.norm, self.conj = mix, product, norm, conj

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.mix == "fft2":
            y = torch.fft.fft2(x, norm=self.norm).real
        elif self.mix == "twice":
            y = torch.fft.fft(torch.fft.fft(x, dim=-1, norm=self.norm), dim=-2, norm=self.norm).real
        else:  # the transform of a real signal first
            y = torch.fft.fft(torch.fft.fft(x, dim=-2, norm=self.norm), dim=-1, norm=self.norm).real
        y = self.dense(y / x.shape[-2])
        f, g = torch.fft.rfft(y, dim=-2), self.filter.conj() if self.conj else self.filter
        if self.product == "parts":
            h = torch.complex(f.real * g.real - f.imag * g.imag, f.real * g.imag + f.imag * g.real)
        elif self.product == "einsum":
            h = torch.einsum("bkc,kc->bkc", f, g)
        else:
            h = f * g
        return torch.fft.irfft(h, n=x.shape[-2], dim=-2), h


def _mlp(**options: Any) -> Family:
    acts = ("elu", "sigmoid", "gelu", "silu", "tanh", "relu")
    wrong = (
        ("elu", "elu 1.01"),
        ("gelu", "gelu tanh"),
        ("silu", "gelu"),
        ("gelu", "quick gelu"),
        ("relu", "leaky"),
        ("tanh", "sigmoid"),
    )
    return Family(
        "mlp",
        Mlp,
        lambda draw: (draw.input("x", 4, 3, 24),),
        ways={
            "form": FORMS,
            "hidden": ("kept", "shuffled", "reversed"),
            "written": ("module", "formula"),
            "place": ("out", "in"),
        },
        settings=tuple({"act": act} for act in acts),
        changes=(
            *(Change("wrong activation", {"act": bad}, {"act": good}) for good, bad in wrong),
            *(Change("missing bias", {"unbiased": i}) for i in (0, 2)),
        ),
        **options,
    )


FAMILIES: tuple[Family, ...] = (
    _mlp(),
    Family(
        "square mlp",
        Mlp,
        lambda draw: (draw.input("x", 4, 16),),
        ways={"form": FORMS, "hidden": ("kept", "shuffled")},
        settings=({"sizes": (16, 16, 16, 16)}, {"sizes": (16, 16, 16, 16), "act": "sigmoid"}),
        changes=(Change("missing bias", {"unbiased": 1}),),
        square=("fc0.w", "fc1.w", "fc2.w"),
    ),
    Family(
        "long mlp",  # long sums, as a wide network has
        Mlp,
        lambda draw: (draw.input("x", 2, 3, 700),),
        ways={"form": ("linear", "conv2d", "tensordot", "halves", "reversed", "left")},
        settings=({"sizes": (700, 40, 8)}, {"sizes": (700, 40, 8), "act": "relu"}),
        changes=(Change("missing bias", {"unbiased": 0}),),
    ),
    Family(
        "mixer",
        Mixer,
        lambda draw: (draw.input("x", 3, 10, 12),),
        ways={
            "token_form": ("linear", "conv", "left", "einsum", "tensordot", "halves"),
            "channel_form": ("linear", "conv1d", "matmul", "reversed"),
            "norm": ("module", "formula", "moments"),
            "written": ("module", "formula"),
        },
        changes=(
            Change("layer norm eps", {"eps": 1e-6}),
            Change("gelu tanh", {"act": "gelu tanh"}),
            Change("missing residual", {"residual": False}),
        ),
    ),
    Family(
        "head",
        Head,
        lambda draw: (draw.input("x", 5, 20),),
        ways={
            "form": FORMS,
            "unit": ("module", "norm", "root"),
            "logs": ("module", "difference", "log"),
            "spread": ("module", "formula"),
        },
        changes=(
            Change("softmax axis", {"dim": 0}),
            Change("wrong scale", {"temperature": 0.1 * (1 + 1e-5)}),
            Change("unbiased variance", {"correction": 0}),
        ),
    ),
    Family(
        "fourier",
        Fourier,
        lambda draw: (draw.input("x", 3, 12, 8),),
        ways={"mix": ("fft2", "twice", "other axis first"), "product": ("complex", "parts", "einsum")},
        changes=(
            Change("wrong scale", {"norm": "ortho"}),
            Change("conjugate", {"conj": True}),
        ),
        square=("fc.w",),
        float32_only=True,  # complex numbers have no bfloat16
    ),
)
