"""Rigorous bounds of the wide run: every step's float64 error, and what it becomes on the way to the outputs."""

from __future__ import annotations

from roundoff.replay.enclosure import arithmetic, moving, norms, products, sums  # noqa: F401  (each registers its enclosures)
from roundoff.replay.enclosure.run import Enclosure, Gap

__all__ = ["Enclosure", "Gap"]
