"""Which of two is faster: they take turns, and the median of the ratios of neighbouring times has an interval.

Turns, because a machine that is busy or hot is so for both. The interval is the one that belongs to the sign test: of n
ratios in order, the k-th smallest and the k-th largest enclose the median of their distribution except with probability
2 P(B < k), B binomial(n, 1/2), whatever that distribution is (Conover, *Practical Nonparametric Statistics*, 3rd edition,
section 3.2). Rounds are taken to be independent; what drifts over many rounds widens the ratios, and is not seen else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import comb
from statistics import median
from time import perf_counter

import torch

#: The chance that the interval misses the median on either side.
ALPHA = 0.005


@dataclass(frozen=True)
class Race:
    """Times in seconds of the original and of another, by rounds, and by how much the other is faster.

    ``gain`` is the median of original / other; ``low`` and ``high`` enclose it with 99 % confidence.
    """

    name: str
    original: tuple[float, ...]
    other: tuple[float, ...]
    gain: float
    low: float
    high: float

    @property
    def seconds(self) -> tuple[float, float]:
        """The medians of both."""
        return median(self.original), median(self.other)

    def __str__(self) -> str:
        if self.high == float("inf"):
            return f"{self.gain:.2f} x ({len(self.other)} rounds, too few for an interval)"
        return f"{self.gain:.2f} x ({self.low:.2f} to {self.high:.2f}, 99 %, {len(self.other)} rounds)"


def race(name: str, original: Sequence[float], other: Sequence[float]) -> Race:
    """The record of times that were taken in turns."""
    ratios = sorted(a / max(b, 1e-9) for a, b in zip(original, other, strict=True))
    k = rank(len(ratios))
    low, high = (ratios[k - 1], ratios[-k]) if k else (0.0, float("inf"))
    return Race(name, tuple(original), tuple(other), median(ratios), low, high)


def rank(n: int, alpha: float = ALPHA) -> int:
    """The largest k with P(B < k) at most ``alpha``, B binomial(n, 1/2); 0 where n is too small for an interval."""
    k, below = 0, 0.0
    while k < n:
        below += comb(n, k) / 2**n
        if below > alpha:
            return k
        k += 1
    return k


def in_turns(
    runs: Sequence[Callable[[], object]],
    rounds: int,
    seconds: float = float("inf"),
    least: int = 1,
    clock: Callable[[], float] = perf_counter,
) -> list[list[float]]:
    """The times of each of ``runs``, which take turns for ``rounds`` rounds, or fewer, but ``least``, if those take more
    than ``seconds``. The order is reversed in every other round; a first round is not counted."""
    times: list[list[float]] = [[] for _ in runs]
    began = clock()
    for i in range(-1, rounds):
        order = range(len(runs)) if i % 2 else reversed(range(len(runs)))
        for j in order:
            _wait()
            start = clock()
            runs[j]()
            _wait()
            if i >= 0:
                times[j].append(clock() - start)
        if i + 1 >= least and clock() - began > seconds:
            break
    return times


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
