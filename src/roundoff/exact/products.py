"""Sums of products, correctly rounded.

Products of float32 numbers are exact in float64 and lie between 2^-298 and 2^256, so none under- or overflows there. A
float64 matrix product errs only by its additions. In whatever order and with or without fused multiply-adds, a sum ŝ of
exact terms p_i, each of which passes through at most d additions, is Σ p_i (1 + θ_i) with |θ_i| ≤ γ_d = d u / (1 - d u),
u = 2^-53 (Higham, Accuracy and Stability of Numerical Algorithms, §3.1 and §4.2), so |ŝ - s| ≤ γ_d Σ|p_i|, and
Σ|x_i w_i| ≤ ‖x‖‖w‖ (Cauchy and Schwarz). Where both ends of that interval round to the same number, it is the correctly
rounded one, for rounding is monotone. The few others are decided by error-free transformations, and what is left of
these by exact addition.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from roundoff.exact.rounding import as_bits, lowest_bit, narrow, narrow_into, places, same, slack, to_odd, two_sum
from roundoff.formats import U64

Take = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]  # rows of the left, columns of the right operand

BLOCK = 1 << 21  # float64 numbers that are alive at once for the rows of one block, 16 MB
SMALL = 1 << 18  # the same for many small products at once: they fit the cache
TEST = 1 << 16  # elements whose ends are held against each other at once: they fit the cache
PART = 256  # terms that are added by one product: an addition passes through fewer others, so the bound is smaller
FEW = 1 << 12  # terms of at most four rows that are added exactly at once: no slower there than error-free additions
PAIRS = 1 << 17  # products that are written out at once for elements that are left


@dataclass
class Left:
    """Elements that the bound leaves open, with their terms: they are added up together, many at a time."""

    held: list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]] = field(default_factory=list)
    count: int = 0

    def keep(self, out: Tensor, m: Tensor, n: Tensor, terms: Tensor, size: Tensor) -> None:
        """``out[m, n]`` are to be the sums of the rows of ``terms``, whose sizes add up to at most ``size``.

        All calls give rows of one length.
        """
        self.held.append((out, m, n, terms, size))
        self.count += terms.numel()
        if self.count > PAIRS // 2:
            self.settle()

    def settle(self) -> None:
        """Adds up what is kept."""
        if self.held:
            one = len(self.held) == 1
            terms, size = (self.held[0][i] if one else torch.cat([entry[i] for entry in self.held]) for i in (3, 4))
            sums = add_terms(terms, self.held[0][0].dtype, size).split([len(entry[1]) for entry in self.held])
            for (out, m, n, *_), some in zip(self.held, sums, strict=True):
                out[m, n] = some
        self.held, self.count = [], 0


def products(left: Tensor, right: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Σ_k left[b, m, k] right[b, k, n] + bias[b, m, n], each rounded once to ``dtype``: [B, M, N].

    The operands are of float32, bfloat16 or float16, or hold such numbers in float64; ``bias`` broadcasts to the result.
    """
    out = torch.empty((*left.shape[:2], right.shape[2]), dtype=dtype, device=left.device)
    if not left.shape[2]:
        out.copy_(torch.zeros_like(out) if bias is None else bias + 0.0)
    elif out.numel():
        todo = Left()
        products_into(left, right, bias, out, todo)
        todo.settle()
    return out


def products_into(left: Tensor, right: Tensor, bias: Tensor | None, out: Tensor, todo: Left,
                  right_norms: Tensor | None = None) -> None:  # fmt: skip
    """:func:`products` into a contiguous [B, M, N]; what the bound leaves open is kept in ``todo``.

    ``right_norms`` [B, N] are the norms of the columns of ``right``, rounded as float64 sums of as many squares are.
    """
    batch, rows, terms = left.shape
    columns = right.shape[2]
    if bias is not None:
        bias = bias.expand(batch, rows, columns)
    one = terms * (rows + columns) + rows * columns
    together = SMALL // max(1, one) if batch > 1 and one <= SMALL else 1
    step = rows if together > 1 else max(64, BLOCK // (min(terms, PART) + columns))
    for b in range(0, batch, together):
        some = slice(b, b + together)
        for i in range(0, rows, step):
            part = (some, slice(i, i + step))
            norms = None if right_norms is None else right_norms[some]
            _block(left[part], right[some], norms, None if bias is None else bias[part], out[part], todo)


def _block(left: Tensor, right: Tensor, right_norm: Tensor | None, bias: Tensor | None, out: Tensor,
           todo: Left) -> None:  # fmt: skip
    """[b, m, k] times [b, k, n], rounded into ``out``."""
    _, rows, terms = left.shape
    columns = right.shape[2]
    y, x_norm, w_norm = _product(left, right, right_norm)
    depth = min(terms, PART) + -(-terms // PART) + 1  # additions that a term passes through at most, a bias included
    size = x_norm * w_norm.amax(1, keepdim=True)
    added = None if bias is None else bias.to(torch.float64)
    if added is not None:
        y += added
        size = size + added.abs().amax((1, 2))[:, None]
    radius = (size * slack(depth)).reshape(-1, 1)
    flat, near = y.view(-1, columns), out.view(-1, columns)
    at = apart(flat, radius, near)
    if at is None:
        return
    m, n = at // columns, at % columns
    which = m // rows * columns + n
    more = None if added is None else added.reshape(-1, columns)[m, n]
    values, norms = flat[m, n], x_norm.reshape(-1)[m] * w_norm.reshape(-1)[which]
    take = partial(_rows_of, left.transpose(1, 2)), partial(_rows_of, right)
    if len(at) <= rows + columns and bool(values.isfinite().all()):
        for some in torch.arange(len(at), device=at.device).split(max(1, PAIRS // terms)):
            extra = None if more is None else more[some]
            size = norms[some] if extra is None else norms[some] + extra.abs()
            todo.keep(near, m[some], n[some], _terms(take, m[some], which[some], extra), size)
    else:
        near[m, n] = _decide(take, terms, m, which, values, norms, more, out.dtype, depth)


def _terms(take: Take, m: Tensor, n: Tensor, bias: Tensor | None) -> Tensor:
    x, w = take[0](m), take[1](n)
    pairs = widened("pairs", x[None])[0] * widened("others", w[None])[0]
    return pairs if bias is None else torch.cat([pairs, bias[:, None]], dim=1)


def _product(left: Tensor, right: Tensor, right_norm: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """``left @ right`` in float64, and the norms of the rows of ``left`` [b, m] and of the columns of ``right`` [b, n].

    In parts, none of which goes on from the sums of the others, so that a term passes through few additions.
    """
    batch, rows, terms = left.shape
    columns = right.shape[2]
    y = scratch("y", (batch, rows, columns), left.device)
    more = scratch("more", y.shape, left.device) if terms > PART else y
    first, second = [], []
    many = max(1, BLOCK // max(rows, columns) // PART) * PART  # whole rows are widened faster than pieces of them
    for k in range(0, terms, many):
        x, w = widened("x", left[:, :, k : k + many]), widened("w", right[:, k : k + many])
        for j in range(0, x.shape[2], PART):
            begins = not k and not j
            _multiply(x[:, :, j : j + PART], w[:, j : j + PART], y if begins else more)
            if not begins:
                y += more
        first.append(torch.linalg.vector_norm(x, dim=2))
        if right_norm is None:
            second.append(torch.linalg.vector_norm(w, dim=1))
    return y, _joined(first), _joined(second) if right_norm is None else right_norm


_HELD = threading.local()


def scratch(name: str, shape: Sequence[int], device: torch.device) -> Tensor:
    """Float64 memory that each thread keeps for its next product, for fresh memory costs as much as filling it twice."""
    count = math.prod(shape)
    if device.type != "cpu" or count > BLOCK:
        return torch.empty(tuple(shape), dtype=torch.float64, device=device)
    held = getattr(_HELD, name, None)
    if held is None or len(held) < count:
        with torch.inference_mode(False):
            held = torch.empty(count, dtype=torch.float64, device="cpu")
        setattr(_HELD, name, held)
    return held[:count].view(tuple(shape))


def widened(name: str, x: Tensor) -> Tensor:
    """``x`` [b, m, k] in float64, along the same dimension as it is; in memory that is kept."""
    if x.dtype == torch.float64:
        return x
    if x.stride(1) < x.stride(2):
        return scratch(name, x.transpose(1, 2).shape, x.device).transpose(1, 2).copy_(x)
    return scratch(name, x.shape, x.device).copy_(x)


def _joined(norms: list[Tensor]) -> Tensor:
    """The norms of the whole from those of its parts."""
    return norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms), dim=0)


def _multiply(x: Tensor, w: Tensor, out: Tensor) -> None:
    if len(x) == 1:
        torch.mm(x[0], w[0], out=out[0])
    else:
        torch.bmm(x, w, out=out)


def apart(y: Tensor, radius: Tensor, out: Tensor) -> Tensor | None:
    """Rounds [m, n] float64 numbers into ``out``; the places, counted by rows, where y ± radius round differently.

    ``radius`` [m, 1]. A row whose radius is not finite counts as a whole.
    """
    bad = ~radius.isfinite()
    odd = bool(bad.any())
    if odd:
        radius = torch.where(bad, torch.inf, radius)
    rows, columns = y.shape
    step = max(1, TEST // columns)
    shape = (min(step, rows), columns)
    wide = scratch("end", shape, y.device)
    low = scratch("low", shape, y.device).view(-1).view(out.dtype)[: wide.numel()].view(shape)
    found = []
    for i in range(0, rows, step):
        part, by, high = y[i : i + step], radius[i : i + step], out[i : i + step]
        some = len(part)
        below, end = wide[:some], low[:some]
        narrow_into(torch.sub(part, by, out=below), end)
        narrow_into(torch.add(part, by, out=below), high)
        differ = as_bits(end) != as_bits(high)
        if odd:
            differ |= by.isinf()
        differing = places(differ.view(-1))
        if len(differing):
            found.append(differing + i * columns)
    return torch.cat(found) if found else None


def _rows_of(w: Tensor, which: Tensor) -> Tensor:
    """Columns of [b, k, n], counted over all b, as rows."""
    if len(w) == 1:
        return w[0].t().index_select(0, which)
    return w.transpose(1, 2)[which // w.shape[2], which % w.shape[2]]


def _decide(take: Take, terms: int, m: Tensor, n: Tensor, y: Tensor, norms: Tensor, bias: Tensor | None,
            dtype: torch.dtype, depth: int) -> Tensor:  # fmt: skip
    """The sums of products of row m and column n, plus ``bias``, whose float64 values are ``y``, rounded once."""
    size = norms if bias is None else norms + bias.abs()
    radius = size * slack(depth)
    rows, which_m = m.unique(return_inverse=True)
    columns, which_n = n.unique(return_inverse=True)
    if len(m) > 2 * (len(rows) + len(columns)):
        # A sum of multiples of one number g that stays below 2^53 g is exact, whatever the order: the common reason for
        # many values that are exactly half way. It is worth a look at the operands only where there are many.
        step = _grid(take[0], rows, terms)[which_m]
        step = step * _grid(take[1], columns, terms)[which_n]
        if bias is not None:
            step = torch.minimum(step, lowest_bit(bias))
        radius = torch.where(size * 1.01 <= step * 2.0**52, 0.0, radius)
    low, high = narrow((y - radius) + 0.0, dtype), narrow((y + radius) + 0.0, dtype)
    settled = same(low, high) | ~y.isfinite()
    out = torch.where(y.isfinite(), high, narrow(torch.where(y.isnan(), torch.nan, y), dtype))
    todo = (~settled).nonzero()[:, 0]
    for at in todo.split(max(1, PAIRS // (terms + 1))):
        out[at] = add_terms(_terms(take, m[at], n[at], None if bias is None else bias[at]), dtype, size[at])
    return out


def _grid(take: Callable[[Tensor], Tensor], rows: Tensor, terms: int) -> Tensor:
    """For each of the rows, the number of which all its elements are multiples."""
    parts = [lowest_bit(take(part).to(torch.float64)).amin(dim=1) for part in rows.split(max(1, PAIRS // terms))]
    return torch.cat(parts)


def add_terms(terms: Tensor, dtype: torch.dtype, size: Tensor | None = None) -> Tensor:
    """The sums of the rows of a finite float64 tensor [u, k], k > 0, each rounded once to ``dtype``.

    ``size`` bounds the sum of the sizes of each row, but for a hundredth. First in pairs, pairs of pairs and so on,
    which takes few additions for each term, so that the bound settles most.
    """
    if size is None or not bool(size.isfinite().all()):  # a bound of whole rows, and other elements are not finite
        size = terms.abs().sum(dim=1)
    y, depth = terms, 0
    while y.shape[1] > 1:
        half, odd = divmod(y.shape[1], 2)
        first, second, last = y.split([half, half, odd], 1)
        y = first.add_(second) if depth else first + second  # not into the terms themselves
        if odd:
            y[:, :1] += last
        depth += 1 + odd
    radius = size * slack(depth)
    low, high = narrow((y[:, 0] - radius) + 0.0, dtype), narrow((y[:, 0] + radius) + 0.0, dtype)
    todo = (~same(low, high)).nonzero()[:, 0]
    if len(todo) * max(terms.shape[1], FEW // 4) > FEW:
        high[todo] = _add_with_errors(terms[todo], dtype)
    else:
        for i in todo.tolist():
            high[i] = _add_exactly(terms[i].tolist(), dtype)
    return high


def _add_with_errors(terms: Tensor, dtype: torch.dtype) -> Tensor:
    """The same where that is too close.

    Errors of the additions are carried along exactly and added by themselves; the result is certain where that is, by
    its bound or because it is exact. The rest is added exactly (Shewchuk's expansions, by ``math.fsum``).
    """
    hi, left, depth = terms, terms.new_zeros(len(terms)), 0
    while hi.shape[1] > 1:
        half = hi.shape[1] // 2
        s, e = two_sum(hi[:, :half], hi[:, half : 2 * half])
        left = left + e.sum(dim=1)
        hi = torch.cat([s, hi[:, 2 * half :]], dim=1)
        depth += 1
    total, count = terms.abs().sum(dim=1), terms.shape[1]
    errors = depth * U64 * 1.01 * total  # bounds the sum of the sizes of all errors
    radius = (count + 2 * depth + 4) * U64 * 1.01 * errors
    high, low = two_sum(hi[:, 0], left)
    ends = [narrow(to_odd(*two_sum(high, low + r)), dtype) for r in (-radius, radius)]
    out = ends[1]
    todo = (~same(*ends)).nonzero()[:, 0]
    if len(todo):
        # Errors are multiples of the lowest digit of all terms: where they stay below 2^53 of it, their sum is exact.
        exact = errors[todo] <= lowest_bit(terms[todo]).amin(dim=1) * 2.0**52
        at = todo[exact]
        out[at] = narrow(to_odd(high[at], low[at]), dtype)
        for i in todo[~exact].tolist():
            out[i] = _add_exactly(terms[i].tolist(), dtype)
    return out


def _add_exactly(terms: list[float], dtype: torch.dtype) -> Tensor:
    hi = math.fsum(terms)
    lo = math.fsum([*terms, -hi])  # itself rounded, and zero only where nothing is left
    pair = torch.tensor([hi, lo], dtype=torch.float64)
    return narrow(to_odd(pair[:1], pair[1:]), dtype)[0]
