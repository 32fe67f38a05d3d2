"""Fourier transforms: a bound on the whole vector, for every output is a sum of all inputs.

‖δ‖₂ <= c u log₂(n) ‖y‖₂ (Higham, Accuracy and Stability of Numerical Algorithms, §24.1), and no element of δ is larger
than its norm.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import log2, prod
from typing import Any

import torch
from torch import Tensor

from roundoff.rules.registry import register
from roundoff.rules.rule import Call, Limit, Nature, Rule
from roundoff.rules.samples import Operands, given

_STEPS = 8.0  # roundings of one butterfly, twiddle factor included: Higham's η = μ + γ_4 (√2 + μ), and prime factors


def _bound(call: Call) -> Limit:
    y, dims = call.out[0], list(call.args[1])
    length = prod(max(y.shape[d], call.args[0].shape[d]) for d in dims)
    # half of a real signal's spectrum is not stored: √2 of what is
    norm: Tensor = torch.linalg.vector_norm(y, dim=dims, keepdim=True) * 2**0.5
    return norm * call.gamma(_STEPS * (log2(max(length, 2)) + 1))


def _real(r: Operands) -> Iterable[Any]:
    if r.half:
        return
    for n in (8, 100, 127, 1024):
        for normalization in (0, 1, 2):
            yield r.normal(3, n), [1], normalization, True
    yield r.wild(4, 6, 10, decades=2), [1, 2], 0, True


def _complex(r: Operands) -> Iterable[Any]:
    if r.half:
        return
    for n in (8, 100, 127, 1024):
        yield torch.complex(r.normal(3, n), r.normal(3, n)), [1], 0, True
        yield torch.complex(r.normal(3, n), r.normal(3, n)), [1], 2, False


def _back(r: Operands) -> Iterable[Any]:
    if r.half:
        return
    for n in (8, 100, 127):
        x: Tensor = torch.fft.rfft(r.normal(3, n))
        yield x, [1], 2, n


for _name, _cases in (("_fft_r2c", _real), ("_fft_c2c", _complex), ("_fft_c2r", _back)):
    register(
        Rule(
            (f"aten.{_name}",),
            Nature.ROUNDS,
            _bound,
            source="Higham, Accuracy and Stability of Numerical Algorithms (2002), §24.1",
            assumes="twiddle factors correct to u; Bluestein's method for large primes within the same constant",
            samples=given(_cases),
        )
    )
