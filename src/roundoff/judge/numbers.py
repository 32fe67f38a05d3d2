"""Numbers that a kernel was given rounded: 9.999999747378752e-06 where the network says 1e-05.

Some of PyTorch's own compositions round a number such as an eps to float32 before they hand it on (``rms_norm`` does).
Where the other side was given the number itself, the rounded one stands for it, as a verified fold does: it is the other's
number, rounded once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from roundoff.judge.case import Case
from roundoff.records import Kind
from roundoff.replay.run import run_wide

#: A decimal number that was rounded to float32 takes 15 to 17 digits to write down, all but ever.
_MANY = 15


def rounded_numbers(mine: frozenset[float], others: frozenset[float]) -> Mapping[float, float]:
    """Those of ``mine`` that are one of ``others`` rounded to float32, with what they stand for.

    Nobody writes 9.999999747378752e-06, but 1.0 may well be meant where the other side has 1.000000000001: a number of few
    digits stands for itself.

    >>> rounded_numbers(frozenset({9.999999747378752e-06, 0.5}), frozenset({1e-05, 0.25}))
    {9.999999747378752e-06: 1e-05}
    """
    exact = {torch.tensor(x, dtype=torch.float64).float().double().item(): x for x in sorted(others)}
    return {x: exact[x] for x in sorted(mine - others) if x in exact and _digits(x) >= _MANY > _digits(exact[x])}


def _digits(x: float) -> int:
    """How many decimal digits it takes to write ``x`` down, zeros at the ends not counted."""
    return len(repr(abs(x)).partition("e")[0].replace(".", "").strip("0"))


def adopt_numbers(case: Case) -> bool:
    """Let rounded numbers stand for the other side's, and run both sides wide again. False where there are none."""
    numbers_a = rounded_numbers(case.ran_a.numbers, case.ran_b.numbers)
    numbers_b = rounded_numbers(case.ran_b.numbers, case.ran_a.numbers)
    if not numbers_a and not numbers_b:
        return False
    case.a, case.b = replace(case.a, numbers=numbers_a), replace(case.b, numbers=numbers_b)
    case.ran_a, _ = run_wide(case.a)
    case.ran_b, _ = run_wide(case.b)
    for side, numbers in ((case.a, numbers_a), (case.b, numbers_b)):
        for rounded, number in numbers.items():
            text = f"A step is given {rounded!r}: the other side's {number!r} rounded to float32, for which it stands."
            case.find(Kind.WEIGHTS_REFOLDED, side.name, text)
    return True
