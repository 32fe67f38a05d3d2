"""Reveal the order of an operator's additions, and hold it against the operator's own bits."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from roundoff.errors import RoundoffError
from roundoff.order.arithmetic import SHORT
from roundoff.order.build import NoTree, build
from roundoff.order.certify import Samples, certify, draw_samples, more_samples
from roundoff.order.diagnose import shortened, why_mixed, why_no_tree
from roundoff.order.fused import fused_products
from roundoff.order.kernel import Kernel, Operands
from roundoff.order.kernels import Shape, kernel_of
from roundoff.order.order import Order, Variant
from roundoff.order.probe import NotShared, Probe
from roundoff.order.tree import SumTree
from roundoff.order.witness import agree, ask, tells

VARIANTS = 4  # different orders among the outputs of one call that are looked for
CHECKS = 8  # pairs that every output is asked about once the tree is known
PATIENCE = 512  # summands up to which single outputs are looked at although the masks see one order everywhere
SPLIT = (
    "It adds in no tree of these products: a product among zeros does not come to that product, rounded once. Its operands "
    "are split into shorter ones, or cut."
)
LONGEST_MEAN = 512  # in float16: of more numbers a single one no longer shows
COARSE_MEAN = (
    "None was looked for: a mean of {} numbers in float16 holds too few digits to count them. Ask for its sum, or for "
    "another dtype."
)
TOO_COARSE = "The bits agree, but so they do for other trees: the results are too coarse to tell."
ANOTHER_WAY = "The masks fit this tree, but the kernel rounds in another way than the replay."


def reveal(op: str | Callable[[Tensor], Any], shape: Shape, threads: int | None) -> Order:
    """The order of ``op`` at ``shape``; see :func:`roundoff.reveal_order`."""
    with _threads(threads), torch.no_grad():
        return reveal_kernel(kernel_of(op, shape), _told(op, shape))


def reveal_kernel(kernel: Kernel, shape: str) -> Order:
    """The order of ``kernel``, whose shape in words is ``shape``. Raises RoundoffError for what is no sum."""
    start, calls = time.perf_counter(), [0]
    kernel = _counting(kernel, calls)
    found = _revealed(kernel, draw_samples(kernel))
    return Order(
        kernel.name,
        shape,
        kernel.length,
        kernel.dtype,
        tuple(sorted(found.variants, key=lambda v: -v.matching)),
        found.sampled,
        calls[0],
        time.perf_counter() - start,
        found.reason,
        kernel.products,
    )


@dataclass(frozen=True)
class _Found:
    """The orders of the outputs, how many were sampled, and what is to be said where there is none, or no certificate."""

    variants: tuple[Variant, ...]
    sampled: int
    reason: str = ""


def _revealed(kernel: Kernel, samples: Samples) -> _Found:
    many = len(samples.y)
    if kernel.divided and kernel.dtype == torch.float16 and kernel.length > LONGEST_MEAN:
        return _Found((), many, COARSE_MEAN.format(kernel.length))
    try:
        found = _variants(kernel, samples, "")
    except NoTree as error:
        return _Found((), many, why_no_tree(kernel, str(error)))
    if not found.reason:
        return found
    mixed = why_mixed(kernel)
    if mixed:
        return _Found((), many, mixed)
    shorter = shortened(kernel)
    if shorter in SHORT:
        return _variants(kernel, samples, shorter)
    if shorter:
        return _Found((), many, SPLIT)
    return found


def _counting(kernel: Kernel, calls: list[int]) -> Kernel:
    """``kernel``, with its calls counted."""

    def run(x: Tensor, w: Tensor | None, b: Tensor | None) -> Tensor:
        calls[0] += 1
        return kernel.run(x, w, b)

    def draw(seed: int, cancel: bool) -> tuple[Operands, Tensor]:
        calls[0] += 1
        return kernel.draw(seed, cancel)

    return replace(kernel, run=run, draw=draw)


def _variants(kernel: Kernel, samples: Samples, shorter: str) -> _Found:
    """The orders of the outputs: one for all if that explains every sampled output, else element by element."""
    probe, divisor = Probe(kernel), kernel.length if kernel.divided else 1
    try:
        tree = build(kernel.length, probe.meetings, kernel.bias)
        shared = _agrees(kernel, tree)
        fused = fused_products(kernel, tree, probe) if shared else None
    except (NotShared, NoTree):
        shared = False
    if shared:
        seen = ask(kernel, tree)
        how, same = certify(kernel, tree, fused, samples, seen, shorter)
        if bool(same.all()):
            variant = Variant(tree, fused, how, len(same))
            return _Found((variant,), len(same), "" if seen is None or tells(seen, divisor) else TOO_COARSE)
        guess = Variant(tree, fused, how, int(same.sum()))
        if kernel.length > PATIENCE:
            return _Found((guess,), len(same), ANOTHER_WAY)
    if kernel.rows * max(kernel.cols, 1) == 1 and not shared:
        tree = build(kernel.length, Probe(kernel).meetings, kernel.bias)  # says why there is none
    found = _each(kernel, samples, shorter)
    if shared and found.reason:
        # Masks see one order everywhere and real operands another rounding: the tree stands, uncertified.
        return _Found((guess,), len(same), ANOTHER_WAY)
    return found


def _each(kernel: Kernel, samples: Samples, shorter: str) -> _Found:
    """Orders of single outputs, until each sampled output has the bits of one or four orders were tried."""
    samples = more_samples(kernel, samples)
    waiting = torch.ones(len(samples.y), dtype=torch.bool)
    outputs = kernel.rows * max(kernel.cols, 1)
    found: list[Variant] = []
    reason = ""
    elements = [0, outputs - 1, outputs // 2, max(kernel.cols, 1) - 1]
    for element in dict.fromkeys(elements[:VARIANTS]):
        if not bool(waiting.any()):
            break
        probe = Probe(kernel, element)
        tree = build(kernel.length, probe.meetings, kernel.bias)
        fused = fused_products(kernel, tree, probe)
        at = waiting.nonzero()[:, 0]
        rest = samples.at(at)
        how, same = certify(kernel, tree, fused, rest, None, shorter)
        # An output has this order if it has its bits on every draw: on one it may have them by chance.
        explained = at[~torch.isin(rest.which, rest.which[~same])]
        if not len(explained):
            continue
        waiting[explained] = False
        found.append(Variant(tree, fused, how, len(explained)))
        seen = ask(kernel, tree, element)
        if seen is not None and not bool(agree(tree, fused or frozenset(), how, seen).all()):
            reason = ANOTHER_WAY
        elif seen is not None and not tells(seen, kernel.length if kernel.divided else 1):
            reason = reason or TOO_COARSE
    left = int(waiting.sum())
    if left:
        reason = f"{left} sampled outputs add in an order that was not found."
    return _Found(tuple(found), len(samples.y), reason)


def _agrees(kernel: Kernel, tree: SumTree) -> bool:
    """Whether every output of the operator counts what the tree says, for pairs drawn at random."""
    draw = random.Random(1)
    n, probe = tree.length, Probe(kernel)
    ends = {(0, n - 1), (0, n - 1 - tree.bias), (n - 2, n - 1)}  # the bias and the tail are where kernels part
    for i, j in [*(pair for pair in ends if pair[0] != pair[1]), *(draw.sample(range(n), 2) for _ in range(CHECKS))]:
        pairs = [(i, j)] * probe.slots  # the same in every slot, so that every output is asked the same
        if any(size != tree.meeting(i, j) for size in probe.meetings(pairs)):
            return False
    return True


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
