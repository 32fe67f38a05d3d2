"""No exact result lies outside its ball: the hunt over every operator that has an enclosure."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.replay.enclosure.operands import cases, escapes

from roundoff.replay.enclosure import opened, registry
from roundoff.replay.enclosure.ball import Ball

CASES = cases()

#: Operators of which nothing is said where an operand has an error, so that the name of the operator is all that is told.
NOTHING = {
    "aten.div.Scalar_mode", "aten.floor_divide.default", "aten.remainder.Tensor", "aten.remainder.Scalar",
    "aten.fmod.Tensor", "aten.fmod.Scalar", "aten.scatter.reduce", "aten.scatter.value_reduce", "aten.all.dim",
    "aten.any.dim", "aten.logical_and.default", "aten.logical_or.default", "aten.logical_xor.default",
    "aten.logical_not.default", "aten.round.decimals", "aten._native_batch_norm_legit.no_stats",
}  # fmt: skip

#: It has no kernel in float64: `test_recurrent_layers_are_written_out` looks at it.
APART = {"aten.mkldnn_rnn_layer.default"}


def hunt(name: str) -> tuple[float, int]:
    """The furthest that a result went, in its radii, and how many results were looked at."""
    worst, count = 0.0, 0
    for seed, (op, args, kwargs) in enumerate(CASES[name]):
        for size in (1e-7, 0.05):
            for _, far in escapes(op, args, kwargs, seed, size):
                worst, count = max(worst, far), count + 1
    return worst, count


@pytest.mark.parametrize("name", sorted(set(CASES) - APART))
def test_moved_operands_stay_inside(name: str) -> None:
    worst, count = hunt(name)
    assert worst <= 1
    assert (count == 0) == (name in NOTHING)


#: One of each family.
FAMILIES = (
    "aten.add.Tensor", "aten.mul.Tensor", "aten.div.Tensor", "aten.pow.Tensor_Scalar", "aten.exp.default",
    "aten.log.default", "aten.tanh.default", "aten.gelu.default", "aten.sqrt.default", "aten.rsqrt.default",
    "aten.relu.default", "aten.mm.default", "aten.convolution.default", "aten.sum.dim_IntList", "aten.amax.default",
    "aten._softmax.default", "aten.native_layer_norm.default", "aten.native_batch_norm.default",
    "aten.avg_pool2d.default", "aten.max_pool2d_with_indices.default", "aten.gather.default", "aten.cat.default",
    "aten.where.self", "aten.upsample_nearest2d.default",
    "aten._scaled_dot_product_flash_attention_for_cpu.default",
)  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_a_radius_that_is_too_small_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rule = registry.enclosure_of(CASES[name][0][0])
    assert rule is not None

    def too_small(operation: Any) -> Any:
        found = rule(operation)
        balls = found if isinstance(found, tuple) else (found,)
        return tuple(Ball(b.mid, b.rad if b.rad is None else b.rad * 0.05) for b in balls)

    monkeypatch.setattr(opened, "enclosure_of", lambda op: too_small)
    assert hunt(name)[0] > 1


@pytest.mark.parametrize("name", ["aten.mm.default", "aten.tanh.default", "aten._softmax.default", "aten.add.Tensor"])
def test_a_norm_that_is_too_small_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rule = registry.enclosure_of(CASES[name][0][0])
    assert rule is not None

    def too_small(operation: Any) -> Any:
        ball = rule(operation)
        assert isinstance(ball, Ball)
        return Ball(ball.mid, ball.rad, 0.01 * ball.far)

    monkeypatch.setattr(opened, "enclosure_of", lambda op: too_small)
    assert hunt(name)[0] > 1


def test_every_enclosure_is_hunted() -> None:
    """Each name in the table is tried, or is the same function under another name."""
    tried = {name.rpartition(".")[0] for name in CASES} | set(CASES)
    rest = {name for name in registry.names() if name not in tried and name.rpartition(".")[0] not in tried}
    assert rest <= NOT_SAMPLED


#: Integers and booleans, whole operators that are seen in inference mode only, and kernels of other devices.
NOT_SAMPLED = {
    "aten.__and__", "aten.__or__", "aten.__xor__", "aten._convolution", "aten._fused_dropout", "aten._fused_rms_norm",
    "aten._scaled_dot_product_cudnn_attention", "aten._scaled_dot_product_efficient_attention",
    "aten._scaled_dot_product_flash_attention", "aten.bitwise_and", "aten.bitwise_not", "aten.bitwise_or",
    "aten.bitwise_xor", "aten.dropout", "aten.isinf", "aten.isnan", "aten.linear", "aten.matmul", "aten.native_dropout",
    "aten.positive", "aten.relu6", "aten.square", "aten.true_divide", "aten.upsample_nearest3d",
}  # fmt: skip


def test_linear_errors_in_the_worst_direction() -> None:
    """The direction that a matrix stretches most: the norm must allow it, and little more."""
    g = torch.Generator().manual_seed(0)
    w = torch.randn(40, 60, generator=g, dtype=torch.float64)
    u, s, _ = torch.linalg.svd(w)
    e = torch.stack([u[:, 0], u[:, 0] * 0]) * 1e-6
    x = torch.randn(2, 40, generator=g, dtype=torch.float64)
    radii = torch.full_like(x, 1e-6)
    op = torch.ops.aten.mm.default
    (ball,) = opened.balls_of(op, registry.Operation(op, (Ball(x, radii, 1e-6), Ball(w)), {}, (x @ w,)))
    assert ball.norm is not None
    moved = torch.linalg.vector_norm((x + e) @ w - ball.mid)
    assert s[0] * 1e-6 * (1 - 1e-6) < moved <= ball.norm <= s[0] * 1e-6 * 1.2
    assert bool((((x + e) @ w - ball.mid).abs() <= ball.radius).all())
