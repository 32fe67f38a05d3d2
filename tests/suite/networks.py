"""Every network of the suite, each with a name: ``ALL`` is the list."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from . import odd
from .draw import Draw
from .family import build
from .same import FAMILIES

Made = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Network:
    """``make(seed)`` gives (model, args, kwargs)."""

    name: str
    make: Callable[[int], Made]


#: Ways to write a family that are worth a network of their own, beside the default.
MORE: dict[str, tuple[dict[str, Any], ...]] = {
    "mlp": ({"form": "conv2d"}, {"form": "tensordot", "act": "sigmoid"}, {"place": "in"}),
    "lenet": ({"form": "unfold", "head": "kernel"}, {"layout": "channels last"}),
    "resnet": ({"bn": "folded64"}, {"layout": "channels last", "add": "in"}),
    "mobilenet": ({"depthwise": "taps"}, {"layout": "channels last"}),
    "u-net": ({"upsample": "bilinear"}, {"norm": "formula", "layout": "channels last"}),
    "transformer": (
        {"qkv": "separate", "attention": "matmul", "ff": "conv1d"},
        {"attention": "baddbmm", "norm": "moments", "probabilities": "log"},
    ),
    "encoder": ({"way": "hand"}, {"order": "pre", "act": "gelu"}),
    "multi-head": ({"way": "hand"},),
    "language model": ({"lookup": "one-hot", "causal": "large"},),
    "lstm": ({"way": "loop"}, {"way": "cell"}),
    "gru": ({"way": "gates"},),
    "rnn": ({"way": "joint"},),
    "fourier": ({"product": "parts"},),
    "head": ({"unit": "root", "logs": "difference", "spread": "formula"},),
    "in place": ({"way": "out"},),
}

FORUM = (256, 64, 128, 256, 4)


def _forum(form: str, act: str, samples: int) -> Network:
    def make(seed: int) -> Made:
        from .dense import Mlp

        draw = Draw(seed)
        return Mlp(draw, sizes=FORUM, form=form, act=act).eval(), (draw.input("x", 16, samples, 256),), {}

    return Network(f"forum {form} {act}, {samples} samples", make)


def _family(family: Any, options: dict[str, Any], dtype: torch.dtype, autocast: bool, name: str) -> Network:
    def make(seed: int) -> Made:
        draw = Draw(seed, dtype=dtype)
        return build(family, draw, {**family.settings[0], **options}, autocast=autocast), family.inputs(draw), {}

    return Network(name, make)


def _odd(name: str, net: Callable[[Draw], nn.Module], *shape: int, **kwargs: Any) -> Network:
    def make(seed: int) -> Made:
        draw = Draw(seed)
        return net(draw), (draw.input("x", *shape),), dict(kwargs)

    return Network(name, make)


def _library(kind: str, **kwargs: Any) -> Network:
    def make(seed: int) -> Made:
        tokens = Draw(seed).tokens("tokens", 50, 2, 9)
        return odd.Library(kind, seed), (tokens,), dict(kwargs)

    return Network(kind, make)


def _tied() -> Network:
    def make(seed: int) -> Made:
        draw = Draw(seed)
        return (
            odd.Tied(draw).eval(),
            (draw.input("x", 4, 12),),
            {"scale": 0.7, "target": draw.input("t", 4, 12)},
        )

    return Network("tied", make)


def _all() -> tuple[Network, ...]:
    found = [_forum(f, a, n) for f in ("linear", "conv2d", "tensordot") for a, n in (("elu", 5), ("sigmoid", 1))]
    for family in FAMILIES:
        found.append(_family(family, {}, torch.float32, False, family.name))
        for options in MORE.get(family.name, ()):
            name = f"{family.name}, " + ", ".join(f"{k} {v}" for k, v in options.items())
            found.append(_family(family, options, torch.float32, False, name))
        if not family.float32_only:
            found.append(_family(family, {}, torch.bfloat16, False, f"{family.name}, bfloat16"))
            found.append(_family(family, {}, torch.float32, True, f"{family.name}, autocast"))
    return (
        *found,
        _odd("control flow", odd.ControlFlow, 5, 8),
        _tied(),
        _odd("custom function", odd.Custom, 2, 5, 6),
        _odd("training batch norm", lambda draw: odd.Training(draw, drop=0.0), 4, 2, 6, 6),
        _odd("dropout", odd.Training, 4, 2, 6, 6),
        _odd("casts", odd.Casts, 3, 8),
        _odd("quiet outputs", odd.Quiet, 5, 8),
        _library("bert"),
        _library("gpt2", output_hidden_states=True),
    )


ALL: tuple[Network, ...] = _all()
