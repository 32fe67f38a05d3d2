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
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from roundoff.exact.rounding import as_bits, lowest_bit, narrow, narrow_into, same, slack, to_odd, two_sum
from roundoff.formats import U64

BLOCK = 1 << 21  # float64 numbers that are alive at once for the rows of one block, 16 MB
SMALL = 1 << 18  # the same for many small products at once: they fit the cache
TEST = 1 << 16  # elements whose ends are held against each other at once: they fit the cache
PART = 512  # terms that are added by one product: an addition passes through fewer others, so the bound is smaller
PAIRS = 1 << 17  # products that are written out at once for elements that are left


@dataclass
class Left:
    """Elements that the bound leaves open, with their terms: they are added up together, many at a time."""

    held: list[tuple[Tensor, Tensor, Tensor, Tensor]] = field(default_factory=list)
    size: int = 0

    def keep(self, out: Tensor, m: Tensor, n: Tensor, terms: Tensor) -> None:
        """``out[m, n]`` are to be the sums of the rows of ``terms``, of as many as in every other call."""
        self.held.append((out, m, n, terms))
        self.size += terms.numel()
        if self.size > PAIRS:
            self.settle()

    def settle(self) -> None:
        """Adds up what is kept."""
        if self.held:
            sums = add_terms(torch.cat([terms for *_, terms in self.held]), self.held[0][0].dtype)
            for (out, m, n, _), some in zip(self.held, sums.split([len(t) for *_, t in self.held]), strict=True):
                out[m, n] = some
        self.held, self.size = [], 0


def products(left: Tensor, right: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Σ_k left[b, m, k] right[b, k, n] + bias[b, m, n], each rounded once to ``dtype``: [B, M, N].

    The operands are of float32, bfloat16 or float16, or hold such numbers in float64; ``bias`` broadcasts to the result.
    """
    out = torch.empty((*left.shape[:2], right.shape[2]), dtype=dtype, device=left.device)
    if out.numel():
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
    if batch > 1 and one <= SMALL:
        step = SMALL // max(1, one)
        for b in range(0, batch, step):
            part = slice(b, b + step)
            added = None if bias is None else bias[part]
            w = right[part].to(torch.float64)
            norms = _norms(w, 1) if right_norms is None else right_norms[part]
            _block(left[part], w, norms, added, out[part], todo)
        return
    step = max(64, BLOCK // (terms + columns))
    w = norms = left.new_empty(0)
    for b in range(batch):
        part = slice(b, b + 1)
        if b == 0 or right.stride(0):
            w = right[part].to(torch.float64)
            norms = _norms(w, 1) if right_norms is None else right_norms[part]
        for i in range(0, rows, step):
            added = None if bias is None else bias[part, i : i + step]
            _block(left[part, i : i + step], w, norms, added, out[part, i : i + step], todo)


def _norms(x: Tensor, dim: int) -> Tensor:
    """The norms over ``dim``, also over nothing."""
    return torch.linalg.vector_norm(x, dim=dim) if x.shape[dim] else x.sum(dim)


def _block(left: Tensor, w: Tensor, w_norm: Tensor, bias: Tensor | None, out: Tensor, todo: Left) -> None:
    """[b, m, k] times float64 [b, k, n], whose columns have the norms ``w_norm`` [b, n]; rounded into ``out``."""
    batch, rows, terms = left.shape
    columns = w.shape[2]
    x = left.to(torch.float64)
    y, depth = _product(x, w)
    x_norm = _norms(x, 2)
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
    left_rows, values = x.reshape(batch * rows, terms), flat[m, n]
    if len(at) * terms <= PAIRS and bool(values.isfinite().all()):
        todo.keep(near, m, n, _terms(left_rows, w, m, which, more))
    else:
        norms = x_norm.reshape(-1)[m] * w_norm.reshape(-1)[which]
        near[m, n] = _decide(left_rows, w, m, which, values, norms, more, out.dtype, depth)


def _terms(x: Tensor, w: Tensor, m: Tensor, n: Tensor, bias: Tensor | None) -> Tensor:
    pairs = x[m] * _rows_of(w, n)
    return pairs if bias is None else torch.cat([pairs, bias[:, None]], dim=1)


def _product(x: Tensor, w: Tensor) -> tuple[Tensor, int]:
    """``x @ w``, and how many additions a term passes through at most, a bias included."""
    batch, rows, terms = x.shape
    y = x.new_empty((batch, rows, w.shape[2]))
    _multiply(x[:, :, :PART], w[:, :PART], y)
    more = torch.empty_like(y) if terms > PART else y
    for k in range(PART, terms, PART):  # never into y itself: its kernel could go on from there
        _multiply(x[:, :, k : k + PART], w[:, k : k + PART], more)
        y += more
    return y, min(terms, PART) + -(-terms // PART) + 1


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
    wide = torch.empty(shape, dtype=torch.float64, device=y.device)
    low = torch.empty(shape, dtype=out.dtype, device=y.device)
    found = []
    for i in range(0, rows, step):
        part, by, high = y[i : i + step], radius[i : i + step], out[i : i + step]
        some = len(part)
        below, end = wide[:some], low[:some]
        narrow_into(torch.sub(part, by, out=below), end)
        narrow_into(torch.add(part, by, out=below), high)
        bits, other = as_bits(end), as_bits(high)
        if odd or not torch.equal(bits, other):
            differ = (bits != other) | by.isinf() if odd else bits != other
            found.append(differ.reshape(-1).nonzero()[:, 0] + i * columns)
    return torch.cat(found) if found else None


def _rows_of(w: Tensor, which: Tensor) -> Tensor:
    """Columns of [b, k, n], counted over all b, as rows."""
    return w.transpose(1, 2)[which // w.shape[2], which % w.shape[2]]


def _decide(x: Tensor, w: Tensor, m: Tensor, n: Tensor, y: Tensor, norms: Tensor, bias: Tensor | None,
            dtype: torch.dtype, depth: int) -> Tensor:  # fmt: skip
    """The elements ``x[m] ·`` column n of w ``+ bias``, whose float64 values are ``y``, rounded once."""
    size = norms if bias is None else norms + bias.abs()
    radius = size * slack(depth)
    terms = x.shape[1]
    rows, which_m = m.unique(return_inverse=True)
    columns, which_n = n.unique(return_inverse=True)
    if len(m) > 2 * (len(rows) + len(columns)):
        # A sum of multiples of one number g that stays below 2^53 g is exact, whatever the order: the common reason for
        # many values that are exactly half way. It is worth a look at the operands only where there are many.
        step = _grid(lambda at: x[at], rows, terms)[which_m]
        step = step * _grid(lambda at: _rows_of(w, at), columns, terms)[which_n]
        if bias is not None:
            step = torch.minimum(step, lowest_bit(bias))
        radius = torch.where(size * 1.01 <= step * 2.0**52, 0.0, radius)
    low, high = narrow((y - radius) + 0.0, dtype), narrow((y + radius) + 0.0, dtype)
    settled = same(low, high) | ~y.isfinite()
    out = torch.where(y.isfinite(), high, narrow(torch.where(y.isnan(), torch.nan, y), dtype))
    todo = (~settled).nonzero()[:, 0]
    for at in todo.split(max(1, PAIRS // (terms + 1))):
        out[at] = add_terms(_terms(x, w, m[at], n[at], None if bias is None else bias[at]), dtype)
    return out


def _grid(take: Callable[[Tensor], Tensor], rows: Tensor, terms: int) -> Tensor:
    """For each of the rows, the number of which all its elements are multiples."""
    parts = [lowest_bit(take(part)).amin(dim=1) for part in rows.split(max(1, PAIRS // max(1, terms)))]
    return torch.cat(parts)


def add_terms(terms: Tensor, dtype: torch.dtype) -> Tensor:
    """The sums of the rows of a finite float64 tensor [u, k], k > 0, each rounded once to ``dtype``.

    First in pairs, pairs of pairs and so on, which takes few additions for each term, so that the bound settles most.
    """
    y, depth = terms, 0
    total = terms.abs()
    while y.shape[1] > 1:
        half = y.shape[1] // 2
        odd = y.shape[1] % 2
        last, last_size = y[:, 2 * half :], total[:, 2 * half :]
        y, total = y[:, :half] + y[:, half : 2 * half], total[:, :half] + total[:, half : 2 * half]
        if odd:
            y[:, :1] += last
            total[:, :1] += last_size
        depth += 1 + odd
    y, total = y[:, 0], total[:, 0]
    radius = total * slack(depth)
    low, high = narrow((y - radius) + 0.0, dtype), narrow((y + radius) + 0.0, dtype)
    todo = (~same(low, high)).nonzero()[:, 0]
    if len(todo):
        high[todo] = _add_with_errors(terms[todo], dtype)
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
