"""Pairs of one function written in two ways: forms, layouts, batches, orders, fused and not, folded, threads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from . import attention, dense, images, odd, recurrent, vision
from .draw import Draw, dice
from .family import Family, build, described, mixture, singles, sizes
from .pair import Pair

FAMILIES: tuple[Family, ...] = (
    *dense.FAMILIES,
    *vision.FAMILIES,
    *images.FAMILIES,
    *attention.FAMILIES,
    *recurrent.FAMILIES,
    *odd.FAMILIES,
)

#: How the caller keeps gradients. PyTorch takes other kernels in each.
MODES: tuple[tuple[str, Any], ...] = (
    ("grad", torch.enable_grad),
    ("no_grad", torch.no_grad),
    ("inference", torch.inference_mode),
)
PRECISIONS = ("float32", "float32", "bfloat16", "autocast")
MIXTURES = 8


def same_pairs(seed: int = 0) -> Iterator[Pair]:
    """At least 300 pairs of the same function, made one at a time."""
    for family in FAMILIES:
        yield from family_pairs(family, seed)


def family_pairs(family: Family, seed: int) -> Iterator[Pair]:
    """Each way of a family against the default, then mixtures of ways against each other."""
    source = dice("same", family.name, seed)
    alone = singles(family)
    source.shuffle(alone)
    for number, way in enumerate([*alone, *[None] * MIXTURES]):
        precision = "float32" if family.float32_only else PRECISIONS[number % len(PRECISIONS)]
        scale, input_scale = sizes(source)
        dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        if way is None:
            ways = mixture(family, source, dtype, scale), mixture(family, source, dtype, scale)
        else:
            if not all(family.allows(option, value, dtype, scale) for option, value in way.items()):
                precision, dtype, scale = "float32", torch.float32, "default"
            ways = {}, way
        mode, context = source.choice(MODES)
        setting = source.choice(family.settings)
        chosen = source.randrange(2**31)
        draws = [Draw(chosen, scale, input_scale, dtype) for _ in ways]
        a, b = (
            build(family, draw, {**setting, **way}, autocast=precision == "autocast")
            for draw, way in zip(draws, ways, strict=True)
        )
        about = f"{family.name} {number}: {precision}, {mode}, weights {scale}, inputs {input_scale:g}"
        about += "".join(f", {k} {v}" for k, v in setting.items())
        yield Pair(f"{about}; {described(*ways)}", "", a, b, family.inputs(draws[0]), context)
