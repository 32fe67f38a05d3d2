"""Operators that select among numbers, compare them, or compute with integers. Exact, but choices can cross.

Those whose result is a choice (indices, booleans, signs) are ``discrete``: where the wide run chooses differently it
is a branch crossing. The selected *values* (``max``, ``relu``, ``sort``) are continuous and do not jump.
"""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor

from roundoff.formats import UNIT_ROUNDOFF
from roundoff.rules.registry import register
from roundoff.rules.rule import Call, Limit, Nature, Rule
from roundoff.rules.samples import Given, Operands, given

_SOURCE = "selects one of its operands' numbers and computes none"


def _x(r: Operands) -> Tensor:
    return r.wild(3, 4, 37)


def _two(r: Operands) -> list[tuple[Tensor, Tensor]]:
    x, y = r.wild(3, 4, 37), r.wild(4, 37)
    return [(x, torch.where(r.mask(4, 37), y, x[0])), (r.strided(x), y)]


def _image(r: Operands) -> list[Tensor]:
    x = r.wild(2, 3, 9, 11)
    return [x, x.contiguous(memory_format=torch.channels_last)]


CONTINUOUS: dict[str, Given] = {
    "amax": lambda r: [(_x(r), [1]), (_x(r), [0, 2], True)],
    "amin": lambda r: [(_x(r), [1]), (_x(r), [0, 2], True)],
    "aminmax": lambda r: [(_x(r), {"dim": 1})],
    "clamp.Tensor": lambda r: [(_x(r), r.normal(37) - 1, r.normal(37) + 1)],
    "clamp_max.Tensor": lambda r: [(_x(r), r.normal(37))],
    "clamp_min.Tensor": lambda r: [(_x(r), r.normal(37))],
    "copysign": _two,
    "cummax": lambda r: [(_x(r), 2)],
    "cummin": lambda r: [(_x(r), 2)],
    "fmax": _two,
    "fmin": _two,
    "kthvalue": lambda r: [(_x(r), 5)],
    "max": lambda r: [_x(r), (_x(r), 2)],
    "max_pool2d_with_indices": lambda r: [(x, [3, 3], [2, 2], [1, 1]) for x in _image(r)],
    "max_pool3d_with_indices": lambda r: [(r.wild(1, 2, 5, 6, 7), [2, 2, 2])],
    "adaptive_max_pool2d": lambda r: [(x, [4, 3]) for x in _image(r)],
    "adaptive_max_pool3d": lambda r: [(r.wild(1, 2, 5, 6, 7), [2, 3, 2])],
    "maximum": _two,
    "median": lambda r: [(_x(r), 2)],
    "min": lambda r: [_x(r), (_x(r), 2)],
    "minimum": _two,
    "mode": lambda r: [(_x(r), 2)],
    "nanmedian": lambda r: [(_x(r), 2)],
    "neg": lambda r: [_x(r), r.line()],
    "positive": lambda r: [_x(r)],
    "relu": lambda r: [_x(r), r.line(), *_image(r)],
    "sort": lambda r: [_x(r), (_x(r), 1, True)],
    "topk": lambda r: [(_x(r), 5), (_x(r), 2, 1, False)],
    "unique_consecutive": lambda r: [r.normal(20).round()],
    "unique_dim": lambda r: [(r.normal(5, 3).round(), 0)],
    "_unique": lambda r: [r.normal(20).round()],
    "_unique2": lambda r: [r.normal(20).round()],
}

DISCRETE: dict[str, Given] = {
    **{name: lambda r: [(_x(r), {"dim": 1})] for name in ("all", "any")},
    "argmax": lambda r: [(_x(r), 2)],
    "argmin": lambda r: [(_x(r), 2)],
    **{name: lambda r: [r.line(), (_x(r) * 1.5)] for name in ("ceil", "floor", "round", "trunc", "sign", "signbit")},
    **dict.fromkeys(("eq", "ge", "gt", "le", "lt", "ne", "logical_and", "logical_or", "logical_xor"), _two),
    "bucketize": lambda r: [(_x(r), r.normal(9).sort().values)],
    "count_nonzero": lambda r: [(_x(r), 2)],
    "heaviside": _two,
    "isin": lambda r: [(r.normal(9).round(), r.normal(3).round())],
    "isinf": lambda r: [r.line()],
    "isnan": lambda r: [r.line()],
    "isneginf": lambda r: [r.line()],
    "isposinf": lambda r: [r.line()],
    "logical_not": lambda r: [r.normal(9).round()],
    "nonzero": lambda r: [r.normal(4, 5).round()],
    "nonzero_static": lambda r: [(r.normal(4, 5).round(), {"size": 30})],
    "searchsorted": lambda r: [(r.normal(9).sort().values, _x(r))],
}

#: Integers and booleans only (or almost): exact in any format.
INTEGERS = (
    "bitwise_and", "bitwise_left_shift", "bitwise_not", "bitwise_or", "bitwise_right_shift", "bitwise_xor",
    "__and__", "__or__", "__xor__", "__lshift__", "__rshift__", "__iand__", "__ior__", "__ixor__",
    "gcd", "lcm", "one_hot", "equal", "histc", "repeat_interleave",
    "is_nonzero", "item", "_local_scalar_dense", "sym_size", "sym_numel",
    "_assert_async", "_assert_scalar", "_assert_tensor_metadata", "_is_all_true", "_is_any_true", "is_same_size",
)  # fmt: skip


def _round_decimals(call: Call) -> Limit:
    """x 10^n in the format of x, rounded to a whole number, over 10^n; below zero the other way round.

    The power and the product are rounded once each, so a number that near to a tie may go to either side.
    """
    x, n, y = call.args[0], call.kwargs["decimals"], call.out[0]
    power = torch.tensor(10.0, dtype=torch.float64) ** abs(n)
    scaled = x.abs() * power if n >= 0 else x.abs() / power
    off = scaled * call.gamma_out(2) + call.underflow
    tips = (scaled - scaled.floor() - 0.5).abs() <= off
    limit = y.abs() * call.gamma_out(2) + torch.where(tips, (1 + off) * 10.0**-n, 0.0)
    short = max(call.u, call.u_out) == UNIT_ROUNDOFF[torch.float16]
    largest = min(call.huge, torch.finfo(torch.float16).max / 2) if short else call.huge
    return torch.where((scaled > largest) | (power > largest), inf, limit)


for _name, _cases in CONTINUOUS.items():
    register(Rule((f"aten.{_name}",), Nature.EXACT, source=_SOURCE, samples=given(_cases)))

for _name, _cases in DISCRETE.items():
    register(
        Rule(
            (f"aten.{_name}",),
            Nature.EXACT,
            source="a choice, or a whole number: exact on the same operands",
            samples=given(_cases),
            discrete=True,
        )
    )

register(Rule(tuple(f"aten.{name}" for name in INTEGERS), Nature.EXACT, source="integers are exact", discrete=True))

register(
    Rule(
        ("aten.round.decimals",),
        Nature.ROUNDS,
        _round_decimals,
        source="Higham, Accuracy and Stability of Numerical Algorithms (2002), §2.2: each operation is rounded once",
        assumes="x 10^n does not overflow",
        samples=given(
            lambda r: [
                (x, {"decimals": n})
                for n in (-2, 0, 1, 3, 7)
                for x in (r.line(), r.wild(3, 37, decades=3), r.integers(4000, 500).to(r.dtype) / 8)
            ]
        ),
        discrete=True,
        jump=lambda args, kwargs: float(10.0 ** -kwargs["decimals"]),
    )
)
