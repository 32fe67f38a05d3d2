"""The gradients of an LSTM layer, written out, against autograd in float64."""

from __future__ import annotations

import pytest
import torch

from roundoff.rules.recurrent import lstm
from roundoff.rules.recurrent_backward import before_each, finished, gradients


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("last", [False, True])
def test_written_out_gradients_are_those_of_autograd(reverse: bool, bias: bool, last: bool) -> None:
    steps, batch, width, hidden = 6, 3, 5, 4
    x = torch.randn(steps, batch, width, dtype=torch.float64, requires_grad=True)
    w = torch.randn(4 * hidden, width, dtype=torch.float64, requires_grad=True)
    v = torch.randn(4 * hidden, hidden, dtype=torch.float64, requires_grad=True)
    b = torch.randn(4 * hidden, dtype=torch.float64, requires_grad=True) if bias else None
    h, c = (torch.randn(batch, hidden, dtype=torch.float64, requires_grad=True) for _ in range(2))
    y, hy, cy = lstm(x, (w, v), b, h, c, reverse)
    of_y = torch.randn_like(y)
    of_h, of_c = (torch.randn_like(hy), torch.randn_like(cy)) if last else (None, None)
    total = (y * of_y).sum()
    if of_h is not None and of_c is not None:
        total = total + (hy * of_h).sum() + (cy * of_c).sum()
    asked = [t for t in (x, w, v, b, h, c) if t is not None]
    expected = torch.autograd.grad(total, asked)
    with torch.no_grad():
        da, dh, dc = gradients(x, (w, v), b, (h, c), (of_y, of_h, of_c), reverse)
        dx, dw, dv, db = finished(x, (w, v), before_each(y, h, reverse), da)
    found = [dx, dw, dv, *([db] if bias else []), dh, dc]
    for mine, theirs in zip(found, expected, strict=True):
        # Sums of some hundred float64 products of numbers of the size of 1 to 10.
        assert torch.allclose(mine, theirs, rtol=0, atol=float(theirs.abs().max()) * 1000 * 2**-53)
