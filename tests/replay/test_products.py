"""The derivatives of a product without the product are those that PyTorch gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from roundoff.replay.products import pulled_back

ATEN = torch.ops.aten
CASES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "mm": (ATEN.mm.default, (torch.randn(5, 7), torch.randn(7, 3))),
    "bmm": (ATEN.bmm.default, (torch.randn(2, 5, 7), torch.randn(2, 7, 3))),
    "addmm": (ATEN.addmm.default, (torch.randn(3), torch.randn(5, 7), torch.randn(7, 3))),
    "addmm with a matrix": (ATEN.addmm.default, (torch.randn(5, 1), torch.randn(5, 7), torch.randn(7, 3))),
    "convolution": (
        ATEN.convolution.default,
        (torch.randn(2, 4, 9, 8), torch.randn(6, 2, 3, 3), torch.randn(6), [2, 1], [1, 0], [1, 2], False, [0, 0], 2),
    ),
    "transposed": (
        ATEN.convolution.default,
        (torch.randn(2, 4, 9), torch.randn(4, 3, 3), None, [2], [1], [1], True, [1], 1),
    ),
}


@pytest.mark.parametrize("wanted", [(0,), (1,), (0, 1), (1, 2), (0, 1, 2)])
@pytest.mark.parametrize("name", CASES)
def test_they_are_autograds(name: str, wanted: tuple[int, ...]) -> None:
    op, given = CASES[name]
    args = tuple(x.clone() if isinstance(x, torch.Tensor) else x for x in given)
    leaves = [args[i].requires_grad_() for i in wanted if i < len(args) and isinstance(args[i], torch.Tensor)]
    y = op(*args)
    g = torch.randn(y.shape)
    found = pulled_back(op, args, {}, leaves, g)
    assert found is not None
    for mine, theirs in zip(found, torch.autograd.grad(y, leaves, g), strict=True):
        assert mine is not None and mine.shape == theirs.shape
        # Both add at most 90 products, in any order: twice the bound (Higham 2002, §3.1), by the norms of the operands.
        bound = (
            2
            * 90
            * 2.0**-24
            * float(g.norm())
            * max(float(x.detach().norm()) for x in args[:3] if isinstance(x, torch.Tensor))
        )
        assert float((mine - theirs).abs().max()) <= bound


def test_other_operators_and_shared_operands_are_left_to_autograd() -> None:
    x = torch.randn(4, 4, requires_grad=True)
    assert pulled_back(ATEN.mm.default, (x, x), {}, [x], torch.ones(4, 4)) is None
    assert pulled_back(ATEN.mul.Tensor, (x, torch.ones(4, 4)), {}, [x], torch.ones(4, 4)) is None
    args = (torch.ones(4, 4), x, torch.ones(4, 4))
    assert pulled_back(ATEN.addmm.default, args, {"beta": 2}, [x], torch.ones(4, 4)) is None
