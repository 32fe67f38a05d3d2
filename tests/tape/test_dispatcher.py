"""Kernels run below a mode as they run without it; each of these came out in other bits, or not at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from roundoff.formats import same_bits
from roundoff.tape.dispatcher import is_composite
from roundoff.tape.watch import Step, watch

aten = torch.ops.aten


def both(model: Callable[..., Any], *args: Any) -> tuple[Tensor, Tensor]:
    return watch(model, args, {}, []), model(*args)


def test_lazy_conjugation_acts_inside_kernels() -> None:
    z = torch.randn(4, 4, dtype=torch.complex64)
    assert same_bits(*both(lambda z: torch.linalg.pinv((z * 0.1).conj()), z))


def test_lazy_conjugation_acts_inside_operators_of_inference_mode() -> None:
    z = torch.randn(4, 4, dtype=torch.complex64)
    with torch.inference_mode():
        assert same_bits(*both(torch.fft.hfft2, z))


def test_matmul_folds_in_inference_mode_as_it_does_unwatched() -> None:
    """Whether it folds depends on whether a view of the weights asks for a gradient."""
    layer, x = nn.Linear(6, 5), torch.randn(3, 4, 6).transpose(0, 1)
    with torch.inference_mode():
        assert same_bits(*both(layer, x))


def test_autocast_acts_inside_fused_operators() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert same_bits(*both(layer, torch.randn(2, 5, 8)))


def test_autocast_does_not_act_where_it_has_cast_before() -> None:
    """``cdist`` is kept in float32, and so are the products inside it."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert same_bits(*both(torch.cdist, torch.randn(40, 6), torch.randn(50, 6)))


def test_a_kernel_that_autocast_does_not_list_casts_inside() -> None:
    theta = torch.randn(2, 2, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        a, b = both(lambda t: nn.functional.affine_grid(t, [2, 1, 5, 5], align_corners=False), theta)
    assert a.dtype == b.dtype and same_bits(a, b)


def test_listeners_compute_outside_of_autocast_and_gradients() -> None:
    found = []

    class Multiplies:
        def before(self, step: Step) -> None:
            """Nothing."""

        def after(self, step: Step, out: Any) -> None:
            product = torch.ones(2, 2, requires_grad=True) @ torch.ones(2, 2)
            found.append((product.dtype, product.requires_grad))

    with torch.autocast("cpu", dtype=torch.bfloat16):
        watch(torch.sin, (torch.ones(1),), {}, [Multiplies()])
    assert found == [(torch.float32, False)]


def test_listeners_see_lazy_conjugates_as_the_user_does() -> None:
    found = []

    class Adds:
        def before(self, step: Step) -> None:
            """Nothing."""

        def after(self, step: Step, out: Any) -> None:
            found.append((torch.tensor([1j]).conj() + 0).item())

    watch(torch.sin, (torch.ones(1),), {}, [Adds()])
    assert found == [-1j]


@pytest.mark.parametrize("op", [aten.linear.default, aten.conv2d.default, aten.matmul.default, aten.reshape.default])
def test_composite_operators(op: Any) -> None:
    assert is_composite(op)


@pytest.mark.parametrize(
    "op",
    [
        aten.addmm.default,
        aten.silu_backward.default,  # has a kernel of its own as well
        aten.native_channel_shuffle.default,
        aten.view.default,
    ],
)
def test_operators_with_a_kernel(op: Any) -> None:
    assert not is_composite(op)


def test_the_setting_can_be_had_again() -> None:
    settings = []

    class Keeps:
        def before(self, step: Step) -> None:
            settings.append(step.setting)

        def after(self, step: Step, out: Any) -> None:
            """Nothing."""

    x = torch.randn(4, 4)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.float16):
        watch(torch.sin, (x,), {}, [Keeps()])
    with settings[0].again():
        assert not torch.is_grad_enabled()
        assert torch.get_autocast_dtype("cpu") == torch.float16
        assert (x @ x).dtype == torch.float16
    assert torch.is_grad_enabled() and torch.get_autocast_dtype("cpu") == torch.bfloat16
    assert (x @ x).dtype == torch.float32
