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


@dataclass(frozen=True)
class Booking:
    """One line of the ledger: a step of one side, and what of the difference it made.

    ``local_abs`` is its largest local error, ``bound_abs`` the bound at that element (None where nothing is known);
    ``inherited_abs`` the largest error that its operands brought in; ``error_rel`` all of its error so far over its
    values, each by its root mean square: error against depth. ``amplification`` is by how much its local error, were it
    spread evenly, is multiplied on its way to the target, the 2-norm of the adjoint. ``share`` is what of the difference
    its local error made (side B counts negative where it takes away), ``bent_share`` what hangs on its not being linear:
    a kink or a choice that was crossed between the native and the wide run. ``order_bound_abs`` is the bound
    that follows from the order in which its kernel adds, where that was revealed and certified on sampled outputs.
    """

    side: str
    step: int
    op: str
    module: str
    source: str
    local_abs: float
    bound_abs: float | None
    inherited_abs: float
    error_rel: float
    amplification: float
    share: float
    bent_share: float
    order_bound_abs: float | None = None


@dataclass(frozen=True)
class Account:
    """The difference of two networks at a target, booked on the steps that made it.

    ``target`` says in words what was taken apart: an element of an output, or random directions. ``difference`` is A - B
    there, signed (of several directions their root mean square). The shares of the ``ledger`` (largest first) and
    ``real_share``, that of the real difference, add up to ``booked``, 1.0 when nothing is left; ``residual_abs`` is what
    is. ``findings`` are those that only the ledger can make.
    """

    target: str
    difference: float
    ledger: tuple[Booking, ...]
    real_share: float
    booked: float
    residual_abs: float
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Converted:
    """A layer that was rewritten: its name in the network, and what it was and is."""

    module: str
    before: str
    after: str


@dataclass(frozen=True)
class Declined:
    """A layer, or a functional call, that stays as it was, and why."""

    module: str
    what: str
    reason: str
