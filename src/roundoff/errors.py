"""Errors that are raised on purpose."""

from __future__ import annotations


class RoundoffError(Exception):
    """Base of every error that roundoff raises on purpose.

    The message names what was given, what was expected and the next move.
    """


class NotSame(AssertionError, RoundoffError):
    """Raised by :func:`roundoff.assert_same` with the whole story of the comparison."""
