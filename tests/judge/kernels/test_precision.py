"""Which shorter arithmetic explains an error, and which setting allows it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from roundoff.judge.kernels import precision
from roundoff.judge.kernels.precision import explain_error, permitted, setting_of
from roundoff.judge.kernels.shorter import Hypothesis
from roundoff.replay.run import Side, run_wide
from roundoff.replay.wide import Executed
from roundoff.tape.trace import random_state, untouched


def executed(x: Tensor, w: Tensor) -> Executed:
    """The one step of a matrix product."""
    found: list[Executed] = []
    run_wide(Side("A", torch.mm, (x, w), {}, random_state()), observe=found.append)
    (step,) = found
    return step


def named(x: Tensor, w: Tensor, native: Tensor) -> Hypothesis | None:
    """What explains the error of ``native``, taken for the product of ``x`` and ``w``."""
    found = explain_error(executed(x, w), native, x.double() @ w.double())
    return found.hypothesis if found is not None else None


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
    assert named(x, w, native) is hypothesis


def test_float16_is_told_from_tf32_by_its_range() -> None:
    """Both have eleven bits; below 2^-14 float16 loses some of them."""
    x, w = torch.randn(7, 50) * 1e-6, torch.randn(50, 9)
    native = x.half().float() @ w.half().float()
    assert named(x, w, native) is Hypothesis.FLOAT16


def test_three_products_of_bfloat16_parts_and_not_four() -> None:
    x, w = torch.randn(7, 50), torch.randn(50, 9)

    def parts(v: Tensor) -> tuple[Tensor, Tensor]:
        first = v.bfloat16().float()
        return first, (v - first).bfloat16().float()

    (a, b), (c, d) = parts(x), parts(w)
    native = (a.double() @ c.double() + a.double() @ d.double() + b.double() @ c.double()).float()
    assert named(x, w, native) is Hypothesis.BF16X3
    exact = ((a + b).double() @ (c + d).double()).float()
    assert named(x, w, exact) is not Hypothesis.TF32


def test_one_operand_alone_in_a_shorter_format_is_none_of_them() -> None:
    """The error has TF32's part in it, and more."""
    x, w = torch.randn(70, 50), torch.randn(50, 90)
    assert named(x, w, short(x, 8) @ w) is None


def test_complex_products() -> None:
    x, w = torch.randn(7, 50, dtype=torch.complex64), torch.randn(50, 9, dtype=torch.complex64)

    def both(v: Tensor) -> Tensor:
        return torch.complex(short(v.real, 11), short(v.imag, 11))

    found = explain_error(executed(x, w), both(x) @ both(w), x.to(torch.complex128) @ w.to(torch.complex128))
    assert found is not None and found.hypothesis is Hypothesis.TF32


def test_a_wrong_element_is_no_reduced_precision() -> None:
    x, w = torch.randn(7, 50), torch.randn(50, 9)
    native = x @ w
    native[3, 4] += 0.01
    assert named(x, w, native) is None


def test_a_wrong_element_beside_reduced_precision_is_left() -> None:
    x, w = torch.randn(70, 50), torch.randn(50, 90)
    native = short(x, 11) @ short(w, 11)
    native[3, 4] += 0.01
    found = explain_error(executed(x, w), native, x.double() @ w.double())
    assert found is not None and found.hypothesis is Hypothesis.TF32 and found.result is not None
    left = (native.double() - found.result).abs()
    assert left[3, 4] > 0.009 and int((left > 1e-4).sum()) == 1


def test_other_formats_are_not_asked() -> None:
    x, w = torch.randn(7, 50).double(), torch.randn(50, 9).double()
    assert named(x, w, x @ w) is None


def kept(x: Tensor, w: Tensor, parts: int) -> Tensor:
    """The product in ``parts`` parts, whose sum is kept in the short format."""
    pieces = [(a.float() @ b.float()).to(x.dtype) for a, b in zip(x.chunk(parts, 1), w.chunk(parts, 0), strict=True)]
    total = pieces[0]
    for piece in pieces[1:]:
        total = total + piece
    return total


@pytest.mark.parametrize("shift", [0.0, 1.0])
@pytest.mark.parametrize("k", [64, 1024, 16384])
@pytest.mark.parametrize(
    ("dtype", "hypothesis"), [(torch.float16, Hypothesis.FLOAT16_SUMS), (torch.bfloat16, Hypothesis.BFLOAT16_SUMS)]
)
def test_sums_in_the_short_format(dtype: torch.dtype, hypothesis: Hypothesis, k: int, shift: float) -> None:
    x, w = (torch.randn(40, k) + shift).to(dtype), (torch.randn(k, 30) / k**0.5 + shift / k).to(dtype)
    assert named(x, w, kept(x, w, 8)) is hypothesis


def test_all_terms_one_by_one_in_float16() -> None:
    x, w = torch.randn(40, 512).half(), torch.randn(512, 30).half()
    assert named(x, w, kept(x, w, 512)) is Hypothesis.FLOAT16_SUMS


@pytest.mark.parametrize("what", ["element", "row", "scale", "block"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_faults_are_no_sums_in_the_short_format(dtype: torch.dtype, what: str) -> None:
    x, w = torch.randn(40, 300).to(dtype), torch.randn(300, 30).to(dtype)
    native = x @ w
    if what == "element":
        native[3, 4] += 1.5
    elif what == "row":
        native[3] *= 1.1
    elif what == "scale":
        native = native * 1.02
    else:
        native = x[:, :-8] @ w[:-8]
    assert named(x, w, native) is None


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
    said = setting_of(op, device, Hypothesis.TF32)
    assert said is not None and said.off.startswith(f"{said.name} = 'ieee'")
    backend = "mkldnn" if device == "cpu" else "cudnn" if "convolution" in op else "cuda"
    assert str(said).startswith(
        f"torch.backends.{backend}.{'conv' if 'convolution' in op else 'matmul'}.fp32_precision is"
    )


SUMS = [
    ("allow_fp16_accumulation", True, {Hypothesis.FLOAT16_SUMS}),
    ("allow_fp16_reduced_precision_reduction", True, {Hypothesis.FLOAT16_SUMS}),
    ("allow_bf16_reduced_precision_reduction", (True, True), {Hypothesis.BFLOAT16_SUMS}),
    ("allow_bf16_reduced_precision_reduction", (False, True), set()),
    ("allow_tf32", True, set()),
]


@pytest.mark.parametrize(("name", "value", "allowed"), SUMS)
def test_what_allows_sums_in_a_short_format(monkeypatch: pytest.MonkeyPatch, name: str, value: object,
                                            allowed: set[Hypothesis]) -> None:  # fmt: skip
    matmul = SimpleNamespace(fp32_precision="ieee", **{name: value})
    backends = SimpleNamespace(cuda=SimpleNamespace(matmul=matmul), mkldnn=SimpleNamespace(), cudnn=SimpleNamespace())
    monkeypatch.setattr(precision.torch, "backends", backends)
    assert {h for h in Hypothesis if permitted("aten.mm.default", "cuda", h)} == allowed
    assert not any(permitted("aten.mm.default", "cpu", h) for h in (Hypothesis.FLOAT16_SUMS, Hypothesis.BFLOAT16_SUMS))
    for hypothesis in allowed:
        said = setting_of("aten.mm.default", "cuda", hypothesis)
        assert said is not None and said.off == f"torch.backends.cuda.matmul.{name} = False"


@pytest.mark.parametrize(
    ("name", "expected"), [("highest", set()), ("high", BOTH), ("medium", {*BOTH, Hypothesis.BFLOAT16})]
)
def test_the_older_setting_counts_as_well(name: str, expected: set[Hypothesis]) -> None:
    with untouched(None, ()):
        torch.set_float32_matmul_precision(name)
        assert {h for h in Hypothesis if permitted("aten.mm.default", "cpu", h)} == expected
        assert not any(permitted("aten.convolution.default", "cpu", h) for h in Hypothesis)
        said = setting_of("aten.mm.default", "cpu", Hypothesis.TF32)
        assert said is not None
        assert said.allows is bool(expected) and "torch.set_float32_matmul_precision('highest')" in said.off
