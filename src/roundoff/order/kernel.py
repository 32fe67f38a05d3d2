"""What is asked for its order: an operator at an exact shape, as sums of products."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Operands = tuple[Tensor, Tensor | None, Tensor | None]
Run = Callable[[Tensor, Tensor | None, Tensor | None], Tensor]


@dataclass(frozen=True)
class Kernel:
    """Outputs [rows, max(cols, 1)], each the sum of the products of a row of x [rows, products] with a row of
    w [cols, products], and of an element of the bias b [cols].

    With ``cols`` 0 the rows of x are summed by themselves. ``run`` takes x, w and b; ``draw`` draws real operands from a
    seed and gives them with the operator's outputs, of which there may be more rows than ``run`` gives: with True, such
    that the sums cancel and only what was rounded away is left. ``divided``: the sum is divided by its length. ``given``:
    it is the user's own function. ``spills``, of a convolution: does a pixel reach outputs whose window it is far from?
    """

    name: str
    products: int
    bias: bool
    rows: int
    cols: int
    dtype: torch.dtype
    run: Run
    draw: Callable[[int, bool], tuple[Operands, Tensor]]
    divided: bool = False
    given: bool = False
    spills: Callable[[], bool | None] | None = None

    @property
    def length(self) -> int:
        """The number of summands: the products, and the bias where there is one."""
        return self.products + self.bias


def normal(seed: int, dtype: torch.dtype) -> Callable[..., Tensor]:
    """Draws normal numbers of any shape, on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def drawn_kernel(
    name: str,
    products: int,
    bias: bool,
    rows: int,
    cols: int,
    dtype: torch.dtype,
    run: Run,
    *,
    divided: bool = False,
    given: bool = False,
) -> Kernel:
    """A kernel whose rows are all independent, so that real operands are run just as the masks are."""

    def draw(seed: int, cancel: bool) -> tuple[Operands, Tensor]:
        operands = draw_rows(seed, dtype, rows, cols, products, bias, cancel, divided)
        return operands, run(*operands)

    return Kernel(name, products, bias, rows, cols, dtype, run, draw, divided, given)


def draw_rows(
    seed: int, dtype: torch.dtype, rows: int, cols: int, k: int, bias: bool, cancel: bool, divided: bool = False
) -> Operands:
    """x [rows, k], w [cols, k] and b [cols]; with ``cancel`` each product has its opposite among the others."""
    drawn = normal(seed, dtype)
    x = drawn(rows, k)
    w = drawn(cols, k) if cols else None
    b = drawn(cols) if bias else None
    if cancel:
        first, second, rest = opposites(seed, k)
        size = scale_of(dtype, k, products=cols > 0, divided=divided)
        x = x * size
        x[:, second] = x[:, first] if cols else -x[:, first]
        x[:, rest] *= TINY[dtype]
        if w is not None:
            w = w * size
            w[:, second] = -w[:, first]
        b = None if b is None else b * (size**2 * TINY[dtype])
    return x, w, b


#: What is added beside sums that cancel is as small as what they round away.
TINY = {torch.float64: 2.0**-46, torch.float32: 2.0**-18, torch.bfloat16: 2.0**-18, torch.float16: 2.0**-12}


def opposites(seed: int, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Two halves of ``k`` places in random order, to hold opposite numbers, and the place that is left if k is odd."""
    places = torch.randperm(k, generator=torch.Generator().manual_seed(seed))
    half = k // 2
    return places[:half], places[half : 2 * half], places[2 * half :]


def scale_of(dtype: torch.dtype, k: int, *, products: bool, divided: bool = False) -> float:
    """A power of two to multiply operands by: float16 ends at 2^-24, where it would lose what float32 rounds away, and at
    65504, which a sum of k numbers must stay below."""
    if dtype != torch.float16:
        return 1.0
    if divided:
        return 2.0**12
    power = max(0.0, min(10.0, 12.0 - math.log2(k) / 2))
    return 2.0 ** int(power / 2 if products else power)
