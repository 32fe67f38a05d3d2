"""Products in a shorter arithmetic, at every length of the sums: recognised, and none is seen where there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from tests.judge.pairs import kinds, told
from tests.suite.planted import Fault, Faulty, Kernel
from torch import Tensor, nn

import roundoff
from roundoff import Comparison

LENGTHS = (16, 64, 256, 1024, 4096, 16384)
Damage = Callable[[Kernel, tuple[Any, ...], dict[str, Any]], Any]


def linear(n: int) -> tuple[nn.Module, Tensor]:
    return nn.Linear(n, 24), torch.randn(40, n)


def convolution(n: int) -> tuple[nn.Module, Tensor]:
    """Kernels of 4 x 4 on n / 16 channels."""
    return nn.Conv2d(n // 16, 12, 4), torch.randn(2, n // 16, 8, 7)


OPS = {"addmm": linear, "convolution": convolution}


def tf32(x: Tensor, add: Callable[[Tensor], Tensor | int]) -> Tensor:
    pattern = x.contiguous().view(torch.int32)
    return (pattern + add(pattern) & ~0x1FFF).view(torch.float32)


SHORTEN: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "TF32 away": ("TF32", lambda x: tf32(x, lambda p: 0x1000)),
    "TF32 even": ("TF32", lambda x: tf32(x, lambda p: 0xFFF + (p >> 13 & 1))),
    "TF32 cut": ("TF32", lambda x: tf32(x, lambda p: 0)),
    "bfloat16": ("bfloat16", lambda x: x.bfloat16().float()),
    "float16": ("float16", lambda x: x.half().float()),
}


def placed(args: tuple[Any, ...], x: Tensor, w: Tensor, bias: Tensor) -> tuple[Any, ...]:
    """The arguments of an addmm (bias, x, w) or of a convolution (x, w, bias) with other operands."""
    return (bias, x, w) if len(args) == 3 else (x, w, bias, *args[3:])


def taken(args: tuple[Any, ...]) -> tuple[Tensor, Tensor, Tensor]:
    return (args[1], args[2], args[0]) if len(args) == 3 else args[:3]  # type: ignore[return-value]


def rounding(shorten: Callable[[Tensor], Tensor]) -> Damage:
    def damage(kernel: Kernel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        x, w, bias = taken(args)
        return kernel(*placed(args, shorten(x), shorten(w), bias), **kwargs)

    return damage


def in_three(kernel: Kernel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Two bfloat16 parts of each operand, three of their products."""
    x, w, bias = taken(args)

    def parts(v: Tensor) -> tuple[Tensor, Tensor]:
        first = v.bfloat16().float()
        return first, (v - first).bfloat16().float()

    (x1, x2), (w1, w2), nothing = parts(x), parts(w), torch.zeros_like(bias)
    small = kernel(*placed(args, x1, w2, nothing), **kwargs) + kernel(*placed(args, x2, w1, nothing), **kwargs)
    return kernel(*placed(args, x1, w1, bias), **kwargs) + small


def planted(op: str, n: int, damage: Damage | None, dtype: torch.dtype = torch.float32) -> Comparison:
    net, x = OPS[op](n)
    net, x = net.to(dtype), x.to(dtype)
    if damage is None:
        return roundoff.compare(net, lambda x: net(x.flip(0)).flip(0) * 1, x)
    fault = Fault(op, 0, damage)
    faulty = Faulty(net, fault)
    assert fault.aim(lambda: faulty(x))
    with fault.planted():
        return roundoff.compare(net, faulty, x)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("how", SHORTEN)
def test_shorter_operands_that_no_setting_allows(how: str, n: int, op: str) -> None:
    name, shorten = SHORTEN[how]
    c = planted(op, n, rounding(shorten))
    assert c.verdict == "different", c
    assert kinds(c) == {"reduced-precision"}
    said = told(c, "reduced-precision")
    # Rounded to as many digits: float16 is told from TF32 by its range, and only by that.
    names = ("TF32", "float16") if name == "float16" else (name,)
    assert said.startswith("B: net") and any(f"computed in {name} though no setting in force" in said for name in names)
    operator = "matmul" if op == "addmm" else "conv"
    assert f"(torch.backends.mkldnn.{operator}.fp32_precision is 'none')" in said


@contextmanager
def allowed(op: str, precision: str) -> Iterator[None]:
    owner = torch.backends.mkldnn.matmul if op == "addmm" else torch.backends.mkldnn.conv
    before = owner.fp32_precision
    owner.fp32_precision = precision
    try:
        yield
    finally:
        owner.fp32_precision = before


ALLOWED = {
    "TF32 even": ("tf32", "TF32", rounding(SHORTEN["TF32 even"][1])),
    "TF32 cut": ("tf32", "TF32", rounding(SHORTEN["TF32 cut"][1])),
    "bf16x3": ("tf32", "bf16x3", in_three),
    "bfloat16": ("bf16", "bfloat16", rounding(SHORTEN["bfloat16"][1])),
}


def kernels_that_heed_the_setting(op: str, n: int, precision: str) -> bool:
    """Whether this machine's own kernels compute otherwise under the setting, so that nothing can be planted beside them."""
    net, x = OPS[op](n)
    before = net(x)
    with allowed(op, precision):
        return not torch.equal(before, net(x))


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("how", ALLOWED)
def test_shorter_operands_that_the_setting_allows(how: str, n: int, op: str) -> None:
    precision, name, damage = ALLOWED[how]
    if kernels_that_heed_the_setting(op, n, precision):
        pytest.skip("the kernels of this machine compute in the shorter format themselves")
    with allowed(op, precision):
        c = planted(op, n, damage)
    assert c.verdict == "roundoff", c
    assert kinds(c) == {"reduced-precision"}
    said = told(c, "reduced-precision")
    setting = f"torch.backends.mkldnn.{'matmul' if op == 'addmm' else 'conv'}.fp32_precision"
    assert f"computed in {name}, which the precision setting in force allows: {setting} is '{precision}'" in said
    assert f"{setting} = 'ieee'" in said and said.endswith("switches it off.")


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("how", ["TF32 even", "bfloat16"])
def test_a_fault_beside_what_the_setting_allows(how: str, op: str) -> None:
    precision, _, damage = ALLOWED[how]
    if kernels_that_heed_the_setting(op, 64, precision):
        pytest.skip("the kernels of this machine compute in the shorter format themselves")

    def also(kernel: Kernel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        out = damage(kernel, args, kwargs)
        out.view(-1)[5] += 1e-3
        return out

    with allowed(op, precision):
        c = planted(op, 64, also)
    assert c.verdict == "different"
    assert kinds(c) == {"reduced-precision", "faulty-kernel"}


def short_sums(kernel: Kernel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The sum of eight parts in the format of the operands."""
    bias, x, w = args
    total = torch.zeros(x.shape[0], w.shape[1], dtype=x.dtype)
    for a, b in zip(x.chunk(8, 1), w.chunk(8, 0), strict=True):
        total = total + (a.float() @ b.float()).to(x.dtype)
    return total + bias


@pytest.mark.parametrize(
    ("dtype", "n"), [*((torch.float16, n) for n in LENGTHS[:2]), *((torch.bfloat16, n) for n in LENGTHS[:4])]
)
def test_sums_in_a_short_format(dtype: torch.dtype, n: int) -> None:
    """Where they are longer γ_n of float32 is more than that, and a correct kernel could be as far off."""
    c = planted("addmm", n, short_sums, dtype)
    name = str(dtype).removeprefix("torch.")
    assert c.verdict == "different", c
    assert kinds(c) == {"reduced-precision"}
    assert f"computed in sums in {name} though no setting in force allows it" in told(c, "reduced-precision")


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_clean_products_are_not_accused(dtype: torch.dtype, n: int, op: str) -> None:
    c = planted(op, n, None, dtype)
    assert c, c
    assert kinds(c) <= {"magnitude"}


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("n", LENGTHS)
def test_clean_products_under_a_setting_that_is_not_made_use_of(n: int, op: str) -> None:
    if kernels_that_heed_the_setting(op, n, "tf32"):
        pytest.skip("the kernels of this machine compute in the shorter format themselves")
    with allowed(op, "tf32"):
        c = planted(op, n, None)
    assert c, c
    assert kinds(c) == set()
