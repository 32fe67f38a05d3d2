"""In which order does a kernel add? Summation trees, revealed by masks and certified by a replay."""

from roundoff.order.order import Order, Variant
from roundoff.order.tree import SumTree

__all__ = ["Order", "SumTree", "Variant"]
