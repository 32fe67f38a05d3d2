"""Attention in one kernel: written out wide for the kernels that have none in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from roundoff.rules import Call, lookup
from roundoff.rules.attention import wide_of

aten = torch.ops.aten


def heads(
    batch: int = 2, queries: int = 3, keys: int = 3, rows: int = 7, columns: int = 9
) -> tuple[Tensor, Tensor, Tensor]:
    shapes = ((batch, queries, rows, 8), (batch, keys, columns, 8), (batch, keys, columns, 8))
    q, k, v = (torch.randn(*shape, dtype=torch.float64) for shape in shapes)
    return q, k, v


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("mask", ["none", "causal", "added", "hidden"])
def test_it_is_pytorchs_attention(mask: str, scale: float | None) -> None:
    q, k, v = heads()
    given: Any = {"added": torch.randn(2, 1, 7, 9).double(), "hidden": torch.rand(7, 9) < 0.7}.get(mask)
    if mask == "hidden":
        given[:, 0] = True
    ours = wide_of(q, k, v, given, mask == "causal", scale, 0.0)
    theirs = F.scaled_dot_product_attention(q, k, v, given, is_causal=mask == "causal", scale=scale)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


def test_fewer_heads_of_keys_than_of_queries() -> None:
    q, k, v = heads(queries=4, keys=2)
    theirs = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    torch.testing.assert_close(wide_of(q, k, v, None, False, None, 0.0), theirs, rtol=1e-12, atol=1e-14)


def test_dropout_inside_the_kernel_cannot_be_followed() -> None:
    q, k, v = heads()
    with pytest.raises(RuntimeError, match="draws where nobody can see it"):
        wide_of(q, k, v, None, False, None, 0.1)


@pytest.mark.parametrize(
    ("op", "args"),
    [
        (aten._scaled_dot_product_flash_attention.default, (0.0, True, False)),
        (aten._scaled_dot_product_efficient_attention.default, (None, True, 0.0, True)),
        (aten._scaled_dot_product_cudnn_attention.default, (None, True, 0.0, True, False)),
    ],
    ids=str,
)
def test_the_kernels_of_graphics_processors(op: Any, args: tuple[Any, ...]) -> None:
    """They do not run here: their rules are asked as for a causal call, with the CPU's float32 result as theirs."""
    rule = lookup(op)
    assert rule is not None and rule.wide is not None and rule.bound is not None
    q, k, v = heads(rows=9)
    native = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), is_causal=True)
    rest = torch.zeros(2)
    wide = rule.wide(q, k, v, *args, native=(native, rest))
    assert wide[1] is rest
    torch.testing.assert_close(wide[0], F.scaled_dot_product_attention(q, k, v, is_causal=True), rtol=1e-12, atol=1e-14)
    exact = rule.wide(*(x.float().double() for x in (q, k, v)), *args, native=(native, rest))[0]
    limits = rule.bound(Call(op, (q, k, v, *args), {}, (exact, rest), 2.0**-24))
    assert isinstance(limits, tuple)
    assert ((native - exact).abs() <= limits[0]).all()
    assert (torch.as_tensor(limits[0]) < 1e-4).all()
    assert limits[1] == 0.0


def test_a_head_at_a_time_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = heads()
    mask = torch.randn(2, 3, 7, 9).double()
    whole = wide_of(q, k, v, mask, False, None, 0.0)
    monkeypatch.setattr("roundoff.rules.attention._LARGEST", 1)
    torch.testing.assert_close(wide_of(q, k, v, mask, False, None, 0.0), whole, rtol=1e-12, atol=1e-14)
