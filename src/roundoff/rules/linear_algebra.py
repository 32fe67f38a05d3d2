"""Factorisations and what is solved with them: norm-wise bounds, with the condition number.

A backward stable method gives the exact result of operands that are off by about n u of their norm, so the result is off by
that times its condition (Higham, Accuracy and Stability of Numerical Algorithms, chapters 8 to 10, 14, 19). Vectors of
eigenvalues and singular values, and the factors that are handed out for later use, are not judged: their sign, order and
pivots may differ.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf, prod, sqrt
from typing import Any

import torch
from torch import Tensor

from roundoff.rules.registry import register
from roundoff.rules.rule import Call, Limit, Nature, Rule
from roundoff.rules.samples import Operands, given

_STEPS = 8.0  # roundings for each row; growth by pivoting included (Higham, §9.4: seldom above n^(2/3))
_HIGHAM = "Higham, Accuracy and Stability of Numerical Algorithms (2002)"


def _norm(a: Tensor) -> Tensor:
    size: Tensor = torch.linalg.matrix_norm(a, keepdim=True)
    return size


def _condition(a: Tensor) -> Tensor:
    """‖A‖‖A⁻¹‖ in the Frobenius norm, [..., 1, 1]; infinite where A is singular."""
    inverse, info = torch.linalg.inv_ex(a)
    kappa = _norm(a) * _norm(inverse)
    return torch.where((info == 0)[..., None, None], kappa, inf).nan_to_num(nan=inf, posinf=inf)


def _stable(call: Call, a: Tensor) -> float:
    return call.gamma(_STEPS * max(a.shape[-2:]))


def _rest(call: Call, *limits: Limit) -> tuple[Limit, ...]:
    return *limits, *(inf,) * (len(call.out) - len(limits))


def _inverse(call: Call) -> tuple[Limit, ...]:
    a, x = call.args[0], call.out[0]
    return _rest(call, _condition(a) * _norm(x) * _stable(call, a))


def _solve(call: Call) -> tuple[Limit, ...]:
    a, x = call.args[0], call.out[0]
    size = _norm(x) if x.dim() == a.dim() else torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    kappa = _condition(a)
    if x.dim() < a.dim():
        kappa = kappa.squeeze(-1)
    return _rest(call, kappa * size * (2 * _stable(call, a)))


def _triangular(call: Call) -> Limit:
    """|T⁻¹||T||x| γ_n (Higham, theorem 8.5)."""
    t, x, left = call.args[0], call.out[0], bool(call.kwargs.get("left", True))
    upper = bool(call.kwargs["upper"])
    t = t.triu() if upper else t.tril()
    if call.kwargs.get("unitriangular", False):
        t = t - torch.diag_embed(t.diagonal(dim1=-2, dim2=-1)) + torch.eye(t.shape[-1], dtype=t.dtype, device=t.device)
    inverse = torch.linalg.inv_ex(t).inverse.abs()
    sizes: Tensor = inverse @ (t.abs() @ x.abs()) if left else (x.abs() @ t.abs()) @ inverse
    return sizes * _stable(call, t)


def _cholesky(call: Call) -> tuple[Limit, ...]:
    a, factor = call.args[0], call.out[0]
    return _rest(call, _condition(a) * _norm(factor) * _stable(call, a))


def _triangle(t: Tensor, upper: bool) -> Tensor:
    return t.triu() if upper else t.tril()


def _by_cholesky(call: Call) -> Limit:
    """x from L Lᵀ x = b: κ(L) (1 + κ(L)) ‖x‖, for the second triangular solution takes over the error of the first."""
    inverts = "cholesky_inverse" in str(call.op)
    factor, x = call.args[0 if inverts else 1], call.out[0]
    factor = _triangle(factor, bool(call.arg(1 if inverts else 2, "upper", False)))
    kappa = _condition(factor)
    return kappa * (1 + kappa) * _norm(x) * _stable(call, factor)


def _by_lu(call: Call) -> Limit:
    """x from P L U x = b, or its transpose: κ(U) (1 + κ(L)) ‖x‖, and the other way round."""
    both, x = call.args[0], call.out[0]
    lower = both.tril(-1) + torch.eye(both.shape[-1], dtype=both.dtype, device=both.device)
    kappas = _condition(lower), _condition(both.triu())
    return (1 + kappas[0]) * (1 + kappas[1]) * _norm(x) * _stable(call, both)


def _pseudoinverse(call: Call) -> Limit:
    """‖δA⁺‖ <= 2 ‖A⁺‖² ‖δA‖ while the rank stays (Wedin 1973); no bound where it hangs on the last digits."""
    a, x = call.args[0], call.out[0]
    values = torch.linalg.svdvals(a)
    kappa = (values[..., :1] / values[..., -1:]).unsqueeze(-1)
    limit = kappa * _norm(x) * (2 * call.gamma(_STEPS * max(a.shape[-2:]) * a.shape[-1] ** 0.5))
    return torch.where(kappa * max(a.shape[-2:]) * call.u * 4 < 1, limit, inf).nan_to_num(nan=inf, posinf=inf)


def _orthonormal(call: Call) -> Limit:
    """Columns of a product of reflections: √n γ_mn (Higham, lemma 19.3)."""
    m, n = call.out[0].shape[-2:]
    return call.gamma(_STEPS * m * max(n, 1)) * sqrt(n)


def _qr(call: Call) -> tuple[Limit, ...]:
    a, q, r = call.args[0], call.out[0], call.out[1]
    short = a if a.shape[-2] >= a.shape[-1] else a.mT
    values = torch.linalg.svdvals(short)
    kappa = (values[..., :1] / values[..., -1:]).unsqueeze(-1)
    limit = kappa * (_stable(call, a) * a.shape[-1] ** 0.5)
    return limit * (1.0 if q.numel() else 0.0), limit * _norm(r)


def _values(call: Call) -> tuple[Limit, ...]:
    """Singular values and eigenvalues of a symmetric matrix move by no more than ‖δA‖ (Weyl)."""
    a = call.args[0]
    size = _norm(a).squeeze(-1) * _stable(call, a)
    return tuple(size if out.dim() == a.dim() - 1 and out.is_floating_point() else inf for out in call.out)


def _determinant(call: Call) -> tuple[Limit, ...]:
    a, d = call.args[0], call.out[0]
    relative = _condition(a).squeeze(-1).squeeze(-1) * _stable(call, a)
    return _rest(call, d.abs() * relative)


def _log_determinant(call: Call) -> tuple[Limit, ...]:
    a = call.args[0]
    relative = _condition(a).squeeze(-1).squeeze(-1) * _stable(call, a)
    return _rest(call, (relative >= 0.5) * 2.0 if not a.is_complex() else relative, relative)


def _exponential(call: Call) -> Limit:
    a, e = call.args[0], call.out[0]
    return _norm(e) * (1 + _norm(a)) * (4 * _stable(call, a))


def _trilinear(call: Call) -> Limit:
    """Σ of products of three: the operator itself on sizes."""
    sizes: Tensor = call.op(*(x.abs() for x in call.args[:3]), *call.args[3:], **call.kwargs)
    x, y, z, expand, expand2, expand3, summed = call.args[:7]
    shape = [max(n) for n in zip(*(_expanded(t, e) for t, e in ((x, expand), (y, expand2), (z, expand3))), strict=True)]
    steps = shape[int(call.arg(7, "unroll_dim", 1))]  # taken one after another, and added to the result
    return sizes * (call.gamma(prod(shape[d] for d in summed) + 2) + call.gamma_out(steps + 3))


def _expanded(x: Tensor, dims: list[int]) -> list[int]:
    for d in sorted(dims):
        x = x.unsqueeze(d)
    return list(x.shape)


def _square(r: Operands) -> Iterable[Tensor]:
    if r.half:
        return
    for n in (1, 5, 33):
        yield r.normal(n, n)
        yield r.normal(2, n, n) + 2 * n**0.5 * torch.eye(n)


def _positive(r: Operands) -> Iterable[Tensor]:
    for x in _square(r):
        yield x @ x.mT + torch.eye(x.shape[-1])


def _one(r: Operands) -> Iterable[Any]:
    return _square(r)


def _systems(r: Operands) -> Iterable[Any]:
    for a in _square(r):
        yield a, r.normal(*a.shape[:-1], 3)
    if not r.half:
        yield r.normal(5, 5), r.normal(5)


def _triangles(r: Operands) -> Iterable[Any]:
    for a in _square(r):
        for upper in (True, False):
            yield a + 3 * torch.eye(a.shape[-1]), r.normal(*a.shape[:-1], 3), {"upper": upper}
            yield (
                a + 3 * torch.eye(a.shape[-1]),
                r.normal(*a.shape[:-2], 3, a.shape[-1]),
                {"upper": upper, "left": False},
            )


def _factored(r: Operands) -> Iterable[Any]:
    for a in _positive(r):
        factor = torch.linalg.cholesky(a)
        yield r.normal(*a.shape[:-1], 3), factor
        yield r.normal(*a.shape[:-1], 3), factor.mT.contiguous(), True


def _factors(r: Operands) -> Iterable[Any]:
    for a in _positive(r):
        yield torch.linalg.cholesky(a)


def _eliminated(r: Operands) -> Iterable[Any]:
    for a in _square(r):
        both, pivots = torch.linalg.lu_factor(a)
        yield both, pivots, r.normal(*a.shape[:-1], 3)
        yield both, pivots, r.normal(*a.shape[:-1], 3), {"adjoint": True}


def _tall(r: Operands) -> Iterable[Any]:
    if r.half:
        return
    for m, n in ((5, 3), (3, 5), (33, 7)):
        yield r.normal(m, n)
        yield r.normal(2, m, n)


def _reflections(r: Operands) -> Iterable[Any]:
    if not r.half:
        for m, n in ((5, 3), (33, 7)):
            yield torch.geqrf(r.normal(m, n))


def _bilinear(r: Operands) -> Iterable[Any]:
    yield r.normal(4, 5), r.normal(3, 5, 6), r.normal(4, 6), [1, 3], [0], [1, 2], [2, 3]
    yield r.normal(4, 50), r.normal(3, 50, 33), r.normal(4, 33), [1, 3], [0], [1, 2], [2, 3]


for _names, _bound, _cases, _where in (
    (("linalg_inv_ex",), _inverse, _one, f"{_HIGHAM}, §14.3"),
    (("_linalg_solve_ex",), _solve, _systems, f"{_HIGHAM}, §9.3"),
    (("linalg_solve_triangular",), _triangular, _triangles, f"{_HIGHAM}, §8.1"),
    (("linalg_cholesky_ex",), _cholesky, _positive, f"{_HIGHAM}, §10.1; condition: Sun (1991)"),
    (("linalg_qr",), _qr, lambda r: [x + 2 * torch.eye(x.shape[-1]) for x in _square(r)], f"{_HIGHAM}, §19.3"),
    (("_linalg_svd", "_linalg_eigh"), _values, _positive, f"{_HIGHAM}; Weyl's theorem"),
    (("cholesky_solve",), _by_cholesky, _factored, f"{_HIGHAM}, §8.1, §10.1"),
    (("cholesky_inverse",), _by_cholesky, _factors, f"{_HIGHAM}, §8.1, §10.1"),
    (("linalg_lu_solve",), _by_lu, _eliminated, f"{_HIGHAM}, §8.1, §9.3"),
    (("linalg_pinv.atol_rtol_tensor",), _pseudoinverse, _tall, "Wedin, Perturbation theory for pseudo-inverses (1973)"),
    (("linalg_householder_product",), _orthonormal, _reflections, f"{_HIGHAM}, §19.3"),
    (("_linalg_det",), _determinant, _one, f"{_HIGHAM}, §14.6"),
    (("_linalg_slogdet",), _log_determinant, _one, f"{_HIGHAM}, §14.6"),
    (
        ("linalg_matrix_exp",),
        _exponential,
        lambda r: [(x - x.mT) * 0.3 for x in _square(r)],
        f"{_HIGHAM}, §3.5, for its products",
    ),
    (("_trilinear",), _trilinear, _bilinear, f"{_HIGHAM}, §3.1"),
):
    register(
        Rule(
            tuple(f"aten.{n}" for n in _names),
            Nature.ROUNDS,
            _bound,
            source=_where,
            assumes="a backward stable method; pivots that do not grow" if "linalg" in _names[0] else "",
            samples=given(_cases),
        )
    )

register(
    Rule(
        tuple(f"aten.{n}" for n in ("linalg_lu_factor_ex", "linalg_lu", "geqrf", "linalg_eig", "_linalg_eigvals")),
        Nature.ROUNDS,
        _rest,
        source="not judged: factors for later use, and eigenvalues of any matrix, have no bound without their condition",
    )
)
