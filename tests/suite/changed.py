"""Pairs with a real change planted in one side, mostly written in different ways as well."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from .draw import Draw, Edit, dice, nudged, swapped_rows, transposed
from .family import Change, Family, Options, build, described, mixture
from .pair import Pair, clone
from .planted import Fault, Faulty, both, element, rounded
from .same import FAMILIES, MODES, PRECISIONS

BY_NAME = {family.name: family for family in FAMILIES}
SCALES = (("default", 1.0), ("default", 1.0), ("default", 30.0), ("normal", 1.0), ("tiny", 1.0), ("default", 0.01))


@dataclass(frozen=True)
class Plant:
    """An operator whose kernel is made wrong, and the family and options in which it is called."""

    family: str
    op: str
    options: Options


PRODUCTS: tuple[Plant, ...] = (
    Plant("mlp", "addmm", {"form": "linear"}),
    Plant("mlp", "mm", {"form": "matmul"}),
    Plant("mlp", "convolution", {"form": "conv2d"}),
    Plant("long mlp", "addmm", {"form": "linear"}),
    Plant("long mlp", "convolution", {"form": "conv2d"}),
    Plant("lenet", "convolution", {}),
    Plant("resnet", "convolution", {}),
    Plant("mobilenet", "convolution", {}),
    Plant("transformer", "bmm", {"attention": "matmul"}),
    Plant("transformer", "addmm", {}),
    Plant("language model", "addmm", {}),
    Plant("u-net", "convolution", {}),
    Plant("gru", "addmm", {"way": "gates"}),
)

OTHERS: tuple[Plant, ...] = (
    Plant("mlp", "elu", {"act": "elu", "written": "module", "place": "out"}),
    Plant("mlp", "sigmoid", {"act": "sigmoid", "written": "module"}),
    Plant("lenet", "relu", {}),
    Plant("lenet", "max_pool2d_with_indices", {"pool": "module"}),
    Plant("lenet", "native_batch_norm", {"bn": "module"}),
    Plant("resnet", "mean.dim", {"mean": "mean"}),
    Plant("transformer", "_softmax", {"attention": "matmul", "probabilities": "module"}),
    Plant("transformer", "native_layer_norm", {"norm": "module"}),
    Plant("transformer", "gelu", {"written": "module"}),
    Plant("transformer", "_scaled_dot_product_flash_attention_for_cpu", {"attention": "sdpa"}),
    Plant("lstm", "tanh", {"way": "loop"}),
    Plant("resnet", "add.Tensor", {"add": "out"}),
    Plant("gru", "mul.Tensor", {"way": "gates"}),
    Plant("mobilenet", "hardswish", {"written": "module"}),
    Plant("mobilenet", "sigmoid", {}),
    Plant("head", "_log_softmax", {"logs": "module"}),
    Plant("u-net", "native_group_norm", {"norm": "module"}),
    Plant("u-net", "upsample_bilinear2d", {"upsample": "bilinear", "up": "module"}),
    Plant("pooled", "avg_pool2d", {"average": "module"}),
    Plant("language model", "embedding", {"lookup": "module"}),
    Plant("language model", "cat", {"attention": "heads"}),
    Plant("fourier", "_fft_r2c", {}),
)


def changed_pairs(seed: int = 0) -> Iterator[Pair]:
    """At least 300 pairs that are not the same, made one at a time."""
    for family in FAMILIES:
        source = dice("changed", family.name, seed)
        for change in family.changes:
            for _ in range(2):
                yield _optional(family, change, source)
        for ulps in (1, 4):
            for _ in range(3):
                edit = nudged(ulps, source.random())
                yield _edited(family, f"weight by {ulps} ulp", None, edit, source)
        for name in family.square:
            yield _edited(family, "transposed weight", name, transposed, source)
        yield _edited(family, "permuted channels", None, swapped_rows, source)
    source = dice("planted", seed)
    for plant in PRODUCTS:
        yield _planted(plant, "tf32", rounded(11), source)
        yield _planted(plant, "bfloat16", rounded(8), source)
    for plant in PRODUCTS + OTHERS:
        yield _planted(plant, "element", element(source.random()), source)


def _setup(source: random.Random, family: Family) -> tuple[str, torch.dtype, str, float, tuple[str, Any]]:
    precision = "float32" if family.float32_only else source.choice(PRECISIONS)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    return precision, dtype, *source.choice(SCALES), source.choice(MODES)


def _about(family: Family, precision: str, mode: str, scale: str, size: float) -> str:
    return f"{family.name}: {precision}, {mode}, weights {scale}, inputs {size:g}"


def _optional(family: Family, change: Change, source: random.Random) -> Pair:
    """The change is an option of the family."""
    precision, dtype, scale, size, (mode, context) = _setup(source, family)
    setting = {**family.settings[0], **change.given}
    ways_a, ways_b = (mixture(family, source, dtype, scale, 0.4) for _ in range(2))
    ways_b |= {k: v for k, v in change.then.items() if k in family.ways}
    seed = source.randrange(2**31)

    def made(*options: Options) -> nn.Module:
        together = {k: v for part in (setting, *options) for k, v in part.items()}
        return build(family, Draw(seed, scale, size, dtype), together, autocast=precision == "autocast")

    about = _about(family, precision, mode, scale, size)
    return Pair(
        f"{change.kind} in {about}; {described({**setting, **ways_a}, {**setting, **ways_b, **change.then})}",
        change.kind,
        made(ways_a),
        made(ways_b, change.then),
        family.inputs(Draw(seed, scale, size, dtype)),
        context,
        clean=made(ways_b),
    )


def _edited(family: Family, kind: str, name: str | None, edit: Edit, source: random.Random) -> Pair:
    """The change is one of a parameter: ``name``, or any that has two rows."""
    precision, dtype, scale, size, (mode, context) = _setup(source, family)
    setting = source.choice(family.settings)
    # A folded side rounds its weights anew, which hides an ulp: such ways are left out here.
    ways_a, ways_b = (mixture(family, source, dtype, scale, 0.4, folds=False) for _ in range(2))
    seed = source.randrange(2**31)

    def made(draw: Draw, ways: Options) -> nn.Module:
        return build(family, draw, {**setting, **ways}, autocast=precision == "autocast")

    clean = Draw(seed, scale, size, dtype)
    a, b = made(clean, ways_a), made(clean, ways_b)
    name = name or source.choice([n for n, shape in sorted(clean.shapes.items()) if shape[0] > 1])
    changed = made(Draw(seed, scale, size, dtype, {name: edit}), ways_b)
    about = _about(family, precision, mode, scale, size)
    label = f"{kind} ({name}) in {about}; {described(ways_a, ways_b)}"
    return Pair(label, kind, a, changed, family.inputs(clean), context, clean=b)


def _planted(plant: Plant, kind: str, damage: Any, source: random.Random) -> Pair:
    """The change is a kernel that is wrong in float32."""
    family = BY_NAME[plant.family]
    scale, size = source.choice(SCALES)
    mode, context = source.choice(MODES)
    setting = family.settings[0]
    ways_a = mixture(family, source, torch.float32, scale, 0.4)
    seed = source.randrange(2**31)
    shared = {k: v for k, v in plant.options.items() if k not in family.ways}
    a = build(family, Draw(seed, scale, size), {**setting, **ways_a, **shared})
    clean = build(family, Draw(seed, scale, size), {**setting, **plant.options})
    args = family.inputs(Draw(seed, scale, size))
    fault = Fault(plant.op, source.randrange(100), damage)
    b = Faulty(clean, fault)

    def run() -> None:
        with context():
            b(*map(clone, args))

    calls = fault.aim(run)
    about = _about(family, "float32", mode, scale, size)
    label = f"{kind} in call {fault.call % max(calls, 1)} of {plant.op} in {about}; {described(ways_a, plant.options)}"
    active = partial(both, fault, context)
    return Pair(label, f"kernel: {kind}", a, b, args, active, clean=clean, native=True)
