"""The steps of a run in another arithmetic: wide, perturbed."""

from __future__ import annotations
