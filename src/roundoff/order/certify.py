"""Hold a tree against the kernel's own bits on real operands."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from roundoff.errors import RoundoffError
from roundoff.formats import bits, same_bits, unit_roundoff
from roundoff.order.arithmetic import SHORT
from roundoff.order.diagnose import shortened
from roundoff.order.kernel import Kernel, Operands
from roundoff.order.order import Variant
from roundoff.order.replay import Arithmetic, arithmetics
from roundoff.order.tree import SumTree
from roundoff.order.witness import Witnesses, agree

FEWEST, MOST = 32, 2048  # outputs that are replayed from each draw of operands
MORE = 6  # draws on which outputs are told apart that add in different orders


@dataclass(frozen=True)
class Samples:
    """Real operands, output by output; the kernel's results; and which output each is, for each is drawn several times."""

    x: Tensor
    w: Tensor | None
    b: Tensor | None
    y: Tensor
    which: Tensor

    @property
    def operands(self) -> Operands:
        """x, w and b."""
        return self.x, self.w, self.b

    def at(self, index: Tensor) -> Samples:
        """Some of them."""
        x, w, b = (None if t is None else t[index] for t in self.operands)
        assert x is not None
        return Samples(x, w, b, self.y[index], self.which[index])

    def and_also(self, more: Samples) -> Samples:
        """These and more of the same kernel."""
        pairs = zip(self.operands, more.operands, strict=True)
        x, w, b = (None if s is None or t is None else torch.cat([s, t]) for s, t in pairs)
        assert x is not None
        return Samples(x, w, b, torch.cat([self.y, more.y]), torch.cat([self.which, more.which]))


def draw_samples(kernel: Kernel) -> Samples:
    """Real operands with the kernel's outputs. Refuses what is not deterministic or no sum."""
    first = _drawn(kernel, 0, False)
    if not same_bits(first[1], _drawn(kernel, 0, False)[1]):
        raise RoundoffError(
            f"{kernel.name} is not deterministic: the same operands gave other bits the second time. Its order of "
            "additions changes from call to call; threads=1 may fix it."
        )
    if first[1].dtype != kernel.dtype:
        raise RoundoffError(
            f"{kernel.name} takes {kernel.dtype} and gives {first[1].dtype}. It must give {kernel.dtype}."
        )
    draws = -(-FEWEST // first[1].numel())
    drawn = [first, *(_drawn(kernel, seed, False) for seed in range(1, draws))]
    # As many cancel, so that nothing is left but what was rounded away, which depends on the order most.
    found = _joined([*drawn, *(_drawn(kernel, seed, True) for seed in range(draws))])
    _check_additions(kernel, found)
    return found


def more_samples(kernel: Kernel, samples: Samples) -> Samples:
    """The same outputs on further draws."""
    seeds = range(100, 100 + MORE)
    return samples.and_also(_joined([_drawn(kernel, seed, cancel) for seed in seeds for cancel in (False, True)]))


def _drawn(kernel: Kernel, seed: int, cancel: bool) -> tuple[Operands, Tensor]:
    try:
        return kernel.draw(seed, cancel)
    except (RoundoffError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise RoundoffError(
            f"{kernel.name} raised {type(error).__name__}: {error}. It was given {kernel.products} random numbers of "
            f"{kernel.dtype}."
        ) from error


def _joined(drawn: list[tuple[Operands, Tensor]]) -> Samples:
    parts = [_elements(operands, y) for operands, y in drawn]
    x, w, b, y, which = (None if part[0] is None else torch.cat(part) for part in map(list, zip(*parts, strict=True)))
    assert x is not None and y is not None and which is not None
    return Samples(x, w, b, y, which)


def _elements(operands: Operands, y: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor, Tensor]:
    """Outputs one by one, with their operands: all of them, or the corners and others drawn at random."""
    x, w, b = operands
    rows, cols = y.shape
    n = rows * cols
    chosen = torch.arange(n)
    if n > MOST or n * x.shape[1] > 2**24:
        most = max(FEWEST, min(MOST, 2**24 // x.shape[1]))
        corners = torch.tensor([0, cols - 1, n - cols, n - 1])
        drawn = torch.randperm(n, generator=torch.Generator().manual_seed(0))[: most - 4]
        chosen = torch.cat([corners, drawn]).unique()
    r, c = chosen // cols, chosen % cols
    return x[r], None if w is None else w[c], None if b is None else b[c], y.flatten()[chosen], chosen


def _check_additions(kernel: Kernel, samples: Samples) -> None:
    """Any order of additions stays within its bound; what does not is no sum of these numbers, nor of shorter ones."""
    wide, wrong = _beyond(kernel, samples)
    if bool(wrong.any()) and kernel.cols:
        shorter = shortened(kernel)
        if shorter in SHORT:
            x, w = SHORT[shorter](samples.x), None if samples.w is None else SHORT[shorter](samples.w)
            wide, wrong = _beyond(kernel, replace(samples, x=x, w=w))
    if bool(wrong.any()):
        at, y = int(wrong.nonzero()[0]), samples.y
        still = bool((y == y[0]).all()) and len(y) > 1
        what = "ignores its input" if still else "is not a sum of the values it is given"
        raise RoundoffError(
            f"{kernel.name} {what}: {kernel.length} random numbers that add up to {float(wide[at]):.6g} gave "
            f"{float(y[at]):.6g}. Give a function that adds all of them, as they are, and returns the sum."
        )


def _beyond(kernel: Kernel, samples: Samples) -> tuple[Tensor, Tensor]:
    """The sums in float64, and which results are further from them than any order of additions can be."""
    x, w, b = (None if t is None else t.double() for t in samples.operands)
    assert x is not None
    products = x if w is None else x * w
    wide, size = products.sum(1), products.abs().sum(1)
    if b is not None:
        wide, size = wide + b, size + b.abs()
    if kernel.divided:
        wide, size = wide / kernel.length, size / kernel.length
    # Four times the bound of any order: norm-wise algorithms, such as FFT, are sums as well, if in no tree.
    limit = 4 * min(kernel.length * unit_roundoff(kernel.dtype), 0.1) * size
    return wide, ~((samples.y.double() - wide).abs() <= limit)


def certify(
    kernel: Kernel, tree: SumTree, fused: frozenset[int] | None, samples: Samples, seen: Witnesses | None, operands: str
) -> tuple[Arithmetic, Tensor]:
    """The way to round that gives the kernel's bits on most samples and witnesses, and on which. ``operands``: the format
    to which the kernel rounds what it multiplies, or empty."""
    bias_last = bool(tree.bias and tree.nodes[-1][-1] == tree.length - 1)
    best: tuple[Arithmetic, Tensor] | None = None
    for how in arithmetics(kernel.dtype, bias_last, kernel.divided, tree.widest > 2, operands):
        same = bits(Variant(tree, fused, how, 0).replay(*samples.operands)) == bits(samples.y)
        if seen is not None:
            same = torch.cat([same, agree(tree, fused or frozenset(), how, seen)])
        if best is None or int(same.sum()) > int(best[1].sum()):
            best = how, same
        if bool(same.all()):
            break
    assert best is not None
    return best
