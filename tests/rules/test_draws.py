"""Random draws: the native mask is applied in the wide run."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from roundoff.rules import Nature, lookup

aten = torch.ops.aten


def wide_of(op: Any) -> Any:
    rule = lookup(op)
    assert rule is not None and rule.wide is not None and rule.nature is Nature.DRAWS
    return rule.wide


def test_native_dropout_uses_the_native_mask() -> None:
    x = torch.randn(40)
    y, mask = aten.native_dropout(x, 0.3, True)
    wide, same = wide_of(aten.native_dropout.default)(x.double(), 0.3, True, native=(y, mask))
    assert same is mask
    assert torch.equal(wide, x.double() * mask / 0.7)
    torch.testing.assert_close(wide.float(), y)


def test_native_dropout_outside_training() -> None:
    x = torch.randn(40)
    mask = torch.ones(40, dtype=torch.bool)
    assert torch.equal(wide_of(aten.native_dropout.default)(x, 0.3, False, native=(x, mask))[0], x)
    assert not wide_of(aten.native_dropout.default)(x, 1.0, True, native=(x, ~mask))[0].any()


def test_dropout_seen_whole() -> None:
    x = torch.randn(40)
    y = torch.dropout(x, 0.3, True)
    wide = wide_of(aten.dropout.default)(x.double(), 0.3, True, native=(y,))
    assert torch.equal(wide == 0, y == 0)
    torch.testing.assert_close(wide.float(), y)


def test_rrelu_is_followed_in_evaluation_only() -> None:
    rule = lookup(aten.rrelu_with_noise.default)
    assert rule is not None and rule.wide is not None
    x = torch.randn(9, dtype=torch.float64)
    noise = torch.empty(9)
    y = rule.wide(x, noise, 0.1, 0.3, False, native=(x,))
    torch.testing.assert_close(y, torch.nn.functional.leaky_relu(x, 0.2))
    with pytest.raises(RuntimeError, match="slopes"):
        rule.wide(x, noise, 0.1, 0.3, True, native=(x,))
