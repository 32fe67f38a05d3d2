"""Where two networks part: their steps laid beside each other by the values that they hold."""

from roundoff.judge.parting.parting import Aligned, Alignment, align, describe_parting, find_parting

__all__ = ["Aligned", "Alignment", "align", "describe_parting", "find_parting"]
