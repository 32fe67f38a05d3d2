"""What is known of an operator: the rule, and the call that it looks at.

A rule says how far the result of a *correct* kernel can be from the exact result on the same operands. Every result is
rounded once to the format of the output, so that term, u_out |y|, is added to every rule that is not exact; a rule
states only what comes on top of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import frexp, hypot, inf
from typing import Any

import torch
from torch import Tensor

from roundoff.formats import U64, UNDERFLOW, UNIT_ROUNDOFF
from roundoff.tape.leaves import operands

_UNDERFLOW = {u: UNDERFLOW[dtype] for dtype, u in UNIT_ROUNDOFF.items()}

_LARGEST = {u: torch.finfo(dtype).max for dtype, u in UNIT_ROUNDOFF.items() if u > U64}

Limit = Tensor | float  # an absolute bound: float64, broadcasts to the output


class Nature(StrEnum):
    """How a step relates to rounding."""

    EXACT = "exact"  # moves or selects data; its local error is 0
    ROUNDS = "rounds"  # computes; its local error is within the rule's bound
    DRAWS = "draws"  # takes random numbers: the native draw is the truth for the wide run as well
    MAKES = "makes"  # makes a tensor with no operands and no rounding (zeros, empty)


@dataclass(frozen=True)
class Call:
    """One executed step as a rule sees it.

    ``args`` and ``kwargs`` are the operator's own, tensors in float64 (complex128) holding exactly the native operands;
    ``out`` the results in float64 on these operands. ``u`` is the unit round-off of the arithmetic in which the kernel
    computes (float32 for float32, bfloat16 and float16 operands), and ``gamma(n)`` bounds the relative error of n
    roundings in it. ``u_out`` is that of the format in which results are stored, where it is known to be coarser.
    """

    op: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    out: tuple[Tensor, ...]
    u: float
    typical: bool = False
    u_out: float = 0.0

    def gamma(self, n: float) -> float:
        """γ_n = n u / (1 - n u): the bound of n roundings in any order (Higham, Accuracy and Stability, §3.1).

        When the typical size is asked for instead of the bound, roundings partly cancel, and what was measured for
        blocked kernels is about one u of |x|ᵀ|y| at any length.
        """
        return self._gamma(n, self.u)

    def gamma_out(self, n: float) -> float:
        """γ_n for roundings to the format of the output: some kernels on bfloat16 and float16 round in between to it."""
        return self._gamma(n, max(self.u, self.u_out))

    def _gamma(self, n: float, u: float) -> float:
        if self.typical:
            return u
        nu = n * u
        return nu / (1 - nu) if nu < 0.5 else float("inf")

    @property
    def tiny(self) -> float:
        """The smallest normal number of the arithmetic: where results underflow, kernels may flush them to zero."""
        return 2.0**-1022 if self.u == U64 else 2.0**-126

    @property
    def underflow(self) -> float:
        """The largest rounding error of a number of the output's format that underflows, half its smallest number."""
        return _UNDERFLOW.get(max(self.u, self.u_out), 2.0**-150)

    @property
    def huge(self) -> float:
        """Results above this, 2^-6 of the largest number, may come of a product or power in between that overflowed."""
        return 2.0**1018 if self.u == U64 else 2.0**122

    def scalar(self, value: Any) -> float:
        """How far off a Python number is once it is rounded to the format it is used in; 0 where that can hold it."""
        if not isinstance(value, (int, float, complex)) or value in (inf, -inf) or value != value:
            return 0.0
        if isinstance(value, complex):
            return hypot(self.scalar(value.real), self.scalar(value.imag))
        u = max(self.u, self.u_out)
        digits = frexp(value)[0] / u  # a number of the format has at most log2(1/u) binary digits
        if 0 < abs(value) < self.underflow / u:  # below the normal numbers it has fewer
            return self.underflow
        return 0.0 if digits == round(digits) else abs(value) * u

    def is_beyond(self, value: Any) -> bool:
        """True for a finite Python number that is infinite in the format it is used in."""
        if isinstance(value, complex):
            return self.is_beyond(value.real) or self.is_beyond(value.imag)
        largest = _LARGEST.get(max(self.u, self.u_out), inf)
        return isinstance(value, (int, float)) and largest < abs(value) < inf

    def arg(self, index: int, name: str, default: Any = None) -> Any:
        """The argument at ``index`` or called ``name``, as the operator's schema allows either."""
        if index < len(self.args):
            return self.args[index]
        return self.kwargs.get(name, default)


@dataclass(frozen=True)
class Products:
    """A step whose every output element is a sum of products of ``x`` and ``w``, of at most ``terms`` terms.

    ``rows(x)`` and ``cols(w)`` give the norms ‖x_i‖₂ and ‖w_j‖₂ of the very elements that are multiplied for each output
    element; they broadcast to the output and to each other. Their product is at least |x|ᵀ|w| (Cauchy and Schwarz), and
    each is linear in the size of its operand. ``scale`` multiplies the sum; ``added`` is the bias, or None; ``parts`` is
    how many partial sums a kernel may store in the format of the result, which matters where that is short.
    """

    x: Tensor
    w: Tensor
    terms: int
    rows: Callable[[Tensor], Tensor]
    cols: Callable[[Tensor], Tensor]
    scale: float = 1.0
    added: Tensor | None = None
    parts: int = 0

    @property
    def roundings(self) -> int:
        """How many roundings the sum of one element can hold; a complex product is two sums of two."""
        return self.terms * (2 if self.x.is_complex() else 1) + 2


Bound = Callable[[Call], "Limit | tuple[Limit, ...]"]
Sample = Callable[[torch.dtype, torch.Generator], Iterable[tuple[tuple[Any, ...], dict[str, Any]]]]


@dataclass(frozen=True)
class Rule:
    """What is known of the operators ``ops`` (names such as ``aten.addmm`` or, for one overload, ``aten.div.Tensor_mode``).

    ``bound`` gives what a correct kernel's local error cannot exceed beyond the one rounding of the result. ``wide``
    redoes the operator in float64 where its own kernel cannot; it takes the operator's arguments, widened, and after
    them ``native=`` the native results. ``discrete`` marks results that jump (floor, sign, comparisons): where wide and
    native choose differently it is a branch crossing; ``jump`` gives the least that a result jumps by from the operator's
    arguments, where that is not 1 (infinite where none can tip over). ``products`` takes a step that sums products apart,
    so that its bound can be had from norms, without a second product. ``stable`` is a smaller bound: a step that needs
    the larger one is of a kind that loses digits on these operands, and correct all the same, if its first result is
    within a limit of the number that ``follows`` gives from the others. ``least`` is never above these bounds and the
    rounding of the result, and costs less: what is within it needs no other.
    """

    ops: tuple[str, ...]
    nature: Nature
    bound: Bound | None = None
    source: str = ""
    assumes: str = ""
    samples: Sample | None = field(default=None, repr=False)
    wide: Callable[..., Any] | None = field(default=None, repr=False)
    discrete: bool = False
    jump: Callable[[tuple[Any, ...], Mapping[str, Any]], Limit] | None = field(default=None, repr=False)
    products: Callable[[tuple[Any, ...], Mapping[str, Any]], Products] | None = field(default=None, repr=False)
    stable: Bound | None = field(default=None, repr=False)
    follows: Callable[[Call, tuple[Tensor, ...]], tuple[Tensor, Limit]] | None = field(default=None, repr=False)
    least: Callable[[Call], tuple[Limit, ...]] | None = field(default=None, repr=False)


def limits_of(rule: Rule, call: Call) -> tuple[Limit, ...]:
    """What ``rule`` allows for each result of ``call``; nothing where all operands are empty, for then nothing is added."""
    found = operands((call.args, dict(call.kwargs)))
    empty = bool(found) and not any(x.numel() for x in found)
    limits = 0.0 if rule.bound is None or empty else rule.bound(call)
    return limits if isinstance(limits, tuple) else (limits,) * len(call.out)


def rounding(out: Tensor, reference: Tensor) -> Tensor:
    """The one rounding of a result to the format of ``out``: u |y|, or half the smallest number where it underflows."""
    u = UNIT_ROUNDOFF[out.dtype]
    return reference.abs().mul_(u).add_(UNDERFLOW[out.dtype])


def compute_unit(*dtypes: torch.dtype) -> float:
    """u of the arithmetic in which kernels compute on these formats: PyTorch's ``opmath`` is float32 for the half ones."""
    wide = any(d in (torch.float64, torch.complex128) for d in dtypes)
    return U64 if wide else UNIT_ROUNDOFF[torch.float32]
