"""One view model of a comparison, and what renders it."""

from __future__ import annotations
