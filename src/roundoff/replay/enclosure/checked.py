"""Is what the vendor's kernel gives the product? Asked with arithmetic that is not the kernel's.

The products of slices are whole numbers. A product y = x w of whole numbers is held against (x (w v)) for a vector v of
random numbers (Freivalds, "Probabilistic machines can use less running time", IFIP 1977), by elementwise multiplication and
addition of 64-bit integers, modulo 2^64, where nothing is rounded. That costs as much as one more column of w. As v is odd,
one wrong number in a row of y is always found. Where several are off, by less than 2^54, it passes with a chance of 2^-10 at
most, which takes errors of 2^53, and of 2^-31 where one of them is no multiple of 2^33.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_SEED = 20_117


def random(n: int, device: torch.device) -> Tensor:
    """``n`` odd whole numbers of 32 bits, the same each time; no random state is touched."""
    g = torch.Generator().manual_seed(_SEED)
    return (torch.randint(-(2**31), 2**31, (n,), generator=g) | 1).to(device)


def matrices_hold(x: Tensor, w: Tensor, y: Tensor) -> bool:
    """y = x @ w, of whole numbers [..., m, k], [..., k, n] and [..., m, n]."""
    v = random(w.shape[-1], w.device)
    once = (w * v).sum(-1)
    return torch.equal((x * once.unsqueeze(-2)).sum(-1).expand(y.shape[:-1]), (y * v).sum(-1))


def convolutions_hold(
    x: Tensor,
    w: Tensor,
    y: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    groups: int,
) -> bool:
    """y is the convolution of x with w, of whole numbers: with all output channels of a group made one."""
    batch, channels, *space = x.shape
    outs = y.shape[1] // groups
    v = random(y.shape[1], w.device).reshape(groups, outs)
    if transposed:  # w: [in, out of a group, *kernel]
        mixed = (w.reshape(groups, channels // groups, outs, -1) * v[:, None, :, None]).sum(2)
    else:  # w: [out, in of a group, *kernel]
        mixed = (w.reshape(groups, outs, w.shape[1], -1) * v[:, :, None, None]).sum(1)
    ones = [1] * len(space)
    asked = (y.reshape(batch, groups, outs, *y.shape[2:]) * v.reshape(groups, outs, *ones)).sum(2)
    taps = enumerate(product(*(range(k) for k in w.shape[2:])))
    if transposed:
        wide = [n + 2 * p for n, p in zip(y.shape[2:], padding, strict=True)]
        canvas = torch.zeros((batch, groups, *wide), dtype=torch.int64, device=x.device)
        for i, tap in taps:
            at: Any = [slice(t * d, t * d + s * (n - 1) + 1, s) for t, d, s, n in
                  zip(tap, dilation, stride, space, strict=True)]  # fmt: skip
            canvas[(..., *at)] += _mixed(x, mixed[..., i])
        inner: Any = [slice(p, p + n) for p, n in zip(padding, y.shape[2:], strict=True)]
        return torch.equal(canvas[(..., *inner)], asked)
    padded = F.pad(x, [p for p in reversed(padding) for _ in (0, 1)])
    found = torch.zeros_like(asked)
    for i, tap in taps:
        where: Any = [slice(t * d, t * d + s * (n - 1) + 1, s) for t, d, s, n in
                      zip(tap, dilation, stride, y.shape[2:], strict=True)]  # fmt: skip
        found += _mixed(padded[(..., *where)], mixed[..., i])
    return torch.equal(found, asked)


def _mixed(x: Tensor, by: Tensor) -> Tensor:
    """Σ over the channels of each group: [batch, channels, *space] to [batch, groups, *space]; ``by``: [groups, each]."""
    split = x.reshape(x.shape[0], by.shape[0], by.shape[1], *x.shape[2:])
    return (split * by.reshape(*by.shape, *[1] * (x.dim() - 2))).sum(2)
