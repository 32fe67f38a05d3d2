"""Why a kernel adds in no tree, or rounds in another way than a tree does.

Whatever the order, a sum of products x_i w_i has three properties on numbers that are chosen well, exactly, bit for bit:
r and -r among zeros leave 0; where x is 1 at one place and 0 elsewhere, the sum is w there, however large w is elsewhere;
and one product among zeros is that product, rounded once. An algorithm that transforms its operands first (Winograd,
FFT, Strassen) breaks the first or the second; one that shortens or splits them breaks the third.
"""

from __future__ import annotations

import torch
from torch import Tensor

from roundoff.order.arithmetic import SHORT
from roundoff.order.build import NoTree
from roundoff.order.kernel import Kernel, normal
from roundoff.order.probe import Probe, masks_for

TRIES = 16  # rows that are tried, or calls where there is one row


def all_survive(kernel: Kernel) -> bool:
    """Whether every unit survives beside the masks."""
    if kernel.length < 3:
        return False
    probe = Probe(kernel, 0)
    try:
        return all(size == 2 for size in probe.meetings([(0, 1), (0, kernel.length - 1), (1, kernel.length - 1)]))
    except NoTree:
        return False


def why_no_tree(kernel: Kernel, seen: str) -> str:
    """What is known of a kernel whose counts fit no tree; ``seen`` is how they do not fit."""
    if all_survive(kernel):
        return (
            "It adds in no tree (every unit survives beside the masks): it adds without losing anything, as exact and "
            "compensated summation do."
        )
    mixed = why_mixed(kernel)
    if mixed:
        return f"{mixed} And {seen}."
    return f"It adds in no tree ({seen}), as neither Winograd, FFT, a split nor an exact summation does."


def why_mixed(kernel: Kernel) -> str:
    """How the kernel transforms its operands before it adds; empty where it does not."""
    if not _mixes(kernel):
        return ""
    start = "It adds in no tree, for its operands are mixed with one another before they are multiplied"
    spills = None if kernel.spills is None else kernel.spills()
    if kernel.spills is None:
        return f"{start}, as Winograd, FFT and Strassen do."
    if spills is None:
        return f"{start}: Winograd or FFT."
    how = "a pixel is felt all over the image: FFT" if spills else "but only near by: Winograd"
    return f"{start}, {how}."


def _mixes(kernel: Kernel) -> bool:
    rows = min(kernel.rows, TRIES)
    for at in range(0 if kernel.products < 2 else TRIES if kernel.rows == 1 and kernel.cols == 0 else 2):
        i, j = _places(kernel, at)
        r = normal(at, kernel.dtype)(kernel.rows)
        x = torch.zeros(kernel.rows, kernel.products, dtype=kernel.dtype)
        x[torch.arange(kernel.rows), i], x[torch.arange(kernel.rows), j] = r, -r
        if bool((_run(kernel, x, 1.0) != 0).any()):
            return True
    if kernel.cols == 0:
        return False
    mask = masks_for(kernel.dtype, kernel.divided).mask
    i, _ = _places(kernel, 0)
    x = torch.zeros(kernel.rows, kernel.products, dtype=kernel.dtype)
    for place in i[:rows].tolist():  # one column of weights at a time: it is the same for all outputs
        x.zero_()
        x[:, place] = 1
        w = torch.full((kernel.cols, kernel.products), mask, dtype=kernel.dtype)
        w[:, place] = 1
        if bool((_run(kernel, x, w) != 1).any()) or bool((_run(kernel, *_turned(kernel, place, mask)) != 1).any()):
            return True
    return False


def _turned(kernel: Kernel, place: int, mask: float) -> tuple[Tensor, Tensor]:
    """The same with x and w exchanged."""
    x = torch.full((kernel.rows, kernel.products), mask, dtype=kernel.dtype)
    w = torch.zeros(kernel.cols, kernel.products, dtype=kernel.dtype)
    x[:, place], w[:, place] = 1, 1
    return x, w


def shortened(kernel: Kernel) -> str:
    """Which format the operands are rounded to before they are multiplied, a name of ``arithmetic.SHORT``; "split" where
    none explains what a single product comes to, empty where it is the product."""
    if kernel.cols == 0 or kernel.divided:
        return ""
    drawn = normal(5, kernel.dtype)
    i, _ = _places(kernel, 1)
    x = torch.zeros(kernel.rows, kernel.products, dtype=kernel.dtype)
    ours, theirs = drawn(kernel.rows), drawn(kernel.cols)
    x[torch.arange(kernel.rows), i] = ours
    y = _run(kernel, x, theirs[:, None].expand(-1, kernel.products))
    for name, shorter in {"": lambda t: t, **SHORT}.items():
        product = shorter(ours).double()[:, None] * shorter(theirs).double()
        if bool((product.to(kernel.dtype) == y).all()):
            return name
    return "split"


def _places(kernel: Kernel, seed: int) -> tuple[Tensor, Tensor]:
    """Two different products for each row."""
    generator = torch.Generator().manual_seed(seed)
    i = torch.randint(kernel.products, (kernel.rows,), generator=generator)
    more = torch.randint(1, max(kernel.products, 2), (kernel.rows,), generator=generator)
    return i, (i + more) % kernel.products


def _run(kernel: Kernel, x: Tensor, w: Tensor | float) -> Tensor:
    """The kernel with bias 0; a number for all weights."""
    if kernel.cols == 0:
        return kernel.run(x.clone(), None, None)
    if isinstance(w, float):
        w = torch.full((kernel.cols, kernel.products), w, dtype=kernel.dtype)
    bias = torch.zeros(kernel.cols, dtype=kernel.dtype) if kernel.bias else None
    return kernel.run(x.clone(), w.contiguous(), bias)
