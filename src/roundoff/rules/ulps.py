"""Stored constants: how many units in the last place (ulp) the float32 kernels of each function are off at most.

They were measured by ``benchmarks/measure_ulps.py``, which says how and writes ``ulps.json``. They give the normal size
on any machine; a kernel is called faulty only at more than four times the constant plus 2 ulp.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any


@cache
def table() -> dict[str, Any]:
    """The stored table: for each function its largest error, and how and on which build that was measured."""
    stored: dict[str, Any] = json.loads(files("roundoff.rules").joinpath("ulps.json").read_text())
    return stored


def roundings(function: str) -> float:
    """What is allowed for a kernel of ``function``: 4 c + 2 ulp, in multiples of u |y| (an ulp is at most 2 u |y|).

    Raises KeyError where nothing was measured.

    >>> roundings("exp") > 4
    True
    """
    return 2 * (4 * float(table()["functions"][function]["ulp"]) + 2)
