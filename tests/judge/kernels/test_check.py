"""Faults planted in the kernels of this build are found, named and decide; clean kernels are not accused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from tests.judge.pairs import backwards, case, kinds, product, told
from tests.suite.planted import Fault, Faulty, Kernel, element, rounded
from torch import Tensor, nn

import roundoff
from roundoff import Comparison

Damage = Callable[[Kernel, tuple[Any, ...], dict[str, Any]], Any]


def dense() -> tuple[nn.Module, Tensor]:
    return nn.Sequential(nn.Linear(300, 40), nn.Sigmoid(), nn.Linear(40, 9)), torch.randn(64, 300)


def images() -> tuple[nn.Module, Tensor]:
    return nn.Sequential(nn.Conv2d(8, 12, 3), nn.Tanh()), torch.randn(2, 8, 12, 12)


def rectified() -> tuple[nn.Module, Tensor]:
    return nn.Sequential(nn.Linear(9, 7), nn.ReLU()), torch.randn(5, 9)


def planted(op: str, damage: Damage, make: Callable[[], tuple[nn.Module, Tensor]], call: int = 0) -> Comparison:
    """A network against itself with one wrong call of one kernel. Its parameters, and all float64, are the same."""
    net, x = make()
    fault = Fault(op, call, damage)
    faulty = Faulty(net, fault)
    assert fault.aim(lambda: faulty(x))
    with fault.planted():
        c = roundoff.compare(net, faulty, x)
        assert fault.fired
    return c


def changed(change: Callable[[Tensor], object]) -> Damage:
    """The right result, changed in place."""

    def damage(kernel: Kernel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        out = kernel(*args, **kwargs)
        change(out)
        return out

    return damage


def wrong_row(out: Tensor) -> None:
    out[3] *= 1.001


def dropped_block(kernel: Kernel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The last products of each sum are forgotten."""
    bias, x, w = args
    return kernel(bias, x[:, :-8].contiguous(), w[:-8].contiguous())


def dropped_block_of_images(kernel: Kernel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    x, w, *rest = args
    w = w.clone()
    w[:, -1] = 0
    return kernel(x, w, *rest, **kwargs)


@pytest.mark.parametrize(
    ("op", "damage", "make", "name"),
    [
        pytest.param("addmm", element(0.5), dense, "addmm", id="element"),
        pytest.param("addmm", changed(wrong_row), dense, "addmm", id="row"),
        pytest.param("addmm", dropped_block, dense, "addmm", id="block"),
        pytest.param("convolution", element(0.7), images, "convolution", id="element of a convolution"),
        pytest.param("convolution", dropped_block_of_images, images, "convolution", id="channel of a convolution"),
        pytest.param("sigmoid", element(0.1, 1e-4), dense, "sigmoid", id="element of a sigmoid"),
        pytest.param("tanh", changed(wrong_row), lambda: (nn.Tanh(), torch.randn(9, 5)), "tanh", id="row of a tanh"),
        pytest.param("relu", element(0.3), rectified, "relu", id="moved data"),
    ],
)
def test_a_faulty_kernel_is_different_and_named(
    op: str, damage: Damage, make: Callable[[], tuple[nn.Module, Tensor]], name: str
) -> None:
    c = planted(op, damage, make)
    assert c.verdict == "different"
    assert kinds(c) == {"faulty-kernel"}
    said = told(c, "faulty-kernel")
    assert said.startswith("B: net") and f"aten.{name}.default is off by" in said
    assert "where no correct kernel can be off by more than" in said
    assert name in c.reason


def test_the_element_that_is_off_is_named() -> None:
    def spoil(out: Tensor) -> None:
        out[7, 11] += 0.5

    c = planted("addmm", changed(spoil), dense)
    assert "off by 0.5 at [7, 11]" in told(c, "faulty-kernel")


def test_the_layer_that_is_off_is_named() -> None:
    c = planted("addmm", element(0.5), dense, call=1)
    assert told(c, "faulty-kernel").startswith("B: net.2")


def test_a_nan_that_a_kernel_makes_up_is_a_fault() -> None:
    def spoil(out: Tensor) -> None:
        out[7, 1] = torch.nan

    c = planted("addmm", changed(spoil), dense)
    assert c.verdict == "different" and "faulty-kernel" in kinds(c)


@pytest.mark.parametrize(("bits", "name"), [(11, "TF32"), (8, "bfloat16")])
@pytest.mark.parametrize(("op", "make"), [("addmm", dense), ("convolution", images)])
def test_reduced_precision_that_no_setting_allows_is_different(
    op: str, make: Callable[[], tuple[nn.Module, Tensor]], bits: int, name: str
) -> None:
    c = planted(op, rounded(bits), make)
    assert c.verdict == "different"
    assert kinds(c) == {"reduced-precision"}
    assert f"aten.{op}.default computed in {name} though" in told(c, "reduced-precision")
    assert "no setting in force allows" in c.reason


@pytest.mark.parametrize("call", [0, 1])
@pytest.mark.parametrize("bits", [11, 8])
def test_reduced_precision_in_sums_so_long_that_the_bound_does_not_see_it(bits: int, call: int) -> None:
    """γ_n of 200,000 float32 roundings is 2^-6: more than rounding the operands to bfloat16, 2^-8 each, makes."""
    widths = (200_000, 4) if call == 0 else (4, 200_000)
    net = nn.Sequential(nn.Linear(*widths), nn.Sigmoid(), nn.Linear(*reversed(widths)))
    c = planted("addmm", rounded(bits), lambda: (net, torch.randn(6, widths[0])), call)
    assert c.verdict == "different"
    assert kinds(c) == {"reduced-precision"}
    assert told(c, "reduced-precision").startswith(f"B: net.{2 * call}")


@contextmanager
def allowed(operator: str, precision: str) -> Iterator[None]:
    """The CPU may compute float32 products of this kind in a shorter format."""
    owner = getattr(torch.backends.mkldnn, operator)
    before = owner.fp32_precision
    owner.fp32_precision = precision
    try:
        yield
    finally:
        owner.fp32_precision = before


@pytest.mark.parametrize(
    ("op", "make", "operator", "bits", "precision", "name"),
    [
        ("addmm", dense, "matmul", 11, "tf32", "TF32"),
        ("addmm", dense, "matmul", 8, "bf16", "bfloat16"),
        ("convolution", images, "conv", 11, "tf32", "TF32"),
    ],
)
def test_reduced_precision_that_the_setting_allows_is_roundoff(
    op: str, make: Callable[[], tuple[nn.Module, Tensor]], operator: str, bits: int, precision: str, name: str
) -> None:
    with allowed(operator, precision):
        c = planted(op, rounded(bits), make)
    assert c.verdict == "roundoff", c.reason
    assert kinds(c) == {"reduced-precision"}
    assert f"computed in {name}, which the precision setting in force allows" in told(c, "reduced-precision")


@pytest.mark.parametrize(("operator", "precision"), [("matmul", "tf32"), ("conv", "bf16")])
def test_a_setting_allows_no_shorter_format_and_no_other_operator(operator: str, precision: str) -> None:
    with allowed(operator, precision):
        assert planted("addmm", rounded(8), dense).verdict == "different"


@pytest.mark.parametrize("k", [3, 64, 4096])
def test_clean_kernels_are_not_accused(k: int) -> None:
    x, w = torch.randn(17, k), torch.randn(k, 5)
    for scale in (1.0, 1e-25, 1e15):
        c = roundoff.compare(product, backwards, (x * scale, w))
        assert c, c.reason
        assert kinds(c) <= {"magnitude"}


def test_every_step_is_counted_and_unknown_operators_are_kept() -> None:
    opened = case(torch.sin, lambda x: torch.relu(x @ x), torch.randn(4, 4))
    assert dict(opened.check_a.steps) == {"all": 1, "checked": 1}
    assert opened.check_b.steps["all"] == 2
    assert opened.check_a.unknown == opened.check_b.unknown == {}


def test_a_faulty_kernel_that_leaves_no_trace_in_the_output_is_identical() -> None:
    """Identical is what the bits say, and nothing else."""
    net, x = nn.Sequential(nn.Linear(9, 9), nn.ReLU()), torch.randn(4, 9)
    nn.init.constant_(net[0].bias, -1e3)
    c = planted("addmm", element(0.5, 1e-3), lambda: (net, x))
    assert (c.verdict, c.evidence) == ("identical", "proved")


def test_overflow_in_the_native_format_is_no_fault() -> None:
    x, w = torch.randn(6, 30) * 1e25, torch.randn(30, 4) * 1e18
    c = roundoff.compare(product, backwards, (x, w))
    assert "faulty-kernel" not in kinds(c), c.reason
