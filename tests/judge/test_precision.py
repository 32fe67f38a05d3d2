"""Which shorter arithmetic explains an error, and which setting allows it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from roundoff.judge import precision
from roundoff.judge.precision import Hypothesis, explain_error, permitted
from roundoff.replay.run import Side, run_wide
from roundoff.replay.wide import Executed
from roundoff.tape.trace import random_state


def executed(x: Tensor, w: Tensor) -> Executed:
    """The one step of a matrix product."""
    found: list[Executed] = []
    run_wide(Side("A", torch.mm, (x, w), {}, random_state()), observe=found.append)
    (step,) = found
    return step


def short(x: Tensor, bits: int) -> Tensor:
    """Rounded to so many significant bits."""
    mantissa, exponent = torch.frexp(x)
    return torch.ldexp((mantissa * 2**bits).round(), exponent - bits)


@pytest.mark.parametrize("k", [8, 500, 5000])
@pytest.mark.parametrize(("bits", "hypothesis"), [(24, None), (11, Hypothesis.TF32), (8, Hypothesis.BFLOAT16)])
def test_the_format_of_the_operands_is_recognised_at_any_length(
    bits: int, hypothesis: Hypothesis | None, k: int
) -> None:
    x, w = torch.randn(7, k), torch.randn(k, 9)
    native = short(x, bits) @ short(w, bits)
    assert explain_error(executed(x, w), native, x.double() @ w.double()) is hypothesis


def test_float16_is_told_from_tf32_by_its_range() -> None:
    """Both have eleven bits; below 2^-14 float16 loses some of them."""
    x, w = torch.randn(7, 50) * 1e-6, torch.randn(50, 9)
    native = x.half().float() @ w.half().float()
    assert explain_error(executed(x, w), native, x.double() @ w.double()) is Hypothesis.FLOAT16


def test_three_products_of_bfloat16_parts() -> None:
    x, w = torch.randn(7, 50), torch.randn(50, 9)

    def parts(v: Tensor) -> tuple[Tensor, Tensor]:
        first = v.bfloat16().float()
        return first, (v - first).bfloat16().float()

    (a, b), (c, d) = parts(x), parts(w)
    native = (a.double() @ c.double() + a.double() @ d.double() + b.double() @ c.double()).float()
    assert explain_error(executed(x, w), native, x.double() @ w.double()) in (Hypothesis.BF16X3, None)
    exact = ((a + b).double() @ (c + d).double()).float()
    assert explain_error(executed(x, w), exact, x.double() @ w.double()) is Hypothesis.BF16X3


def test_a_wrong_element_is_no_reduced_precision() -> None:
    x, w = torch.randn(7, 50), torch.randn(50, 9)
    native = x @ w
    native[3, 4] += 0.01
    assert explain_error(executed(x, w), native, x.double() @ w.double()) is None


def test_other_formats_are_not_asked() -> None:
    x, w = torch.randn(7, 50).bfloat16(), torch.randn(50, 9).bfloat16()
    assert explain_error(executed(x, w), x @ w, x.double() @ w.double()) is None


BOTH = {Hypothesis.TF32, Hypothesis.BF16X3}
ALLOWED = [
    ("cpu", "aten.addmm.default", {"matmul": "none"}, set()),
    ("cpu", "aten.addmm.default", {"matmul": "ieee"}, set()),
    ("cpu", "aten.addmm.default", {"matmul": "tf32"}, BOTH),
    ("cpu", "aten.addmm.default", {"matmul": "bf16"}, {*BOTH, Hypothesis.BFLOAT16}),
    ("cpu", "aten.addmm.default", {"conv": "bf16"}, set()),
    ("cpu", "aten.convolution.default", {"conv": "tf32"}, BOTH),
    ("cpu", "aten.convolution.default", {"matmul": "tf32"}, set()),
    ("cuda", "aten.mm.default", {"matmul": "tf32"}, {Hypothesis.TF32}),
    ("cuda", "aten.mm.default", {"matmul": "ieee"}, set()),
    ("cuda", "aten.mm.default", {"conv": "tf32"}, set()),
    ("cuda", "aten.convolution.default", {"conv": "tf32"}, {Hypothesis.TF32}),
    ("cuda", "aten.convolution.default", {"conv": "ieee"}, set()),
]


@pytest.mark.parametrize(("device", "op", "setting", "allowed"), ALLOWED)
def test_what_a_setting_allows(monkeypatch: pytest.MonkeyPatch, device: str, op: str, setting: dict[str, str],
                               allowed: set[Hypothesis]) -> None:  # fmt: skip
    values = SimpleNamespace(
        conv=SimpleNamespace(fp32_precision=setting.get("conv", "none")),
        matmul=SimpleNamespace(fp32_precision=setting.get("matmul", "none")),
    )
    backends = SimpleNamespace(mkldnn=values, cudnn=values, cuda=values)
    monkeypatch.setattr(precision.torch, "backends", backends)
    assert {h for h in Hypothesis if permitted(op, device, h)} == allowed


@pytest.mark.parametrize(
    ("name", "expected"), [("highest", set()), ("high", BOTH), ("medium", {*BOTH, Hypothesis.BFLOAT16})]
)
def test_the_older_setting_counts_as_well(name: str, expected: set[Hypothesis]) -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        assert {h for h in Hypothesis if permitted("aten.mm.default", "cpu", h)} == expected
        assert not any(permitted("aten.convolution.default", "cpu", h) for h in Hypothesis)
    finally:
        torch.set_float32_matmul_precision(before)
