"""Rigorous bounds of the wide run: every step's float64 error, and what it becomes on the way to the outputs."""

from __future__ import annotations

from roundoff.replay.enclosure import (  # noqa: F401  (each registers its enclosures)
    arithmetic,
    making,
    moving,
    norms,
    products,
    sums,
)
from roundoff.replay.enclosure.run import Enclosure, Gap

__all__ = ["Enclosure", "Gap"]
