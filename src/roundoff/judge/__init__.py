"""Decide with evidence: the real difference, the kernels, the parameters, the verdict."""

from __future__ import annotations
