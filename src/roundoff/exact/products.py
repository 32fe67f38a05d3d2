"""Sums of products, correctly rounded.

Products of float32 numbers are exact in float64, so a float64 matrix product errs only by its additions, in whatever
order: at most γ_n |x|ᵀ|w|, and |x|ᵀ|w| is at most ‖x‖‖w‖. Where both ends of that interval round to the same number, it
is the correctly rounded one. The few others are decided by error-free transformations, and what is left of these by
exact addition.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from roundoff.exact.rounding import lowest_bit, narrow, same, slack, to_odd, two_sum
from roundoff.formats import U64

BLOCK = 1 << 21  # float64 numbers that are alive at once for the rows of one block, 16 MB
TEST = 1 << 16  # elements whose ends are held against each other at once: they fit the cache
PART = 512  # terms that are added by one product: an addition passes through fewer others, so the bound is smaller
PAIRS = 1 << 20  # products that are written out at once for elements that are left


def products(left: Tensor, right: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Σ_k left[b, m, k] right[b, k, n] + bias[b, m, n], each rounded once to ``dtype``: [B, M, N].

    The operands are of float32, bfloat16 or float16; ``bias`` broadcasts to the result.
    """
    batch, rows, terms = left.shape
    columns = right.shape[2]
    out = torch.empty((batch, rows, columns), dtype=dtype, device=left.device)
    if bias is not None:
        bias = bias.expand(batch, rows, columns)
    if not out.numel():
        return out
    if batch > 1 and (rows * columns * terms <= 1 << 18 or rows == 1 or columns == 1):
        _small(left, right, bias, out)
        return out
    step = max(64, BLOCK // (terms + columns))
    w = w_norm = left.new_empty(0)
    for b in range(batch):
        if b == 0 or right.stride(0):
            w = right[b].to(torch.float64)
            w_norm = torch.linalg.vector_norm(w, dim=0) if terms else w.new_zeros(columns)
        for i in range(0, rows, step):
            x = left[b, i : i + step].to(torch.float64)
            added = None if bias is None else bias[b, i : i + step]
            _block(x, w, w_norm, added, out[b, i : i + step])
    return out


def _block(x: Tensor, w: Tensor, w_norm: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """One block of rows: [m, k] times [k, n]."""
    y, depth = _product(x, w)
    x_norm = torch.linalg.vector_norm(x, dim=1) if x.shape[1] else x.new_zeros(len(x))
    size = x_norm * w_norm.max()
    if bias is not None:
        added = bias.to(torch.float64)
        y += added
        size = size + added.abs().amax()
    radius = (size * slack(depth))[:, None]
    left = []
    step = max(1, TEST // y.shape[1])
    for i in range(0, len(y), step):
        part = slice(i, i + step)
        low = narrow(y[part] - radius[part], out.dtype)
        high = narrow(y[part] + radius[part], out.dtype)
        out[part] = high
        apart = ~same(low, high) | ~radius[part].isfinite()
        if bool(apart.any()):
            m, n = apart.nonzero(as_tuple=True)
            left.append((m + i, n))
    if left:
        m, n = (torch.cat(index) for index in zip(*left, strict=True))
        more = None if bias is None else bias[m, n].to(torch.float64)
        out[m, n] = _decide(x, w.T, m, n, y[m, n], x_norm[m] * w_norm[n], more, out.dtype, depth)


def _product(x: Tensor, w: Tensor) -> tuple[Tensor, int]:
    """``x @ w``, and how many additions a term passes through at most, a bias included."""
    terms = x.shape[1]
    y = torch.mm(x[:, :PART], w[:PART])
    for k in range(PART, terms, PART):
        y += torch.mm(x[:, k : k + PART], w[k : k + PART])  # never into y itself: its kernel could go on from there
    return y, min(terms, PART) + -(-terms // PART) + 1


def _small(left: Tensor, right: Tensor, bias: Tensor | None, out: Tensor) -> None:
    """Many small products at once: the batch in blocks."""
    batch, rows, terms = left.shape
    columns = right.shape[2]
    step = max(1, BLOCK // max(1, terms * (rows + columns) + rows * columns))
    for b in range(0, batch, step):
        x, w = left[b : b + step].to(torch.float64), right[b : b + step].to(torch.float64)
        y = torch.bmm(x, w)
        norms = torch.linalg.vector_norm(x, dim=2)[:, :, None] * torch.linalg.vector_norm(w, dim=1)[:, None, :]
        added = None if bias is None else bias[b : b + step].to(torch.float64)
        size = norms
        if added is not None:
            y = y + added
            size = norms + added.abs()
        radius = size * slack(terms + 1)
        low, high = narrow(y - radius, out.dtype), narrow(y + radius, out.dtype)
        part = out[b : b + step]
        part.copy_(high)
        apart = ~same(low, high) | ~radius.isfinite()
        if bool(apart.any()):
            at = apart.nonzero(as_tuple=True)
            n_batch = len(x)
            m, n = at[0] * rows + at[1], at[0] * columns + at[2]
            more = None if added is None else added[at]
            flat = x.reshape(n_batch * rows, terms), w.transpose(1, 2).reshape(n_batch * columns, terms)
            part[at] = _decide(*flat, m, n, y[at], norms[at], more, out.dtype, terms + 1)


def _decide(x: Tensor, w: Tensor, m: Tensor, n: Tensor, y: Tensor, norms: Tensor, bias: Tensor | None,
            dtype: torch.dtype, depth: int) -> Tensor:  # fmt: skip
    """The elements ``x[m] · w[n] + bias``, whose float64 values are ``y``, rounded once."""
    size = norms if bias is None else norms + bias.abs()
    radius = size * slack(depth)
    rows, which_m = m.unique(return_inverse=True)
    columns, which_n = n.unique(return_inverse=True)
    if len(m) > 2 * (len(rows) + len(columns)):
        # A sum of multiples of one number g that stays below 2^53 g is exact, whatever the order: the common reason for
        # many values that are exactly half way. It is worth a look at the operands only where there are many.
        step = _grid(x, rows)[which_m] * _grid(w, columns)[which_n]
        if bias is not None:
            step = torch.minimum(step, lowest_bit(bias))
        radius = torch.where(size * 1.01 <= step * 2.0**52, 0.0, radius)
    low, high = narrow((y - radius) + 0.0, dtype), narrow((y + radius) + 0.0, dtype)
    settled = same(low, high) | ~y.isfinite()
    out = torch.where(y.isfinite(), high, narrow(torch.where(y.isnan(), torch.nan, y), dtype))
    todo = (~settled).nonzero()[:, 0]
    some = max(1, PAIRS // (x.shape[1] + 1))
    for i in range(0, len(todo), some):
        at = todo[i : i + some]
        terms = x[m[at]] * w[n[at]]
        if bias is not None:
            terms = torch.cat([terms, bias[at, None]], dim=1)
        out[at] = add_terms(terms, dtype)
    return out


def _grid(x: Tensor, rows: Tensor) -> Tensor:
    """For each of the rows, the number of which all its elements are multiples."""
    some = max(1, BLOCK // max(1, x.shape[1]))
    parts = [lowest_bit(x[part]).amin(dim=1) for part in rows.split(some)]
    return torch.cat(parts)


def add_terms(terms: Tensor, dtype: torch.dtype) -> Tensor:
    """The sums of the rows of a finite float64 tensor [u, k], k > 0, each rounded once to ``dtype``.

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
