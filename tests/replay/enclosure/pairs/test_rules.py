"""Every rule for pairs on the sample operands of its operator: against float64, and with its operands moved.

The tails are large, but so that mid + low is a float64 number: float64's own enclosure of that number is then as good as the
pair is, and a tail that is lost, or taken twice, or to another place, is seen.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.replay.enclosure.operands import cases, computed
from torch import Tensor

from roundoff.formats import is_inexact
from roundoff.replay.enclosure.ball import Ball, Unknown, gap, l2
from roundoff.replay.enclosure.opened import balls_of
from roundoff.replay.enclosure.pairs.pair import Pair
from roundoff.replay.enclosure.pairs.registry import names, rule_of
from roundoff.replay.enclosure.registry import Operation
from roundoff.tape.leaves import map_operands

CASES = {name: calls for name, calls in cases().items() if rule_of(calls[0][0]) is not None}
ROUGH = 2.0**-20  # of a number lies in its tail


def with_tails(value: Any, error: float, g: torch.Generator) -> Any:
    def pair(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        if not is_inexact(x.dtype) or x.is_complex():
            return Ball(x)
        x = x.to(torch.float64)
        low = torch.where(x.isfinite(), x * ROUGH, 0.0).to(torch.float32).to(torch.float64)
        mid = x - low
        fine = (mid + low == x) & ((x - mid) == low)
        mid, low = torch.where(fine, mid, x), torch.where(fine, low, 0.0)
        rad = torch.where(x.isfinite(), x.abs() * error * torch.rand(x.shape, generator=g).round(decimals=1), 0.0)
        return Pair(mid, Ball(low, rad if error else None))

    return map_operands(pair, value)


def at(value: Any, end: float, as_pair: bool) -> Any:
    """The numbers at an end of their radii: as balls or pairs without an error of their own."""

    def number(x: Any) -> Any:
        if not isinstance(x, Pair):
            return x
        there = x.mid + x.low
        moved = there + end * x.error * (1 - 2.0**-20)
        there = torch.where((moved - there).abs() <= x.error * (1 - 2.0**-24), moved, there)
        return Pair(there) if as_pair else Ball(there)

    return map_operands(number, value)


def plain(value: Any) -> Any:
    return map_operands(lambda x: x.mid + x.low if isinstance(x, Pair) else x.mid if isinstance(x, Ball) else x, value)


def test_every_rule_has_operands() -> None:
    tried = {n for n in names() if any(n in (c, c.rpartition(".")[0], c.replace("_.", ".")) for c in CASES)}
    gpu = {f"aten._scaled_dot_product_{kind}_attention" for kind in ("flash", "efficient", "cudnn")}
    assert len(set(names()) - tried - gpu) < 40, sorted(set(names()) - tried - gpu)


@pytest.mark.parametrize("name", CASES)
def test_results_are_where_float64_finds_them(name: str) -> None:
    looked = 0
    for seed, (op, args, kwargs) in enumerate(CASES[name]):
        g = torch.Generator().manual_seed(seed)
        for error in (0.0, 1e-9, 1e-3):
            given, named = with_tails(list(args), error, g), with_tails(dict(kwargs), error, g)
            out = tuple(computed(op, plain(given), plain(named)))
            rule = rule_of(op)
            assert rule is not None
            try:
                found = rule(Operation(op, tuple(given), named, out))
            except Unknown:
                continue
            found = found if isinstance(found, tuple) else (found,)
            for end in (0.0, 1.0, -1.0) if error else (0.0,):
                there = Operation(op, tuple(at(given, end, False)), at(named, end, False), out)
                try:
                    balls = balls_of(op, there)
                except Unknown:
                    continue
                for x, ball in zip(found, balls, strict=True):
                    if not isinstance(x, Pair) or not x.mid.numel():
                        continue
                    looked += 1
                    assert x.mid.shape == ball.mid.shape
                    apart = gap(x.mid + x.low, ball.mid)
                    room = (x.error + ball.radius) * (1 + 2.0**-40) + x.mid.abs() * 2.0**-52
                    assert bool((~(apart > room) | x.error.isinf() | ball.radius.isinf()).all()), (end, error)
                    if x.tail is not None and x.tail.norm is not None and bool(apart.isfinite().all()):
                        assert l2(apart) <= x.tail.far + ball.far + l2(x.mid) * 2.0**-52
    assert looked or name in LEFT, "no operands that it is for"


#: Rules that leave all sample operands of an overload to float64, for what they are called with.
LEFT = {
    "aten._native_batch_norm_legit.no_stats", "aten._pack_padded_sequence.default", "aten.clamp.Tensor",
    "aten.clamp.default", "aten.clamp_max.Tensor", "aten.clamp_max.default", "aten.clamp_min.Tensor",
    "aten.clamp_min.default", "aten.constant_pad_nd.default", "aten.div.Scalar_mode", "aten.hardtanh.default",
    "aten.pow.Tensor_Tensor", "aten.scatter.reduce", "aten.scatter.value", "aten.scatter.value_reduce",
}  # fmt: skip


def test_what_is_added_where_it_meets_is_not_only_moved() -> None:
    """Overloads of names that move: a scatter of one number, of sums, and an index that is met twice."""
    x, at, ops = (
        Pair(torch.randn(4).double(), Ball(torch.full((4,), 1e-17).double())),
        torch.tensor([1, 1]),
        torch.ops.aten,
    )
    source = Pair(torch.ones(2).double())
    for op, args in (
        (ops.scatter.value, (x, 0, Ball(at), -0.1)),
        (ops.scatter.reduce, (x, 0, Ball(at), source)),
        (ops.index_put.default, (x, [Ball(at)], source, True)),
        (ops.index_fill.int_Scalar, (x, 0, Ball(at), -0.1)),
    ):
        kwargs = {"reduce": "add"} if op is ops.scatter.reduce else {}
        rule = rule_of(op)
        if rule is not None:
            with pytest.raises(Unknown):
                rule(Operation(op, args, kwargs, (x.mid,)))
