"""Reveal the order of an operator's additions, and hold it against the operator's own bits."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from roundoff.errors import RoundoffError
from roundoff.formats import bits, same_bits, unit_roundoff
from roundoff.order.build import NoTree, build
from roundoff.order.fused import fused_products
from roundoff.order.kernels import Kernel, Operands, Shape, kernel_of
from roundoff.order.order import Order, Variant
from roundoff.order.probe import NotShared, Probe
from roundoff.order.replay import Arithmetic, arithmetics
from roundoff.order.tree import SumTree

FEWEST, MOST = 32, 2048  # outputs that are replayed from each draw of operands
DRAWS = 2  # an output must have the same order on each
VARIANTS = 4  # different orders among the outputs of one call that are looked for
CHECKS = 8  # pairs that every output is asked about once the tree is known
PATIENCE = 512  # summands up to which single outputs are looked at although the masks see one order everywhere
ANOTHER_WAY = "The masks fit this tree, but the kernel rounds in another way than the replay."


def reveal(op: str | Callable[[Tensor], Any], shape: Shape, threads: int | None) -> Order:
    """The order of ``op`` at ``shape``; see :func:`roundoff.reveal_order`."""
    start = time.perf_counter()
    with _threads(threads), torch.no_grad():
        kernel = kernel_of(op, shape)
        samples = _check_sum(kernel)
        try:
            variants, calls, reason = _variants(kernel, samples)
        except NoTree as error:
            variants, calls, reason = [], 0, str(error)
            if kernel.length > 2 and _all_survive(kernel):
                reason = (
                    "every unit survives beside the masks: it adds without losing anything, so no order can be seen"
                )
            reason = f"It adds in no tree ({reason}): Winograd, FFT, a split or an exact summation have none."
    return Order(
        kernel.name,
        _told(op, shape),
        kernel.length,
        shape.dtype,
        tuple(sorted(variants, key=lambda v: -v.matching)),
        len(samples[1]),
        calls,
        time.perf_counter() - start,
        reason,
        kernel.products,
    )


#: Real operands, output by output; the kernel's results; and which output each is, for each is drawn several times.
Samples = tuple[Operands, Tensor, Tensor]


def _variants(kernel: Kernel, samples: Samples) -> tuple[list[Variant], int, str]:
    """The orders of the outputs: one for all if that explains every sampled output, else element by element."""
    operands, y, _ = samples
    probe = Probe(kernel)
    try:
        tree = build(kernel.length, probe.meetings, kernel.bias)
        shared = _agrees(probe, tree)
        fused = fused_products(kernel, tree, probe) if shared else None
    except (NotShared, NoTree):
        shared = False
    calls = probe.calls
    if shared:
        how, same = _certify(kernel, tree, fused, operands, y)
        if bool(same.all()):
            return [Variant(tree, fused, how, len(y))], calls, ""
        guess = Variant(tree, fused, how, int(same.sum()))
        if kernel.length > PATIENCE:
            return [guess], calls, ANOTHER_WAY
    if kernel.rows * max(kernel.cols, 1) == 1 and not shared:
        tree = build(kernel.length, Probe(kernel).meetings, kernel.bias)  # says why there is none
    found, more, left = _each(kernel, samples)
    calls += more
    if shared and left:
        # Masks see one order everywhere and real operands another rounding: the tree stands, uncertified.
        return [guess], calls, ANOTHER_WAY
    reason = f"{left} sampled outputs add in an order that was not found." if left else ""
    return found, calls, reason


def _each(kernel: Kernel, samples: Samples) -> tuple[list[Variant], int, int]:
    """Orders of single outputs, until each sampled output has the bits of one or four orders were tried."""
    (x, w, b), y, which = samples
    waiting = torch.ones(len(y), dtype=torch.bool)
    outputs = kernel.rows * max(kernel.cols, 1)
    found: list[Variant] = []
    calls = 0
    elements = [0, outputs - 1, outputs // 2, max(kernel.cols, 1) - 1]
    for element in dict.fromkeys(elements[:VARIANTS]):
        if not bool(waiting.any()):
            break
        probe = Probe(kernel, element)
        tree = build(kernel.length, probe.meetings, kernel.bias)
        fused = fused_products(kernel, tree, probe)
        calls += probe.calls
        at = waiting.nonzero()[:, 0]
        rest = (x[at], None if w is None else w[at], None if b is None else b[at])
        how, same = _certify(kernel, tree, fused, rest, y[at])
        # An output has this order if it has its bits on every draw: on one it may have them by chance.
        other = which[at][~same]
        explained = at[~torch.isin(which[at], other)]
        if len(explained):
            waiting[explained] = False
            found.append(Variant(tree, fused, how, len(explained)))
    return found, calls, int(waiting.sum())


def _certify(
    kernel: Kernel, tree: SumTree, fused: frozenset[int] | None, operands: Operands, y: Tensor
) -> tuple[Arithmetic, Tensor]:
    """The way to round that gives the kernel's bits on most sampled outputs, and on which."""
    bias_last = bool(tree.bias and tree.nodes[-1][-1] == tree.length - 1)
    best: tuple[Arithmetic, Tensor] | None = None
    for how in arithmetics(kernel.dtype, bias_last, kernel.divided, tree.widest > 2):
        same = bits(Variant(tree, fused, how, 0).replay(*operands)) == bits(y)
        if best is None or int(same.sum()) > int(best[1].sum()):
            best = how, same
        if bool(same.all()):
            break
    assert best is not None
    return best


def _agrees(probe: Probe, tree: SumTree) -> bool:
    """Whether every output of the operator counts what the tree says, for pairs drawn at random."""
    draw = random.Random(1)
    n = tree.length
    ends = {(0, n - 1), (0, n - 1 - tree.bias), (n - 2, n - 1)}  # the bias and the tail are where kernels part
    for i, j in [*(pair for pair in ends if pair[0] != pair[1]), *(draw.sample(range(n), 2) for _ in range(CHECKS))]:
        alone = Probe(probe.kernel)
        pairs = [(i, j)] * probe.slots  # the same in every slot, so that every output is asked the same
        wrong = [size for size in alone.meetings(pairs) if size != tree.meeting(i, j)]
        probe.calls += alone.calls
        if wrong:
            return False
    return True


def _all_survive(kernel: Kernel) -> bool:
    probe = Probe(kernel, 0)
    try:
        return all(size == 2 for size in probe.meetings([(0, 1), (0, kernel.length - 1), (1, kernel.length - 1)]))
    except NoTree:
        return False


def _check_sum(kernel: Kernel) -> Samples:
    """Real operands, element by element, with the kernel's outputs. Refuses what is not deterministic or no sum."""
    first = _drawn(kernel, 0)
    if not same_bits(first[1], _drawn(kernel, 0)[1]):
        raise RoundoffError(
            f"{kernel.name} is not deterministic: the same operands gave other bits the second time. Its order of "
            "additions changes from call to call; threads=1 may fix it."
        )
    if first[1].dtype != kernel.dtype:
        raise RoundoffError(
            f"{kernel.name} takes {kernel.dtype} and gives {first[1].dtype}. It must give {kernel.dtype}."
        )
    draws = max(DRAWS, -(-FEWEST // first[1].numel()))
    found = [_elements(*first, MOST), *(_elements(*_drawn(kernel, seed), MOST) for seed in range(1, draws))]
    parts = [list(column) for column in zip(*((*operands, y) for operands, y in found), strict=True)]
    x, w, b, y = (None if column[0] is None else torch.cat(column) for column in parts)
    assert x is not None and y is not None
    operands = x, w, b
    _check_additions(kernel, operands, y)
    return operands, y, torch.arange(len(y)) % len(found[0][1])


def _drawn(kernel: Kernel, seed: int) -> tuple[Operands, Tensor]:
    try:
        return kernel.draw(seed)
    except (RoundoffError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise RoundoffError(
            f"{kernel.name} raised {type(error).__name__}: {error}. It was given {kernel.products} random numbers of "
            f"{kernel.dtype}."
        ) from error


def _check_additions(kernel: Kernel, operands: Operands, y: Tensor) -> None:
    """Any order of additions stays within its bound; what does not is no sum of these numbers."""
    x, w, b = (None if t is None else t.double() for t in operands)
    assert x is not None
    products = x if w is None else x * w
    wide, size = products.sum(1), products.abs().sum(1)
    if b is not None:
        wide, size = wide + b, size + b.abs()
    if kernel.divided:
        wide, size = wide / kernel.length, size / kernel.length
    # Four times the bound of any order: norm-wise algorithms, such as FFT, are sums as well, if in no tree.
    u = unit_roundoff(kernel.dtype)
    wrong = ~((y.double() - wide).abs() <= 4 * min(kernel.length * u, 0.1) * size)
    if bool(wrong.any()):
        at = int(wrong.nonzero()[0])
        still = bool((y == y[0]).all()) and len(y) > 1
        what = "ignores its input" if still else "is not a sum of the values it is given"
        raise RoundoffError(
            f"{kernel.name} {what}: {kernel.length} random numbers that add up to {float(wide[at]):.6g} gave "
            f"{float(y[at]):.6g}. Give a function that adds all of them, as they are, and returns the sum."
        )


def _elements(operands: Operands, y: Tensor, most: int) -> tuple[Operands, Tensor]:
    """Outputs one by one, with their operands: all of them, or the corners and others drawn at random."""
    x, w, b = operands
    rows, cols = y.shape
    n = rows * cols
    chosen = torch.arange(n)
    if n > most or n * x.shape[1] > 2**24:
        most = max(FEWEST, min(most, 2**24 // x.shape[1]))
        corners = torch.tensor([0, cols - 1, n - cols, n - 1])
        drawn = torch.randperm(n, generator=torch.Generator().manual_seed(0))[: most - 4]
        chosen = torch.cat([corners, drawn]).unique()
    r, c = chosen // cols, chosen % cols
    return (x[r], None if w is None else w[c], None if b is None else b[c]), y.flatten()[chosen]


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    if number is None:
        yield
        return
    if number < 1:
        raise RoundoffError(f"threads is {number}; it must be at least 1.")
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _told(op: str | Callable[[Tensor], Any], shape: Shape) -> str:
    dtype = str(shape.dtype).removeprefix("torch.")
    if not isinstance(op, str):
        return f"k={shape.k}, {dtype}"
    size = "".join(f", {name}={value}" for name, value in shape.args.items())
    if op in ("sum", "mean"):
        return f"k={shape.k}, batch={shape.batch}, {dtype}, {shape.layout}{size}"
    bias = "with" if shape.bias else "without"
    return f"k={shape.k} {bias} bias, batch={shape.batch}, out={shape.out}, {dtype}, {shape.layout}{size}"
