"""Enclosures in about twice the digits of float64, for what float64's own do not prove."""

from __future__ import annotations

from roundoff.replay.enclosure.pairs import (  # noqa: F401  (each registers its rules)
    functions,
    moving,
    norms,
    products,
    softmax,
)
from roundoff.replay.enclosure.pairs.run import PairEnclosure

__all__ = ["PairEnclosure"]
