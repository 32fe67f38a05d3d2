"""The parameters, buffers and constants of the two networks: the same numbers, a verified fold, or a difference."""

from roundoff.judge.constants.weigh import weigh_constants

__all__ = ["weigh_constants"]
