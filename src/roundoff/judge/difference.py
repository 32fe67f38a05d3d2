"""How large is the real difference, measured in the wide round-off?

d = wide A - wide B is made of the rounding of the two wide runs and of whatever the two networks do differently. E is the
typical size of the first. It is had in two ways. Cheaply, from the native round-off r, which is the same sum of the
same roundings, made with a unit round-off that is 2^29 times larger (float32): E is about r 2^-29. And, where that does
not settle it, from wide runs in which each result is perturbed by its own float64 rounding error.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from roundoff.formats import U64, is_inexact, widen

#: |d| up to so many E is rounding: E is known to a factor of a few, and the largest of a million normal numbers is 5 σ.
SAME = 16.0
#: |d| above so many E is real.
FLOOR = 64.0
#: With two, six and fourteen samples E may come out too small by luck; a d of more than so many E is real all the same.
#: The root mean square of n normal numbers is below t σ with a probability of about (n t² / 2)^(n/2) / Γ(n/2 + 1).
CERTAIN = (1e7, 1e4, 64.0)


@dataclass(frozen=True)
class Real:
    """The real difference of one output leaf: |d| and E, element by element, float64 of the shape of the output."""

    d: Tensor
    typical: Tensor  # E

    @property
    def worst(self) -> float:
        """The largest d / E; 0 where d is 0, infinite where d is not and E is."""
        if self.d.numel() == 0:
            return 0.0
        ratio = torch.where(self.d == 0, 0.0, self.d / self.typical)
        ratio = torch.where((self.d > 0) & ~self.typical.isfinite(), float("inf"), ratio)  # such an E judges nothing
        return float(ratio.max())

    @property
    def at(self) -> int:
        """The flat index at which d is largest."""
        return int(self.d.argmax()) if self.d.numel() else 0


def real_difference(a: Tensor, b: Tensor) -> Tensor:
    """|wide A - wide B| where both are finite; 0 where both are NaN or the same infinity, infinite where they are not."""
    if not is_inexact(a.dtype) and not is_inexact(b.dtype):
        return (a.to(torch.float64) - b.to(torch.float64)).abs()
    same = (a == b) | (a.isnan() & b.isnan())
    difference = (a - b).abs()
    return torch.where(same, 0.0, torch.where(difference.isnan(), float("inf"), difference))


def roundoff(native: Tensor, wide: Tensor) -> Tensor:
    """|native - wide|, 0 where both are not finite."""
    if not is_inexact(native.dtype):
        return (native.to(torch.float64) - wide.to(torch.float64)).abs()
    r = (widen(native) - wide).abs()
    return torch.where(r.isfinite(), r, 0.0)


def from_native(r_a: Tensor, r_b: Tensor, d: Tensor, coarsest: float) -> Tensor:
    """E from the native round-off of both sides, |r_A| and |r_B|.

    One element's round-off may be small by luck, so it is pooled over rows and columns; unless luck cannot explain how
    many elements have a d that is large against their own round-off: then the sizes differ from element to element
    (outputs of several scales in one tensor), and each is held against its own. ``coarsest`` is u of the shortest
    format that took part: scaling by it can make E too small, never too large.
    """
    if coarsest <= 0 or not r_a.numel():
        return torch.zeros_like(r_a)
    scale = U64 / coarsest * 2**0.5
    own = torch.maximum(r_a, r_b) * scale
    # d and r of one size: |d| > 2^10 |r| happens to 2/π 2^-10 of the elements. Six times that is not luck.
    strange = (d > own * _LUCK).sum()
    if float(strange) > d.numel() * 4 / _LUCK:
        return own
    largest = float(torch.maximum(r_a, r_b).max()) or 1.0  # squares of what float64 holds overflow and underflow
    return pooled(((r_a / largest).square() + (r_b / largest).square()) / 2) * (scale * largest)


_LUCK = 2.0**10


def pooled(squares: Tensor) -> Tensor:
    """Root mean squares, smoothed: the product of the profiles along each dimension, normalised by the whole.

    Elements of one row or column of an output have round-off of one size far more often than not.
    """
    total = squares.mean()
    if squares.dim() == 0 or not bool(total > 0):
        return squares.sqrt()
    result = torch.ones_like(squares) * total
    for dim in range(squares.dim()):
        others = [i for i in range(squares.dim()) if i != dim]
        if squares.shape[dim] > 1 and others:
            result = result * (squares.mean(dim=others, keepdim=True) / total)
    return result.sqrt()


def from_perturbed(base_a: Tensor, base_b: Tensor, runs: list[tuple[Tensor, Tensor, float]]) -> Tensor:
    """E from perturbed wide runs, (wide A, wide B, strength of the perturbation) each: root mean squares by element."""
    size: Tensor = torch.zeros(base_a.shape, dtype=torch.float64, device=base_a.device)
    for a, b, strength in runs:
        for moved, base in ((a, base_a), (b, base_b)):  # hypot: squares of what float64 holds overflow and underflow
            size = torch.hypot(size, real_difference(moved, base).nan_to_num(posinf=0.0) / strength)
    return size.mul(max(len(runs), 1) ** -0.5)
