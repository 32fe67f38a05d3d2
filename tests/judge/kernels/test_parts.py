"""A step in parts: the parts are the whole, and a fault in any of them is found at its place in the whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.judge.kernels.test_check import changed, planted
from torch import Tensor, nn

from roundoff.judge.kernels import KernelCheck, limits
from roundoff.judge.kernels.parts import PART, part_at, parts_of
from roundoff.replay.run import Side, run_wide
from roundoff.replay.wide import Executed
from roundoff.rules import lookup
from roundoff.tape.trace import random_state


def attend(x: Tensor) -> Tensor:
    q = x.view(4, 2, 256, 128)
    return nn.functional.scaled_dot_product_attention(q, q, q)


BATCH = nn.BatchNorm2d(8).eval()
X = torch.randn(4, 8, 64, 128, generator=torch.Generator().manual_seed(0))
CASES: dict[str, Callable[[Tensor], Any]] = {
    "gelu": nn.functional.gelu,
    "mul": lambda x: (x + 1) * x.mean((2, 3), keepdim=True),
    "add_": lambda x: (x * 2).add_(x),
    "permuted": lambda x: x.permute(0, 2, 3, 1).tanh(),
    "native_layer_norm": nn.LayerNorm(128),
    "native_batch_norm": BATCH,
    "_softmax": lambda x: x.softmax(1),
    "_log_softmax": lambda x: x.log_softmax(-1),
    "_scaled_dot_product_flash_attention_for_cpu": attend,
}


def observed(fn: Callable[[Tensor], Any], x: Tensor, observe: Callable[[Executed], None]) -> None:
    with torch.no_grad():
        run_wide(Side("A", fn, (x,), {}, random_state()), observe=observe)


@pytest.mark.parametrize("name", CASES)
def test_parts_are_the_whole(name: str) -> None:
    cut: list[int] = []

    def observe(executed: Executed) -> None:
        parts = list(parts_of(executed))
        cut.append(len(parts))
        if not parts:
            return
        for i, whole in enumerate(executed.reference):
            if whole.numel():
                assert sum(part.outs[i].numel() for part in parts) == whole.numel()
                together = torch.cat([part.reference[i].flatten() for part in parts]).sort().values
                torch.testing.assert_close(together, whole.flatten().sort().values, rtol=1e-13, atol=1e-13)

    observed(CASES[name], X, observe)
    assert max(cut) >= 4


@pytest.mark.parametrize("name", CASES)
def test_the_part_at_an_element_has_its_numbers_and_its_bound(name: str) -> None:
    smaller: list[int] = []

    def observe(executed: Executed) -> None:
        whole = limits(executed)
        assert whole is not None
        y = executed.reference[0]
        index = tuple(n * 2 // 3 for n in y.shape)
        part, at = part_at(executed, index)
        found = limits(part)
        assert found is not None
        smaller.append(y.numel() // part.outs[0].numel())
        assert part.outs[0][at] == executed.outs[0][index] and part.wide[0][at] == executed.wide[0][index]
        # The same few operations in float64: those of a part may be added in another order.
        torch.testing.assert_close(part.reference[0][at], y[index], rtol=1e-12, atol=1e-14)
        mine, all_ = (torch.as_tensor(x) for x in (found[0], whole[0]))
        torch.testing.assert_close(
            mine.expand(part.outs[0].shape)[at], all_.expand(y.shape)[index], rtol=1e-9, atol=0.0, check_dtype=False
        )

    observed(CASES[name], X, observe)
    assert max(smaller) >= 4


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: nn.functional.batch_norm(x, None, None, training=True),
        lambda x: torch.ops.aten._native_batch_norm_legit.no_stats(x, None, None, True, 0.1, 1e-5)[0],
    ],
)
def test_statistics_of_the_batch_keep_it_whole(fn: Callable[[Tensor], Any]) -> None:
    cut: list[int] = []
    observed(fn, X, lambda executed: cut.append(len([*parts_of(executed)])))
    assert cut and set(cut) == {0}


def test_what_is_small_or_does_not_fall_apart_is_left_whole() -> None:
    cut: list[int] = []
    observed(
        lambda x: x[0].relu() + x.cumsum(1).sum(), X[:, :1], lambda executed: cut.append(len([*parts_of(executed)]))
    )
    assert set(cut) == {0}


@pytest.mark.parametrize(
    ("op", "make"),
    [
        ("sigmoid", lambda: (nn.Sigmoid(), X)),
        ("gelu", lambda: (nn.GELU(), X)),
        ("native_layer_norm", lambda: (nn.LayerNorm(128), X)),
    ],
)
@pytest.mark.parametrize("at", [0, PART - 1, PART, X.numel() - 1])
def test_a_fault_in_any_part_is_found_at_its_place(op: str, make: Any, at: int) -> None:
    def spoil(out: Any) -> None:
        y = out[0] if isinstance(out, tuple) else out
        y.view(-1)[at] += 1e-3

    c = planted(op, changed(spoil), make)
    assert c.verdict == "different"
    index = [int(i) for i in torch.unravel_index(torch.tensor(at), X.shape)]
    assert any(f"at {index}" in finding.text for finding in c.findings if finding.kind == "faulty-kernel")


@pytest.mark.parametrize("name", [name for name in CASES if name.startswith("_scaled") or "layer" in name])
def test_the_least_bound_is_no_larger_than_the_others(name: str) -> None:
    from roundoff.judge.kernels.check import _call

    seen = []

    def observe(executed: Executed) -> None:
        rule = lookup(executed.step.op)
        if rule is None or rule.least is None:
            return
        seen.append(rule)
        call = _call(executed)
        least, whole = rule.least(call), limits(executed)
        stable = rule.stable(call) if rule.stable is not None else whole
        assert whole is not None and isinstance(stable, tuple | list)
        for y, small, *others in zip(call.out, least, whole, stable, strict=True):
            for other in others:
                assert bool((torch.as_tensor(small) <= torch.as_tensor(other).expand(y.shape) * (1 + 1e-12)).all())

    observed(CASES[name], X * 30, observe)
    assert seen


@pytest.mark.parametrize("name", CASES)
def test_clean_kernels_are_not_accused(name: str) -> None:
    check = KernelCheck()
    observed(CASES[name], X, check)
    assert not check.faults and check.steps["checked"]
