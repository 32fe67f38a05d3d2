"""Enclosures of sums of products: matrices and convolutions.

The error of y = x w is bounded twice, and the smaller bound counts. Element by element, r_x |w| has no signs, and grows by
about √n in each layer. All together, ‖e_x w‖ <= ‖e_x‖ ‖w‖₂, which for the weights of networks is a number near 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, prod

import torch
from torch import Tensor
from torch.linalg import vector_norm

from roundoff.replay.enclosure.ball import TINY, Ball, Unknown, add, gamma, grown, l2, mul, number, summed, tight
from roundoff.replay.enclosure.checked import convolutions_hold, matrices_hold
from roundoff.replay.enclosure.moving import full
from roundoff.replay.enclosure.registry import Operation, enclose, real
from roundoff.rules import lookup

#: Squares below 2^-1074 are lost from a norm, so that it may be this much too small for each of its numbers.
_LOST = 2.0**-530

#: For matrices up to this size, so many squarings: the bound of the norm is then at most n^(1/2^(k+2)) too large.
_SQUARINGS = ((600, 4), (1200, 3), (2400, 1))


def spectral(a: Tensor) -> float:
    """A number that is not below ‖a‖₂ of any of the matrices [..., m, n]: ‖(aᵀa)^(2^k)‖ to the power 2^-(k+1).

    Each square is computed, and what it may be off by in the Frobenius norm is carried along.
    """
    if not a.numel():
        return 0.0
    if not bool(a.isfinite().all()):
        return inf
    largest = float(a.abs().max())
    if largest == 0:
        return 0.0
    a = a / largest
    m, n = a.shape[-2:]
    h = a.transpose(-2, -1) @ a if n <= m else a @ a.transpose(-2, -1)
    size = min(m, n)
    squared = vector_norm(a, dim=(-2, -1)).square() * (1 + 2.0**-30)
    off = gamma(max(m, n) + 4) * squared
    bound, power, scale = vector_norm(h, dim=(-2, -1)) * (1 + 2.0**-30) + off, 0.5, torch.ones_like(off)
    for _ in range(next((k for most, k in _SQUARINGS if size <= most), 0)):
        # h is scaled to size 1, so that its powers neither overflow nor vanish; scale^power collects the factors
        scale = scale * bound.pow(power)
        h, off = h / bound[..., None, None], off / bound * (1 + 2.0**-30) + gamma(4)
        own = vector_norm(h, dim=(-2, -1)) * (1 + 2.0**-30)
        off = off * (2 * own + off) + gamma(size + 4) * own.square()
        h = h @ h
        bound, power = vector_norm(h, dim=(-2, -1)) * (1 + 2.0**-30) + off, power / 2
    return float((scale * bound.pow(power)).max()) * largest * (1 + 2.0**-30)


@dataclass(frozen=True)
class Sums:
    """How a step multiplies: ``times`` computes the sums; ``rows`` and ``cols`` are the norms of what meets there.

    ``gain_of_w`` bounds how much ‖x‖ grows by w, ``gain_of_x`` the other way round. ``holds`` asks of whole numbers x, w
    and y whether y = x w, without the kernel.
    """

    times: Callable[[Tensor, Tensor], Tensor]
    rows: Callable[[Tensor], Tensor]
    cols: Callable[[Tensor], Tensor]
    gain_of_w: Callable[[Tensor], float]
    gain_of_x: Callable[[Tensor], float]
    roundings: int
    holds: Callable[[Tensor, Tensor, Tensor], bool]


def product(x: Ball, w: Ball, sums: Sums) -> Ball:
    """x w, where |x w - x̂ ŵ| <= γ |x||w| + r_x |w| + (|x| + r_x) r_w; |x||w| itself is at most ‖x‖‖w‖."""
    n = sums.roundings
    mid = sums.times(x.mid, w.mid)
    more = 1 + 2 * gamma(n + 8) + 2.0**-40
    lost = n * _LOST

    def rows_of(t: Tensor) -> Tensor:
        return sums.rows(t) * more + lost

    cols = sums.cols(w.mid) * more + lost
    own = (rows_of(x.mid) * cols * (gamma(n) * more) + n * TINY).expand(mid.shape)
    rad, norm = own, l2(own)
    if x.rad is not None:
        moved = sums.times(x.rad, w.mid.abs()).clamp_min_(0) * more
        rad = rad + torch.minimum(moved, rows_of(x.rad).clamp_max(x.far) * cols * more)
        norm += grown(x.far, sums.gain_of_w(w.mid))
    if w.rad is not None:
        moved = sums.times(x.size, w.rad).clamp_min_(0) * more
        rad = rad + torch.minimum(moved, rows_of(x.size) * more * (sums.cols(w.rad) * more + lost).clamp_max(w.far))
        norm += grown(w.far, sums.gain_of_x(x.mid)) + x.far * w.far
    return tight(summed(mid, rad, n, norm * (1 + 2.0**-40)))


def matmul(x: Ball, w: Ball) -> Ball:
    """x @ w, of any shapes."""
    if min(x.mid.dim(), w.mid.dim()) < 2:
        rows = x if x.mid.dim() > 1 else Ball(x.mid[None], None if x.rad is None else x.rad[None], x.norm)
        cols = w if w.mid.dim() > 1 else Ball(w.mid[:, None], None if w.rad is None else w.rad[:, None], w.norm)
        y = matmul(rows, cols)
        shape = torch.matmul(x.mid, w.mid).shape
        return Ball(y.mid.reshape(shape), y.radius.reshape(shape), y.norm)
    if x.mid.shape[:-2] != w.mid.shape[:-2] and (x.mid.dim() > 2 and w.mid.dim() > 2):
        x, w = _broadcast(x, w)
    return product(x, w, matrices(x.mid, w.mid))


def matrices(x: Tensor, w: Tensor) -> Sums:
    """How two matrices or batches of them are multiplied, of the same batch or one of them without."""
    copies = max(1.0, (prod(x.shape[:-2]) / max(prod(w.shape[:-2]), 1)) ** 0.5)
    backs = max(1.0, (prod(w.shape[:-2]) / max(prod(x.shape[:-2]), 1)) ** 0.5)
    return Sums(
        torch.matmul,
        lambda t: vector_norm(t, dim=-1, keepdim=True),
        lambda t: vector_norm(t, dim=-2, keepdim=True),
        lambda t: spectral(t) * backs,  # an operand without a batch is used once for each matrix of the other
        lambda t: spectral(t) * copies,
        x.shape[-1] + 1,
        matrices_hold,
    )


def _broadcast(x: Ball, w: Ball) -> tuple[Ball, Ball]:
    """Both with the same batch, each copy counted."""
    batch = torch.broadcast_shapes(x.mid.shape[:-2], w.mid.shape[:-2])
    found = []
    for b in (x, w):
        shape = (*batch, *b.mid.shape[-2:])
        found.append(Ball(b.mid.expand(shape), None if b.rad is None else b.rad.expand(shape)))
    return found[0], found[1]


@enclose("mm", "bmm", "mv", "dot", "matmul")
def _mm(o: Operation) -> Ball:
    return matmul(real(o.args[0]), real(o.args[1]))


@enclose("addmm", "baddbmm", "addmv")
def _addmm(o: Operation) -> Ball:
    added, x, w = (real(v) for v in o.args[:3])
    y = matmul(x, w)
    beta, alpha = o.kwargs.get("beta", 1), o.kwargs.get("alpha", 1)
    y = y if alpha == 1 else mul(y, number(alpha, y.mid))
    if beta == 0:
        return y
    return add(y, added if beta == 1 else mul(added, number(beta, y.mid)))


@enclose("linear")
def _linear(o: Operation) -> Ball:
    x, w, bias = real(o.args[0]), real(o.args[1]), o.arg(2, "bias")
    y = matmul(x, Ball(w.mid.t(), None if w.rad is None else w.rad.t(), w.norm))
    return y if bias is None else add(y, real(bias))


@enclose("convolution", "_convolution")
def _convolution(o: Operation) -> Ball:
    x, w, bias = real(o.args[0]), real(o.args[1]), o.args[2]
    y = product(x, w, convolutions(o, x.mid, w.mid))
    if bias is None:
        return y
    b = real(bias)
    shape = (-1, *(1,) * (w.mid.dim() - 2))
    return add(y, Ball(b.mid.reshape(shape), None if b.rad is None else b.rad.reshape(shape)))


def convolutions(o: Operation, x: Tensor, w: Tensor) -> Sums:
    """How the convolution ``o`` multiplies. Raises Unknown where there is no batch."""
    stride, padding, dilation, transposed, extra, groups = o.args[3:9]
    dims = w.dim() - 2
    if x.dim() != dims + 2:
        raise Unknown("a convolution without a batch")
    rule = lookup(o.op)
    assert rule is not None and rule.products is not None
    parts = rule.products((x, w, None, *o.args[3:9]), {})

    def times(a: Tensor, b: Tensor) -> Tensor:
        y: Tensor = torch.ops.aten.convolution(a, b, None, stride, padding, dilation, transposed, extra, groups)
        return y

    # In how many patches one number lies at most.
    patches = prod(
        -(-k // s) if d == 1 else k
        for k, s, d in zip(w.shape[2:], full(stride, dims), full(dilation, dims), strict=True)
    )

    def gain_of_w(t: Tensor) -> float:
        kernels = t.reshape(groups, t.shape[0] // groups, -1)
        whole: float = spectral(kernels) * float(patches) ** 0.5
        taps = t.reshape(groups, t.shape[0] // groups, t.shape[1], -1)
        if taps.shape[-1] == 1 or taps.numel() > 1 << 22:
            return whole
        each: float = sum(spectral(taps[..., i]) for i in range(taps.shape[-1]))
        return min(whole, each * (1 + 2.0**-40))

    def holds(a: Tensor, b: Tensor, y: Tensor) -> bool:
        return convolutions_hold(
            a, b, y, full(stride, dims), full(padding, dims), full(dilation, dims), transposed, groups
        )

    return Sums(times, parts.rows, parts.cols, gain_of_w, lambda t: inf, parts.roundings, holds)
