"""The frozen records that the parts hand to one another."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import torch


class Verdict(StrEnum):
    """What a comparison decided.

    >>> Verdict.ROUNDOFF == "roundoff"
    True
    """

    IDENTICAL = "identical"
    ROUNDOFF = "roundoff"
    DIFFERENT = "different"
    UNDECIDED = "undecided"


class Evidence(StrEnum):
    """How sure a verdict is: ``proved`` for every element, or ``statistical``."""

    PROVED = "proved"
    STATISTICAL = "statistical"


class Kind(StrEnum):
    """The kinds of finding."""

    REDUCED_PRECISION = "reduced-precision"
    FAULTY_KERNEL = "faulty-kernel"
    UNSTABLE_ALGORITHM = "unstable-algorithm"
    DIFFERENT_MATHEMATICS = "different-mathematics"
    WEIGHTS_DIFFER = "weights-differ"
    WEIGHTS_REFOLDED = "weights-refolded"
    AMPLIFICATION = "amplification"
    MAGNITUDE = "magnitude"
    SUMMATION_ORDER = "summation-order"
    BRANCH_CROSSING = "branch-crossing"
    NOT_FINITE = "not-finite"
    NOT_DETERMINISTIC = "not-deterministic"
    OPAQUE_OPERATOR = "opaque-operator"


@dataclass(frozen=True)
class Finding:
    """Something that explains a verdict: its kind, where it is (module, source line, side), and a sentence."""

    kind: Kind
    where: str
    text: str


@dataclass(frozen=True)
class Output:
    """One output leaf of both networks, compared.

    ``max_abs`` is the largest native difference, at ``index``; ``max_ulp`` the largest number of representable
    numbers in between (None if not finite or not floating point); ``roundoff_a_abs`` and ``roundoff_b_abs`` the largest
    round-off of each side; ``real_abs`` the largest real difference and ``floor_abs`` the floor there; ``value_abs``
    the largest magnitude of A's values. All in the units of the output.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    max_abs: float
    index: tuple[int, ...] | None
    max_ulp: int | None
    roundoff_a_abs: float
    roundoff_b_abs: float
    real_abs: float
    floor_abs: float
    value_abs: float
    identical: bool
