"""Recurrent families: PyTorch's modules, their cells in a loop, and loops over gates written by hand."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .draw import Draw
from .family import Change, Family
from .pieces import Dense, filled

GATES = {"lstm": 4, "gru": 3, "rnn": 1}
MODULES: dict[str, tuple[Any, Any]] = {
    "lstm": (nn.LSTM, nn.LSTMCell),
    "gru": (nn.GRU, nn.GRUCell),
    "rnn": (nn.RNN, nn.RNNCell),
}


class Recurrent(nn.Module):
    """A recurrent layer on [batch, time, k], then logits of the last state; returns (logits, states).

    Ways: module; cell (PyTorch's cell in a loop); loop (one product for all gates); gates (one product per gate);
    joint (input and state in one product); ahead (the products with the input before the loop).
    """

    def __init__(
        self,
        draw: Draw,
        *,
        kind: str = "lstm",
        way: str = "module",
        form: str = "linear",
        k: int = 6,
        n: int = 8,
        start: float = 0.0,
        swapped: bool = False,
        squash: str = "tanh",
        reset: str = "after",
        backward: bool = False,
    ) -> None:
        super().__init__()
        self.kind, self.way, self.n, self.start = kind, way, n, start
        self.squash, self.reset, self.backward = squash, reset, backward
        g = GATES[kind]
        w, u = draw.weight("w", g * n, k, fan=n), draw.weight("u", g * n, n, fan=n)
        b, c = draw.weight("b", g * n, fan=n), draw.weight("c", g * n, fan=n)
        if swapped:  # two gates exchanged
            order = [1, 0, *range(2, g)]
            w, u, b, c = (torch.cat([t.chunk(g)[i] for i in order]) for t in (w, u, b, c))
        if way in ("module", "cell"):
            module = MODULES[kind][way == "cell"](k, n, **({"batch_first": True} if way == "module" else {}))
            tail = "_l0" if way == "module" else ""
            names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            self.core = filled(module, **dict(zip([n + tail for n in names], (w, u, b, c), strict=True)))
        else:
            values = {"w": w, "u": u, "b": b, "c": c}
            if way == "gates":
                values = {f"{m}{i}": part for m, t in values.items() for i, part in enumerate(t.chunk(g))}
            elif way == "joint" and kind != "gru":  # the gates of a GRU need the two products apart
                values = {"wu": torch.cat([w, u], 1), "b": b, "c": c}
            self.held = nn.ParameterDict({m: nn.Parameter(t.clone()) for m, t in values.items()})
        self.head = Dense(draw, "head", n, 4, form)

    def _halves(self, x: Tensor, h: Tensor, ahead: Tensor | None) -> tuple[list[Tensor], list[Tensor]]:
        """What input and state add to each gate."""
        p, g = self.held, GATES[self.kind]
        if self.way == "gates":
            return (
                [F.linear(x, p[f"w{i}"], p[f"b{i}"]) for i in range(g)],
                [F.linear(h, p[f"u{i}"], p[f"c{i}"]) for i in range(g)],
            )
        if self.way == "joint" and self.kind != "gru":
            both = torch.cat([x, h], -1) @ p["wu"].t() + p["b"]
            return list(both.chunk(g, -1)), list(p["c"].chunk(g, -1))
        left = F.linear(x, p["w"], p["b"]) if ahead is None else ahead
        return list(left.chunk(g, -1)), list(F.linear(h, p["u"], p["c"]).chunk(g, -1))

    def _step(self, x: Tensor, h: Tensor, s: Tensor, ahead: Tensor | None) -> tuple[Tensor, Tensor]:
        squash = torch.tanh if self.squash == "tanh" else torch.sigmoid
        left, right = self._halves(x, h, ahead)
        if self.kind == "rnn":
            return squash(left[0] + right[0]), s
        if self.kind == "gru":
            r, z = (torch.sigmoid(left[i] + right[i]) for i in (0, 1))
            if self.reset == "before" and "u" in self.held:
                u, c = (self.held[m].chunk(3)[2] for m in ("u", "c"))
                new = squash(left[2] + F.linear(r * h, u, c))
            else:
                new = squash(left[2] + r * right[2])
            return (1 - z) * new + z * h, s
        i, f, o = (torch.sigmoid(left[j] + right[j]) for j in (0, 1, 3))
        s = f * s + i * squash(left[2] + right[2])
        return o * squash(s), s

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.flip(1) if self.backward else x
        h = x.new_full((len(x), self.n), self.start)
        s = x.new_full((len(x), self.n), self.start)
        if self.way == "module":
            first = (h[None], s[None]) if self.kind == "lstm" else h[None]
            states = self.core(x, first)[0]
        else:
            ahead = F.linear(x, self.held["w"], self.held["b"]) if self.way == "ahead" else None
            kept = []
            for t in range(x.shape[1]):
                if self.way != "cell":
                    h, s = self._step(x[:, t], h, s, None if ahead is None else ahead[:, t])
                elif self.kind == "lstm":
                    h, s = self.core(x[:, t], (h, s))
                else:
                    h = self.core(x[:, t], h)
                kept.append(h)
            states = torch.stack(kept, 1)
        return self.head(states[:, -1]), states


WAYS = {
    "way": ("module", "cell", "loop", "gates", "joint", "ahead"),
    "form": ("linear", "conv1d", "conv2d", "tensordot", "einsum"),
}


def _has_bfloat16_lstm() -> bool:
    """False on processors for which oneDNN has none: there PyTorch itself raises under autocast."""
    try:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            nn.LSTM(2, 2)(torch.zeros(1, 1, 2))
    except RuntimeError:
        return False
    return True


HAS_BFLOAT16_LSTM = _has_bfloat16_lstm()


def _family(kind: str, *changes: Change) -> Family:
    common = (
        Change("wrong start", {"start": 1e-4}),
        Change("reversed time", {"backward": True}),
        Change("wrong activation", {"squash": "sigmoid", "way": "loop"}),
    )
    return Family(
        kind,
        lambda draw, **options: Recurrent(draw, kind=kind, **options),
        lambda draw: (draw.input("x", 3, 5, 6),),
        ways=WAYS,
        changes=common + changes,
        square=("u",) if kind == "rnn" else (),
        float32_only=kind == "lstm" and not HAS_BFLOAT16_LSTM,
    )


FAMILIES: tuple[Family, ...] = (
    _family("lstm", Change("swapped gates", {"swapped": True})),
    _family(
        "gru",
        Change("swapped gates", {"swapped": True}),
        Change("reset before the product", {"way": "loop", "reset": "before"}),
    ),
    _family("rnn"),
)
