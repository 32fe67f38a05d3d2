"""Normalisation of pairs against exact fractions."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
from tests.replay.enclosure.pairs.exact import Rows, inside, spread
from tests.replay.enclosure.pairs.test_pair import root
from torch import Tensor

from roundoff.replay.enclosure.pairs.norms import normalised
from roundoff.replay.enclosure.pairs.pair import Pair, moved
from roundoff.replay.enclosure.pairs.registry import pairs_of
from roundoff.replay.enclosure.registry import Operation

ops = torch.ops.aten
EPS = Fraction(1, 100_000)


def centred(row: list[Fraction], mean: bool = True, eps: Fraction = EPS) -> list[Fraction]:
    middle = sum(row, Fraction(0)) / len(row) * mean
    rest = [v - middle for v in row]
    rho = 1 / root(sum((v * v for v in rest), Fraction(0)) / len(row) + eps)
    return [v * rho for v in rest]


def called(op: Any, *args: Any) -> Pair:
    """The first result of ``op``, of two dimensions."""
    plain = [a.mid if isinstance(a, Pair) else a for a in args]
    out = op(*plain)
    found = pairs_of(op, Operation(op, args, {}, tuple(out) if isinstance(out, tuple) else (out,)))
    assert isinstance(found[0], Pair)
    return moved(found[0], lambda t: t.flatten(1))


@pytest.mark.parametrize("error", [0.0, 1e-30, 1e-10])
def test_layers(error: float) -> None:
    (x, at_x), (g, at_g), (c, at_c) = spread(0, (3, 12), error), spread(1, (1, 12), 0.0), spread(2, (1, 12), 1e-30)
    gain, shift = (moved(t, lambda v: v[0]) for t in (g, c))
    y = called(ops.native_layer_norm.default, x, [12], gain, shift, 1e-5)
    assert inside(y, [[v * a + s for v, a, s in zip(centred(r), at_g[0], at_c[0], strict=True)] for r in at_x])
    assert float(y.error.max()) < (3e-29 if error < 1e-20 else 1e-8)
    y = called(ops._fused_rms_norm.default, x, [12], gain, 1e-5)
    assert inside(y, [[v * a for v, a in zip(centred(r, False), at_g[0], strict=True)] for r in at_x])


def test_groups() -> None:
    (x, at_x), (g, at_g) = spread(3, (2, 24), 1e-30), spread(4, (1, 4), 0.0)
    gain = moved(g, lambda v: v[0])
    y = called(ops.native_group_norm.default, moved(x, lambda t: t.reshape(2, 4, 6)), gain, None, 2, 4, 6, 2, 1e-5)
    halves = [[*centred(r[:12]), *centred(r[12:])] for r in at_x]
    assert inside(y, [[v * at_g[0][i // 6] for i, v in enumerate(r)] for r in halves])
    assert float(y.error.max()) < 1e-28


def test_batches_by_given_statistics() -> None:
    (x, at_x), *rest = (spread(s, (2, 4) if s == 5 else (1, 4), 1e-30) for s in (5, 6, 7, 8, 9))
    given = [moved(p, lambda t: t[0]) for p, _ in rest]
    g, c, m, v = (rows[0] for _, rows in rest)
    positive = Pair(given[3].mid.abs() + 1, given[3].tail)
    shift = zip(v, positive.mid.tolist(), given[3].mid.tolist(), strict=True)
    v = [a + Fraction(new) - Fraction(old) for a, new, old in shift]
    op = ops._native_batch_norm_legit_no_training.default
    y = called(op, moved(x, lambda t: t[..., None]), given[0], given[1], given[2], positive, 0.1, 1e-5)
    exact = [[(a - m[i]) * g[i] / root(v[i] + EPS) + c[i] for i, a in enumerate(r)] for r in at_x]
    assert inside(y, exact) and float(y.error.max()) < 1e-28


def rows_of(x: Tensor) -> Rows:
    return [[Fraction(v) for v in row] for row in x.tolist()]


@pytest.mark.parametrize("size", [1e-200, 1e-160, 1e-5, 1e5, 1e150])
def test_sizes(size: float) -> None:
    """Where squares leave float64's range nothing may be known; what is said is true."""
    x = torch.randn(2, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * size
    y, _, _ = normalised(Pair(x), [1], 1e-5)
    assert inside_or_unknown(y, [centred(r) for r in rows_of(x)])
    y, _, _ = normalised(Pair(x), [1], 0.0)
    assert inside_or_unknown(y, [centred(r, eps=Fraction(0)) for r in rows_of(x)])


def inside_or_unknown(y: Pair, exact: Rows) -> bool:
    return bool(y.error.isinf().any()) or inside(y, exact)


def test_rows_that_are_nearly_constant() -> None:
    """σ is hardly more than the errors, so that the slope could be anything up to 1/√ε."""
    x = torch.full((2, 8), 1e3, dtype=torch.float64) + torch.arange(8) * 2.0**-40
    for error in (0.0, 1e-15, 1e-12):
        (p, _) = spread(0, (2, 8), 0.0)
        given = Pair(x, None if p.tail is None else type(p.tail)(x * 0, torch.full_like(x, error)))
        y, _, _ = normalised(given, [1], 1e-12)
        for sign in (1, -1, 0):
            at = [[v + Fraction(error) * (sign if i % 2 else -sign) for i, v in enumerate(r)] for r in rows_of(x)]
            assert inside(y, [centred(r, eps=Fraction(1, 10**12)) for r in at])
